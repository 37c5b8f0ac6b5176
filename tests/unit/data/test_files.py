"""Files of any format are read in bounded pieces, with exact row numbers, or refused with the row named."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.data.files import Lines, Record, open_file, records
from temper.errors import DataError


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zst(path: Path, content: bytes) -> Path:
    import pyarrow as pa

    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(content)
    return path


def read(path: Path, size: int = 2**22) -> list[Record]:
    return [record for block in open_file(path).blocks(size) for record in records(block)]


def values(path: Path, size: int = 2**22) -> list[tuple[int, Any]]:
    return [(r.row, r.problem.split(";")[0] if r.problem else dict(r.fields)) for r in read(path, size)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\r\n\r\n{"a": 2}\r\n', [(1, {"a": 1}), (3, {"a": 2})]),
        ('\ufeff{"a": 1}\n\ufeff{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})]),  # two files with a mark, joined
        ('\ufeff\n{"a": 1}\n', [(2, {"a": 1})]),
        ('{"a": "\u2028\x85"}\n{"a": 2}\n', [(1, {"a": "\u2028\x85"}), (2, {"a": 2})]),
        ('{"a": 1, "a": 2}\n', [(1, "the key 'a' stands twice in one object")]),
        ('{"a": {"b": 1, "b": 1}}\n', [(1, "the key 'b' stands twice in one object")]),
        ('{"a": NaN}\n', [(1, "NaN is not JSON (write null where a value is missing)")]),
        ('{"a": -Infinity}\n', [(1, "-Infinity is not JSON (write null where a value is missing)")]),
        ('{"a": 1,}\n', [(1, "not JSON: Illegal trailing comma before end of object at column 8")]),
        ("[" * 100_000 + "\n", [(1, "nested too deeply")]),
        ('[{"a": 1}]\n', [(1, "found a list of 1 values (a JSON list")]),
        ('[{"a": 1},\n{"a": 2}]\n', [(1, "(a JSON list belongs into a file named .json)"), (2, "not JSON")]),
    ],
)
def test_lines_of_json(tmp_path: Path, content: str, expected: list[tuple[int, Any]]) -> None:
    found = values(write(tmp_path / "a.jsonl", content))
    assert [row for row, _ in found] == [row for row, _ in expected]
    for (_, got), (_, wanted) in zip(found, expected, strict=True):
        if isinstance(wanted, dict):
            assert got == wanted
        elif "trailing comma" in wanted:  # Python 3.13 words it better
            assert got in (wanted, "not JSON: Expecting property name enclosed in double quotes at column 9")
        else:
            assert wanted in got


@given(st.lists(st.text(alphabet="ab\u2028\u00fc", max_size=12) | st.none(), max_size=30), st.integers(1, 64))
def test_blocks_of_any_size_give_the_same_records(texts: list[str | None], size: int) -> None:
    """A block holds whole lines: however small it is, no record and no row number changes."""
    import tempfile

    lines = ["" if text is None else json.dumps({"a": text}, ensure_ascii=False) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.jsonl", "\n".join(lines))
        found = values(path, size)
    assert found == [(n, {"a": text}) for n, text in enumerate(texts, start=1) if text is not None]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_long_file_is_read_in_small_pieces(tmp_path: Path, name: str) -> None:
    line = json.dumps({"text": "x" * 990}).encode() + b"\n"  # 1003 bytes with its frame of 13
    content = line * 20_000  # 20 MB
    if name.endswith("zst"):
        path = zst(tmp_path / name, content)
    else:
        path = write(tmp_path / name, gzip.compress(content, 1) if name.endswith("gz") else content)
    del content
    tracemalloc.start()
    count = 0
    for block in open_file(path).blocks(2**18):
        assert isinstance(block, Lines)
        assert block.row == count + 1
        assert len(block.content) < 2**19
        count += block.content.count(b"\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 4 * 2**20


def test_a_block_travels_and_is_parsed_elsewhere(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"a": n, "b": [str(n)]} for n in range(100)]
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "a.json", json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=30)
    for name in ("a.jsonl", "a.json", "a.parquet"):
        blocks = [pickle.loads(pickle.dumps(b)) for b in open_file(tmp_path / name).blocks(200)]
        assert len(blocks) > 5, name
        assert [(r.row, dict(r.fields)) for b in blocks for r in records(b)] == list(enumerate(rows, start=1)), name


def test_columnar_files_are_cut_within_a_batch(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"text": ["x" * 1000] * 1000})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    blocks = list(open_file(tmp_path / "a.arrow").blocks(100_000))
    # 1000 rows of 1004 bytes (an offset of 4 each): 99 to a block of 100 kB, so 11 blocks.
    assert [b.row for b in blocks] == list(range(1, 1000, 99))
    assert sum(len(records(b)) for b in blocks) == 1000
    assert max(len(pickle.dumps(b)) for b in blocks) < 120_000


def test_packed_files_have_the_records_and_the_fingerprint_of_the_plain_one(tmp_path: Path) -> None:
    content = 'prompt,completion\n"a ""b"", c",ü\n'.encode()
    plain = write(tmp_path / "a.csv", content)
    write(tmp_path / "a.csv.gz", gzip.compress(content))
    zst(tmp_path / "a.csv.zst", content)
    for name in ("a.csv.gz", "a.csv.zst"):
        assert values(tmp_path / name) == values(plain) == [(2, {"prompt": 'a "b", c', "completion": "ü"})]
        assert open_file(tmp_path / name).fingerprint() == hashlib.sha256(content).hexdigest()


def test_torn_packings_are_named(tmp_path: Path) -> None:
    content = b'{"a": 1}\n' * 1000
    write(tmp_path / "cut.jsonl.zst", zst(tmp_path / "whole.jsonl.zst", content).read_bytes()[:-20])
    write(tmp_path / "plain.jsonl.zst", b"no zstd at all")
    write(tmp_path / "plain.jsonl.gz", b"no gzip at all")
    for name, kind in (("cut.jsonl.zst", "zstd"), ("plain.jsonl.zst", "zstd"), ("plain.jsonl.gz", "gzip")):
        for use in (read, lambda path: open_file(path).fingerprint()):
            with pytest.raises(DataError, match=rf"{name}: not a whole {kind} file .*; compress it again"):
                use(tmp_path / name)
    with pytest.raises(DataError, match="a kind of file temper does not read"):
        open_file(write(tmp_path / "a.parquet.gz", b""))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1},\n\n {"a": 2}]', [(1, {"a": 1}), (2, {"a": 2})]),  # the number of the record, not its line
        ('{"a": 1}', [(1, {"a": 1})]),
        ('\ufeff{"a": 1}\n\n{"a": 2}\n', [(1, {"a": 1}), (3, {"a": 2})]),  # lines under the name .json
        ('[{"a": 1}, 7]', [(1, {"a": 1}), (2, "found 7")]),
        ("\n[]\n", []),
    ],
)
def test_json_documents(tmp_path: Path, content: str, expected: list[tuple[int, Any]]) -> None:
    assert values(write(tmp_path / "a.json", content)) == expected


@pytest.mark.parametrize("size", [4, 8, 64])
def test_lines_under_the_name_json_are_found_whatever_is_read_first(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')
    assert values(path, size) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"a": 1},\n {"a": NaN}]', ":2: NaN is not JSON"),
        ('[{"a": [1]}, {"a": 2}, {"a": 2, "a": 3}]', ":3: the key 'a' stands twice"),
        ('{"a": 1, "a": 1}', ":1: the key 'a' stands twice"),
        (b'[{"a": "\n\xfc"}]', ":2: not UTF-8 text"),
        ("\ufeffa".encode("utf-16"), ":1: not UTF-8 text (UTF-16, as it begins)"),
    ],
)
def test_a_broken_json_document_is_named(tmp_path: Path, content: str | bytes, found: str) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.json", content))
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}{found}")


def test_a_trailing_comma_in_a_json_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json:[23]: not JSON: (Expecting value|Illegal trailing comma)"):
        read(write(tmp_path / "a.json", '[{"a": 1},\n{"a": 2},\n]'))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "a,b\r\n1,2\r\n", [(2, {"a": "1", "b": "2"})]),
        ("a.csv", "a;b\n1,5;2\n", [(2, {"a": "1,5", "b": "2"})]),
        ("a.csv", 'a;"b, or c"\n1,5;2\n', [(2, {"a": "1,5", "b, or c": "2"})]),
        (
            "a.csv",
            'a,b\n"1\r\n2","say ""hi"""\n3,4\n',
            [(2, {"a": "1\r\n2", "b": 'say "hi"'}), (4, {"a": "3", "b": "4"})],
        ),
        ("a.csv", "\ufeffa,b\n\u2028,\x85\n", [(2, {"a": "\u2028", "b": "\x85"})]),
        ("a.csv", "a,b\r1,2\r", [(2, {"a": "1", "b": "2"})]),  # as old spreadsheets end their lines
        ("a.tsv", "a\tb\n1,5\t2\n", [(2, {"a": "1,5", "b": "2"})]),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', [(2, {"a": "1", "b": "2"}), (3, "broken quoting (unexpected end of data)")]),
        ("a.csv", 'a,b\n1,"2"x\n', [(2, "broken quoting (',' expected after '\"')")]),
        ("a.csv", "a,b\n1\n", [(2, "found 1 cells")]),
    ],
)
@pytest.mark.parametrize("size", [1, 2**22])
def test_separated_values(tmp_path: Path, name: str, content: str, expected: list[tuple[int, Any]], size: int) -> None:
    assert values(write(tmp_path / name, content), size) == expected


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a,b\n1,2\n3,\xfc\n", ":3: not UTF-8 text; expected UTF-8; convert the file"),
        (b"a,b,a\n1,2,3\n", ":1: the column 'a' stands twice in the header"),
        ("a,b\n1,2\n".encode("utf-16"), ":1: not UTF-8 text (UTF-16, as it begins)"),
    ],
)
def test_a_broken_csv_file_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.csv", content))
    assert str(caught.value).startswith(f"{tmp_path / 'a.csv'}{found}")
