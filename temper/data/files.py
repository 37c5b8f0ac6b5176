"""Files: bytes of any known format, packed or not, into records; in pieces that fit into memory.

`open_file(path).blocks()` walks once through a file and yields small picklable `Block`s; `records(block)` parses one,
in any process. Row numbers are exact: the line a record begins on, or in .json, .parquet and .arrow its number. Knows
nothing of what columns mean. Imports columnar,
strict_json and errors.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import itertools
import json
import re
import reprlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from temper.data import columnar, strict_json
from temper.errors import DataError

BLOCK = 4 * 2**20
"""Bytes of a block, about."""
LONGEST_CELL = 2**26
"""Characters of a CSV cell; a quote that never closes is noticed here and not at the end of a large file."""
LINES = (".jsonl", ".ndjson")
SEPARATED = (".csv", ".tsv")
COLUMNAR = (".parquet", ".arrow")
SUFFIXES = (*LINES, ".json", *SEPARATED, *COLUMNAR)
PACKINGS = (".gz", ".zst")
KNOWN = ".jsonl .json .csv .tsv (each also .gz or .zst), .parquet or .arrow"
BLANK = b"\xef\xbb\xbf \t\r\n"
"""Bytes of a line that says nothing; the first three are the byte order mark."""
EXAMPLE = '{"prompt": "...", "completion": "..."}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file before its columns mean anything; a `problem` says why it could not be read."""

    row: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    """`found; expected; remedy`."""
    origin: str = ""
    """file:row where one source spans many files; empty where the block's path and `row` say it."""


class Block(Protocol):
    """A piece of a file, whole records only; small and picklable."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def row(self) -> int:
        """Row of its first record."""
        ...

    def records(self) -> list[Record]:
        """Parses the piece."""
        ...


class Source(Protocol):
    """Where records come from: a file, a folder of documents, a hub data set. Picklable."""

    @property
    def path(self) -> Path:
        """As the recipe names it."""
        ...

    def blocks(self, bytes_per_block: int = BLOCK) -> Iterator[Block]:
        """All records in order, in pieces of about that size."""
        ...

    def fingerprint(self) -> str:
        """Sha256 of the content."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Whole lines of a JSONL file, not yet parsed."""

    path: Path
    row: int
    content: bytes

    def records(self) -> list[Record]:
        """One record per line that is not blank."""
        # Split at \n only: str.splitlines would also cut at U+2028, which JSON allows inside a string.
        lines = self.content.split(b"\n")
        return [_line(self.row + n, line) for n, line in enumerate(lines) if line.strip(BLANK)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of a columnar file as an Arrow stream; turning them into objects is the slow part and done where parsed."""

    path: Path
    row: int
    content: bytes

    def records(self) -> list[Record]:
        """One record per row."""
        return [Record(row=self.row + n, fields=fields) for n, fields in enumerate(columnar.unpacked(self.content))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """Records of a format that can only be cut while it is parsed."""

    path: Path
    row: int
    parsed: tuple[Record, ...]

    def records(self) -> list[Record]:
        """The records."""
        return list(self.parsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file of records."""

    path: Path
    format: str
    """One of `SUFFIXES`."""
    packing: str = ""
    """One of `PACKINGS`, or empty."""

    def blocks(self, bytes_per_block: int = BLOCK) -> Iterator[Block]:
        """The file in pieces of about that many (unpacked) bytes, in order; the next one is read when asked for.

        Raises:
            DataError: When the file cannot be read on: broken packing, not UTF-8, a torn columnar file.
        """
        with _whole(self.path, self.packing or self.format):
            if self.format in COLUMNAR:
                for piece in columnar.pieces(self.path, self.format, bytes_per_block):
                    yield Batch(path=self.path, row=piece.row, content=piece.content)
            else:
                yield from self._text(bytes_per_block)

    def fingerprint(self) -> str:
        """Sha256 of the unpacked content: the same whether it is packed or not."""
        digest = hashlib.sha256()
        with _whole(self.path, self.packing or self.format), opened(self.path, self.packing) as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        return digest.hexdigest()

    def _text(self, size: int) -> Iterator[Block]:
        with opened(self.path, self.packing) as file:
            start = file.read(size)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{self.path}:1: not UTF-8 text (UTF-16, as it begins); expected UTF-8; convert the file")
        with opened(self.path, self.packing) as file:
            if self.format in SEPARATED:
                yield from _separated(self, file, size)
            elif self.format == ".json" and not _holds_lines(start):
                yield from _json(self.path, file.read(), size)
            else:
                yield from _lines(self.path, file, size)


def open_file(path: Path) -> DataFile:
    """A data file by its name's endings; refuses one that is not there or of no known format."""
    readable(path)
    if not holds_rows(path):
        raise DataError(f"{path}: a kind of file temper does not read; expected {KNOWN}; convert or rename the file")
    return DataFile(path=path, format=format_of(path), packing=packing_of(path))


def holds_rows(path: Path) -> bool:
    """Whether a file of this name is one of records; columnar files are packed inside."""
    return format_of(path) in SUFFIXES and not (packing_of(path) and format_of(path) in COLUMNAR)


def packing_of(path: Path) -> str:
    """One of `PACKINGS`, or nothing, by the name."""
    return path.suffix.lower() if path.suffix.lower() in PACKINGS else ""


def format_of(path: Path) -> str:
    """The ending of the name, less the packing's."""
    return (path.with_suffix("") if packing_of(path) else path).suffix.lower()


def records(block: Block) -> list[Record]:
    """The records of a block; needs nothing but the block, so any process can do it."""
    return block.records()


def readable(path: Path) -> None:
    """Refuses a path that is no file or may not be read, with a near name when there is one."""
    try:
        with path.open("rb"):
            return
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        hint = f"did you mean {path.with_name(near[0])}?" if near else "correct the path"
        raise DataError(f"{path}: no such file; expected a data file; {hint}") from None
    except OSError as error:  # a folder, or no permission
        wanted = "expected a file that can be read; correct the path or rights"
        raise DataError(f"{path}: {error.strerror}; {wanted}") from None


def opened(path: Path, packing: str = "") -> BinaryIO:
    """The unpacked bytes as a stream."""
    if packing == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if packing == ".zst":
        import pyarrow as pa

        return cast("BinaryIO", pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def content(path: Path, packing: str = "") -> bytes:
    """All unpacked bytes of a file."""
    with _whole(path, packing or path.suffix), opened(path, packing) as file:
        return file.read()


@contextmanager
def _whole(path: Path, kind: str) -> Iterator[None]:
    """Turns what a torn file raises into an error that names it. pyarrow raises OSError or a ValueError of its own."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, ValueError) and not type(error).__module__.startswith("pyarrow"):
            raise
        kind = {".gz": "gzip", ".zst": "zstd"}.get(kind, kind)
        remedy = "compress it again" if kind in ("gzip", "zstd") else "write it again"
        raise DataError(f"{path}: not a whole {kind} file ({error}); expected one; {remedy}") from None


def _lines(path: Path, file: BinaryIO, size: int) -> Iterator[Lines]:
    row, rest = 1, b""
    pieces: list[bytes] = []
    while chunk := file.read(size):
        end = chunk.rfind(b"\n") + 1
        if not end:
            pieces.append(chunk)
            continue
        content = b"".join((rest, *pieces, chunk[:end]))
        yield Lines(path=path, row=row, content=content)
        row += content.count(b"\n")
        rest, pieces = chunk[end:], []
    last = b"".join((rest, *pieces))
    if last:
        yield Lines(path=path, row=row, content=last)


def _line(row: int, line: bytes) -> Record:
    try:
        text = line.decode("utf-8-sig")  # a mark at the start of a line stays where files were joined
    except UnicodeDecodeError as error:
        return Record(row=row, problem=f"not UTF-8 text ({error.reason}); expected UTF-8; convert the file")
    try:
        value = strict_json.parse(text)
        if not (isinstance(value, list) and row == 1):
            return _record(row, value)
        found = f"found a list of {len(value)} values (a JSON list belongs into a file named .json)"
    except json.JSONDecodeError as error:
        found = f"not JSON: {error.msg} at column {error.colno}"
        if row == 1 and text.lstrip().startswith("["):
            found += " (a JSON list belongs into a file named .json)"
    except ValueError as error:
        found = str(error)
    return Record(row=row, problem=f"{found}; expected one object such as {EXAMPLE}; correct or delete the line")


def _record(row: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(row=row, fields=value)
    found = reprlib.repr(value)
    return Record(row=row, problem=f"found {found}; expected a JSON object such as {EXAMPLE}; correct the row")


def _holds_lines(start: bytes) -> bool:
    """Whether a file named .json holds one object per line: its first line is an object by itself."""
    first, _, more = start.lstrip(BLANK).partition(b"\n")
    return first.startswith(b"{") and bool(more.strip()) and not _line(1, first).problem


def _json(path: Path, content: bytes, size: int) -> Iterator[Block]:
    """A JSON document, which cannot be read in pieces."""
    text = ""
    try:
        text = content.decode("utf-8-sig")
        value = strict_json.parse(text)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{row}: not UTF-8 text ({error.reason}); expected UTF-8; convert the file") from None
    except ValueError as error:
        if not text.strip():
            return
        row, found = strict_json.offender(text), str(error)
        if isinstance(error, json.JSONDecodeError):
            if error.msg == "Extra data" and error.lineno > 1:  # lines after all, the first one a long one
                yield from _lines(path, io.BytesIO(content), size)
                return
            row, found = error.lineno, f"not JSON: {error.msg} at column {error.colno}"
        wanted = f"expected a list of objects [{EXAMPLE}]; correct the file"
        raise DataError(f"{path}:{row}: {found}; {wanted}") from None
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    step = max(1, len(items) * size // len(content))
    for start in range(0, len(items), step):
        parsed = tuple(_record(start + n, item) for n, item in enumerate(items[start : start + step], start=1))
        yield Parsed(path=path, row=start + 1, parsed=parsed)


def _separated(data: DataFile, file: BinaryIO, size: int) -> Iterator[Parsed]:
    """Records of a file with a header line; a record's row is the line it begins on."""
    # Undecodable bytes become surrogates, which no UTF-8 text holds, so that `_checked` can name their line.
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        first = text.readline()
        bare = re.sub('"[^"]*"', "", first)
        comma = ";" if ";" in bare and "," not in bare else ","  # half of Europe's spreadsheets write semicolons
        delimiter = "\t" if data.format == ".tsv" else comma
        cells = _cells(data.path, _checked(data.path, itertools.chain([first], text)), delimiter)
        while parsed := _some(cells, size):
            yield Parsed(path=data.path, row=parsed[0].row, parsed=parsed)


def _checked(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for row, line in enumerate(lines, start=1):
        if not line.isascii():
            try:
                line.encode("utf-8")
            except UnicodeEncodeError:
                raise DataError(f"{path}:{row}: not UTF-8 text; expected UTF-8; convert the file") from None
        yield line


def _some(cells: Iterator[Record], size: int) -> tuple[Record, ...]:
    """The next records of about that size. The limit of a cell belongs to the process and is put back each time."""
    taken: list[Record] = []
    limit = csv.field_size_limit(LONGEST_CELL)  # the default refuses long texts
    try:
        for record in cells:
            taken.append(record)
            size -= sum(map(len, record.fields.values())) + 1
            if size <= 0:
                break
    finally:
        csv.field_size_limit(limit)
    return tuple(taken)


def _cells(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
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
            if twice := [name for name in header if header.count(name) > 1]:
                found = f"the column {twice[0]!r} stands twice in the header"
                raise DataError(f"{path}:{row}: {found}; expected one column of each name; rename one")
        elif len(cells) != len(header):
            found = f"found {len(cells)} cells; expected {len(header)} ({', '.join(header)})"
            yield Record(row=row, problem=f"{found}; put text with separators in quotes")
        else:
            yield Record(row=row, fields=dict(zip(header, cells, strict=True)))
