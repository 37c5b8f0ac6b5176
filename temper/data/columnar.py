"""Columnar files: Parquet and Arrow in pieces of bounded size. Imports nothing of temper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_ROWS = 2**16
"""Rows of a piece, however small they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of a table."""

    row: int
    """Number of the first one, from 1."""
    content: bytes
    """An Arrow stream."""


def pieces(path: Path, format: str, size: int) -> Iterator[Piece]:
    """The rows of a .parquet or .arrow file in order, about `size` bytes at a time."""
    return _parquet(path, size) if format == ".parquet" else _arrow(path, size)


def unpacked(content: bytes) -> Sequence[Mapping[str, Any]]:
    """The rows of a piece as Python values."""
    import pyarrow as pa

    return pa.ipc.open_stream(content).read_all().to_pylist()


def cut(batches: Iterable[Any], size: int) -> Iterator[Piece]:
    """Arrow batches, or tables, of any size in pieces of about `size` bytes."""
    row = 1
    for batch in batches:
        step = min(MOST_ROWS, max(1, batch.num_rows * size // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            yield Piece(row=row, content=_packed(part))
            row += part.num_rows


def _packed(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return sink.getvalue().to_pybytes()


def _parquet(path: Path, size: int) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    # Without pre_buffer pages are read as they are needed; with it a whole row group would be held.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        bytes_of_all = max(1, sum(group.total_byte_size for group in groups))
        rows = max(1, size * file.metadata.num_rows // bytes_of_all)
        yield from cut(file.iter_batches(batch_size=min(rows, MOST_ROWS)), size)


def _arrow(path: Path, size: int) -> Iterator[Piece]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as mapped:
        if mapped.read(6) == b"ARROW1":
            file = pa.ipc.open_file(mapped)
            yield from cut(map(file.get_batch, range(file.num_record_batches)), size)
        else:  # the streaming format, which Hugging Face datasets writes
            mapped.seek(0)
            yield from cut(pa.ipc.open_stream(mapped), size)
