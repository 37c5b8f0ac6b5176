"""Rows: what a data file holds, read from any of the known formats and shapes into one form.

`open_table` looks at the first records and says what the file is; the stream it returns reads the rest in bounded
memory, here or block by block in worker processes. `read_table` holds everything, for exams and small files. A file
that cannot be used is refused as a whole, with the rows at fault named. Knows no tokenizer and no model. Formats are
in `files`, shapes in `shapes`. Imports them, row, recognise and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from temper.data import files
from temper.data.files import BLOCK, EXAMPLE, Block, Record, Source
from temper.data.recognise import column_names, recognise
from temper.data.row import ROLES, Message, Row, ToolCall
from temper.data.shapes import Shape, read, shapes
from temper.errors import DataError

__all__ = [
    "ROLES", "SHOWN", "Fault", "Message", "Record", "Row", "Shape", "Stream", "Table", "ToolCall", "open_table",
    "read_rows", "read_table", "refuse", "shapes", "stream",
]  # fmt: skip

SHOWN = 5
"""Offending rows named in one message."""
SAMPLE = 1000
"""Records from the start of a file that tell its shape."""
GLANCE = 2**18
"""Bytes per block while they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A record that cannot be used."""

    row: int
    problem: str
    """`found; expected; remedy`."""
    origin: str
    """file:row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A source of rows whose shape is known; holds no rows, and travels to worker processes."""

    source: Source
    form: Shape
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Known column name -> the source's own, as the recipe maps them."""
    columns: tuple[str, ...]
    """The columns of the first records, by their own names."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.source.path

    @property
    def shape(self) -> str:
        """Name of the shape its columns were recognised as, e.g. `prompt/completion`."""
        return self.form.name

    def blocks(self, bytes_per_block: int = BLOCK) -> Iterator[Block]:
        """The source in pieces of about that size, for `parse`."""
        return self.source.blocks(bytes_per_block)

    def parse(self, block: Block) -> list[Row | Fault]:
        """What the records of a block become, in their order; needs nothing from other blocks."""
        return [self._row(block, record) for record in files.records(block)]

    def rows(self) -> Iterator[Row]:
        """All rows in order.

        Raises:
            DataError: At the end, when any record could not be used; after the first of these no more rows come.
        """
        faults: list[Fault] = []
        count = 0
        for block in self.blocks():
            for item in self.parse(block):
                if isinstance(item, Row):
                    if not count:
                        yield item
                    continue
                count += 1
                faults = [*faults, item] if count <= SHOWN else faults
        refuse(faults, count=count)

    def fingerprint(self) -> str:
        """Sha256 of the (unpacked) content."""
        return self.source.fingerprint()

    def _row(self, block: Block, record: Record) -> Row | Fault:
        origin = record.origin or f"{block.path}:{record.row}"
        if record.problem:
            return Fault(row=record.row, problem=record.problem, origin=origin)
        try:
            return read(self.form, record, self.mapping, origin)
        except ValueError as error:
            return Fault(row=record.row, problem=str(error), origin=origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A file of rows and how it was understood."""

    path: Path
    shape: str
    """Name of the shape its columns were recognised as, e.g. `prompt/completion`."""
    rows: tuple[Row, ...]
    fingerprint: str
    """sha256 of the (decompressed) file."""


def read_rows(path: Path, *, columns: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a data file; see `read_table`."""
    return list(read_table(path, columns=columns).rows)


def read_table(path: Path, *, columns: Mapping[str, str] | None = None) -> Table:
    """Reads a data file into memory, recognises its shape and refuses it with the rows named when any cannot be used.

    Args:
        path: A .jsonl .json .csv .tsv (each also .gz or .zst), .parquet or .arrow file.
        columns: Known column name -> the column's name in this file, e.g. {"completion": "Antwort"}.
    """
    table = open_table(path, columns=columns)
    return Table(path=path, shape=table.shape, rows=tuple(table.rows()), fingerprint=table.fingerprint())


def open_table(path: Path, columns: Mapping[str, str] | None = None) -> Stream:
    """Recognises the shape of a data file from its first records; reads no further. Arguments as for `read_table`."""
    return stream(files.open_file(path), columns)


def stream(source: Source, columns: Mapping[str, str] | None = None) -> Stream:
    """The rows of any source whose columns tell its shape."""
    sample: list[Record] = []
    torn: list[Fault] = []
    for block in source.blocks(GLANCE):
        for record in files.records(block):
            if record.problem:
                origin = record.origin or f"{block.path}:{record.row}"
                torn.append(Fault(row=record.row, problem=record.problem, origin=origin))
            else:
                sample.append(record)
        if len(sample) + len(torn) >= SAMPLE:
            break
    if not sample and not torn:
        raise DataError(f"{source.path}: empty, no rows; expected at least one; write rows such as {EXAMPLE}")
    try:
        sample = sample[:SAMPLE]  # blocks end where they end, and the shape must not depend on it
        form = recognise(str(source.path), sample, columns or {})
    except DataError:
        refuse(torn, count=len(torn))  # what could not be read may be why nothing is recognised
        raise
    return Stream(source=source, form=form, mapping=dict(columns or {}), columns=column_names(sample))


def refuse(faults: Sequence[Fault], *, count: int | None = None) -> None:
    """Raises one error that names the first offending rows; no fault, no error.

    Args:
        faults: The first ones at least.
        count: How many there are, where `faults` are not all of them.
    """
    lines = [f"{fault.origin}: {fault.problem}" for fault in faults[:SHOWN]]
    more = (len(faults) if count is None else count) - len(lines)
    if more > 0:
        lines.append(f"... and {more} more rows of this file")
    if lines:
        raise DataError("\n".join(lines))
