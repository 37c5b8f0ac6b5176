"""What a file is follows from its columns; two meanings are refused with the line that chooses."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from temper.data.rows import Fault, Row, open_table, read_table
from temper.errors import DataError

ASK, DONE = {"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}
CHAT = {"messages": [ASK, DONE]}
PAIR = {"prompt": "p", "completion": "c"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(path: Path, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, columns=columns)
    return str(caught.value).removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("fields", "first", "second"),
    [
        (CHAT | PAIR, "messages: messages", "prompt: prompt, completion: completion"),
        (PAIR | {"text": "t"}, "prompt: prompt, completion: completion", "text: text"),
        (CHAT | {"text": "t"}, "messages: messages", "text: text"),
        (
            {"instruction": "p", "output": "c", "question": "p", "answer": "c"},
            "instruction: instruction, output: output",
            "question: question, answer: answer",
        ),
        (PAIR | {"reference": "r"}, "prompt: prompt, completion: completion", "prompt: prompt, reference: reference"),
        (
            PAIR | {"chosen": "a", "rejected": "b"},
            "prompt: prompt, completion: completion",
            "chosen: chosen, rejected: rejected",
        ),
        (
            {"prompt": "p", "messages": [ASK], "reference": "r"},
            "prompt: prompt, reference: reference",
            "messages: messages, reference: reference",
        ),
    ],
)
def test_two_meanings_are_refused_and_each_can_be_chosen(
    tmp_path: Path, fields: dict[str, Any], first: str, second: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", fields)
    message = refused(path)
    assert "have 2 meanings; expected one; choose with columns: {" in message
    assert f"columns: {{{first}}} for " in message
    assert f"columns: {{{second}}} for " in message
    for line in (first, second):
        columns = dict(part.split(": ") for part in line.split(", "))
        table = read_table(path, columns=columns)
        assert f"columns: {{{line}}} for {table.shape}" in message
        assert len(table.rows) == 1


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        (CHAT | {"prompt": "p", "prompt_id": "1"}, "messages"),
        (CHAT | {"schemaVersion": None}, "messages"),
        ({"prompt": "p", "completion": "c", "text": None}, "prompt/completion"),
        ({"messages": [ASK], "reference": "r", "question": "q"}, "task"),
        ({"messages": [ASK, DONE], "prompt": "p", "chosen": "a", "rejected": "b"}, "chosen/rejected"),
    ],
)
def test_the_most_specific_shape_wins_and_nulls_have_no_meaning(
    tmp_path: Path, fields: dict[str, Any], shape: str
) -> None:
    assert open_table(jsonl(tmp_path / "a.jsonl", fields)).shape == shape


def test_rows_of_several_shapes_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", PAIR, PAIR, CHAT)
    assert refused(path).startswith("1: found rows of several shapes, messages (row 3), prompt/completion (row 1); ")
    assert refused(path).endswith("expected one shape per file; put each into its own file")


def test_a_row_of_another_shape_after_the_sample_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[PAIR] * 1000, CHAT, {"prompt": "p"})
    stream = open_table(path)
    assert stream.shape == "prompt/completion"
    lines = refused(path).splitlines()
    assert lines[0].startswith("1001: this row is messages (messages), the file began as prompt/completion; expected")
    assert lines[1].startswith(f"{path}:1002: no answer, the column 'completion' is missing")


def test_columns_of_no_shape_or_of_several_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "p", "a": "c"})
    assert "did you mean 'completion'?" in refused(path, {"prompt": "q", "completon": "a"})
    found = refused(path, {"question": "q", "completion": "a"})
    assert found.startswith("1: columns: question, completion belong to different shapes; expected those of one")


def test_columns_can_be_swapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", PAIR)
    (row,) = read_table(path, columns={"prompt": "completion", "completion": "prompt"}).rows
    assert [m.content for m in row.messages] == ["c", "p"]
    assert row.fields == PAIR


@pytest.mark.parametrize(
    ("fields", "mapping"),
    [
        ({"query": "p", "response": "c"}, "{prompt: query, completion: response}"),
        ({"input": "p", "output": "c", "n": 1}, "{prompt: input, completion: output}"),
        ({"prompt": "p", "answer": "c"}, "{completion: answer}"),
        ({"body": "t"}, "{text: body}"),
        ({"x": "p", "y": "c"}, "{prompt: ..., completion: ...}"),
    ],
)
def test_a_mapping_is_suggested_and_works(tmp_path: Path, fields: dict[str, Any], mapping: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", fields)
    assert refused(path).endswith(f"map them with columns: {mapping}")
    if "..." not in mapping:
        columns = dict(part.split(": ") for part in mapping.strip("{}").split(", "))
        assert len(read_table(path, columns=columns).rows) == 1


def test_a_stream_is_parsed_block_by_block_elsewhere(tmp_path: Path) -> None:
    rows = [{"q": f"p{n}", "a": "" if n == 7 else "c"} for n in range(50)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    stream = pickle.loads(pickle.dumps(open_table(path, {"prompt": "q", "completion": "a"})))
    assert (stream.path, stream.shape, stream.columns) == (path, "prompt/completion", ("q", "a"))
    items = [item for block in stream.blocks(100) for item in stream.parse(block)]
    assert [item.origin for item in items] == [f"{path}:{n}" for n in range(1, 51)]
    faults = [item for item in items if isinstance(item, Fault)]
    assert [(f.row, f.problem.split(";")[0]) for f in faults] == [(8, "an empty answer in 'completion'")]
    seen: list[Row] = []
    with pytest.raises(DataError, match=r"a\.jsonl:8: an empty answer in 'completion'"):
        seen.extend(stream.rows())
    assert len(seen) == 7  # no row comes after one that is lost


def test_lines_that_are_no_json_come_before_columns_without_a_meaning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"prompt": \n', encoding="utf-8")
    assert refused(path).startswith("2: not JSON")


def test_prompts_alone_are_a_shape_and_wait_for_an_answer(tmp_path: Path) -> None:
    rows = [{"id": 1, "prompt": "p", "topic": "x"}, {"id": 2, "prompt": [ASK], "topic": "x"}]
    table = read_table(jsonl(tmp_path / "a.jsonl", *rows))
    assert table.shape == "prompt"
    assert [(row.prompt == row.messages, row.reference) for row in table.rows] == [(True, ""), (True, "")]
    assert len({row.id for row in table.rows}) == 1  # the same prompt, written in two ways


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "p", "sql": "select"}, "columns: {prompt: ..., completion: ...}"),  # may be the answer
        ({"prompt": "p", "reply": "r"}, "columns: {completion: reply}"),
        ({"prompt": "p", "completion": None}, "no answer, the column 'completion' is missing or null"),
    ],
)
def test_a_prompt_beside_what_may_be_its_answer_is_not_alone(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    assert said in refused(jsonl(tmp_path / "a.jsonl", fields))


def test_an_answer_after_a_thousand_prompts_is_not_dropped_unsaid(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[{"prompt": f"p {n}"} for n in range(1000)], PAIR)
    assert refused(path).startswith(
        "1001: the column 'completion' beside the prompt, the file began with prompts alone"
    )


def test_mapping_the_prompt_leaves_the_answers_column_in_force(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": "p", "completion": "c"})
    assert read_table(path, columns={"prompt": "q"}).shape == "prompt/completion"
    assert read_table(jsonl(tmp_path / "b.jsonl", {"q": "p"}), columns={"prompt": "q"}).shape == "prompt"


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},  # pandas, if it is not told otherwise
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_table_written_column_by_column_is_refused_and_not_one_row(tmp_path: Path, name: str, document: Any) -> None:
    """Such a file of any size became one row, whose prompt was the list of all prompts."""
    told = refused(jsonl(tmp_path / name, document))
    assert told.startswith("1: found one object with 2 values in each of its fields 'prompt', 'completion'; expected")
    assert "orient='records'" in told


def test_one_object_with_lists_of_turns_is_a_row(tmp_path: Path) -> None:
    assert read_table(jsonl(tmp_path / "a.json", {"prompt": [ASK], "completion": [DONE]})).shape == "prompt/completion"
    tool = {"function": {"name": "f"}}
    assert len(read_table(jsonl(tmp_path / "b.json", CHAT | {"tools": [tool, tool]})).rows) == 1


def test_rows_wrapped_in_an_object_are_pointed_out(tmp_path: Path) -> None:
    """The columns `version` and `data` were told to be mapped: {conversations: version}."""
    told = refused(jsonl(tmp_path / "a.json", {"version": "1", "data": [PAIR, PAIR]}))
    assert told.startswith(
        "1: found one object with 2 objects in its field 'data'; expected the rows themselves; write"
    )


def test_a_hint_can_be_copied_into_the_recipe(tmp_path: Path) -> None:
    """A name with a blank or a colon stood bare in the hint, where YAML reads another one."""
    path = tmp_path / "a.csv"
    path.write_text("Q: prompt, completion\na,b\n", encoding="utf-8")
    told = refused(path)
    columns = yaml.safe_load(told[told.index("{") :])
    assert columns == {"prompt": "Q: prompt", "completion": " completion"}
    assert len(read_table(path, columns=columns).rows) == 1


def test_a_mapping_that_does_not_do_is_not_the_hint(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"Frage": "p", "Antwort": "c"})
    assert refused(path, {"prompt": "Frage"}).endswith("columns: {prompt: ..., completion: ...}")


def test_bytes_are_text_or_refused(tmp_path: Path) -> None:
    """A column of bytes was learnt as Python writes it: b'yes'."""
    for name, content in (("good", "caf\u00e9".encode()), ("bad", b"\xff\x00")):
        table = pa.table({"prompt": [b"p"], "completion": [content]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert read_table(tmp_path / "good.parquet").rows[0].reference == "caf\u00e9"
    assert "1: found bytes that are not UTF-8 text" in refused(tmp_path / "bad.parquet")


def test_a_list_in_a_file_of_lines_is_told_where_it_belongs(tmp_path: Path) -> None:
    told = refused(jsonl(tmp_path / "a.jsonl", [PAIR, PAIR]))
    assert told.startswith(
        "1: found a list of 2 values (a JSON list belongs into a file named .json); expected one obj"
    )
