"""Folders, globs and files of documents become rows of text; what cannot be read is named."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import pickle
from pathlib import Path

import pytest

from temper.data.documents import expand, left_out, open_tables, readable_text
from temper.errors import DataError, MissingExtra

PYPDF = importlib.util.find_spec("pypdf") is not None


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pdf(text: str) -> bytes:
    """The smallest PDF that shows a text; without one, a page that is only a picture."""
    drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode("ascii")


def test_a_folder_of_texts_is_one_stream(tmp_path: Path) -> None:
    write(tmp_path / "b.md", "# Title\r\n\u2028 kept as it is \n")
    write(tmp_path / "a" / "one.txt", "\ufeffone")
    write(tmp_path / "z.html", "<p>Page")
    write(tmp_path / "packed.txt.gz", gzip.compress(b"packed"))
    write(tmp_path / ".hidden.txt", "no")
    write(tmp_path / ".git" / "x.txt", "no")
    (stream,) = open_tables(tmp_path)
    assert (stream.shape, stream.columns, stream.path) == ("documents", ("text",), tmp_path)
    rows = list(pickle.loads(pickle.dumps(stream)).rows())
    assert [(row.origin, row.text) for row in rows] == [
        (f"{tmp_path / 'a' / 'one.txt'}:1", "one"),
        (f"{tmp_path / 'b.md'}:1", "# Title\r\n\u2028 kept as it is \n"),
        (f"{tmp_path / 'packed.txt.gz'}:1", "packed"),
        (f"{tmp_path / 'z.html'}:1", "Page"),
    ]
    blocks = list(stream.blocks(1))
    assert [block.row for block in blocks] == [1, 2, 3, 4]
    assert [item for block in blocks for item in stream.parse(block)] == rows


def test_the_fingerprint_is_of_the_texts_and_their_order(tmp_path: Path) -> None:
    for folder, names in (("x", "ab"), ("y", "cd")):
        for name, text in zip(names, ("one", "two"), strict=True):
            write(tmp_path / folder / f"{name}.txt", text)
    write(tmp_path / "z" / "a.txt", "two")
    x, y, z = (open_tables(tmp_path / name)[0].fingerprint() for name in "xyz")
    assert x == y != z == hashlib.sha256(b"two").hexdigest()


def test_globs_and_mixed_folders(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "in" / "b.txt", "deep")
    write(tmp_path / "1.jsonl", '{"q": "p", "a": "c"}\n')
    write(tmp_path / "2.csv", "q,a\np,c\n")
    write(tmp_path / "picture.png", b"x")
    assert expand(tmp_path / "**" / "*.txt") == [tmp_path / "a.txt", tmp_path / "in" / "b.txt"]
    streams = open_tables(tmp_path, {"prompt": "q", "completion": "a"})
    assert [(s.shape, s.path.name) for s in streams] == [
        ("documents", tmp_path.name), ("prompt/completion", "1.jsonl"), ("prompt/completion", "2.csv"),
    ]  # fmt: skip
    assert left_out(tmp_path) == (tmp_path / "picture.png",)
    with pytest.raises(DataError, match=r"picture\.png: a kind of file temper does not read"):
        open_tables(tmp_path / "*.*")
    with pytest.raises(DataError, match=r"nothing\*: no files; expected a glob with files"):
        open_tables(tmp_path / "nothing*")
    with pytest.raises(DataError, match=r"found columns: for documents"):
        open_tables(tmp_path / "a.txt", {"text": "a"})
    with pytest.raises(DataError, match=r"b\.txt: no such file; .* did you mean .*a\.txt"):
        open_tables(tmp_path / "b.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no files; expected a folder with files"):
        open_tables(tmp_path / "empty")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].txt", "one")
    write(tmp_path / "a1.txt", "two")
    (stream,) = open_tables(path)
    assert [row.text for row in stream.rows()] == ["one"]


def test_documents_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.txt", " \n")
    write(tmp_path / "c.txt", b"one\ntwo\n\xfc\n")
    write(tmp_path / "d.html", b'<meta charset="klingon">x')
    write(tmp_path / "e.html", "<script>only code</script>")
    (stream,) = open_tables(tmp_path)
    with pytest.raises(DataError) as caught:
        list(stream.rows())
    assert [line.split(";")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path / 'b.txt'}:1: no text in the document",
        f"{tmp_path / 'c.txt'}:3: not UTF-8 text (invalid start byte)",
        f"{tmp_path / 'd.html'}:1: unknown encoding 'klingon'",
        f"{tmp_path / 'e.html'}:1: no text in the document",
    ]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<h1>Lamp</h1><p>It  gives\n<b>light</b>.<p>Twice", "Lamp\nIt gives light.\nTwice"),
        ("<style>p {}</style><nav><ul><li>Home</ul></nav>a<script>if (1 < 2) x('</p>')</script>b", "ab"),
        ("<head><title>Site</title><meta x></head><body>a &amp; b &#252;<br>c", "a & b \u00fc\nc"),
        ("<title>Site</title>no head is closed", "no head is closed"),
        ("<pre>if x:\n    y</pre><p>  end ", "if x:\n    y\nend"),
        ("<table><tr><td>1<td>2</tr></table>", "1\n2"),
        ("<svg><style>x</style><text>drawn</text></svg>seen<!-- said -->", "seen"),
        ("plain < text", "plain < text"),
    ],
)
def test_what_a_reader_sees_of_a_page(page: str, text: str) -> None:
    assert readable_text(page) == text


def test_a_page_is_read_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>Tür'
    (stream,) = open_tables(write(tmp_path / "a.htm", page.encode("latin-1")))
    assert [row.text for row in stream.rows()] == ["Tür"]


@pytest.mark.skipif(PYPDF, reason="pypdf is installed")
def test_a_pdf_without_the_extra_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[pdf\]'"):
        open_tables(write(tmp_path / "a.pdf", pdf("Lamps give light")))


@pytest.mark.skipif(not PYPDF, reason="needs the extra `pdf`")
def test_a_pdf_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.pdf", pdf("Lamps give light"))
    (stream,) = open_tables(tmp_path)
    assert [row.text for row in stream.rows()] == ["Lamps give light"]
    write(tmp_path / "b.pdf", pdf(""))
    write(tmp_path / "c.pdf", b"%PDF-1.4\nnothing more")
    (stream,) = open_tables(tmp_path)
    with pytest.raises(DataError) as caught:
        list(stream.rows())
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'b.pdf'}:1: no text in the document; expected some; recognise the scanned")
    assert lines[1].startswith(f"{tmp_path / 'c.pdf'}:1: not a readable PDF")


def test_a_long_document_is_a_row_per_section_and_only_the_last_one_ends_it(tmp_path: Path) -> None:
    # Paragraphs of 1,000 characters and a blank line: 15 of them are 15,030, one more would be too many for a row.
    paragraphs = [f"{n:03d}" + "x" * 997 + "\n\n" for n in range(40)]
    write(tmp_path / "book.txt", "".join(paragraphs))
    write(tmp_path / "note.txt", "short\n\n")
    (stream,) = open_tables(tmp_path)
    *sections, note = stream.rows()
    assert "".join(row.text for row in sections) == "".join(paragraphs).rstrip() + "\n"
    assert [len(row.text) for row in sections[:-1]] == [15 * 1002] * 2
    assert [row.fields.get("continues", False) for row in sections] == [True, True, False]
    assert [row.origin.rpartition("/")[2] for row in sections] == ["book.txt:1", "book.txt:31", "book.txt:61"]
    assert (note.text, note.fields) == ("short\n\n", {"text": "short\n\n"})
    assert len({row.id for row in sections}) == 3
