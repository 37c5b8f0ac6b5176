"""Documents: files, folders and globs of texts to continue pre-training on, one row per document or section.

A .txt or .md file is taken as it is, of .html what a reader sees, of .pdf the text of its pages (extra `pdf`). A folder
may hold files of rows as well. A long document is several rows, one per section, of which all but the last say that
they continue. Imports hub, passages, rows, files, shapes and errors.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from temper.data import files, hub
from temper.data.files import BLOCK, Record, format_of, packing_of
from temper.data.passages import CONTINUES, SECTION, sections
from temper.data.rows import Stream, open_table
from temper.data.shapes import shapes
from temper.errors import DataError, MissingExtra

PLAIN = (".txt", ".md")
HTML = (".html", ".htm")
SUFFIXES = (*PLAIN, *HTML, ".pdf")
SILENT = ("script", "style", "nav", "title", "template", "noscript", "svg")
"""Elements of a page that are not its text."""
APART = (
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "option", "p", "pre", "section",
    "table", "td", "th", "tr", "ul",
)  # fmt: skip
"""Elements that begin a new line."""
OFTEN = 200
"""Documents of a block at most: small ones cost more to open than to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """Some documents, not yet read."""

    path: Path
    row: int
    """Number of the first one."""
    paths: tuple[Path, ...]

    def records(self) -> list[Record]:
        """One record per document, or per section of a long one."""
        return [record for n, path in enumerate(self.paths) for record in _records(self.row + n, path)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """A source of documents."""

    path: Path
    """The file, folder or glob that names them."""
    paths: tuple[Path, ...]

    def blocks(self, bytes_per_block: int = BLOCK) -> Iterator[Papers]:
        """Documents in groups of about that size; a single one is never cut."""
        start, size = 0, 0
        for n, path in enumerate(self.paths):
            size += path.stat().st_size
            if size >= bytes_per_block or n + 1 - start >= OFTEN or n + 1 == len(self.paths):
                yield Papers(path=self.path, row=start + 1, paths=self.paths[start : n + 1])
                start, size = n + 1, 0

    def fingerprint(self) -> str:
        """Sha256 of the one document, or of all documents' sha256: where they lie does not count."""
        digests = [_digest(path) for path in self.paths]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def open_tables(path: Path, columns: Mapping[str, str] | None = None) -> tuple[Stream, ...]:
    """All rows that a path stands for: one stream of its documents, if any, and one per file of rows.

    Args:
        path: A file, a folder, a glob or a data set of the hub. Files of other kinds are refused when the path or the
            glob names them, and left out of a folder (`left_out` lists them).
        columns: As for `read_table`; documents have no columns.
    """
    if hub.is_hub(path):
        return (hub.open_hub(path, columns),)
    found = expand(path)
    strange = tuple(p for p in found if not _is_known(p))
    known = [p for p in found if _is_known(p)]
    if strange and (not known or not path.is_dir()):
        expected = f"expected {files.KNOWN}, or documents {' '.join(SUFFIXES)}"
        raise DataError(f"{strange[0]}: a kind of file temper does not read; {expected}; convert it or name others")
    papers = tuple(p for p in known if format_of(p) in SUFFIXES)
    tables = [open_table(p, columns) for p in known if p not in papers]
    if not papers:
        return tuple(tables)
    if columns and not tables:
        raise DataError(f"{path}: found columns: for documents, which have none; expected rows; leave columns: out")
    if any(format_of(p) == ".pdf" for p in papers):
        _pypdf()  # before anything is read
    form = replace(next(shape for shape in shapes() if shape.name == "text"), name="documents")
    return (Stream(source=Documents(path=path, paths=papers), form=form, columns=("text",)), *tables)


def left_out(path: Path) -> tuple[Path, ...]:
    """The files of a folder that `open_tables` does not read because of their kind."""
    return tuple(p for p in expand(path) if not _is_known(p))


def expand(path: Path) -> list[Path]:
    """The files that a path stands for: itself, all files below a folder, or those a glob finds; sorted.

    Files and folders whose name begins with a dot are left out.
    """
    if path.is_dir():
        found = sorted(_below(path))
    elif path.exists() or not glob.has_magic(str(path)):
        files.readable(path)
        return [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    if not found:
        kind = "folder" if path.is_dir() else "glob"
        raise DataError(f"{path}: no files; expected a {kind} with files to read; correct the path")
    return found


def readable_text(page: str) -> str:
    """What a reader sees of an HTML page: its text, one line per paragraph, without scripts, styles and navigation."""
    pieces: list[str] = ["\n"]
    silent: list[str] = []
    kept: list[str] = []

    def opened(tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            silent.append(tag)
        if tag == "pre":
            kept.append(tag)
        if tag in APART:
            pieces.append("\n")

    def closed(tag: str) -> None:
        if tag in silent:
            del silent[silent.index(tag) :]  # what was never closed inside ends with it
        if tag == "pre":
            kept.clear()
        if tag in APART:
            pieces.append("\n")

    def said(data: str) -> None:
        text = data if kept else re.sub(r"\s+", " ", data)
        text = text if kept or not pieces[-1][-1].isspace() else text.lstrip()
        if text and not silent:
            pieces.append(text)

    parser = HTMLParser(convert_charrefs=True)
    parser.handle_starttag, parser.handle_endtag, parser.handle_data = opened, closed, said
    parser.feed(page)
    parser.close()
    lines = (line.rstrip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _is_known(path: Path) -> bool:
    return format_of(path) in SUFFIXES or files.holds_rows(path)


def _digest(path: Path) -> str:
    return files.DataFile(path=path, format=format_of(path), packing=packing_of(path)).fingerprint()


def _records(row: int, path: Path) -> Iterator[Record]:
    """A document's rows; each names the line of the text that it begins on."""
    try:
        text = _read(path)
    except _Unreadable as error:
        yield Record(row=row, origin=f"{path}:{error.line}", problem=str(error))
        return
    if not text.strip():
        found = "no text in the document"
        remedy = "recognise the scanned pages first (OCR)" if format_of(path) == ".pdf" else "delete the file"
        yield Record(row=row, origin=f"{path}:1", problem=f"{found}; expected some; {remedy}")
        return
    line = 1
    pieces = sections(text.rstrip() + "\n" if len(text) > SECTION else text)
    for number, piece in enumerate(pieces, start=1):
        more = {CONTINUES: True} if number < len(pieces) else {}
        if piece.strip():
            yield Record(row=row, origin=f"{path}:{line}", fields={"text": piece, **more})
        line += piece.count("\n")


class _Unreadable(Exception):
    """A document that cannot be read, with `found; expected; remedy`."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _read(path: Path) -> str:
    content = files.content(path, packing_of(path))
    if format_of(path) == ".pdf":
        return _pages(content)
    html = format_of(path) in HTML
    declared = re.search(rb"""<meta[^>]{0,200}charset=["']?([\w-]+)""", content[:2048], re.I) if html else None
    encoding = declared[1].decode("ascii", "replace") if declared else "utf-8-sig"
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError:
        raise _Unreadable(1, f"unknown encoding {encoding!r}; expected UTF-8; convert the file") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        problem = f"not {name} text ({error.reason}); expected UTF-8; convert the file"
        raise _Unreadable(line, problem) from None
    return readable_text(text) if html else text


def _pages(content: bytes) -> str:
    pypdf = _pypdf()
    # A broken file makes pypdf raise its own errors, but also whatever its parser trips over.
    tripped = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OSError)
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    except (pypdf.errors.PyPdfError, pypdf.errors.DependencyError, *tripped) as error:
        raise _Unreadable(1, f"not a readable PDF ({error}); expected one without a password; save it again") from None
    return "\n\n".join(page.strip() for page in pages if page.strip())


def _pypdf() -> Any:
    try:
        return importlib.import_module("pypdf")
    except ModuleNotFoundError:
        raise MissingExtra("pypdf", "pdf") from None
