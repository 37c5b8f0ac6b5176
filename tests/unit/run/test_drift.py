"""A recipe that names a drift probe, from the first line to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from temper.events import Candidate, Event, Measurement
from tests.fakes.world import PROSE, World, held, of, stage


def moved(log: list[Event], stage: str) -> list[Measurement]:
    """What the drift probe said of a stage's checkpoints while training; of the base where the stage is empty."""
    found = [m for m in of(log, Measurement) if m.probe == "moved" and m.stage == stage and m.split == "quick"]
    assert found, stage
    return found


@pytest.mark.slow
def test_a_recipe_with_a_drift_probe_measures_base_and_candidates_against_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    world = World.make(tmp_path)
    prompts = [{"id": f"{n}", "kind": "drift", "prompt": text} for n, text in enumerate(PROSE)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts), encoding="utf-8")
    probe = {"name": "moved", "kind": "drift", "source": "prompts.jsonl", "axis": "behaviour", "max_new_tokens": 8}
    asked = {"domain": ["greedy-exam.jsonl"], "general": ["suite.toml", probe]}
    # Two stages: the second starts from what the first made, and is compared with the base all the same.
    recipe = world.recipe(
        {"data": "greedy.jsonl", "choose": "last", "guard": "off"}, {"data": "greedy.jsonl", "guard": "off"},
        probes=asked, tolerance="50%",
    )  # fmt: skip
    log = held(world.run(recipe))
    base = moved(log, "")[0]
    assert base.axis == "behaviour" and base.metric == "bits per byte" and base.value > 0
    for name in ("01-sft", "02-sft"):
        steps = moved(log, name)
        assert all(m.ids == base.ids for m in steps)
        # Cross-entropy is never below the base's entropy, item by item.
        assert all(now > before - 1e-4 for m in steps for now, before in zip(m.items, base.items, strict=True))
        assert any(m.value > base.value for m in steps), name
    assert all("behaviour" in c.axes for c in of(log, Candidate) if c.checkpoint != "base")


@pytest.mark.slow
def test_a_stage_that_learns_nothing_has_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    world = World.make(tmp_path)
    prompts = [{"id": f"{n}", "kind": "drift", "prompt": text} for n, text in enumerate(PROSE)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts), encoding="utf-8")
    recipe = world.recipe(
        stage(lr=1e-12, steps=2), probes={"domain": ["safe-exam.jsonl"], "general": ["suite.toml", "prompts.jsonl"]}
    )
    log = held(world.run(recipe))
    (first, *others) = [m for m in of(log, Measurement) if m.probe.startswith("prompts") and m.split == "quick"]
    assert first.checkpoint == "base" and others
    for other in others:
        # KL 0: the rate moves logits by 5e-10 a step, and what is kept of the base is rounded to 1e-6.
        assert other.items == pytest.approx(first.items, abs=1e-4)
