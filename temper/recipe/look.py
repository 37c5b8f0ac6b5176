"""Look: what the files hold that somebody wants to learn from: of which kind, how much, and which prompts.

Reads every row once and keeps none, so that a file of any size can be looked at. Knows no tokenizer: tokens are guessed
from bytes. Imports data, decide and errors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.data import documents, files
from temper.data.row import Message, Row
from temper.data.rows import Stream
from temper.decide.advise import Source, Volume

BYTES_PER_TOKEN = 4.3
"""Of English text; as the built-in model's own answers have it."""
NAMED = 5
"""Files named in one sentence."""
KINDS: Mapping[str, Source] = {
    "text": "text", "documents": "text", "chosen/rejected": "preferences", "task": "tasks", "prompt": "prompts",
}  # fmt: skip
"""Shape of a file -> kind of data; every other shape is of prompts with answers."""
WORDS: Mapping[Source, str] = {
    "text": "raw text", "pairs": "prompts with answers", "preferences": "preference pairs",
    "tasks": "tasks with a reference", "prompts": "prompts without answers",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """One file of rows, or the documents of one folder, and what is in it."""

    path: Path
    """As a recipe can name it: a file, a folder or a glob."""
    stream: Stream
    kind: Source
    rows: int
    size: int
    """Bytes of all words."""
    asked: Mapping[bytes, int]
    """Digest of a prompt -> rows that ask it; empty for text."""
    references: str = ""
    """What all right answers are: `json` objects, a `number`, or `text`."""

    @property
    def name(self) -> str:
        """How a person would call it: the file, the folder, or the glob with the folder it begins in."""
        parts = self.path.parts
        first = next((n for n, part in enumerate(parts) if "*" in part), len(parts))
        return str(Path(*parts[max(0, first - 1) :]))

    @property
    def volume(self) -> Volume:
        """Rows, and tokens by guess."""
        return Volume(rows=self.rows, tokens=round(self.size / BYTES_PER_TOKEN))


def look(path: Path) -> tuple[Found, ...]:
    """Everything that a file, a folder or a glob holds; the documents of a folder are one find.

    Raises:
        DataError: When a file cannot be read, or rows of it cannot be used; names them.
    """
    streams = documents.open_tables(path)
    if path.is_dir() and len(streams) > 1 and isinstance(streams[0].source, documents.Documents):
        # The folder's name would stand for its files of rows as well.
        endings = sorted({files.format_of(p) + files.packing_of(p) for p in streams[0].source.paths})
        texts = [s for ending in endings for s in documents.open_tables(path / "**" / f"*{ending}")]
        streams = (*texts, *streams[1:])
    return tuple(_found(stream) for stream in streams)


def _found(stream: Stream) -> Found:
    kind = KINDS.get(stream.shape, "pairs")
    rows = size = 0
    asked: Counter[bytes] = Counter()
    references: set[str] = set()
    for row in stream.rows():
        rows += 1
        size += sum(len(words.encode("utf-8", "surrogatepass")) for words in _words(row))
        if row.messages:
            asked[digest(row)] += 1
            references.add(_reference(row.reference))
    only = next(iter(references)) if len(references) == 1 else "text"
    return Found(path=stream.path, stream=stream, kind=kind, rows=rows, size=size, asked=asked, references=only)


def beside(path: Path) -> str:
    """What a folder holds that is not read because of its kind, in a sentence; empty where there is nothing."""
    strange = documents.left_out(path) if path.is_dir() else ()
    if not strange:
        return ""
    names = ", ".join(str(p.relative_to(path)) for p in strange[:NAMED])
    more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
    return f"files of {path.name} are left out, of kinds that temper does not read: {names}{more}; convert what matters"


def digest(row: Row) -> bytes:
    """What a row asks, whatever its case and spacing."""
    said = " ".join(" ".join(f"{m.role}: {m.content}" for m in row.prompt).lower().split())
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()


def volume(found: Sequence[Found], kind: Source) -> Volume:
    """How much there is of a kind over all files."""
    parts = [f.volume for f in found if f.kind == kind]
    return Volume(rows=sum(v.rows for v in parts), tokens=sum(v.tokens for v in parts))


def lines(found: Sequence[Found], *, asked: frozenset[bytes], keep: bool, answers: bool) -> Iterator[str]:
    """The rows of some files as JSON lines: with their own columns where all files have one shape, else as messages.

    Args:
        found: The files.
        asked: Digests of prompts.
        keep: Whether the rows with these prompts are wanted, or the others.
        answers: Whether the rows become prompts with answers, whatever their shape: a task's reference or the better of
            two answers.
    """
    as_messages = answers or len({(f.stream.shape, tuple(f.stream.mapping.items())) for f in found}) > 1
    for find in found:
        for row in find.stream.rows():
            if (digest(row) in asked) is keep:
                record: Mapping[str, Any] = _answered(row) if as_messages else dict(row.fields)
                yield json.dumps(record, ensure_ascii=False, default=str) + "\n"


def _words(row: Row) -> Iterator[str]:
    yield row.text
    yield from (m.content for m in (*row.messages, *row.rejected))
    if row.messages and row.messages[-1].role != "assistant":
        yield row.reference


def _reference(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return "text"
    if isinstance(value, dict):
        return "json"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return "number" if number else "text"


def _answered(row: Row) -> Mapping[str, Any]:
    turns = [_turn(m) for m in row.messages]
    if row.messages[-1].role != "assistant":
        turns.append({"role": "assistant", "content": row.reference})
    return {"messages": turns, "tools": json.loads(row.tools)} if row.tools else {"messages": turns}


def _turn(message: Message) -> Mapping[str, Any]:
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in message.tool_calls
    ]
    more = {
        "reasoning_content": message.reasoning, "tool_calls": calls, "tool_call_id": message.tool_call_id,
        "name": message.name,
    }  # fmt: skip
    return {"role": message.role, "content": message.content} | {k: v for k, v in more.items() if v}
