"""Files of a user's own probe items: one JSON object per line, the kind written in each line or told by its fields.

Example: a line of a file that asks for numbers, and one that is told by its fields to be a choice:
    {"kind": "numeric", "axis": "reasoning", "prompt": "How much is 6 x 7?", "reference": 42}
    {"context": "The sky is", "options": [" blue", " square"], "gold": 0}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from temper import registry
from temper.errors import DataError
from temper.probes import ifeval, kinds
from temper.probes.base import Item, ProbeSpec, digest
from temper.probes.formats import CHECKS

AXES = ("language", "knowledge", "reasoning", "instruction", "behaviour", "code", "safety")
TOLD_BY_FIELDS = (
    ("choice", "knowledge"), ("reply-choice", "knowledge"), ("formats", "instruction"),
    ("instructions", "instruction"), ("code", "code"), ("regex", "instruction"), ("continuation", "language"),
    ("text", "language"),
)  # fmt: skip
"""Kinds that a line need not name, the most telling fields first, and the axis they count for."""
AXIS_OF_KIND: Mapping[str, str] = {
    "refusal": "safety", "over-refusal": "safety", "own-answers": "behaviour", "drift": "behaviour",
    "judge": "behaviour", "judge-pair": "behaviour", "numeric": "reasoning", **dict(TOLD_BY_FIELDS),
}  # fmt: skip
OF_THE_BASE: Mapping[str, Mapping[str, str | int]] = {
    kind: {"source": "chat_probe", "axis": "behaviour", "items": 60, "quick": 16} for kind in ("own-answers", "drift")
}
"""What a probe of the base's own answers asks where a recipe names the kind alone: the prompts of `core`."""
NEW_TOKENS = 32
LONGER: Mapping[str, int] = {"code": 256, "instructions": 256, "judge": 256, "judge-pair": 256, "numeric": 256}
MARKS = ("kind", "axis")
"""Fields that sort a line and are no part of the question."""


def read_specs(path: Path) -> tuple[ProbeSpec, ...]:
    """The probes of a file: one per kind that its lines name, called after the file (and the kind, if there are more).

    Raises:
        DataError: a line that cannot be read, names an unknown kind or axis, or does not show what it is.
    """
    axes: dict[str, str] = {}
    for number, kind, item in _sorted(path):
        axis = item.get("axis") or AXIS_OF_KIND.get(kind, "knowledge")
        if axis not in AXES:
            raise DataError(f"{path}:{number}: found axis {axis!r}; expected one of {', '.join(AXES)}; correct it")
        if axes.setdefault(kind, axis) != axis:
            raise DataError(
                f"{path}:{number}: found axis {axis!r} for kind {kind!r}, which had {axes[kind]!r} before; expected one"
                " axis per kind and file; move the line to a file of its own"
            )
    if not axes:
        raise DataError(f"{path}: an empty file; expected one JSON object per line; add items")
    return tuple(
        ProbeSpec(
            name=path.stem if len(axes) == 1 else f"{path.stem}-{kind.rpartition(':')[2]}", axis=axis, kind=kind,
            source=str(path),
            max_new_tokens=LONGER.get(kind, NEW_TOKENS),
        )
        for kind, axis in axes.items()
    )  # fmt: skip


def names_a_kind(path: Path) -> bool:
    """Whether the first line has a `kind` that is, or nearly is, one of a probe: then it is no row of an exam."""
    first = next((line for line in read_text(path).split("\n") if line.strip()), "{}")
    try:
        named = json.loads(first).get("kind", "")
    except (ValueError, AttributeError):
        return False
    known = kinds.known()
    return isinstance(named, str) and (named in known or bool(registry.hint(named, known)))


def read_items(path: Path, kind: str) -> tuple[Item, ...]:
    """The items of a file that are of this kind, each with an id; a row that cannot be used is named."""
    items: list[Item] = []
    about = kinds.kind(kind)
    for number, told, item in _sorted(path, kind):
        if told != kind:
            continue
        lacking = kinds.absent(about.needs, item)
        if lacking:
            wanted = ", ".join(about.needs)
            raise DataError(f"{path}:{number}: found no {lacking}; expected {wanted}; complete the line")
        _check(path, number, item, kind)
        bare = {name: value for name, value in item.items() if name not in MARKS}
        items.append({**bare, "id": str(item["id"]) if "id" in item else digest(bare)})
    if not items:
        raise DataError(f"{path}: no item of kind {kind!r}; expected one JSON object per line; add items")
    return tuple({i["id"]: i for i in items}.values())


def _sorted(path: Path, wanted: str = "") -> Iterator[tuple[int, str, Item]]:
    """Every line with its number and kind; the first line that names none decides for all the others that do not.

    Where no line names a kind, all are of the kind that a suite wants them to be.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    items = [(number, _object(path, number, line)) for number, line in lines if line.strip()]
    default = "" if any("kind" in item for _, item in items) else wanted
    for number, item in items:
        if "kind" not in item:
            default = default or _kind(path, number, item)
        yield number, default if "kind" not in item else _kind(path, number, item), item


def _kind(path: Path, number: int, item: Item) -> str:
    """The kind a line names, else the first one whose fields it has."""
    if "kind" in item:
        named = item["kind"]
        if not isinstance(named, str) or (":" not in named and named not in (*kinds.KINDS, *registry.names("probe"))):
            hint = registry.hint(str(named), kinds.known())
            raise DataError(
                f"{path}:{number}: found kind {named!r}; expected one of {', '.join(kinds.known())}; {hint}correct it"
            )
        if kinds.kind(named).required:
            raise DataError(
                f"{path}:{number}: kind {named!r} needs {', '.join(kinds.kind(named).required)}, which a line cannot"
                ' give; expected a [[probe]] of a suite file (.toml) with source = "' + path.name + '"; write one'
            )
        return kinds.absolute(named, path.parent)
    for kind, _ in TOLD_BY_FIELDS:
        if not kinds.absent(kinds.KINDS[kind].needs, item):
            return kind
    found = ", ".join(name for name in item if name != "id")
    raise DataError(
        f"{path}:{number}: found the fields {found}; expected context, options and gold; or prompt, options and"
        " gold; or prompt and checks; or prompt and tests; or text, with or without context; or a `kind`, such as"
        ' "kind": "exact" beside prompt and reference; rename the fields'
    )


def _check(path: Path, number: int, item: Item, kind: str) -> None:
    """What the fields of some kinds must hold."""
    where = f"{path}:{number}"
    if "options" in item and not _options_fit(item):
        raise DataError(
            f"{where}: found gold {item.get('gold')!r}; expected the number, from 0, of one of at least two different"
            " options; correct the line"
        )
    for field in ("text", "context", "prompt", "plain", "pattern"):
        if field in item and not isinstance(item[field], str):
            raise DataError(f"{where}: found {type(item[field]).__name__} in {field}; expected text; correct the line")
    if "messages" in item and not _messages_fit(item["messages"]):
        raise DataError(
            f'{where}: found other messages; expected a list such as [{{"role": "user", "content": "..."}}] that ends'
            " with a user's turn; correct the line"
        )
    if kind == "regex":
        try:
            re.compile(item["pattern"])
        except re.error as error:
            raise DataError(f"{where}: pattern is no regular expression ({error}); expected one; correct it") from None
    if kind == "formats":
        unknown = [c for c in item["checks"] if not isinstance(c, dict) or c.get("kind") not in CHECKS]
        if unknown:
            expected = ", ".join(CHECKS)
            raise DataError(f"{where}: found the check {unknown[0]!r}; expected kinds of {expected}; correct it")
    if kind == "instructions" and not all(n in ifeval.CHECKS for n in item["instruction_id_list"]):
        unknown = next(n for n in item["instruction_id_list"] if n not in ifeval.CHECKS)
        raise DataError(
            f"{where}: found the instruction {unknown!r}; {registry.hint(unknown, ifeval.CHECKS)}expected one of"
            f" {', '.join(ifeval.CHECKS)}; correct it"
        )


def _options_fit(item: Item) -> bool:
    options, gold = item["options"], item.get("gold")
    return (
        isinstance(options, list) and len(options) >= 2 and all(isinstance(o, str) and o.strip() for o in options)
        and isinstance(gold, int) and 0 <= gold < len(options)
    )  # fmt: skip


def _messages_fit(turns: Any) -> bool:
    return (
        isinstance(turns, list) and len(turns) > 0
        and all(isinstance(t, dict) and isinstance(t.get("content"), str) and "role" in t for t in turns)
        and turns[-1]["role"] == "user"
    )  # fmt: skip


def _object(path: Path, number: int, line: str) -> Item:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON: {error}; correct the line") from None
    if not isinstance(item, dict):
        raise DataError(f"{path}:{number}: found {type(item).__name__}; expected a JSON object; correct the line")
    return item


def read_text(path: Path) -> str:
    """The text of a suite file or a file of items."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a suite (.toml) or items (.jsonl); check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8 text; convert the file") from None
