"""Task: what reinforcement asks a model, with everything its reward wants to know. Imports data and errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.data.row import Message, Row
from temper.errors import DataError

NO_FIELDS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with its reference; a reward reads it like a mapping.

    Example: of the line {"prompt": "What is owed?", "reference": 42, "unit": "EUR"}, task["reference"] is 42 as it
    stands in the file, task["unit"] is "EUR", and the attribute `reference` is the text "42".
    """

    id: str
    """Of the row; the same content has the same id in any file."""
    messages: tuple[Message, ...]
    """The prompt alone, without an answer."""
    reference: str = ""
    """The right answer as text; empty where there is none."""
    origin: str = ""
    """file:row."""
    tools: str = ""
    """What the model may call, as in `temper.data.rows.Row`."""
    fields: Mapping[str, Any] = field(default_factory=lambda: NO_FIELDS)
    """All columns of the file, as they stand there."""

    @classmethod
    def of(cls, row: Row) -> Task:
        """The task of a row: of a conversation with its answer, the answer is the reference."""
        if not row.prompt:
            raise DataError(
                f"{row.origin}: found plain text; expected a task with a prompt;"
                ' write rows such as {"prompt": "...", "reference": "..."}'
            )
        return cls(
            id=row.id, messages=row.prompt, reference=row.reference, origin=row.origin, tools=row.tools,
            fields=row.fields,
        )  # fmt: skip

    @property
    def prompt(self) -> str:
        """The last thing that was said before the model answers."""
        return self.messages[-1].content

    def __getitem__(self, name: str) -> Any:
        if name in self.fields and name != "messages":
            return self.fields[name]
        match name:
            case "messages":
                return [{"role": m.role, "content": m.content} for m in self.messages]
            case "prompt":
                return self.prompt
            case "reference" if self.reference:
                return self.reference
            case "id":
                return self.id
        raise KeyError(f"the task has no {name!r}; it has {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        own = ("id", "messages", "prompt", *(("reference",) if self.reference else ()))
        return iter(dict.fromkeys((*own, *self.fields)))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in tuple(iter(self))

    def keys(self) -> tuple[str, ...]:
        """The names that `[]` knows."""
        return tuple(iter(self))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, or the default where the task has none."""
        try:
            return self[name]
        except KeyError:
            return default

    def has(self, need: str) -> bool:
        """Whether a need of a reward is filled: a name, or `a|b` for either; an empty value fills none."""
        return any(self.get(name) not in (None, "", [], {}) for name in need.split("|"))


def tasks_of(rows: Iterable[Row]) -> tuple[Task, ...]:
    """The tasks of a file in its order; a row that stands twice becomes one task."""
    return tuple({task.id: task for task in map(Task.of, rows)}.values())
