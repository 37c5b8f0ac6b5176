from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from temper.data.rows import read_rows
from temper.errors import DataError
from temper.rollout.task import Task, tasks_of


def tasks(tmp_path: Path, *rows: Any) -> tuple[Task, ...]:
    path = tmp_path / "claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tasks_of(read_rows(path))


def test_a_task_reads_like_a_mapping_of_its_row(tmp_path: Path):
    (task,) = tasks(tmp_path, {"prompt": "What is owed?", "reference": 42, "unit": "EUR"})
    assert task["reference"] == 42, "as it stands in the file"
    assert task.reference == "42", "as text"
    assert (task["unit"], task["prompt"], task.prompt) == ("EUR", "What is owed?", "What is owed?")
    assert task["messages"] == [{"role": "user", "content": "What is owed?"}]
    assert dict(task) == {name: task[name] for name in task}
    assert {"id", "messages", "prompt", "reference", "unit"} == set(task) and len(task) == 5
    assert task.get("unit") == "EUR" and task.get("colour", "red") == "red"
    assert "unit" in task and "colour" not in task
    assert task.origin.endswith("claims.jsonl:1")


def test_a_field_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    (task,) = tasks(tmp_path, {"prompt": "q", "reference": "r"})
    with pytest.raises(KeyError, match=r"no 'amount'; it has id, messages, prompt, reference"):
        task["amount"]


def test_the_answer_of_a_conversation_is_the_reference_and_not_part_of_the_prompt(tmp_path: Path):
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "right"},
    ]
    (task,) = tasks(tmp_path, {"messages": turns})
    assert [m.role for m in task.messages] == ["system", "user"]
    assert (task.reference, task["reference"]) == ("right", "right")
    assert task["messages"] == turns[:2], "never the answer"


def test_a_need_is_filled_by_something_and_either_of_two_will_do(tmp_path: Path):
    (task,) = tasks(tmp_path, {"prompt": "q", "reference": 0, "checks": [], "tests": "assert f()"})
    assert task.has("reference"), "zero is a reference"
    assert not task.has("checks")
    assert task.has("checks|tests")
    assert not task.has("checks|pattern")


def test_a_row_that_stands_twice_is_one_task_and_tasks_travel(tmp_path: Path):
    row = {"prompt": "q", "reference": "r"}
    found = tasks(tmp_path, row, row, {"prompt": "q2", "reference": "r"})
    assert [task.prompt for task in found] == ["q", "q2"]
    assert pickle.loads(pickle.dumps(found)) == found


def test_plain_text_is_no_task_and_its_row_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"claims\.jsonl:1: found plain text; expected a task with a prompt"):
        tasks(tmp_path, {"text": "Once upon a time."})
