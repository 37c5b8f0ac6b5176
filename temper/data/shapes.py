"""Shapes: sets of columns with a meaning, and how each becomes a row.

A new shape is one `Shape` in `shapes()` and a function that builds its content. Which shape a file has is decided in
`recognise`. Columns that always hold a list (`messages`, `conversations`, `tools`, `history`) may hold it as JSON text,
as cells of a CSV file do; columns for a text (`prompt`, `completion`, `chosen`, ...) may hold a list of turns instead.
Imports row, turns, files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.data.files import Record
from temper.data.row import Message, Row
from temper.data.turns import (
    REMEDY,
    answered,
    chat,
    converse,
    converse_tools,
    described_tools,
    listed,
    transcript,
    turns_in,
    written,
)

ASKING = ("prompt", "question", "instruction", "messages", "conversations")
"""Columns that may hold the prompt of a preference pair, the first that is filled counts."""
ASIDE = (
    "id", "idx", "index", "uuid", "row", "source", "origin", "url", "license", "licence", "split", "lang", "language",
    "category", "subject", "topic", "domain", "type", "kind", "level", "difficulty", "tags", "meta", "metadata",
    "date", "created_at", "group",
)  # fmt: skip
"""Columns that hold no answer, whatever is in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a shape makes of a record."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    rejected: tuple[Message, ...] = ()
    reference: str | None = None
    """Of a task; otherwise the last answer is the reference."""
    tools: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A set of columns with a meaning."""

    name: str
    columns: tuple[str, ...]
    """All of these must be columns of the file."""
    more: tuple[str, ...] = ()
    """Further columns that it reads when they are there."""
    build: Callable[[Mapping[str, Any]], Content]
    """Raises ValueError with `found; expected; remedy`. A module's function, so that a shape can be pickled."""
    fits: Callable[[Mapping[str, Any]], bool] = bool
    """Whether a record that has the columns may be meant by them."""


def shapes() -> tuple[Shape, ...]:
    """The known shapes."""
    chat_columns = ("system", "tools")
    asking = (*ASKING, "input")
    return (
        Shape(name="messages", columns=("messages",), more=chat_columns, build=_messages),
        Shape(name="conversations", columns=("conversations",), more=chat_columns, build=_conversations),
        Shape(name="prompt/completion", columns=("prompt", "completion"), more=chat_columns, build=_completion),
        Shape(
            name="instruction/input/output", columns=("instruction", "output"), more=("input", "system", "history"),
            build=_instruction,
        ),
        Shape(name="question/answer", columns=("question", "answer"), more=("system",), build=_question),
        Shape(name="text", columns=("text",), build=_text),
        Shape(name="chosen/rejected", columns=("chosen", "rejected"), more=(*asking, *chat_columns), build=_preference),
        Shape(name="task", columns=("prompt", "reference"), more=chat_columns, build=_prompt_task),
        Shape(
            name="task", columns=("messages", "reference"), more=chat_columns, build=_messages_task, fits=_unanswered,
        ),
        Shape(name="prompt", columns=("prompt",), more=chat_columns, build=_prompt_alone, fits=_alone),
        Shape(name="bedrock", columns=("schemaVersion", "messages"), more=("system", "toolConfig"), build=_bedrock),
    )  # fmt: skip


def known_shapes() -> str:
    """The names of the shapes, as messages list them."""
    return ", ".join(dict.fromkeys(shape.name for shape in shapes()))


def specific(fitting: Sequence[Shape]) -> tuple[Shape, ...]:
    """The shapes that no other one outdoes: one that reads all columns another one needs, and needs more."""

    def outdone(shape: Shape) -> bool:
        needs = set(shape.columns)
        return any(needs < set(o.columns) or needs <= set(o.more) for o in fitting if o is not shape)

    return tuple(shape for shape in fitting if not outdone(shape))


def read(shape: Shape, record: Record, mapping: Mapping[str, str], origin: str) -> Row:
    """The row of a record; raises ValueError with `found; expected; remedy`."""
    fields = {**dict.fromkeys(shape.columns), **renamed(record.fields, mapping)}
    try:
        content = shape.build(fields)
    except ValueError:
        other = _other(shape, fields)
        if other is None or set(shape.columns) <= renamed(record.fields, mapping).keys():  # all there, one is empty
            raise
        found = f"this row is {other.name} ({', '.join(other.columns)}), the file began as {shape.name}"
        raise ValueError(f"{found}; expected one shape per file; put the rows of each shape into a file") from None
    messages, tools = content.messages, content.tools
    if "tools" in shape.more:
        tools = described_tools(fields.get("tools"))
    reference = _answer(messages[-1]) if messages else ""
    return Row(
        id=_identity(content, tools), messages=messages, origin=origin,
        reference=reference if content.reference is None else content.reference, text=content.text,
        rejected=content.rejected, tools=tools, fields=record.fields,
    )  # fmt: skip


def renamed(fields: Mapping[str, Any], mapping: Mapping[str, str]) -> Mapping[str, Any]:
    """The fields under the known names; a column that is mapped keeps its own name only if that is mapped as well."""
    if not mapping:
        return fields
    mapped = set(mapping.values())
    return {k: v for k, v in fields.items() if k not in mapped} | {k: fields.get(own) for k, own in mapping.items()}


def _identity(content: Content, tools: str) -> str:
    """16 digits for what the model will see; what most rows do not have is left out, so that their ids stay."""
    parts: list[Any] = [[(m.role, m.content) for m in content.messages], content.text]
    more = {
        "turns": [
            (n, m.reasoning, [(c.name, c.arguments) for c in m.tool_calls])
            for n, m in enumerate(content.messages)
            if m.reasoning or m.tool_calls
        ],
        "rejected": [(m.role, m.content, m.reasoning, _called(m)) for m in content.rejected],
        "reference": content.reference,
        "tools": tools,
    }
    more = {key: value for key, value in more.items() if value}
    text = json.dumps([*parts, more] if more else parts, ensure_ascii=False)
    try:
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    except UnicodeEncodeError:
        raise ValueError(f"half a character (a lone surrogate); expected Unicode text; {REMEDY}") from None


def _answer(message: Message) -> str:
    """What the last turn says; where it only calls tools, the calls."""
    return message.content if message.content.strip() or not message.tool_calls else _called(message)


def _called(message: Message) -> str:
    calls = [{"name": c.name, "arguments": json.loads(c.arguments)} for c in message.tool_calls]
    return written(calls) if calls else ""


def _other(shape: Shape, fields: Mapping[str, Any]) -> Shape | None:
    """The shape that a row has instead of the file's, if it lacks a column of the file's."""
    filled = {name for name, value in fields.items() if value is not None}
    if set(shape.columns) <= filled:
        return None
    # What lacks a column of its own shape is not of one that asks for less.
    others = [s for s in shapes() if set(s.columns) <= filled and not set(s.columns) < set(shape.columns)]
    return next(iter(specific(others)), None)


def _messages(fields: Mapping[str, Any]) -> Content:
    return Content(messages=_begun(fields, answered(chat(listed(fields["messages"], "messages")))))


def _conversations(fields: Mapping[str, Any]) -> Content:
    turns = listed(fields["conversations"], "conversations")
    return Content(messages=_begun(fields, answered(chat(turns, wanted="'from' and 'value'"))))


def _bedrock(fields: Mapping[str, Any]) -> Content:
    messages = answered(converse(listed(fields["messages"], "messages")))
    system = listed(fields.get("system"), "system")
    if isinstance(system, list):
        texts = [written(part.get("text")) for part in system if isinstance(part, dict)]
        fields = {**fields, "system": "".join(texts)}
    return Content(messages=_begun(fields, messages), tools=converse_tools(fields.get("toolConfig")))


def _completion(fields: Mapping[str, Any]) -> Content:
    asked = _asked(fields, "prompt")
    return Content(messages=_begun(fields, answered((*asked, *_reply(fields, "completion")))))


def _instruction(fields: Mapping[str, Any]) -> Content:
    parts = [_required(fields, "instruction", what="prompt"), written(fields.get("input"))]
    asked = Message(role="user", content="\n\n".join(part for part in parts if part.strip()))
    return Content(messages=_begun(fields, answered((*_history(fields), asked, *_reply(fields, "output")))))


def _question(fields: Mapping[str, Any]) -> Content:
    return Content(messages=_begun(fields, answered((*_asked(fields, "question"), *_reply(fields, "answer")))))


def _text(fields: Mapping[str, Any]) -> Content:
    return Content(text=_required(fields, "text", what="text"))


def _prompt_task(fields: Mapping[str, Any]) -> Content:
    return _task(fields, _asked(fields, "prompt"))


def _alone(fields: Mapping[str, Any]) -> bool:
    """Whether nothing else in a record could be the answer: what is not known to be none is for the user to say."""
    return not _beside(fields)


def _beside(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if name.lower() not in (*ASIDE, "prompt", "system", "tools")]


def _prompt_alone(fields: Mapping[str, Any]) -> Content:
    """A prompt that somebody else answers: the model itself, or a teacher."""
    more = _beside({name: value for name, value in fields.items() if value is not None})
    if more:
        found = f"the column {more[0]!r} beside the prompt, the file began with prompts alone"
        raise ValueError(f"{found}; expected one shape per file; put the rows of each shape into a file")
    messages = _open(_asked(fields, "prompt"), "cut the prompt before the last answer")
    return Content(messages=_begun(fields, messages), reference="")


def _unanswered(fields: Mapping[str, Any]) -> bool:
    """Whether a conversation waits for an answer: a task, where it would be an example with a remark otherwise."""
    try:
        return chat(listed(fields["messages"], "messages"))[-1].role != "assistant"
    except ValueError:
        return True


def _messages_task(fields: Mapping[str, Any]) -> Content:
    return _task(fields, chat(listed(fields["messages"], "messages")))


def _task(fields: Mapping[str, Any], asked: tuple[Message, ...]) -> Content:
    reference = _required(fields, "reference", what="reference")
    messages = _open(asked, "write columns: {messages: messages} to learn from the answers")
    return Content(messages=_begun(fields, messages), reference=reference)


def _preference(fields: Mapping[str, Any]) -> Content:
    """Two replies to one prompt, or two whole conversations that part at the last answer."""
    chosen, rejected = (_alternative(fields, column) for column in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same; expected two different answers; delete the row")
    whole = chosen[0].role != "assistant"
    if whole != (rejected[0].role != "assistant"):
        found = f"chosen begins with the {chosen[0].role}'s turn, rejected with the {rejected[0].role}'s"
        raise ValueError(f"{found}; expected two replies or two whole conversations; correct the row")
    if whole:
        common = sum(1 for _ in _shared(chosen, rejected))
        if common != len(chosen) - 1:
            found = f"chosen and rejected part at turn {common + 1} of {len(chosen)}"
            raise ValueError(f"{found}; expected the same conversation up to chosen's last answer; cut it there")
        asked, rejected = (), rejected[common:]
    else:
        asked = _open(_preference_prompt(fields), "cut the prompt before the last answer")
        if len(chosen) > 1:
            found = f"chosen has {len(chosen)} turns"
            raise ValueError(f"{found}; expected one answer; move the turns before the last into the prompt")
    if not rejected:
        raise ValueError(f"no rejected answer, rejected ends before chosen's last turn; expected one; {REMEDY}")
    messages = answered((*asked, *chosen))
    answered((*messages[:-1], *rejected))
    return Content(messages=_begun(fields, messages), rejected=rejected)


def _shared(one: Sequence[Message], two: Sequence[Message]) -> Iterator[Message]:
    for left, right in zip(one, two, strict=False):
        if left != right:
            return
        yield left


def _alternative(fields: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    value = fields[column]
    turns = turns_in([value] if isinstance(value, dict) else value)
    if turns:
        return chat(turns)
    text = _required(fields, column, what="answer")
    return transcript(text) or (Message(role="assistant", content=text),)


def _preference_prompt(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    column = next((name for name in ASKING if fields.get(name) is not None), None)
    if column is None:
        found = "no prompt, chosen and rejected are answers and no column asks"
        raise ValueError(f"{found}; expected a column 'prompt', or two whole conversations; add the prompt")
    if column in ("messages", "conversations"):
        return chat(listed(fields[column], column))
    asked = _asked(fields, column)
    more = written(fields.get("input")) if column == "instruction" else ""
    return (*asked[:-1], Message(role="user", content=f"{asked[-1].content}\n\n{more}")) if more.strip() else asked


def _open(asked: tuple[Message, ...], remedy: str) -> tuple[Message, ...]:
    """Refuses a prompt that is answered already, or that asks nothing."""
    if asked[-1].role == "assistant":
        found = "an answer where the prompt ends, the last turn is the assistant's"
        raise ValueError(f"{found}; expected a prompt to be answered; {remedy}")
    if all(m.role in ("system", "developer") for m in asked):
        raise ValueError(f"no prompt, only the {asked[-1].role} speaks; expected a user's turn; {REMEDY}")
    return asked


def _asked(fields: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """A prompt: a text or (as TRL writes them) a list of turns."""
    if turns := turns_in(fields[column]):
        return chat(turns)
    return (Message(role="user", content=_required(fields, column, what="prompt")),)


def _reply(fields: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    if turns := turns_in(fields[column]):
        return chat(turns)
    return (Message(role="assistant", content=_required(fields, column, what="answer")),)


def _history(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """Earlier rounds, [[question, answer], ...]."""
    rounds = listed(fields.get("history"), "history") or []
    if not isinstance(rounds, list) or not all(isinstance(r, list | tuple) and len(r) == 2 for r in rounds):
        raise ValueError("history is no list of rounds; expected [[question, answer], ...]; correct the column")
    roles = ("user", "assistant")
    return tuple(Message(role=role, content=written(said)) for r in rounds for role, said in zip(roles, r, strict=True))


def _begun(fields: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """With the system prompt of a column of its own, unless the conversation has one."""
    text = written(fields.get("system"))
    if not text.strip() or messages[0].role == "system":
        return messages
    return (Message(role="system", content=text), *messages)


def _required(fields: Mapping[str, Any], column: str, *, what: str) -> str:
    """A column's value as text, refused when it is missing or blank."""
    value = fields.get(column)
    if value is None:
        raise ValueError(f"no {what}, the column {column!r} is missing or null; expected text; {REMEDY}")
    text = written(value)
    if not text.strip():
        raise ValueError(f"an empty {what} in {column!r}; expected text; {REMEDY}")
    return text
