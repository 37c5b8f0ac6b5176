"""Rows: what a data file holds, read from any of the known formats and shapes into one form.

Knows files and columns; knows no tokenizer and no model. A file that cannot be used is refused as a whole, with the
rows at fault named. A new file format is one function that yields `Record`s; a new shape is one `Shape` in `shapes()`.
Imports errors.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.errors import DataError

SHOWN = 5
"""Offending rows named in one message."""
ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS: Mapping[str, str] = {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bot", "model"), "assistant")
"""ShareGPT's names for the roles."""
REMEDY = "write it or delete the row"
EXAMPLE = '{"prompt": "...", "completion": "..."}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool by the assistant."""

    name: str
    arguments: str
    """A JSON object as compact text."""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    content: str
    reasoning: str = ""
    """What an assistant thinks before it says `content`, without the template's marks around it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """An assistant's calls; `content` may then be empty."""
    tool_call_id: str = ""
    """Of a tool's turn: the call it answers."""
    name: str = ""
    """Of a tool's turn: the tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training or exam row.

    Example: the line {"prompt": "lamp on", "completion": {"call": "on"}} of data/home.jsonl, line 3, becomes messages
    (user "lamp on", assistant '{"call": "on"}'), origin "data/home.jsonl:3" and reference '{"call": "on"}'.
    """

    id: str
    """16 hexadecimal digits of the content's sha256: the same content has the same id in any file."""
    messages: tuple[Message, ...]
    """The conversation, an assistant's turn last; empty for a row of plain text."""
    origin: str
    """file:row. The row is the line it begins on, 1-based; in .json, .parquet and .arrow the number of the record."""
    reference: str = ""
    """The last assistant's turn; empty for plain text."""
    text: str = ""
    """Plain text to continue pre-training on; empty for a conversation."""
    rejected: tuple[Message, ...] = ()
    """Of a preference pair: the turns that must not win, in place of the last of `messages`; empty otherwise."""
    tools: str = ""
    """The tools that may be called, a JSON list of function descriptions as compact text; empty for none."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The columns as they stand in the file."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model is asked: the messages before the last assistant's turn; of a task all of them."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A file of rows and how it was understood."""

    path: Path
    shape: str
    """Name of the shape its columns were recognised as, e.g. `prompt/completion`."""
    rows: tuple[Row, ...]
    fingerprint: str
    """sha256 of the (decompressed) file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file before its columns mean anything; a `problem` says why it could not be read."""

    row: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """A set of columns with a meaning."""

    name: str
    columns: tuple[str, ...]
    """All of these must be columns of the file."""
    messages: Callable[[Mapping[str, Any]], tuple[Message, ...]]
    """Raises ValueError with `found; expected; remedy`."""


def read_rows(path: Path, *, columns: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a data file; see `read_table`."""
    return list(read_table(path, columns=columns).rows)


def read_table(path: Path, *, columns: Mapping[str, str] | None = None) -> Table:
    """Reads a data file, recognises its shape and refuses it with the rows named when any cannot be used.

    Args:
        path: A .jsonl .json .csv .tsv (each also .gz), .parquet or .arrow file.
        columns: Known column name -> the column's name in this file, e.g. {"completion": "Antwort"}.
    """
    content = _content(path)
    records = list(_records(path, content)) if content.strip() else []
    if not records:
        raise DataError(f"{path}: empty, no rows; expected at least one; write rows such as {EXAMPLE}")
    _refuse(path, [(r.row, r.problem) for r in records if r.problem])
    names = list(dict.fromkeys(name for r in records for name in r.fields))
    shape = _shape(path, names, columns or {})
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []
    for record in records:
        try:
            rows.append(_row(path, record, shape, columns or {}))
        except ValueError as error:
            problems.append((record.row, str(error)))
    _refuse(path, problems)
    return Table(path=path, shape=shape.name, rows=tuple(rows), fingerprint=hashlib.sha256(content).hexdigest())


def shapes() -> tuple[Shape, ...]:
    """The known shapes; the first whose columns are all there is taken."""
    return (
        Shape("messages", ("messages",), lambda f: _chat(f, "messages", "role", "content")),
        Shape("conversations", ("conversations",), lambda f: _chat(f, "conversations", "from", "value")),
        Shape("prompt/completion", ("prompt", "completion"), lambda f: _pair(f, "prompt", "completion")),
        Shape(
            "instruction/input/output", ("instruction", "output"), lambda f: _pair(f, "instruction", "output", "input")
        ),
        Shape("question/answer", ("question", "answer"), lambda f: _pair(f, "question", "answer")),
        Shape("text", ("text",), lambda f: ()),
    )


def _row(path: Path, record: Record, shape: Shape, columns: Mapping[str, str]) -> Row:
    renamed = {known: record.fields.get(own) for known, own in columns.items()}
    fields = {name: record.fields.get(name) for name in shape.columns} | dict(record.fields) | renamed
    messages = shape.messages(fields)
    text = "" if messages else _required(fields, "text", what="text")
    reference = messages[-1].content if messages else ""
    content = json.dumps([[(m.role, m.content) for m in messages], text], ensure_ascii=False)
    try:
        id = hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]
    except UnicodeEncodeError:
        raise ValueError(f"half a character (a lone surrogate); expected Unicode text; {REMEDY}") from None
    origin = f"{path}:{record.row}"
    return Row(id=id, messages=messages, origin=origin, reference=reference, text=text, fields=record.fields)


def _pair(fields: Mapping[str, Any], ask: str, answer: str, more: str = "") -> tuple[Message, ...]:
    """One question and one answer, each a text or (as TRL writes them) a list of messages."""
    if _is_chat(fields[ask]):
        asked = _turns(fields[ask], "role", "content")
    else:
        parts = [_required(fields, ask, what="prompt"), _written(fields.get(more))]
        asked = (Message(role="user", content="\n\n".join(part for part in parts if part.strip())),)
    if _is_chat(fields[answer]):
        answered = _turns(fields[answer], "role", "content")
    else:
        answered = (Message(role="assistant", content=_required(fields, answer, what="answer")),)
    return _checked((*_system(fields, asked), *asked, *answered))


def _is_chat(value: Any) -> bool:
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(t, dict) and set(t) == {"role", "content"} for t in turns)


def _chat(fields: Mapping[str, Any], column: str, role: str, content: str) -> tuple[Message, ...]:
    """A list of turns, OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`)."""
    turns = fields[column]
    if isinstance(turns, str) and turns.lstrip().startswith("["):  # a CSV cell holds the list as text
        try:
            turns = json.loads(turns)
        except json.JSONDecodeError as error:
            raise ValueError(f"{column} is not JSON ({error}); expected a list of turns; correct the cell") from None
    messages = _turns(turns, role, content)
    return _checked((*_system(fields, messages), *messages))


def _turns(turns: Any, role: str, content: str) -> tuple[Message, ...]:
    wanted = f"expected a list of objects with {role!r} and {content!r}"
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no turns, found {reprlib.repr(turns)}; {wanted}; write the conversation or delete the row")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or role not in turn or content not in turn:
            raise ValueError(f"turn {number} is {reprlib.repr(turn)}; {wanted}; correct the turn")
        name, said = turn[role], turn[content]
        name = SPEAKERS.get(str(name).lower(), name) if role == "from" else name
        if name not in ROLES:
            raise ValueError(
                f"turn {number} has {role} {reprlib.repr(name)}; expected one of {', '.join(ROLES)}; rename it"
            )
        if isinstance(said, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in said):
            said = "".join(str(part.get("text", "")) for part in said)
        if not isinstance(said, str):
            found = f"turn {number} has {content} {reprlib.repr(said)}"
            raise ValueError(f"{found}; expected text (no images, no tool calls); write text or delete the row")
        messages.append(Message(role=name, content=said))
    return tuple(messages)


def _system(fields: Mapping[str, Any], messages: Sequence[Message]) -> tuple[Message, ...]:
    text = _written(fields.get("system"))
    return (Message(role="system", content=text),) if text.strip() and messages[0].role != "system" else ()


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Refuses a conversation nothing can be learnt from."""
    last = messages[-1].role
    if last != "assistant":
        raise ValueError(f"no answer, the last turn is the {last}'s; expected the assistant's last; {REMEDY}")
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and not message.content.strip():
            raise ValueError(f"an empty answer in turn {number}; expected text; {REMEDY}")
    if all(m.role == "assistant" for m in messages):
        raise ValueError(f"no prompt, only the assistant speaks; expected a user's turn first; {REMEDY}")
    return messages


def _required(fields: Mapping[str, Any], column: str, *, what: str) -> str:
    """A column's value as text, refused when it is missing or blank."""
    value = fields.get(column)
    if value is None:
        raise ValueError(f"no {what}, the column {column!r} is missing or null; expected text; {REMEDY}")
    text = _written(value)
    if not text.strip():
        raise ValueError(f"an empty {what} in {column!r}; expected text; {REMEDY}")
    return text


def _written(value: Any) -> str:
    """A value as the model will write it: text as it is, everything else as compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _refuse(path: Path, problems: Sequence[tuple[int, str]]) -> None:
    """Raises one error that names the first offending rows; no problem, no error."""
    lines = [f"{path}:{row}: {problem}" for row, problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more rows of this file")
    if lines:
        raise DataError("\n".join(lines))


def _shape(path: Path, names: Sequence[str], columns: Mapping[str, str]) -> Shape:
    """The first shape whose columns are all there, or an error that lists the shapes and suggests a renaming."""
    listed = ", ".join(map(repr, names)) or "none"
    for known, own in columns.items():
        if own not in names:
            near = difflib.get_close_matches(own, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "correct the name"
            raise DataError(f"{path}:1: columns.{known}: no column {own!r}; expected one of {listed}; {hint}")
    found = {*columns, *names} - set(columns.values())
    hints: list[str] = []
    for shape in shapes():
        missing = [column for column in shape.columns if column not in found]
        if not missing:
            return shape
        near_names = {c: difflib.get_close_matches(c, sorted(found), n=1, cutoff=0.7) for c in missing}
        hints += [f"{column}: {near[0]}" for column, near in near_names.items() if near]
    known_shapes = ", ".join(shape.name for shape in shapes())
    mapping = "{" + (", ".join(dict.fromkeys(hints)) or "prompt: ..., completion: ...") + "}"
    wanted = f"expected one of the shapes {known_shapes}; rename the columns or map them with columns: {mapping}"
    raise DataError(f"{path}:1: found the columns {listed}; {wanted}")


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        hint = f"did you mean {path.with_name(near[0])}?" if near else "correct the path"
        raise DataError(f"{path}: no such file; expected a data file; {hint}") from None
    except OSError as error:  # a folder, or no permission
        raise DataError(
            f"{path}: {error.strerror}; expected a file that can be read; correct the path or rights"
        ) from None
    try:
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); expected gzip; compress it again") from None


def _records(path: Path, content: bytes) -> Iterable[Record]:
    """The records of the file by its suffix."""
    zipped = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if zipped else path).suffix.lower()
    if suffix in (".parquet", ".arrow") and not zipped:
        return _arrow(path, content)
    if suffix not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv"):
        known = ".jsonl .json .csv .tsv (each also .gz), .parquet or .arrow"
        raise DataError(f"{path}: a kind of file temper does not read; expected {known}; convert or rename the file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{row}: not UTF-8 text ({error.reason}); expected UTF-8; convert the file") from None
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(text)
    if suffix == ".json":
        return _json(text)
    header = text.split("\n", 1)[0]
    comma = ";" if ";" in header and "," not in header else ","  # half of Europe's spreadsheets write semicolons
    return _separated(text, "\t" if suffix == ".tsv" else comma)


def _record(row: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(row=row, fields=value)
    found = reprlib.repr(value)
    return Record(row=row, problem=f"found {found}; expected a JSON object such as {EXAMPLE}; correct the row")


def _jsonl(text: str) -> Iterator[Record]:
    # Split at \n only: str.splitlines would also cut at U+2028, which JSON allows inside a string.
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _record(row, json.loads(line))
        except json.JSONDecodeError as error:
            found = f"not JSON: {error.msg} at column {error.colno}"
            yield Record(row=row, problem=f"{found}; expected one object such as {EXAMPLE}; correct or delete the line")


def _json(text: str) -> Iterator[Record]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:  # one object per line under the name .json
            yield from _jsonl(text)
            return
        found = f"not JSON: {error.msg} at column {error.colno}"
        yield Record(row=error.lineno, problem=f"{found}; expected a list of objects [{EXAMPLE}]; correct the file")
        return
    items = value if isinstance(value, list) else [value]
    yield from map(_record, range(1, len(items) + 1), items)


def _separated(text: str, delimiter: str) -> Iterator[Record]:
    """Records of a file with a header line; a record's row is the line it begins on."""
    limit = csv.field_size_limit(max(len(text), 131072))  # the default refuses long texts
    try:
        yield from _cells(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(limit)


def _cells(reader: Any) -> Iterator[Record]:
    header: list[str] = []
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(row=row, problem=f"broken quoting ({error}); expected quotes that close; correct the row")
            return
        if not cells:
            continue
        if not header:
            header = cells
        elif len(cells) != len(header):
            found = f"found {len(cells)} cells; expected {len(header)} ({', '.join(header)})"
            yield Record(row=row, problem=f"{found}; put text with separators in quotes")
        else:
            yield Record(row=row, fields=dict(zip(header, cells, strict=True)))


def _arrow(path: Path, content: bytes) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(pa.BufferReader(content))
        elif content.startswith(b"ARROW1"):
            table = pa.ipc.open_file(content).read_all()
        else:  # the streaming format, which Hugging Face datasets writes
            table = pa.ipc.open_stream(content).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a whole {path.suffix} file ({error}); expected one; write it again") from None
    yield from map(_record, range(1, len(table) + 1), table.to_pylist())
