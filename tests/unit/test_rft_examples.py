"""The examples of reinforcement: their rows are sound, and their rewards give the references full marks."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from temper.data.row import Message
from temper.recipe.load import load
from temper.rollout.rewards.checks import ifeval
from temper.rollout.rewards.numbers import numeric
from temper.rollout.rewards.text import regex
from temper.rollout.task import Task

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def made(name: str) -> dict[str, Any]:
    """What the data script of an example defines."""
    return runpy.run_path(str(EXAMPLES / name / "make_data.py"))


def task(row: dict[str, Any]) -> Task:
    user = Message(role="user", content=row["prompt"])
    return Task(id=row["prompt"], messages=(user,), reference=row["reference"], fields=row)


def worth(found: Any) -> float:
    return getattr(found, "value", found)


def test_arithmetic_shares_no_problem_between_its_files():
    worked, tasks, exam = made("rft-arithmetic")["rows"]()

    def problem(row: dict[str, Any]) -> str:
        a, sign, b = re.findall(r"\d+|[+-]", row["prompt"])
        assert int(row.get("reference") or row["completion"]) == int(a) + int(b) * (1 if sign == "+" else -1)
        return f"{a} {sign} {b}"

    parts = [{problem(r) for r in part} for part in (worked, tasks, exam)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == len(worked) + len(tasks) + len(exam)
    assert {r["digits"] for r in tasks} == {r["digits"] for r in exam} == {1, 2, 3}
    assert len(tasks) >= 300 and len(exam) >= 150
    assert all(worth(numeric(task(r), f"It is {r['reference']}.")) == 1.0 for r in tasks)


def test_references_keep_every_instruction_and_nothing_cheap_does():
    worked, tasks, exam = made("rft-format")["rows"]()
    for row in (*tasks, *exam):
        assert worth(ifeval(task(row), row["reference"])) == 1.0, row
        assert worth(regex(task(row), row["reference"])) == 1.0, row
        assert worth(regex(task(row), "a")) == worth(regex(task(row), row["prompt"])) == 0.0
        assert worth(regex(task(row), "I have no answer to that question.")) == 0.0
    topics = [{word for word in made("rft-format")["SENTENCES"] if any(word in r["prompt"] for r in part)}
              for part in (worked, tasks, exam)]  # fmt: skip
    assert len(set.union(*topics)) == sum(map(len, topics)) == 36


@pytest.mark.parametrize("name", ["rft-arithmetic", "rft-format", "rft-smart-home"])
def test_the_recipes_of_the_examples_can_be_read(name: str, tmp_path: Path):
    text = (EXAMPLES / name / "temper.yaml").read_text(encoding="utf-8")
    folder = tmp_path / name
    folder.mkdir()
    for path in re.findall(r"[\w./-]+\.jsonl", text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text('{"prompt": "a", "reference": "b"}\n', encoding="utf-8")
    (folder / "temper.yaml").write_text(text, encoding="utf-8")
    found = load(folder / "temper.yaml")
    assert [s.technique for s in found.stages] == [s["technique"] for s in yaml.safe_load(text)["stages"]]
