"""Every shape becomes the same kind of row: turns, tool calls, reasoning, preferences, tasks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from temper.data.rows import Message, Row, ToolCall, read_table
from temper.errors import DataError

TOOL = {"name": "light", "description": "Switches a lamp.", "parameters": {"type": "object"}}
TOOLS = json.dumps([{"type": "function", "function": TOOL}])
CALL = ToolCall(name="light", arguments='{"on": true}', id="c1")
PAIR = [("user", "lamp on"), ("assistant", "done")]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def one(tmp_path: Path, fields: dict[str, Any], shape: str) -> Row:
    table = read_table(jsonl(tmp_path / "a.jsonl", fields))
    assert table.shape == shape
    return table.rows[0]


def turns(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]


def problem(tmp_path: Path, fields: dict[str, Any]) -> str:
    """What is said of a row, after file:row."""
    with pytest.raises(DataError) as caught:
        read_table(jsonl(tmp_path / "a.jsonl", fields))
    where = f"{tmp_path / 'a.jsonl'}:1: "
    assert str(caught.value).startswith(where)
    return str(caught.value).removeprefix(where)


def chat(*said: Any) -> list[dict[str, Any]]:
    """Turns: a text is the user's and the assistant's in turn, an object stands as it is."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": s} if isinstance(s, str) else s for n, s in enumerate(said)]


@pytest.mark.parametrize("arguments", [{"on": True}, '{"on":true}'])
@pytest.mark.parametrize("flat", [True, False])
def test_tool_calls_of_openai(tmp_path: Path, arguments: Any, flat: bool) -> None:
    function = {"name": "light", "arguments": arguments}
    call = {"id": "c1", **function} if flat else {"id": "c1", "type": "function", "function": function}
    messages = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": "lamp on"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "light", "content": {"ok": True}},
        {"role": "assistant", "content": "done"},
    ]
    row = one(tmp_path, {"messages": messages, "tools": [TOOL]}, "messages")
    assert row.messages[1:] == (
        Message(role="user", content="lamp on"),
        Message(role="assistant", content="", tool_calls=(CALL,)),
        Message(role="tool", content='{"ok": true}', tool_call_id="c1", name="light"),
        Message(role="assistant", content="done"),
    )
    assert row.tools == TOOLS
    assert row.reference == "done"


def test_a_last_turn_that_calls_a_tool_is_an_answer(tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "light", "arguments": {"on": True}}}]}
    row = one(tmp_path, {"messages": chat("lamp on", call)}, "messages")
    assert row.reference == '[{"name": "light", "arguments": {"on": true}}]'
    assert row.prompt == (Message(role="user", content="lamp on"),)


@pytest.mark.slow
def test_columnar_files_fill_turns_with_nulls(tmp_path: Path) -> None:
    """Arrow gives every turn the fields of all turns; the nulls mean that they are not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": "light", "arguments": "{}"}]}
    fields = {"messages": chat("lamp on", call, {"role": "tool", "content": "ok"}, "done"), "tools": None}
    pq.write_table(pa.Table.from_pylist([fields]), tmp_path / "a.parquet")
    (row,) = read_table(tmp_path / "a.parquet").rows
    assert turns(row.messages) == [("user", "lamp on"), ("assistant", ""), ("tool", "ok"), ("assistant", "done")]
    assert [len(m.tool_calls) for m in row.messages] == [0, 1, 0, 0]
    assert row.tools == ""


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_apart_from_the_answer(tmp_path: Path, key: str) -> None:
    answer = {"role": "assistant", "content": "done", key: "The lamp is off."}
    row = one(tmp_path, {"messages": chat("lamp on", answer)}, "messages")
    assert row.messages[1] == Message(role="assistant", content="done", reasoning="The lamp is off.")
    plain = one(tmp_path, {"messages": chat("lamp on", "<think>x</think>done")}, "messages")
    assert plain.messages[1] == Message(role="assistant", content="<think>x</think>done")


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        ({"role": "assistant", "content": None}, "turn 2 has content None; expected text"),
        ({"role": "assistant", "content": "", "reasoning": "x"}, "an empty answer in turn 2; expected text"),
        ({"role": "assistant", "content": "x", "weight": 0}, "turn 2 has weight 0; expected turns that all count"),
        ({"role": "assistant", "content": "x", "thinking": ["y"]}, "turn 2 has thinking ['y']; expected text"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "turn 2, call 1 is {'id': '1'}; expected {\"name\""),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": '}]},
            "turn 2, call 1 has arguments '{\"a\": ' (Expecting value",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]},
            "turn 2, call 1 has arguments [1]; expected a JSON object",
        ),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}, "turn 2 is the user's and calls tools"),
        ({"role": "assistant", "content": [{"text": "x"}]}, "turn 2 has content [{'text': 'x'}]; expected text (no"),
        ({"role": "assistant", "content": "a\ud83d"}, "half a character (a lone surrogate); expected Unicode text"),
    ],
)
def test_turns_that_cannot_be_used_are_named(tmp_path: Path, turn: dict[str, Any], found: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": chat("hi", turn)}), encoding="ascii")  # \ud83d as an escape
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}:1: {found}")


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        ("hammer, saw", "tools are 'hammer, saw'; expected a list such as [{"),
        ([{"description": "x"}], "tool 1 is {'description': 'x'}; expected a list such as [{"),
        ("[1", "tools is not JSON (Expecting ',' delimiter"),
    ],
)
def test_tools_that_are_none_are_refused(tmp_path: Path, tools: Any, found: str) -> None:
    assert problem(tmp_path, {"messages": chat("a", "b"), "tools": tools}).startswith(found)


def test_conversations_of_sharegpt_with_tools(tmp_path: Path) -> None:
    said = [
        {"from": "human", "value": "lamp on"},
        {"from": "function_call", "value": '{"name": "light", "arguments": {"on": true}}'},
        {"from": "observation", "value": "ok"},
        {"from": "gpt", "value": "done"},
    ]
    row = one(tmp_path, {"conversations": said, "system": "Be brief", "tools": json.dumps([TOOL])}, "conversations")
    roles = [("system", "Be brief"), ("user", "lamp on"), ("assistant", ""), ("tool", "ok"), ("assistant", "done")]
    assert turns(row.messages) == roles
    assert row.messages[2].tool_calls == (ToolCall(name="light", arguments='{"on": true}'),)
    assert row.tools == TOOLS


def test_conversations_may_hold_the_turns_of_openai(tmp_path: Path) -> None:
    assert turns(one(tmp_path, {"conversations": chat("lamp on", "done")}, "conversations").messages) == PAIR
    nulls = [{"role": None, "content": None, "from": "human", "value": "lamp on"}, *chat("", "done")[1:]]
    assert turns(one(tmp_path, {"conversations": nulls}, "conversations").messages) == PAIR
    found = problem(tmp_path, {"conversations": [{"from": "robot", "value": "x"}]})
    assert found.startswith("turn 1 has from 'robot'; expected one of system, developer, user, assistant, tool")


def bedrock(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": "bedrock-conversation-2024", "messages": list(messages), **more}


def test_bedrock_converse(tmp_path: Path) -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "It is off.", "signature": "s"}}}
    spec = {"name": "light", "description": "Switches a lamp.", "inputSchema": {"json": {"type": "object"}}}
    result = {"toolUseId": "c1", "content": [{"json": {"ok": True}}], "status": "success"}
    fields = bedrock(
        {"role": "user", "content": [{"text": "lamp "}, {"text": "on"}]},
        {
            "role": "assistant",
            "content": [thought, {"toolUse": {"toolUseId": "c1", "name": "light", "input": {"on": True}}}],
        },
        {"role": "user", "content": [{"toolResult": result}, {"text": "And?", "image": None}]},
        {"role": "assistant", "content": [{"text": "done"}]},
        system=[{"text": "Be brief"}],
        toolConfig={"tools": [{"toolSpec": spec}]},
    )
    row = one(tmp_path, fields, "bedrock")
    assert row.messages == (
        Message(role="system", content="Be brief"),
        Message(role="user", content="lamp on"),
        Message(role="assistant", content="", reasoning="It is off.", tool_calls=(CALL,)),
        Message(role="tool", content='{"ok": true}', tool_call_id="c1"),
        Message(role="user", content="And?"),
        Message(role="assistant", content="done"),
    )
    assert row.tools == TOOLS


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        ({"role": "user", "content": [{"image": {}}]}, "turn 1 has the block {'image': {}}; expected one of"),
        ({"role": "user", "content": "text"}, "turn 1 is {'content': 'text', 'role': 'user'}; expected a list of"),
        ({"role": "system", "content": [{"text": "x"}]}, "turn 1 has role 'system'; expected user or assistant"),
        ({"role": "user", "content": [{"toolUse": {}}]}, "turn 1 is the user's and has toolUse"),
        ({"role": "assistant", "content": [{"toolResult": {}}]}, "turn 1 is the assistant's and has toolResult"),
        ({"role": "assistant", "content": [{"toolUse": "x"}]}, "turn 1, toolUse is 'x'; expected an object"),
    ],
)
def test_blocks_that_cannot_be_used_are_named(tmp_path: Path, turn: dict[str, Any], found: str) -> None:
    assert problem(tmp_path, bedrock(turn)).startswith(found)


def test_bedrock_rows_without_their_version_say_what_is_missing(tmp_path: Path) -> None:
    found = problem(tmp_path, {"messages": [{"role": "user", "content": [{"text": "a"}]}]})
    assert found.endswith('for Bedrock Converse add the column "schemaVersion": "bedrock-conversation-2024"')


def test_prompt_and_completion_may_be_lists_of_turns_also_in_a_csv_cell(tmp_path: Path) -> None:
    fields = {"prompt": chat("a", "b", "lamp on"), "completion": [{"role": "assistant", "content": "done"}]}
    expected = [("user", "a"), ("assistant", "b"), *PAIR]
    assert turns(one(tmp_path, fields, "prompt/completion").messages) == expected
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(fields), [json.dumps(cell) for cell in fields.values()]])
    assert turns(read_table(tmp_path / "a.csv").rows[0].messages) == expected
    # A list that holds no turns is an answer like any other.
    row = one(tmp_path, {"prompt": "[1, 2", "completion": "[3]"}, "prompt/completion")
    assert turns(row.messages) == [("user", "[1, 2"), ("assistant", "[3]")]


def test_instructions_have_a_history(tmp_path: Path) -> None:
    fields = {"instruction": "lamp on", "input": "", "output": "done", "history": [["a", "b"]], "system": "s"}
    expected = [("system", "s"), ("user", "a"), ("assistant", "b"), *PAIR]
    assert turns(one(tmp_path, fields, "instruction/input/output").messages) == expected
    found = problem(tmp_path, {**fields, "history": [["a"]]})
    assert found.startswith("history is no list of rounds; expected [[question, answer], ...]")


REPLY, WORSE = {"role": "assistant", "content": "done"}, {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "lamp on", "chosen": "done", "rejected": "no"},
        {"prompt": chat("lamp on"), "chosen": [REPLY], "rejected": [WORSE]},
        {"prompt": "lamp on", "chosen": chat("lamp on", "done"), "rejected": chat("lamp on", "no")},
        {"chosen": chat("lamp on", "done"), "rejected": chat("lamp on", "no")},
        {"chosen": "\n\nHuman: lamp on\n\nAssistant: done", "rejected": "\n\nHuman: lamp on\n\nAssistant: no"},
        {"question": "lamp on", "chosen": "done", "rejected": "no"},
        {"instruction": "lamp on", "input": "", "chosen": "done", "rejected": "no"},
        {
            "conversations": [{"from": "human", "value": "lamp on"}],
            "chosen": {"from": "gpt", "value": "done"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"messages": chat("lamp on", "done"), "prompt": "lamp on", "chosen": "done", "rejected": "no"},
    ],
)
def test_preference_pairs(tmp_path: Path, fields: dict[str, Any]) -> None:
    row = one(tmp_path, fields, "chosen/rejected")
    assert turns(row.messages) == PAIR
    assert row.rejected == (Message(role="assistant", content="no"),)
    assert row.reference == "done"


def test_a_preference_shares_all_turns_but_the_last(tmp_path: Path) -> None:
    row = one(
        tmp_path,
        {"chosen": chat("a", "b", "lamp on", "done"), "rejected": chat("a", "b", "lamp on", "no"), "system": "s"},
        "chosen/rejected",
    )
    assert turns(row.prompt) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "lamp on")]
    assert turns(row.rejected) == [("assistant", "no")]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same; expected two different"),
        ({"chosen": "a", "rejected": "b"}, "no prompt, chosen and rejected are answers and no column asks"),
        ({"prompt": "p", "chosen": "a", "rejected": " "}, "an empty answer in 'rejected'"),
        ({"chosen": chat("a", "b"), "rejected": "c"}, "chosen begins with the user's turn, rejected with"),
        (
            {"chosen": chat("a", "b", "c", "d"), "rejected": chat("a", "x", "c", "y")},
            "chosen and rejected part at turn 2 of 4; expected the same conversation up to chosen's last answer",
        ),
        ({"chosen": chat("a", "b"), "rejected": chat("a")}, "no rejected answer, rejected ends before"),
        ({"prompt": chat("a", "b"), "chosen": "c", "rejected": "d"}, "an answer where the prompt ends"),
    ],
)
def test_preferences_without_a_preference_are_refused(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    assert problem(tmp_path, fields).startswith(found)


@pytest.mark.parametrize(
    ("reference", "text"), [("21", "21"), (21, "21"), ({"a": [1]}, '{"a": [1]}'), (False, "false")]
)
def test_tasks(tmp_path: Path, reference: Any, text: str) -> None:
    fields = {"prompt": "lamp on", "reference": reference, "level": 2}
    row = one(tmp_path, fields, "task")
    assert row.messages == row.prompt == (Message(role="user", content="lamp on"),)
    assert (row.reference, row.fields) == (text, fields)
    listed = one(tmp_path, {"messages": chat("a", "b", "lamp on"), "reference": reference, "system": "s"}, "task")
    assert turns(listed.messages) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "lamp on")]


def test_answered_conversations_with_a_reference_are_no_tasks(tmp_path: Path) -> None:
    row = one(tmp_path, {"messages": chat("lamp on", "done"), "reference": "manual, page 3"}, "messages")
    assert (row.reference, row.fields["reference"]) == ("done", "manual, page 3")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"prompt": "p", "reference": None}, "no reference, the column 'reference' is missing or null"),
        ({"prompt": " ", "reference": "r"}, "an empty prompt in 'prompt'"),
        ({"prompt": chat("a", "b"), "reference": "r"}, "an answer where the prompt ends, the last turn is the"),
        ({"prompt": [{"role": "system", "content": "s"}], "reference": "r"}, "no prompt, only the system speaks"),
    ],
)
def test_tasks_that_ask_nothing_are_refused(tmp_path: Path, fields: dict[str, Any], found: str) -> None:
    assert problem(tmp_path, fields).startswith(found)


def test_ids_see_all_that_the_model_sees_and_nothing_else(tmp_path: Path) -> None:
    def id_of(*said: Any, **more: Any) -> str:
        return read_table(jsonl(tmp_path / "a.jsonl", {"messages": chat(*said), **more})).rows[0].id

    def call(**arguments: Any) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"id": str(arguments), "name": "f", "arguments": arguments}]}

    def task(reference: Any) -> str:
        return read_table(jsonl(tmp_path / "a.jsonl", {"prompt": "a", "reference": reference})).rows[0].id

    ids = [
        id_of("a", "b"), id_of("a", {"role": "assistant", "content": "b", "reasoning": "c"}), id_of("a", call(x=1)),
        id_of("a", call(x=2)), id_of("a", "b", tools=[TOOL]), task(1), task(2),
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert id_of("a", "b") == id_of("a", "b", more=1) == id_of("a", {"role": "assistant", "content": "b", "name": "x"})
    one_id, other_id = ({"role": "assistant", "tool_calls": [{"id": n, "name": "f"}]} for n in "12")
    assert id_of("a", one_id) == id_of("a", other_id)  # a number that some server made up
    # sha256 of '[[["user", "a"], ["assistant", "b"]], ""]', as before there were reasoning and tools.
    assert id_of("a", "b") == "90ce0247ae423c48"


def test_numbers_that_are_not_finite_are_no_answers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["p"], "completion": [float("nan")]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:1: found nan, which holds a number that is not finite"):
        read_table(tmp_path / "a.parquet")
