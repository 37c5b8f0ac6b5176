"""Top-k cache: the base model's most likely tokens at every target, kept in half precision beside the tokens.

Written once per model, rows and k, batch by batch, so that an interrupted call goes on where it stopped; read through
the page cache, whatever the size. Half precision keeps a log-probability down to -16 within 0.004 and has none below
-65504, which stands in for minus infinity. Knows no model: a function gives the values. Imports datum, fetch, errors.

Example:
    cache = topk.write(top, datums, k=32, to=topk.path_for(base.sha256, datums, k=32))
    ids, logp = cache[7]                   # of the targets of datums[7] that carry weight, in order
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from temper.data import fetch
from temper.data.datum import Datum
from temper.errors import CheckpointError, DataError, MachineError

VERSION = 1
BYTES = 6
"""Of one candidate: an id of four bytes and a log-probability of two."""
LOWEST = float(np.finfo(np.float16).min)
DONE = "done.json"


class Candidates(NamedTuple):
    """The k most likely tokens at some targets."""

    ids: np.ndarray
    """int32 [targets, k]."""
    logp: np.ndarray
    """float16 [targets, k], in nats."""


class Top(Protocol):
    """The part that knows the model."""

    def __call__(self, datums: Sequence[Datum], k: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Per datum the ids [L, k] and log-probabilities [L, k] at all its L targets, also those without weight."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Candidates by datum; those of one datum are its targets with a weight, in the order of `Learner.logprobs`."""

    ids: np.ndarray
    logp: np.ndarray
    offsets: np.ndarray
    """int64 [datums + 1]: where each datum begins."""

    @property
    def k(self) -> int:
        """Candidates per target."""
        return self.ids.shape[1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Candidates:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, stop = self.offsets[index % len(self)], self.offsets[index % len(self) + 1]
        return Candidates(ids=self.ids[start:stop], logp=self.logp[start:stop])


def size(datums: Sequence[Datum], k: int) -> int:
    """Bytes that the cache of these rows will take: targets with a weight x k x 6."""
    return sum(int(_weighted(datum).sum()) for datum in datums) * k * BYTES


def path_for(base: str, datums: Sequence[Datum], *, k: int) -> Path:
    """The cache folder of one model's (by sha256) candidates for these rows."""
    found = hashlib.sha256(f"{VERSION} {base} {k}".encode())
    for datum in datums:
        tokens, weighted = np.asarray(datum.tokens, np.int64), _weighted(datum)
        found.update(np.int64(len(tokens)).tobytes() + tokens.tobytes() + weighted.tobytes())
    return fetch.cache_dir() / "topk" / f"{base[:12]}-{found.hexdigest()[:12]}"


def write(
    top: Top,
    datums: Sequence[Datum],
    *,
    k: int,
    to: Path,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> TopK:
    """Asks the model for the candidates of all rows; what is on the disk is not asked for again.

    Args:
        top: The model.
        datums: Rows to learn from; the folder belongs to exactly these, in this order.
        k: Candidates per target.
        to: A folder, `path_for(base, datums, k=k)`.
        batch: Rows per call and per write.
        progress: Told (rows done, rows in all) after each batch.
    """
    if (to / DONE).is_file():
        return read(to)
    counts = [int(_weighted(datum).sum()) for datum in datums]
    if not any(counts):
        raise DataError(
            f"{to}: no target carries weight in {len(datums)} rows; expected rows to learn from; check the data"
        )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    part = to.with_name(to.name + ".part")
    done = _resumable(part, offsets, k)
    if not done:
        _start(part, offsets, k)
    ids, logp = (np.load(part / f"{name}.npy", mmap_mode="r+") for name in ("ids", "logp"))
    for start in range(done, len(datums), batch):
        chosen = datums[start : start + batch]
        found = top(chosen, k)
        assert len(found) == len(chosen), f"{len(found)} answers for {len(chosen)} rows"
        for place, (datum, (new_ids, new_logp)) in enumerate(zip(chosen, found, strict=True), start=start):
            kept = _weighted(datum)
            assert new_ids.shape == new_logp.shape == (len(kept), k), f"{datum.row}: {new_ids.shape}, {new_logp.shape}"
            ids[offsets[place] : offsets[place + 1]] = new_ids[kept]
            logp[offsets[place] : offsets[place + 1]] = _halved(new_logp[kept], datum)
        ids.flush()
        logp.flush()
        _note(part, start + len(chosen))
        if progress:
            progress(start + len(chosen), len(datums))
    del ids, logp
    _note(part, len(datums))
    os.replace(part, to)
    return read(to)


def read(path: Path) -> TopK:
    """The candidates of a finished cache folder, mapped into memory."""
    try:
        ids, logp = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("ids", "logp"))
        offsets = np.load(path / "offsets.npy")
        rows = json.loads((path / DONE).read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise _broken(path, str(error)) from None
    shapes = (ids.shape, logp.shape)
    if ids.ndim != 2 or ids.shape != logp.shape or rows != len(offsets) - 1 or offsets[-1] != len(ids):
        raise _broken(path, f"shapes {shapes} for {int(offsets[-1])} targets of {len(offsets) - 1} rows")
    return TopK(ids=ids, logp=logp, offsets=offsets)


def _weighted(datum: Datum) -> np.ndarray:
    """True at the targets that any term weighs."""
    found = np.zeros(len(datum.tokens) - 1, bool)
    for weights in datum.weights.values():
        found |= np.asarray(weights) != 0
    return found


def _halved(logp: np.ndarray, datum: Datum) -> np.ndarray:
    values = np.asarray(logp, np.float32)
    if np.isnan(values).any():
        raise CheckpointError(
            f"{datum.row or 'row'}: the model gives no number as a log-probability; expected finite weights; use"
            " another checkpoint"
        )
    return np.clip(values, LOWEST, 0.0).astype(np.float16)


def _start(part: Path, offsets: np.ndarray, k: int) -> None:
    """An empty cache of its final size, so that a full disk is known before the model works."""
    shutil.rmtree(part, ignore_errors=True)
    targets = int(offsets[-1])
    fetch.free_space(part, targets * k * BYTES)
    try:
        part.mkdir(parents=True)
        np.save(part / "offsets.npy", offsets)
        for name, kind in (("ids", np.int32), ("logp", np.float16)):
            np.lib.format.open_memmap(part / f"{name}.npy", mode="w+", dtype=kind, shape=(targets, k)).flush()
    except OSError as error:
        raise MachineError(f"{part}: cannot be written ({error}); make room, or set TEMPER_CACHE") from error
    _note(part, 0)


def _resumable(part: Path, offsets: np.ndarray, k: int) -> int:
    """Rows that an interrupted call has finished; 0 where what it left cannot be used."""
    try:
        if not np.array_equal(np.load(part / "offsets.npy"), offsets):
            return 0
        shapes = [np.load(part / f"{name}.npy", mmap_mode="r").shape for name in ("ids", "logp")]
        done = json.loads((part / DONE).read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, EOFError, KeyError):
        return 0
    return done if shapes == [(int(offsets[-1]), k)] * 2 else 0


def _note(part: Path, rows: int) -> None:
    with fetch.replacing(part / DONE) as file:
        file.write(json.dumps({"rows": rows}).encode())


def _broken(path: Path, why: str) -> DataError:
    return DataError(f"{path}: not a whole cache of candidates ({why}); delete the folder, it will be made again")
