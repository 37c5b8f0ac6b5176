"""Rows are read from every format and shape, or refused with the row named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from temper.data.rows import Message, Row, read_rows, read_table
from temper.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def turns(row: Row) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in row.messages]


PAIR = [("user", "lamp on"), ("assistant", "done")]


@pytest.mark.parametrize(
    ("fields", "shape", "expected"),
    [
        (
            {"messages": [{"role": "user", "content": "lamp on"}, {"role": "assistant", "content": "done"}]},
            "messages",
            PAIR,
        ),
        ({"prompt": "lamp on", "completion": "done"}, "prompt/completion", PAIR),
        ({"instruction": "lamp on", "input": "", "output": "done"}, "instruction/input/output", PAIR),
        (
            {"instruction": "Translate", "input": "lamp", "output": "Lampe", "system": "Be brief"},
            "instruction/input/output",
            [("system", "Be brief"), ("user", "Translate\n\nlamp"), ("assistant", "Lampe")],
        ),
        (
            {"conversations": [{"from": "human", "value": "lamp on"}, {"from": "gpt", "value": "done"}]},
            "conversations",
            PAIR,
        ),
        ({"question": "lamp on", "answer": "done"}, "question/answer", PAIR),
        ({"text": "Lamps give light."}, "text", []),
        (
            {
                "prompt": [{"role": "user", "content": "lamp on"}],
                "completion": [{"role": "assistant", "content": "done"}],
            },
            "prompt/completion",
            PAIR,
        ),
    ],
)
def test_shapes_are_recognised_by_their_columns(
    tmp_path: Path, fields: dict[str, Any], shape: str, expected: list[tuple[str, str]]
) -> None:
    table = read_table(jsonl(tmp_path / "a.jsonl", fields))
    (row,) = table.rows
    assert table.shape == shape
    assert turns(row) == expected
    assert row.reference == (expected[-1][1] if expected else "")
    assert row.text == fields.get("text", "")
    assert row.fields == fields


@pytest.mark.parametrize(
    ("completion", "written"),
    [
        ({"call": "on", "args": [1, None]}, '{"call": "on", "args": [1, null]}'),
        (["Küche", 2], '["Küche", 2]'),
        (21, "21"),
        (True, "true"),
        (" kept as it is\n", " kept as it is\n"),
    ],
)
def test_an_answer_that_is_no_text_is_written_as_compact_json(tmp_path: Path, completion: Any, written: str) -> None:
    (row,) = read_rows(jsonl(tmp_path / "a.jsonl", {"prompt": "x", "completion": completion}))
    assert row.reference == written


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [{"prompt": 'say "hi",\nplease', "completion": "hi"}, {"prompt": "Grüße", "completion": "\u2028ok"}]
    jsonl(tmp_path / "a.jsonl", *fields)
    write(tmp_path / "a.json", json.dumps(fields, indent=2))
    jsonl(tmp_path / "lines.json", *fields)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t"), ("semicolon.csv", ";")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(fields)
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    table = pa.Table.from_pylist(fields)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 11
    for file in files:
        rows = read_rows(file)
        assert [(r.messages[0].content, r.reference) for r in rows] == [
            (f["prompt"], f["completion"]) for f in fields
        ], file.name
        assert [r.id for r in rows] == [r.id for r in read_rows(tmp_path / "a.jsonl")], file.name


def test_origin_is_the_line_a_row_begins_on(tmp_path: Path) -> None:
    # Line 1 is the header, the first row fills lines 2 and 3, line 4 is blank.
    path = write(tmp_path / "a.csv", 'prompt,completion\n"two\nlines",a\n\nb,c\n')
    assert [row.origin for row in read_rows(path)] == [f"{path}:2", f"{path}:5"]
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.origin for row in read_rows(path)] == [f"{path}:1", f"{path}:3"]


def test_the_id_depends_on_the_content_alone(tmp_path: Path) -> None:
    one = read_rows(jsonl(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c", "more": 1}))[0]
    same = read_rows(jsonl(tmp_path / "c.jsonl", {"question": "p", "answer": "c"}))[0]
    changed = read_rows(jsonl(tmp_path / "d.jsonl", {"question": "p", "answer": "C"}))[0]
    assert one.id == same.id != changed.id
    assert len(one.id) == 16
    assert int(one.id, 16) >= 0


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"Frage": "p", "Antwort": "c"})
    (row,) = read_rows(path, columns={"prompt": "Frage", "completion": "Antwort"})
    assert turns(row) == [("user", "p"), ("assistant", "c")]
    with pytest.raises(DataError, match=r"columns\.completion: no column 'Antwrt'.*did you mean 'Antwort'\?"):
        read_rows(path, columns={"prompt": "Frage", "completion": "Antwrt"})


def test_a_named_column_wins_over_a_column_of_the_known_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "completion": "short", "long": "at length"})
    assert read_rows(path, columns={"completion": "long"})[0].reference == "at length"


def test_a_missing_file_is_named_with_a_near_one(tmp_path: Path) -> None:
    jsonl(tmp_path / "tickets.jsonl", {"text": "a"})
    with pytest.raises(DataError, match=r"ticket\.jsonl: no such file; .* did you mean .*tickets\.jsonl\?"):
        read_rows(tmp_path / "ticket.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "nowhere" / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "prompt,completion\n"), ("a.jsonl", "\n \n")]
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: empty, no rows; expected at least one"):
        read_rows(write(tmp_path / name, text))


def test_malformed_json_names_the_line_and_the_column(tmp_path: Path) -> None:
    lines = ['{"prompt": "p", "completion": "c"}'] * 60
    lines[16] = '{"prompt": "p", "completion": "c'
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path / "a.jsonl", "\n".join(lines)))
    # The string that never ends begins at the 31st character of the line.
    assert str(caught.value).startswith(
        f"{tmp_path / 'a.jsonl'}:17: not JSON: Unterminated string starting at at column 31;"
    )
    assert "correct or delete the line" in str(caught.value)


def test_malformed_json_of_a_whole_document_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json:3: not JSON: Expecting ',' delimiter"):
        read_rows(write(tmp_path / "a.json", '[\n{"text": "a"}\n{"text": "b"}]'))


def test_offending_rows_are_collected_up_to_five(tmp_path: Path) -> None:
    good = {"prompt": "p", "completion": "c"}
    bad = [{"prompt": "p"}, {"prompt": "p", "completion": None}, {"prompt": "p", "completion": " "}]
    bad += [{"prompt": "", "completion": "c"}, {"completion": "c"}, {"prompt": "p", "completion": ""}, {"prompt": "p"}]
    path = jsonl(tmp_path / "a.jsonl", good, *bad)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    lines = str(caught.value).splitlines()
    assert [line.split(";")[0] for line in lines] == [
        f"{path}:2: no answer, the column 'completion' is missing or null",
        f"{path}:3: no answer, the column 'completion' is missing or null",
        f"{path}:4: an empty answer in 'completion'",
        f"{path}:5: an empty prompt in 'prompt'",
        f"{path}:6: no prompt, the column 'prompt' is missing or null",
        "... and 2 more rows of this file",
    ]


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "user", "content": "hi"}], "no answer, the last turn is the user's"),
        ([{"role": "assistant", "content": "hi"}], "no prompt, only the assistant speaks"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n"}], "an empty answer in turn 2"),
        ([], "no turns, found []"),
        ("hello", "no turns, found 'hello'"),
        ([{"role": "user", "text": "hi"}], "turn 1 is {'role': 'user', 'text': 'hi'}"),
        ([{"role": "robot", "content": "hi"}], "turn 1 has role 'robot'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "turn 1 has content [{'type': 'image'}]"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_refused(tmp_path: Path, messages: Any, found: str) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(jsonl(tmp_path / "a.jsonl", {"messages": messages}))
    where, rest = f"{tmp_path / 'a.jsonl'}:1: ", str(caught.value)
    assert rest.startswith(where + found + "; expected ")


def test_text_parts_are_joined_and_a_list_in_a_csv_cell_is_read(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
    ]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(chat)]])
    assert read_rows(path)[0].messages == (Message(role="user", content="ab"), Message(role="assistant", content="c"))


def test_unrecognised_columns_list_the_shapes_and_suggest_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(jsonl(tmp_path / "a.jsonl", {"prompts": "p", "completions": "c", "n": 1}))
    message = str(caught.value)
    assert f"{tmp_path / 'a.jsonl'}:1: found the columns 'prompts', 'completions', 'n'; expected one of" in message
    assert "messages, conversations, prompt/completion, instruction/input/output, question/answer, text" in message
    assert message.endswith("columns: {prompt: prompts, completion: completions}")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "prompt,completion\na,b\na,b,c\n", r"a\.csv:3: found 3 cells; expected 2 \(prompt, completion\)"),
        ("a.csv", 'prompt,completion\na,"b\n', r"a\.csv:2: broken quoting"),
        ("a.jsonl", '{"text": "a"}\n[1, 2]\n', r"a\.jsonl:2: found \[1, 2\]; expected a JSON object"),
        ("a.jsonl", '{"text": "\\ud83d"}\n', r"a\.jsonl:1: half a character"),
        ("a.xlsx", "x", r"a\.xlsx: a kind of file temper does not read; expected \.jsonl"),
    ],
)
def test_broken_files_are_refused_with_their_row(tmp_path: Path, name: str, text: str, found: str) -> None:
    with pytest.raises(DataError, match=found):
        read_rows(write(tmp_path / name, text))


def test_files_of_broken_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"text": "a"}\n{"text": "ü"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not UTF-8 text"):
        read_rows(tmp_path / "latin.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-20])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: not a whole gzip file"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut\.parquet: not a whole \.parquet file"):
        read_rows(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="Is a directory"):
        read_rows(tmp_path)


def test_long_csv_cells_are_read_and_the_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert len(read_rows(path)[0].text) == 200_000
    assert csv.field_size_limit() == before


def test_the_fingerprint_is_of_the_content_and_not_of_its_compression(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a"})
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read_table(path).fingerprint == hashlib.sha256(b'{"text": "a"}\n').hexdigest()
    assert read_table(zipped).fingerprint == read_table(path).fingerprint
    assert read_table(path).fingerprint != read_table(jsonl(tmp_path / "b.jsonl", {"text": "b"})).fingerprint
