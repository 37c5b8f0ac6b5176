"""States: rows of half-precision numbers on disk, found by key; what a model made of a row is not computed twice.

Every process that writes appends to a segment file of its own, so any number may work in one folder at once. A record
is written in one piece and holds several rows or none: one that a kill cut off is not read, and no row of it is. Each
row carries a checksum. A reader sees what lay there when it opened the folder, and what it wrote itself; it holds the
index in memory and reads rows from the files, which cannot fault where a mapped file that was cut off would. All
folders beside each other share the bound of `evict`; where it, or the disk, is reached nothing more is written.
Knows no model. Imports evict, fetch.
"""

from __future__ import annotations

import errno
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from temper.data import evict, fetch

Array = np.ndarray[Any, Any]
KEY = 16
"""Bytes of a key."""
SUFFIX = ".states"
MAGIC = b"TST1"
PARTS = 16
"""A process writes this part of the bound, then looks at the sizes of all folders again: so far it may exceed it."""
_HEAD = struct.Struct("<4sIII")
"""Magic, rows, bytes of all their numbers, checksum of the entries."""
_ENTRY = struct.Struct(f"<{KEY}sII")
"""Key, numbers divided by the width, checksum of the numbers."""


class _Place(NamedTuple):
    """Where a row lies."""

    segment: int
    offset: int
    count: int
    checksum: int


class States:
    """Rows of `width` 16-bit numbers each; what the bits mean is the caller's.

    Example:
        states = States(folder, width=576)
        states.put({key: found})           # key: 16 bytes, found: uint16 [targets, 576]
        states.get(key)                    # uint16 [targets, 576], or None
    """

    def __init__(self, folder: Path, *, width: int) -> None:
        self._folder, self._width = folder, width
        self._segments: list[Path] = []
        self._index: dict[bytes, _Place] = {}
        self._own = -1
        self._room = 0
        self._full = False
        evict.used(folder)
        for segment in sorted(folder.glob(f"*{SUFFIX}")):
            self._segments.append(segment)
            for key, place in self._scan(segment, len(self._segments) - 1):
                self._index.setdefault(key, place)

    def __len__(self) -> int:
        return len(self._index)

    def get(self, key: bytes) -> Array | None:
        """The row of a key, uint16 [targets, width]; None where there is none, or none that is whole."""
        place = self._index.get(key)
        if place is None:
            return None
        try:
            with self._segments[place.segment].open("rb") as file:
                file.seek(place.offset)
                data = file.read(2 * self._width * place.count)
        except OSError:  # another process has made room
            data = b""
        if len(data) != 2 * self._width * place.count or zlib.crc32(data) != place.checksum:
            del self._index[key]
            return None
        return np.frombuffer(data, "<u2").reshape(place.count, self._width)

    def put(self, rows: Mapping[bytes, Array]) -> None:
        """Keeps rows, all or none; without room on the disk they are not kept, which costs time alone.

        Args:
            rows: Key -> uint16 [targets, width].
        """
        entries, numbers = bytearray(), bytearray()
        for key, row in rows.items():
            assert len(key) == KEY and row.shape[1:] == (self._width,) and row.dtype == np.uint16, (key, row.shape)
            data = row.astype("<u2", copy=False).tobytes()
            entries += _ENTRY.pack(key, len(row), zlib.crc32(data))
            numbers += data
        record = _HEAD.pack(MAGIC, len(rows), len(numbers), zlib.crc32(entries)) + entries + numbers
        if not rows or self._full:
            return
        try:
            self._full = not self._fits(len(record))
            if not self._full:
                self._index.update(_places(bytes(entries), self._append(record), self._own, self._width))
        except OSError:  # behind half a record nothing would be read
            self._full = True

    def _append(self, record: bytes) -> int:
        """Writes a record to the end of the own segment; returns where it begins."""
        if self._own < 0:
            self._segments.append(self._folder / f"{uuid.uuid4().hex}{SUFFIX}")
            self._own = len(self._segments) - 1
        with self._segments[self._own].open("ab", buffering=0) as file:
            start = file.tell()
            if file.write(record) != len(record):
                raise OSError(errno.ENOSPC, "half a record")
        return start

    def _fits(self, size: int) -> bool:
        """Whether there is room for so many bytes; what was not used for long goes where the bound is passed."""
        if size > self._room:
            self._folder.mkdir(parents=True, exist_ok=True)
            evict.make_room(self._folder)
            bound, free = evict.limit(), shutil.disk_usage(self._folder).free - fetch.RESERVE
            taken = sum(file.stat().st_size for file in self._folder.parent.glob(f"*/*{SUFFIX}"))
            self._room = min(max(bound // PARTS, size), free) if taken <= bound else 0
        self._room -= size
        return self._room >= 0

    def _scan(self, segment: Path, number: int) -> Iterator[tuple[bytes, _Place]]:
        """The rows of a segment as far as its records are whole; their numbers are not read."""
        try:
            size = segment.stat().st_size
            with segment.open("rb") as file:
                while len(head := file.read(_HEAD.size)) == _HEAD.size:
                    start = file.tell() - _HEAD.size
                    magic, count, length, checksum = _HEAD.unpack(head)
                    entries = file.read(count * _ENTRY.size) if magic == MAGIC else b""
                    end = file.tell() + length
                    if magic != MAGIC or zlib.crc32(entries) != checksum or end > size:
                        return
                    yield from _places(entries, start, number, self._width).items()
                    file.seek(end)
        except OSError:  # another process has made room
            return


def _places(entries: bytes, start: int, segment: int, width: int) -> dict[bytes, _Place]:
    """Where the rows of a record lie that begins at `start` of its segment."""
    offset, found = start + _HEAD.size + len(entries), dict[bytes, _Place]()
    for key, count, checksum in _ENTRY.iter_unpack(entries):
        found[key] = _Place(segment=segment, offset=offset, count=count, checksum=checksum)
        offset += 2 * width * count
    return found
