"""What watches reinforcement sees what the run measures while it runs."""

from __future__ import annotations

import json

import pytest

from temper.events import Candidate, Health, Measurement, Verdict
from tests.fakes.world import ASKED, World, held, of
from tests.unit.techniques.test_rft import recipe

RISING = {"steps": 20, "checkpoints": 7, "lr": 9e-4, "guard": "warn", "prompts": 4}
PAID, PLAIN = "The fox jumps over the lazy dog.", "The fox jumps over the quick dog."
"""The base gives both about the same probability; the reward of `recipe` pays for the first."""


def exam(world: World, right: str, wrong: str) -> None:
    """Asks how much likelier one reply is than the other."""
    rows = [{"prompt": q, "completion": right, "options": [right, wrong]} for q in ASKED[1::2]]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (world.folder / "safe-exam.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_a_reward_that_rises_while_the_exam_falls_stops_the_stage(world: World):
    exam(world, PLAIN, PAID)
    log = held(world.run(recipe(world, **RISING), forced=True))
    looks = [m for m in of(log, Measurement) if m.role == "domain" and m.split == "selection"]
    assert looks[0].checkpoint == "base" and looks[0].value > looks[1].value
    (found,) = [h for h in of(log, Health) if h.rule == "hacking" and h.level == "stop"]
    assert "in training while the exam safe-exam fell by" in found.reason
    # A trend of the reward needs two windows of five updates; checkpoints lie after every third.
    assert 10 <= found.step < 20 and max(m.step for m in looks if m.stage and m.step < found.step) >= 6
    (stop,) = [v for v in of(log, Verdict) if v.level == "stop"]
    assert stop.step == found.step and stop.reason.startswith("hacking: ")
    # What was learnt up to the stop can be chosen, and is there before the word that ends the stage.
    screened = [c for c in of(log, Candidate) if c.step == found.step]
    assert screened and screened[0].at <= stop.at


@pytest.mark.slow
def test_a_reward_that_the_exam_follows_goes_on(world: World):
    exam(world, PAID, PLAIN)
    log = held(world.run(recipe(world, **RISING), forced=True))
    assert not [h for h in of(log, Health) if h.rule == "hacking"]
