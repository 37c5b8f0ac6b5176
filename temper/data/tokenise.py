"""Tokenise: from a source of rows to a TokenStore, once; ever after the tokens are read from the cache.

The file is walked in blocks. Each is parsed, filtered, rendered and looked at in a worker process (small files: here),
and comes back as arrays, so that memory is bounded by the blocks in flight. What cannot be used is counted and named,
not raised. Imports crew, store, digests, filters, repeats, render, rows, fetch and errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from temper import __version__
from temper.data import evict, fetch
from temper.data.crew import cores, ordered_map
from temper.data.datum import Datum
from temper.data.digests import remembered_digests
from temper.data.files import BLOCK, Block
from temper.data.filters import Dropped, FilterSpec, Screen, tally
from temper.data.render import Renderer, TrainOn
from temper.data.repeats import Prints, Repeat, joined, prints, repeats
from temper.data.rows import SHOWN, Fault, Row, Stream
from temper.data.store import (
    DROPPED,
    VERSION,
    Array,
    Meta,
    Part,
    StoreWriter,
    TokenStore,
    part_of,
    relative,
    writing,
)  # fmt: skip
from temper.errors import DataError

Progress = Callable[[str, int, int], None]
Inspect = Callable[[Row, Datum | None], Any]
SMALL = 8_000_000
"""Bytes below which a source is tokenised in this process: workers take seconds to start."""
ROOM: Mapping[bool, float] = {False: 1.3, True: 2.0}
"""Bytes on disk per byte of a file, narrow and wide, at most: a token is three characters or more in most texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with one source; picklable."""

    source: Stream
    name: str
    """Given to every Datum as its source."""
    folder: Path
    """Of the model whose tokenizer and template are used."""
    train_on: TrainOn = "all"
    max_length: int | None = None
    thinking: bool = False
    filters: tuple[FilterSpec, ...] = ()
    pairs: bool = False
    """Whether rows are preference pairs, each stored as its chosen and its rejected answer, side by side."""
    inspect: Inspect | None = None
    """Called with every row that was rendered, of a pair with the chosen answer; what it returns is gathered."""

    @property
    def width(self) -> int:
        """Datums that a row becomes."""
        return 2 if self.pairs else 1

    def key(self, renderer: Renderer) -> str:
        """Name of the result in the cache: a hash of all that it follows from."""
        read = [content_key(self.source), self.source.shape, sorted(self.source.mapping.items())]
        rendered = [renderer.fingerprint, self.train_on, self.max_length, self.thinking, *(["pairs"] * self.pairs)]
        parts = [VERSION, __version__, read, rendered, repr(self.filters)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A source, tokenised."""

    store: TokenStore
    facts: Facts | None
    """What `inspect` found, one per row of `store`; None without `inspect`."""
    cached: bool
    """Whether the tokens were there already."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Done:
    """One block, finished."""

    part: Part
    prints: Prints
    faults: int
    shown: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    facts: bytes


class Facts:
    """What was found about each row, in the order of the rows; kept on disk, read as often as asked."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="temper-facts-")
        os.unlink(name)  # the space is given back when the process ends, however it ends
        self._handle = handle
        self._sizes: list[int] = []
        self._kept: Array | None = None
        weakref.finalize(self, os.close, handle)

    def add(self, pickled: bytes) -> None:
        """Appends the facts of one block, a pickled list."""
        with os.fdopen(os.dup(self._handle), "ab") as file:
            self._sizes.append(file.write(pickled))

    def keep(self, indices: Array) -> None:
        """Leaves out all but these, in ascending order."""
        self._kept = indices

    def __iter__(self) -> Iterator[Any]:
        offset = 0
        kept = None if self._kept is None else iter(self._kept.tolist())
        wanted = None if kept is None else next(kept, -1)
        index = 0
        for size in self._sizes:
            for fact in pickle.loads(os.pread(self._handle, size, offset)):
                if kept is None:
                    yield fact
                elif index == wanted:
                    yield fact
                    wanted = next(kept, -1)
                index += 1
            offset += size


def tokenise(job: Job, renderer: Renderer, *, workers: int | None = None, progress: Progress | None = None) -> Stored:
    """The tokens of a source, from the cache if they are there.

    Args:
        job: What is to be done.
        renderer: Of `job.folder`; renders small sources, workers load their own.
        workers: Processes; one per core if not given.
        progress: Told (what, bytes done, bytes in all).

    Raises:
        MachineError: No room, or a worker was killed.
        DataError: The source cannot be read on. Single rows that cannot be used are counted in `store.meta`.
    """
    folder = fetch.cache_dir() / "tokens" / job.key(renderer)
    facts = Facts() if job.inspect else None
    size = sum(path.stat().st_size for path in _paths(job.source))
    inside = size < SMALL or workers == 1
    with closing(_walk(job, renderer if inside else None, workers or cores(), size, progress)) as walk:
        with writing(folder) as beside:
            if beside is None:
                evict.used(folder)
            else:
                fetch.free_space(beside, round(size * ROOM[_is_wide(renderer)] * job.width))
                _build(job, walk, beside, facts, wide=_is_wide(renderer))
        if beside is not None:
            evict.make_room(folder)
        elif facts is not None:
            for done in walk:
                facts.add(done.facts)
    store = TokenStore(folder, path=job.source.path, source=job.name)
    if facts is not None and store.kept is not None:
        facts.keep(store.kept[:: job.width] // job.width)
    return Stored(store=store, facts=facts, cached=beside is None)


def content_key(source: Stream) -> str:
    """Changes when a byte of the source's files does; files that were not touched since the last time are not read."""
    paths = _paths(source)
    if not paths:
        return source.fingerprint()
    names = [os.path.relpath(path, source.path) for path in paths]
    return hashlib.sha256(json.dumps([names, remembered_digests(paths)]).encode()).hexdigest()


def _paths(source: Stream) -> tuple[Path, ...]:
    """The files of a source; none for one that is no file of this machine."""
    paths: Sequence[Path] = getattr(source.source, "paths", (source.path,))
    return tuple(path for path in paths if path.is_file())


def _is_wide(renderer: Renderer) -> bool:
    return len(renderer.tokenizer) > 1 << 16


def _walk(job: Job, renderer: Renderer | None, workers: int, size: int, progress: Progress | None) -> Generator[_Done]:
    """All blocks of the source, finished, in order: here with a renderer, else by workers."""
    sizes: deque[int] = deque()

    def drawn() -> Iterator[Block]:
        for block in job.source.blocks():
            sizes.append(_bytes_of(block))
            yield block

    if renderer is not None:
        found = map(_Work(job, renderer), drawn())
    else:
        found = ordered_map(partial(_start, job), drawn(), workers=workers)
    done = 0
    for result in found:
        yield result
        done += sizes.popleft()
        if progress:
            progress(f"tokenising {job.source.path.name}", min(done, size), size)


def _bytes_of(block: Block) -> int:
    """What a block is of the file, for the progress; parsed blocks are of about the usual size."""
    if paths := getattr(block, "paths", ()):
        return sum(path.stat().st_size for path in paths)
    return len(getattr(block, "content", b"")) or BLOCK


def _start(job: Job) -> _Work:
    return _Work(job, Renderer.load(job.folder, thinking=job.thinking))


class _Work:
    """What is done with every block; one per process, since filters and renderers are costly to make."""

    def __init__(self, job: Job, renderer: Renderer) -> None:
        self._job, self._renderer = job, renderer
        self._screen = Screen(job.filters)
        self._wide = _is_wide(renderer)

    def __call__(self, block: Block) -> _Done:
        job = self._job
        faults: list[str] = []
        dropped: list[Dropped] = []
        rows: list[Row] = []
        for row in job.source.parse(block):
            if isinstance(row, Fault):
                faults.append(f"{row.origin}: {row.problem}")
            elif (left_out := self._screen(row)) is not None:
                dropped.append(left_out)
            else:
                rows.append(row)
        made = self._made(rows)
        faults += [str(found) for found in made if isinstance(found, DataError)]
        usable = [row for row, found in zip(rows, made, strict=True) if not isinstance(found, DataError)]
        units = [found for found in made if not isinstance(found, DataError)]
        inspect = job.inspect
        facts = [inspect(row, first) for row, (first, *_) in zip(usable, units, strict=True)] if inspect else []
        datums, ids = [datum for unit in units for datum in unit], [row.id for row in usable for _ in range(job.width)]
        return _Done(
            part=part_of(datums, ids, wide=self._wide), prints=prints(usable, job.filters),
            faults=len(faults), shown=tuple(faults[:SHOWN]), dropped=tuple(dropped),
            facts=pickle.dumps(facts, pickle.HIGHEST_PROTOCOL) if inspect else b"",
        )  # fmt: skip

    def _made(self, rows: Sequence[Row]) -> list[tuple[Datum, ...] | DataError]:
        """What each row becomes, or why it becomes nothing."""
        job = self._job
        if job.pairs:
            return [_pair(self._renderer, row, job) for row in rows]
        made = self._renderer.datums(rows, source=job.name, train_on=job.train_on, max_length=job.max_length)
        return [found if isinstance(found, DataError) else (found,) for found in made]


def _pair(renderer: Renderer, row: Row, job: Job) -> tuple[Datum, Datum] | DataError:
    """Both answers of a preference pair; they must differ in what the model sees, not in the file alone."""
    try:
        chosen, rejected = renderer.pair(row, source=job.name, group=0, term="ce", max_length=job.max_length)
    except DataError as error:
        return error
    if chosen.tokens == rejected.tokens:
        return DataError(
            f"{row.origin}: chosen and rejected are the same tokens as the chat template writes them; expected two "
            f"different answers; delete the row"
        )
    return chosen, rejected


def _build(job: Job, walk: Iterator[_Done], beside: Path, facts: Facts | None, *, wide: bool) -> None:
    """Fills the folder of a store."""
    path = job.source.path
    faults, shown = 0, list[str]()
    compared: list[Prints] = []
    counts: dict[str, Counter[str]] = {}
    with StoreWriter(beside, path=path, wide=wide) as writer, (beside / DROPPED).open("w", encoding="utf-8") as listed:
        for done in walk:
            writer.add(done.part)
            faults += done.faults
            shown += [relative(text, path) for text in done.shown[: SHOWN - len(shown)]]
            _list(listed, done.dropped, path)
            _count(counts, done.dropped)
            compared.append(done.prints)
            if facts is not None:
                facts.add(done.facts)
        again = repeats(joined(compared), job.filters)
        origins, of = (writer.origins([getattr(r, which) * job.width for r in again]) for which in ("index", "of"))
        named = [
            Dropped(origin=origin, filter=repeat.filter, reason=repeat.reason, of=first)
            for repeat, origin, first in zip(again, origins, of, strict=True)
        ]
        _list(listed, named, path)
        _count(counts, again)
        units = np.arange(writer.rows).reshape(-1, job.width)
        kept = np.delete(units, [repeat.index for repeat in again], axis=0).ravel() if again else None
        dropped = {name: dict(reasons) for name, reasons in counts.items()}
        meta = Meta(wide=wide, pairs=job.pairs, faults=faults, shown=tuple(shown), dropped=dropped)
        writer.finish(meta, kept)


def list_dropped(dropped: Sequence[Dropped]) -> Path | None:
    """Lists rows left out, which are in no store, in a file of the cache; None where there are none."""
    if not dropped:
        return None
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in dropped).encode()
    listed = fetch.cache_dir() / "lint" / f"left-out-{hashlib.sha256(text).hexdigest()[:32]}.jsonl"
    listed.parent.mkdir(parents=True, exist_ok=True)
    with fetch.replacing(listed) as file:
        file.write(text)
    return listed


def _list(file: TextIO, dropped: Iterable[Dropped], path: Path) -> None:
    for row in dropped:
        told = {name: relative(value, path) for name, value in asdict(row).items()}
        file.write(json.dumps(told, ensure_ascii=False) + "\n")


def _count(counts: dict[str, Counter[str]], dropped: Iterable[Dropped | Repeat]) -> None:
    for name, reasons in tally(dropped).items():
        counts.setdefault(name, Counter()).update(reasons)
