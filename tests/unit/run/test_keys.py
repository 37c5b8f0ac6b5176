"""What makes two stages the same: the weights of every model that takes part, not their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from temper.model.fake import FakeBackend
from temper.recipe.load import load
from temper.run.keys import run_key, stage_key
from temper.run.prepare import Prepared, prepare
from temper.techniques.rft import RFT, ResolvedRFT
from tests.fakes.world import World, stage
from tests.unit.techniques.test_cpt import write_manual


def _prepared(world: World, *stages: Mapping[str, Any], **top: Any) -> Prepared:
    document = {
        "base": "base", "tolerance": "10%", "stages": list(stages),
        "probes": {"domain": ["safe-exam.jsonl"], "general": ["suite.toml"]}, **top,
    }  # fmt: skip
    (world.folder / "keys.yaml").write_text(json.dumps(document), encoding="utf-8")
    return prepare(load(world.folder / "keys.yaml"), world.backend, lambda *_: None)


def _keys(world: World, prepared: Prepared) -> list[str]:
    start = prepared.base.checkpoint
    return [stage_key(prepared, index, start, world.backend) for index in range(len(prepared.resolved.stages))]


def _other_weights(folder: Path) -> None:
    """Another table of bigrams over the same tokens."""
    FakeBackend().write(folder, [(5, 6, 7), (7, 6, 5)])


@pytest.mark.slow
def test_other_weights_of_a_residuals_base_change_the_key_of_its_stage_alone(world: World) -> None:
    write_manual(world.folder / "manual")
    shutil.copytree(world.folder / "base", world.folder / "plain")
    cpt = {"technique": "cpt", "data": "manual", "replay": None, "residual": {"instruct": "base", "base": "plain"}}
    prepared = _prepared(world, cpt, stage())
    run, (first, second) = run_key(prepared, world.backend), _keys(world, prepared)
    assert _keys(world, _prepared(world, cpt, stage())) == [first, second]
    _other_weights(world.folder / "plain")
    again = _keys(world, prepared)
    assert again[0] != first and again[1] == second
    assert {k for k, v in run_key(prepared, world.backend).items() if v != run[k]} == {"other models"}


def test_other_weights_of_a_teacher_change_the_key_of_its_stage_alone(world: World) -> None:
    shutil.copytree(world.folder / "base", world.folder / "teacher")
    distill = {"technique": "distill", "data": "safe.jsonl", "steps": 2, "teacher": "teacher"}
    prepared = _prepared(world, stage(), distill)
    first, second = _keys(world, prepared)
    _other_weights(world.folder / "teacher")
    again = _keys(world, prepared)
    assert again[0] == first and again[1] != second


def test_a_run_of_one_model_has_no_others_in_its_key(world: World) -> None:
    """Folders of runs that name no further model stay valid."""
    assert "other models" not in run_key(_prepared(world, stage()), world.backend)


def test_a_shorter_answer_to_the_exam_is_another_run_and_another_stage(world: World) -> None:
    """`max_new_tokens` of an exam was in no key: the same folder said that it was finished already."""
    exam = {"file": "safe-exam.jsonl"}
    long = _prepared(world, stage(), probes={"domain": [exam], "general": ["suite.toml"]})
    short = _prepared(world, stage(), probes={"domain": [{**exam, "max_new_tokens": 1}], "general": ["suite.toml"]})
    assert _keys(world, long) != _keys(world, short)
    assert run_key(long, world.backend)["domain probes"] != run_key(short, world.backend)["domain probes"]


def test_a_stage_in_another_precision_is_another_stage(world: World) -> None:
    """A run in float32 took over what a run beside it had computed in bfloat16."""
    prepared = _prepared(world, stage())
    rounded = replace(prepared, tuning=replace(prepared.tuning, precision="bfloat16"))
    assert _keys(world, prepared) != _keys(world, rounded)


def test_a_column_that_a_reward_may_read_changes_the_key(world: World) -> None:
    """The id of a task is made of prompt and reference; a changed `unit` went unseen, and the stage was taken over."""
    rft = {"technique": "rft", "data": "tasks.jsonl", "reward": "exact", "adapter": "full", "steps": 2, "replay": None}
    write_tasks(world, "EUR")
    euro = _prepared(world, rft)
    write_tasks(world, "USD")
    dollar = _prepared(world, rft)
    assert _keys(world, euro) != _keys(world, dollar)
    assert _gate_key(euro) != _gate_key(dollar)


def _gate_key(prepared: Prepared) -> str:
    settled = cast("ResolvedRFT", prepared.resolved.stages[0])
    return cast("RFT", prepared.recipe.stages[0]).question(settled, prepared.inventories[0], seed=0).key("base")


def test_tasks_that_differ_in_a_column_alone_are_two_tasks(world: World) -> None:
    """The second one replaced the first without a word; a row that stands twice, but for its number, is one."""
    row = {"prompt": "What is owed?", "reference": "42", "unit": "EUR"}
    rows = [row, {**row, "unit": "USD"}, {**row, "id": 3}, {**row, "unit": "USD"}]
    (world.folder / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    rft = {"technique": "rft", "data": "tasks.jsonl", "reward": "exact", "adapter": "full", "steps": 2, "replay": None}
    tasks = _prepared(world, rft).inventories[0].tasks
    assert [task.fields["unit"] for task in tasks] == ["EUR", "USD"]
    assert len({task.id for task in tasks}) == 2


def write_tasks(world: World, unit: str) -> None:
    rows = [{"prompt": f"What is owed {n}?", "reference": str(n), "unit": unit} for n in range(24)]
    (world.folder / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
