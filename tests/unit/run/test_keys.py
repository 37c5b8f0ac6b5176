"""What makes two stages the same: the weights of every model that takes part, not their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temper.model.fake import FakeBackend
from temper.recipe.load import load
from temper.run.keys import run_key, stage_key
from temper.run.prepare import Prepared, prepare
from tests.fakes.world import World, stage
from tests.unit.techniques.test_cpt import write_manual


def _prepared(world: World, *stages: Mapping[str, Any]) -> Prepared:
    document = {
        "base": "base", "tolerance": "10%", "stages": list(stages),
        "probes": {"domain": ["safe-exam.jsonl"], "general": ["suite.toml"]},
    }  # fmt: skip
    (world.folder / "keys.yaml").write_text(json.dumps(document), encoding="utf-8")
    return prepare(load(world.folder / "keys.yaml"), world.backend, lambda *_: None)


def _keys(world: World, prepared: Prepared) -> list[str]:
    start = prepared.base.checkpoint
    return [stage_key(prepared, index, start, world.backend) for index in range(len(prepared.resolved.stages))]


def _other_weights(folder: Path) -> None:
    """Another table of bigrams over the same tokens."""
    FakeBackend().write(folder, [(5, 6, 7), (7, 6, 5)])


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
