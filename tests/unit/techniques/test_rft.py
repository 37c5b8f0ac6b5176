"""RFT from the recipe to the end of a run: what it settles, what it refuses, and what a bad reward does to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from temper.errors import NotReady, RecipeError, TemperError
from temper.events import Event, GateReport, Health, Reused, RolloutStep, RunStarted, Step, Verdict
from temper.recipe.schema import Recipe
from temper.recipe.values import Context
from temper.rollout import gate
from temper.rollout.asking import Asker
from temper.run.prepare import prepare, train_spec
from temper.techniques.base import Live
from temper.techniques.entry import enter
from temper.techniques.rft import RFT, ResolvedRFT
from tests.fakes.world import ASKED, World, held, live, of

FIELDS: Mapping[str, Any] = {
    "technique": "rft", "data": "tasks.jsonl", "reward": "contains", "adapter": "full", "lr": 5e-4, "steps": 6,
    "group_size": 4, "prompts": 2, "max_new_tokens": 12, "replay": None, "checkpoints": 2, "clip": 100, "warmup": 0,
}  # fmt: skip
"""Replies of the world are sentences of which some hold the word."""


def recipe(world: World, *, rows: Sequence[Mapping[str, Any]] | None = None, **fields: Any) -> Recipe:
    """A recipe of one stage, with the file of its tasks."""
    found = rows if rows is not None else [{"prompt": q, "reference": "lazy"} for q in ASKED[::2]]
    (world.folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    context = Context(folder=world.folder, text="")
    stage = RFT.model_validate({**FIELDS, **fields}, context=context)
    plain = world.recipe()
    whole = {name: getattr(plain, name) for name in ("base", "probes", "tolerance")}
    return Recipe.model_validate({**whole, "stages": [stage]}, context=context)


def write(world: World, body: str, head: str = "") -> str:
    """A reward of the user's own."""
    (world.folder / "rewards.py").write_text(f"{head}\ndef mine(task, reply):\n    {body}\n", encoding="utf-8")
    return "rewards.py:mine"


def settled(world: World, **fields: Any) -> ResolvedRFT:
    prepared = prepare(recipe(world, **fields), world.backend, lambda *_: None)
    (stage,) = prepared.resolved.stages
    assert isinstance(stage, ResolvedRFT)
    return stage


def learnt(log: Sequence[Event]) -> list[tuple[int, float, float]]:
    return [(s.step, s.loss, s.grad_norm) for s in of(log, Step)]


def test_every_open_value_is_filled_and_explained(world: World):
    prepared = prepare(
        recipe(world, lr=None, steps=None, group_size=None, prompts=None, max_new_tokens=None), world.backend,
        lambda *_: None,
    )  # fmt: skip
    (stage,) = prepared.resolved.stages
    assert isinstance(stage, ResolvedRFT)
    assert (stage.steps, stage.group_size, stage.prompts, stage.updates) == (100, 8, 8, 1)
    assert (stage.loss, stage.max_new_tokens, stage.temperature, stage.kl_to_start) == ("cispo", 256, 1.0, 0.0)
    assert stage.held_out == 0, "none of 21 tasks"
    told = {s.path: s for s in prepared.resolved.settings}
    for name in ("loss", "group_size", "prompts", "max_new_tokens", "gate_tasks", "steps"):
        assert told[f"stages.0.{name}"].evidence


@pytest.mark.slow
def test_a_run_learns_from_its_own_replies_and_keeps_them(world: World):
    result = world.run(recipe(world, steps=12, lr=5e-4, guard="warn"), forced=True)
    steps = of(held(result), RolloutStep)
    assert [s.step for s in steps] == list(range(1, 13))
    assert sum(s.reward for s in steps[-4:]) > sum(s.reward for s in steps[:4])
    kept = (result.folder.stage("01-rft") / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in kept]
    assert sum(line["step"] > 0 for line in lines) == sum(4 * len(s.groups) for s in steps)
    assert any(line["step"] == 0 for line in lines), "the gate's"
    assert {line["outcome"] for line in lines} <= {"graded", "truncated", "unparsable"}


@pytest.mark.slow
def test_a_run_killed_at_any_event_continues_bit_equal(world: World):
    """Killed after a rollout, after an update, after a save: losses and rollouts are those of the run never killed."""
    asked = recipe(world, updates=2)
    whole = held(world.run(asked, "whole", forced=True))
    for number in (4, 7, 9):
        seen = [0]

        def stop(event: Event, seen: list[int] = seen, number: int = number) -> None:
            seen[0] += isinstance(event, Step | RolloutStep | Verdict)
            if seen[0] == number:
                raise KeyboardInterrupt

        out = f"killed-{number}"
        try:
            world.run(asked, out, listen=stop, forced=True)
        except KeyboardInterrupt:
            result = world.run(asked, out, forced=True)
            assert learnt(held(result)) == learnt(whole)
            found = [(s.step, s.groups, s.means) for s in of(held(result), RolloutStep)]
            assert found == [(s.step, s.groups, s.means) for s in of(whole, RolloutStep)]


def test_a_divergence_that_is_paid_for_is_a_term(world: World):
    prepared = prepare(recipe(world, kl_to_start=0.05), world.backend, lambda *_: None)
    assert [(t.loss, t.scale) for t in prepared.plan(0).objective] == [("cispo", 1.0), ("start_kl", 0.05)]


@pytest.mark.slow
def test_the_divergence_from_the_start_is_measured_where_it_is_paid_for(world: World):
    result = world.run(recipe(world, kl_to_start=0.1, lr=9e-4), forced=True)
    found = [s.figures["start_kl"] for s in of(held(result), Step)]
    assert found[0] == pytest.approx(0.0, abs=1e-9)
    assert found[-1] > 0.0


def test_every_loss_is_an_estimator_and_a_term(world: World):
    asked = recipe(world)
    prepared = prepare(asked, world.backend, lambda *_: None)
    technique, stage = asked.stages[0], prepared.resolved.stages[0]
    assert isinstance(technique, RFT) and isinstance(stage, ResolvedRFT)
    losses = ("rloo", "grpo", "dapo", "gspo", "cispo", "maxrl")
    for loss, term in zip(losses, ("pg", "grpo", "dapo", "gspo", "cispo", "pg"), strict=True):
        plan = technique.plan(replace(stage, loss=loss), prepared.inventories[0], seed=0)
        assert [(t.loss, dict(t.params)) for t in plan.objective] == [(term, {})]
    # Dr.GRPO divides by one constant: the longest reply.
    plan = technique.plan(replace(stage, loss="dr_grpo"), prepared.inventories[0], seed=0)
    assert [(t.loss, dict(t.params)) for t in plan.objective] == [("dr_grpo", {"length": 12.0})]


def test_prompts_are_shown_without_a_model(world: World):
    plan = prepare(recipe(world), world.backend, lambda *_: None).plan(0)
    rows = list(plan.rows())
    assert len(rows) == len(ASKED[::2]) and plan.on_policy
    assert all(row.supervised == 0 and "tasks.jsonl:" in row.row for row in rows)


def test_weights_and_lists_are_sums(world: World):
    mine = write(world, "return 0.5")
    stage = settled(world, reward={mine: 0.3, "contains": 0.7})
    where = f"{world.folder / 'rewards.py'}:mine"
    assert stage.reward == {"sum": [{"reward": where, "weight": 0.3}, {"reward": "contains", "weight": 0.7}]}
    assert len(stage.files) == 1
    before = stage.files
    write(world, "return 0.25")
    assert settled(world, reward=[mine, "contains"]).files != before, "another reward is another run"


def test_what_grades_has_to_be_said(world: World):
    with pytest.raises((ValidationError, TemperError), match="what grades a reply"):
        recipe(world, reward=None)
    with pytest.raises((ValidationError, TemperError), match="a reward or an environment"):
        recipe(world, environment="game.py:Game")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"audit": "exact"}, "audit: found exact; expected replies for it to grade: of 21 tasks none is held out"),
        ({"max_turns": 3}, "an environment whose episodes have turns"),
        ({"reward": None, "environment": "game.py:Game", "audit": "exact"}, "no episode of an environment is held out"),
        ({"reward": None, "environment": "game.py:Game", "held_out": 5}, "no episode of an environment is held out"),
        ({"level": "digits"}, "21 of 21 tasks, the first .*tasks.jsonl:1, have no field 'digits'"),
        ({"reward": "regex", "held_out": 0}, "found no pattern; expected one in every task, reward regex grades by it"),
    ],
)
def test_what_nothing_would_read_is_refused(world: World, fields: Mapping[str, Any], told: str):
    """Each of them was taken and then ignored; a pattern was missed when the gate had tried every task."""
    (world.folder / "game.py").write_text("class Game:\n    reset = step = print\n", encoding="utf-8")
    with pytest.raises((ValidationError, TemperError), match=told):
        prepared = prepare(recipe(world, **fields), world.backend, lambda *_: None)
        technique, stage = prepared.recipe.stages[0], prepared.resolved.stages[0]
        assert isinstance(technique, RFT) and isinstance(stage, ResolvedRFT)
        technique.question(stage, prepared.inventories[0], seed=0)


@pytest.mark.slow
def test_the_gate_asks_what_the_stage_will_ask(world: World):
    asked = recipe(world)
    prepared = prepare(asked, world.backend, lambda *_: None)
    (stage,) = prepared.resolved.stages
    technique = asked.stages[0]
    assert isinstance(technique, RFT) and isinstance(stage, ResolvedRFT)
    question = technique.question(stage, prepared.inventories[0], seed=asked.seed)
    policy = world.backend.open(prepared.base.checkpoint, train_spec(stage, 0))
    asker = Asker(policy=policy, renderer=prepared.renderer, asking=question.asking, grader=None)
    found = gate.examine(question, asker, model=prepared.base.sha256, cache=world.folder / "cache")
    assert (found.report.stage, found.report.tasks, found.report.tries) == ("01-rft", 21, 4)


def enter_(world: World, *, forced: bool = False, **fields: Any) -> tuple[GateReport, list[Event], Live]:
    """Goes through the gate as a run does before the first step."""
    asked = recipe(world, **fields)
    prepared = prepare(asked, world.backend, lambda *_: None)
    technique, stage = asked.stages[0], prepared.resolved.stages[0]
    assert isinstance(technique, RFT) and isinstance(stage, ResolvedRFT)
    log: list[Event] = []
    policy = world.backend.open(prepared.base.checkpoint, train_spec(stage, 0))
    site = replace(live(policy.learner, world.folder / "stage"), policy=policy, renderer=prepared.renderer)
    site = replace(site, log=lambda event: log.append(event) or event, cache=world.folder / "cache")
    try:
        ask = partial(technique.question, stage, prepared.inventories[0], seed=0)
        report = enter(ask, site, model="m", forced=forced)
    except NotReady:
        assert [type(e) for e in log] == [GateReport], "the refusal is in the log"
        raise
    return report, log, site


@pytest.mark.slow
def test_a_stage_that_was_let_in_is_not_asked_again(world: World):
    report, log, site = enter_(world, max_new_tokens=40)
    assert log == [report] and report.verdict == "GO"
    assert (site.folder / "gate.json").is_file() and (site.folder / "rollouts.jsonl").is_file()
    again, log, _ = enter_(world, max_new_tokens=40)
    assert again.reasons == report.reasons and log == []


@pytest.mark.slow
def test_a_stage_that_is_refused_can_be_forced_and_says_so(world: World):
    hopeless = [{"prompt": q, "reference": f"never{n}"} for n, q in enumerate(ASKED[::2])]
    with pytest.raises(NotReady, match=r"SFT FIRST.*--force"):
        enter_(world, rows=hopeless)
    report, log, _ = enter_(world, rows=hopeless, forced=True)
    assert report.forced and log == [report]


@pytest.mark.slow
def test_a_stage_that_was_forced_is_not_taken_over_by_a_run_that_is_not(world: World):
    """The second run had the same key and passed by the gate that refuses it."""
    asked = recipe(world, steps=2)
    world.run(asked, "one", forced=True, reused=True)
    with pytest.raises(NotReady, match="--force"):
        world.run(asked, "two", reused=True)
    again = held(world.run(asked, "three", forced=True, reused=True))
    assert [e.run for e in of(again, Reused)] == ["one"]


HANGS = "import time; time.sleep(60)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('my own fault')", r"could not be graded.*\n.*tasks.jsonl:\d+: RuntimeError: my own fault"),
        ("return None", r"returned None; expected a number"),
        pytest.param("return float('nan')", r"returned nan; expected a finite number", marks=pytest.mark.slow),
        pytest.param("return 'good'", r"returned 'good', a str; expected a number", marks=pytest.mark.slow),
        pytest.param(HANGS, r"replies took more than 0.2 s, the first on .*tasks.jsonl:\d+", marks=pytest.mark.slow),
    ],
)
def test_a_reward_that_fails_is_named_with_its_task(world: World, body: str, message: str):
    asked = recipe(world, reward=write(world, body), reward_seconds=0.2)
    with pytest.raises(TemperError, match=message) as caught:
        world.run(asked, forced=True)
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_a_constant_reward_ends_with_a_remedy(world: World):
    with pytest.raises(RecipeError, match=r"found no group .* reward that pays in parts"):
        world.run(recipe(world, reward=write(world, "return 0.5")), forced=True)


@pytest.mark.slow
def test_one_broken_reply_in_a_few_costs_itself_alone(world: World):
    """Replies with one word are not graded; the others are learnt from, and the log says how many failed."""
    body = "return 1.0 / ('brown' not in reply) * ('lazy' in reply)"
    log = held(world.run(recipe(world, reward=write(world, body)), forced=True))
    assert any(0 < s.errors < 0.5 for s in of(log, RolloutStep))
    assert "reward-errors" in {h.rule for h in of(log, Health)}
    assert len(of(log, Step)) >= 5


@pytest.mark.slow
def test_a_reward_that_prints_prints_nothing(world: World, capfd: pytest.CaptureFixture[str]):
    world.run(recipe(world, reward=write(world, "print('SHOUT'); return float('lazy' in reply)"), steps=2), forced=True)
    said = capfd.readouterr()
    assert "SHOUT" not in said.out + said.err


def test_a_reward_that_imports_what_is_not_there_is_refused_before_anything_is_sampled(world: World):
    asked = recipe(world, reward=write(world, "return 0.0", head="import no_such_module"))
    with pytest.raises(TemperError, match=r"stages.0.reward: .*rewards.py:mine .*'no_such_module'"):
        world.run(asked, forced=True)
    assert not (world.folder / "run" / "events.jsonl").exists()


def test_tasks_without_what_the_reward_needs_are_named(world: World):
    rows = [{"prompt": name, "reference": "a", "tests": tests} for name, tests in (("q", "f()"), ("r", ""), ("s", ""))]
    with pytest.raises(TemperError, match=r"tasks.jsonl:2, .*tasks.jsonl:3: found no tests; expected one"):
        world.run(recipe(world, rows=rows, reward="code"), forced=True)


def test_an_endpoint_that_is_down_is_named(world: World):
    down = {"endpoint": {"url": "http://127.0.0.1:9", "retries": 0, "timeout": 1.0}}
    with pytest.raises(TemperError, match=r"http://127.0.0.1:9 gave no answer in 1 tries"):
        world.run(recipe(world, reward=down), forced=True)


GAME = """
from temper.data.row import Message
from temper.rollout.environment import Turn

class Game:
    def reset(self, task):
        return list(task.messages)

    def step(self, reply):
        return {step}
"""


@pytest.mark.slow
def test_an_environment_is_played_and_learnt_from(world: World):
    """Two turns; the second one ends it. Every turn of the model is a row with the advantage of the episode."""
    step = "self._end(reply)"
    text = GAME.format(step=step) + (
        "    def _end(self, reply):\n"
        "        self.turns = getattr(self, 'turns', 0) + 1\n"
        "        if self.turns == 2:\n"
        "            return Turn(reward=float('lazy' in reply), done=True)\n"
        "        return Turn(messages=(Message(role='user', content=f'again {self.turns}'),))\n"
    )
    (world.folder / "game.py").write_text(text, encoding="utf-8")
    asked = recipe(world, reward=None, environment="game.py:Game", steps=2)
    result = world.run(asked, forced=True)
    first = of(held(result), RolloutStep)[0]
    rows = (result.folder.stage("01-rft") / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(json.loads(rows[0])["rows"]) == 2 * 4 * sum(first.useful)


@pytest.mark.slow
def test_an_environment_that_never_ends_is_cut_after_its_turns(world: World):
    step = "Turn(reward=float('lazy' in reply), messages=(Message(role='user', content='again'),))"
    (world.folder / "game.py").write_text(GAME.format(step=step), encoding="utf-8")
    result = world.run(recipe(world, reward=None, environment="game.py:Game", steps=2, max_turns=3), forced=True)
    assert all(s.capped == 1.0 for s in of(held(result), RolloutStep))


@pytest.mark.slow
def test_the_settings_are_in_the_log(world: World):
    result = world.run(recipe(world, steps=2), forced=True)
    (started,) = of(held(result), RunStarted)
    told = {s.path: s.value for s in started.settings}
    assert told["stages.0.reward"] == "contains" and told["stages.0.loss"] == "cispo"
    assert Path(result.folder.root, "stages", "01-rft", "rollouts.jsonl").is_file()
