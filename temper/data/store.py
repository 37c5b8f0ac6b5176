"""TokenStore: the rendered rows of one source on disk, mapped into memory, read like a list of Datum.

A folder of flat arrays, named by the hash of everything that its content follows from. It is written beside and
renamed; one process writes while others wait, and what a kill left is written anew. Paths are kept relative to the
source, so that a file that was moved finds its tokens again. Imports datum and errors.

    tokens     uint16, or uint32 for large vocabularies, all rows end to end
    offsets    int64, where each row begins; one more than there are rows
    spans      int32 pairs, the targets of a row from..to that are learnt, counted within the row
    span_at    int64, which spans are whose; one more than there are rows
    supervised int64, targets learnt per row
    numbers    int64, row number in its file
    files      int32, which of the names in meta.json the row is from
    ids        uint64, the row's id
    kept       int64, indices of the rows that later filters left; all if it is not there
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from temper.data.datum import Datum, item
from temper.errors import MachineError

VERSION = 1
"""Of the layout; another one is another key."""
META = "meta.json"
DROPPED = "dropped.jsonl"
"""Lists the rows that filters left out, one JSON object per line."""
HERE = "\0"
"""Stands for the path of the source in what is stored; no path holds this character."""
TYPES: Mapping[str, str] = {
    "offsets": "int64", "spans": "int32", "span_at": "int64", "supervised": "int64", "numbers": "int64",
    "files": "int32", "ids": "uint64", "kept": "int64",
}  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some consecutive rows as arrays, as a worker hands them over."""

    tokens: Array
    lengths: Array
    spans: Array
    span_counts: Array
    supervised: Array
    numbers: Array
    files: Array
    ids: Array
    names: tuple[str, ...]
    """What `files` counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What meta.json says."""

    wide: bool
    """Whether a token takes four bytes."""
    pairs: bool = False
    """Whether the datums stand two by two: the chosen answer of a preference pair, then the rejected one."""
    names: tuple[str, ...] = ()
    """Files of the rows, relative to the source."""
    faults: int = 0
    """Rows that could not be read or rendered; they are not in the store."""
    shown: tuple[str, ...] = ()
    """The first of them, one sentence each."""
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Filter -> reason -> rows it left out."""


def part_of(datums: Sequence[Datum], ids: Sequence[str], *, wide: bool) -> Part:
    """Rows as arrays. Datums have one term and weights of 0 and 1; `ids` are hexadecimal, as in Row."""
    lengths = np.fromiter((len(d.tokens) for d in datums), np.int64, len(datums))
    total = int(lengths.sum())
    tokens = np.fromiter(chain.from_iterable(d.tokens for d in datums), np.uint32 if wide else np.uint16, total)
    starts = np.cumsum(lengths) - lengths
    inside = np.ones(total, bool)
    inside[starts + lengths - 1] = False  # one place more per row than it has targets, so that no span runs on
    padded = np.zeros(total, np.float32)
    weights = chain.from_iterable(map(_only_term, datums))
    padded[inside] = np.fromiter(weights, np.float32, total - len(datums))
    assert bool(((padded == 0) | (padded == 1)).all()), "weights other than 0 and 1 cannot be stored"
    edges = np.flatnonzero(np.diff(padded, prepend=np.float32(0)))
    begins, ends = edges[::2], edges[1::2]
    owner = np.searchsorted(starts, begins, side="right") - 1
    spans = np.stack([begins - starts[owner], ends - starts[owner]], axis=1).astype(np.int32)
    places = [_place(d.row) for d in datums]
    names = tuple(dict.fromkeys(place.name for place in places))
    order = {name: number for number, name in enumerate(names)}
    return Part(
        tokens=tokens, lengths=lengths, spans=spans, span_counts=np.bincount(owner, minlength=len(datums)),
        supervised=np.bincount(owner, weights=ends - begins, minlength=len(datums)).astype(np.int64),
        numbers=np.fromiter((place.number for place in places), np.int64, len(datums)),
        files=np.fromiter((order[place.name] for place in places), np.int32, len(datums)),
        ids=np.fromiter((int(i, 16) for i in ids), np.uint64, len(datums)), names=names,
    )  # fmt: skip


class TokenStore(Sequence[Datum]):
    """Rows of one source. Picklable; copies share the memory that the files are mapped into.

    Attributes:
        folder: Holds the arrays.
        meta: What is known of all rows together.
        source: Name of the source, given to every Datum.
        term: Objective term that the weights belong to.
    """

    def __init__(self, folder: Path, *, path: Path, source: str, term: str = "ce") -> None:
        self.folder, self.source, self.term = folder, source, term
        self.meta = read_meta(folder)
        self._path = path
        self._tokens = _mapped(folder / "tokens", "uint32" if self.meta.wide else "uint16")
        self._columns = {name: _mapped(folder / name, kind) for name, kind in TYPES.items()}
        self._names = tuple(name.replace(HERE, str(path), 1) for name in self.meta.names)
        self._chosen = self.kept

    def __len__(self) -> int:
        return len(self._columns["supervised"]) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        return item(index, len(self), self._datum)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self._path, self.source, self.term)

    @cached_property
    def supervised(self) -> Array:
        """Supervised tokens per row."""
        return self._column(self._columns["supervised"])

    @cached_property
    def lengths(self) -> Array:
        """Tokens per row."""
        return self._column(np.diff(self._columns["offsets"]))

    @cached_property
    def ids(self) -> Array:
        """Id of each row as a number; equal content has equal ids."""
        return self._column(self._columns["ids"])

    @cached_property
    def group(self) -> Array | None:
        """Number of the pair that each row belongs to; None where rows are no pairs."""
        return self._column(np.arange(len(self._columns["supervised"])) // 2) if self.meta.pairs else None

    @property
    def kept(self) -> Array | None:
        """Indices of the rows that filters left, among all that were written; None if they left all."""
        return self._columns["kept"] if (self.folder / "kept").exists() else None

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 if there is none."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 in hex; equal fingerprints mean the same rows in the same order with the same tokens."""
        picked = b"" if self._chosen is None else hashlib.sha256(np.ascontiguousarray(self._chosen).tobytes()).digest()
        return hashlib.sha256(self.folder.name.encode() + picked).hexdigest()

    def faults(self) -> tuple[str, ...]:
        """The first rows that could not be used, one sentence each: file:row: found; expected; what to do."""
        return tuple(text.replace(HERE, str(self._path), 1) for text in self.meta.shown)

    def dropped(self) -> Iterator[Mapping[str, str]]:
        """Every row that a filter left out, as one JSON object: origin, filter, reason, of."""
        with (self.folder / DROPPED).open(encoding="utf-8") as lines:
            for line in lines:
                found = json.loads(line)
                yield {name: value.replace(HERE, str(self._path), 1) for name, value in found.items()}

    def _column(self, column: Array) -> Array:
        return np.asarray(column) if self._chosen is None else np.asarray(column)[self._chosen]

    def _datum(self, index: int) -> Datum:
        row = index if self._chosen is None else int(self._chosen[index])
        columns = self._columns
        first, stop = columns["offsets"][row : row + 2].tolist()
        weights = [0.0] * (stop - first - 1)
        low, high = columns["span_at"][row : row + 2].tolist()
        for begin, end in columns["spans"].reshape(-1, 2)[low:high].tolist():
            weights[begin:end] = [1.0] * (end - begin)
        name, number = self._names[int(columns["files"][row])], int(columns["numbers"][row])
        return Datum(
            tokens=tuple(self._tokens[first:stop].tolist()), weights={self.term: tuple(weights)}, source=self.source,
            row=_origin(name, number), group=row // 2 if self.meta.pairs else -1,
        )  # fmt: skip


class StoreWriter:
    """Appends parts to the arrays of a folder that nobody reads yet; a context manager, `finish` comes last in it."""

    def __init__(self, folder: Path, *, path: Path, wide: bool) -> None:
        self._folder, self._path, self._wide = folder, path, wide
        self._files: dict[str, BinaryIO] = {}
        self._names: dict[str, int] = {}
        self._places: list[Array] = []
        self._length = self._spans = 0
        self.rows = 0
        """Written so far."""

    def __enter__(self) -> StoreWriter:
        self._files = {name: (self._folder / name).open("wb") for name in ("tokens", *TYPES) if name != "kept"}
        for name in ("offsets", "span_at"):
            _write(self._files[name], np.zeros(1, np.int64))
        return self

    def __exit__(self, *trouble: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, part: Part) -> None:
        """Writes the next rows."""
        names = [relative(name, self._path) for name in part.names]
        numbers = np.array([self._names.setdefault(name, len(self._names)) for name in names], np.int32)
        columns = {
            "tokens": part.tokens, "spans": part.spans, "supervised": part.supervised, "numbers": part.numbers,
            "ids": part.ids, "offsets": self._length + np.cumsum(part.lengths),
            "span_at": self._spans + np.cumsum(part.span_counts), "files": numbers[part.files],
        }  # fmt: skip
        self._places.append(np.stack([columns["files"], part.numbers], axis=1))
        self.rows += len(part.lengths)
        self._length += len(part.tokens)
        self._spans += len(part.spans)
        for name, column in columns.items():
            kind = TYPES.get(name) or ("uint32" if self._wide else "uint16")
            _write(self._files[name], column.astype(kind, copy=False))

    def origins(self, rows: Sequence[int]) -> list[str]:
        """file:row of rows written, by their indices; the path of the source stands as it is stored."""
        names = list(self._names)
        places = np.concatenate([np.zeros((0, 2), np.int64), *self._places])[list(rows)]
        return [_origin(names[file], number) for file, number in places.tolist()]

    def finish(self, meta: Meta, kept: Array | None = None) -> None:
        """Writes what is known at the end; `meta.names` is filled in here."""
        if kept is not None:
            self._files["kept"] = (self._folder / "kept").open("wb")
            _write(self._files["kept"], kept.astype(TYPES["kept"], copy=False))
        self._files["meta"] = (self._folder / META).open("wb")
        self._files["meta"].write(json.dumps(asdict(replace(meta, names=tuple(self._names)))).encode())
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def writing(folder: Path) -> Iterator[Path | None]:
    """A new folder to fill, which gets its name when the block ends well; None if it is there (by now).

    Another process that fills the same folder is waited for. A folder that a kill left half full is emptied.
    """
    beside = folder.with_name(f".{folder.name}.part")
    try:
        with _alone(folder, beside) as mine:
            if not mine:
                yield None
                return
            for left in beside.iterdir():
                left.unlink()
            try:
                yield beside
                beside.rename(folder)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
    except OSError as error:
        raise MachineError(
            f"{folder}: cannot be written ({error}); make room, or set TEMPER_CACHE to a folder on another disk"
        ) from error


def read_meta(folder: Path) -> Meta:
    """What is known of all rows of a store together."""
    told: dict[str, Any] = json.loads((folder / META).read_bytes())
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return Meta(**told)


def relative(text: str, path: Path) -> str:
    """A text that begins with the path of the source, as it is stored."""
    return HERE + text.removeprefix(str(path)) if text.startswith(str(path)) else text


@contextmanager
def _alone(folder: Path, beside: Path) -> Iterator[bool]:
    """Holds `beside` alone, made if need be; False when `folder` is there instead, made by whoever held it before."""
    while not folder.exists():
        beside.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(beside, os.O_RDONLY)
        except FileNotFoundError:
            continue  # finished or given up between the two lines
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, beside):
                yield True
                return
        finally:
            os.close(handle)
    yield False


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open folder still has that name: whoever held it before may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _opened(folder: Path, path: Path, source: str, term: str) -> TokenStore:
    return TokenStore(folder, path=path, source=source, term=term)


def _mapped(path: Path, kind: str) -> Array:
    """A file as an array; a file of no bytes cannot be mapped."""
    if not path.exists() or not path.stat().st_size:
        return np.zeros(0, kind)
    return np.memmap(path, dtype=kind, mode="r")


def _write(file: BinaryIO, column: Array) -> int:
    return file.write(np.ascontiguousarray(column).data)


def _only_term(datum: Datum) -> tuple[float, ...]:
    (weights,) = datum.weights.values()
    return weights


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    number: int
    """-1 where the row has no number."""


def _origin(name: str, number: int) -> str:
    return name if number < 0 else f"{name}:{number}"


def _place(row: str) -> _Place:
    """file:row taken apart at its last colon."""
    name, _, number = row.rpartition(":")
    return _Place(name, int(number)) if name and number.isdecimal() and number.isascii() else _Place(row, -1)
