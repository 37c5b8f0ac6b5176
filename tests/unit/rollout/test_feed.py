"""The feed with the fake model: what it learns, what it writes, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from temper.data.datum import Datum
from temper.data.mixture import MixSource, Mixture
from temper.errors import RecipeError
from temper.events import Event, Health, Noticed, RolloutStep, Step, Verdict
from temper.losses import Objective, Term
from temper.rollout import record
from temper.rollout.advantage import rloo
from temper.rollout.asking import Asking
from temper.rollout.course import Course
from temper.rollout.feed import Drill, RolloutFeed
from temper.rollout.learning import Lesson
from temper.rollout.reward import Reward, load_reward
from temper.techniques.base import Live, Plan
from temper.train import train
from tests.unit.rollout.conftest import Bench, tasks

STAGE = "01-rft"
DRILL = Drill(
    stage=STAGE, tasks=tasks(12), asking=Asking(max_new_tokens=4, reward=load_reward("exact")),
    lesson=Lesson(terms=("cispo",), estimator=rloo), group_size=4, prompts=3, updates=1, seed=0,
)  # fmt: skip
CISPO: Objective = (Term(loss="cispo"),)


def run(
    bench: Bench, drill: Drill, steps: int, *, past: Sequence[Event] = (), objective: Objective = CISPO,
    lr: float = 2e-4, at: int = 0,
) -> list[list[Datum]]:  # fmt: skip
    """Trains as a stage does and logs what it logs; the batches that were learnt from."""
    course = Course(stage=STAGE)
    bench.policy.learner.step = at

    def feed(start: int, live: Live) -> Any:
        return RolloutFeed(drill=drill, course=course, site=live).batches(start)

    plan = Plan(
        feed=feed, rows=lambda: iter(()), objective=objective, steps=steps, schedule=lambda _: lr, on_policy=True
    )
    batches: list[list[Datum]] = []
    live = bench.live(past)
    for taken in train(plan, live):
        batches.append(list(taken.datums))
        step = replace(taken.step, stage=STAGE)
        for event in (step, *course.watch(step)):
            live.log(event)
    return batches


def of(log: Sequence[Event], kind: type[Any]) -> list[Any]:
    return [e for e in log if isinstance(e, kind)]


@pytest.mark.slow
def test_the_reward_rises(bench: Bench):
    """A third of the replies is right at first; after thirty updates nearly all are."""
    run(bench, DRILL, 30, lr=1e-3)
    steps = of(bench.log, RolloutStep)
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    assert steps[0].reward < 0.6
    assert steps[-1].reward > 0.9
    assert of(bench.log, Step)[0].figures["clipped"] == 0.0


def test_every_batch_has_useful_groups_alone_and_as_many_as_wanted(bench: Bench):
    batches = run(bench, DRILL, 3, lr=0.0)
    for batch, event in zip(batches, of(bench.log, RolloutStep), strict=True):
        assert len({row.group for row in batch}) == sum(event.useful) >= 3
        assert len(event.groups) <= 9, "at most three tried for one that is wanted"
        assert len(batch) == 4 * sum(event.useful)
    written = record.read(bench.folder / "stage" / "rollouts.jsonl")
    assert {step: len(found) for step, found in written.items()} == {
        e.step: 4 * len(e.groups) for e in of(bench.log, RolloutStep)
    }


@pytest.mark.slow
def test_several_updates_share_one_batch_of_rollouts(bench: Bench):
    batches = run(bench, replace(DRILL, updates=3), 7)
    assert batches[0] == batches[1] == batches[2] != batches[3]
    assert [e.step for e in of(bench.log, RolloutStep)] == [1, 4, 7]
    # The weights have moved since: the ratio to the sampler is no longer 1.
    drifts = [e.figures["ratio_drift"] for e in of(bench.log, Step)]
    assert drifts[0] == pytest.approx(0.0, abs=1e-9) and drifts[1] > 0.0 and drifts[3] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 5))])
def test_a_killed_run_continues_as_if_nothing_had_happened(bench: Bench, killed: int):
    """Six updates, two per batch of rollouts; what is learnt and what is logged is the same to the last bit."""
    drill = replace(DRILL, updates=2, replay=general(), replay_share=0.25)
    whole = run(bench, drill, 6)
    expected = list(bench.log)
    again = bench.again()
    again.folder = bench.folder / "again"
    first = run(again, drill, killed)
    asked = of(again.log, RolloutStep)
    rest = run(again, drill, 6, past=list(again.log), at=killed)
    assert first + rest == whole
    plain = [replace(e, seconds=0.0) for e in of(again.log, RolloutStep)]
    assert plain == [replace(e, seconds=0.0) for e in of(expected, RolloutStep)]
    assert len(asked) == (killed + 1) // 2, "rollouts that are there are not asked again"


def general() -> Mixture:
    rows = tuple(
        Datum(tokens=(1, 2, *(3,) * n), weights={"kl": (0.0, *(1.0,) * n)}, source="general", row=f"g:{n}")
        for n in range(2, 9)
    )
    source = MixSource(name="general", role="general", category="knowledge", datums=rows, share=1.0)
    return Mixture(sources=(source,), seed=0)


def test_replay_has_its_exact_share_of_the_supervised_tokens(bench: Bench):
    drill = replace(DRILL, replay=general(), replay_share=0.4)
    batches = run(bench, drill, 8, objective=(Term(loss="cispo"), Term(loss="kl")))
    learnt = replayed = 0
    for batch in batches:
        learnt += sum(row.supervised for row in batch if row.source == "rollouts")
        replayed += sum(row.supervised for row in batch if row.source == "general")
        # 0.4 / 0.6 of the rollouts' tokens; a row that has begun is taken whole, and the longest has 8 tokens.
        assert 0 <= replayed - learnt * 0.4 / 0.6 < 8


def test_tasks_that_teach_nothing_end_with_a_remedy(bench: Bench, write_reward: Callable[[str], Reward]):
    asking = Asking(max_new_tokens=4, reward=write_reward("return 0.0"))
    with pytest.raises(RecipeError, match=r"stage 01-rft: found no group of 4 .* 27 at step 1 .*put an SFT stage"):
        run(bench, replace(DRILL, asking=asking), 2)
    assert len(of(bench.log, RolloutStep)) == 1, "what was asked for nothing is in the log"


def test_a_stage_without_a_task_is_refused(bench: Bench):
    """It looked for tasks to roll out for ever."""
    with pytest.raises(RecipeError, match=r"stage 01-rft: no task is left to train on, of 0; .* add tasks"):
        run(bench, replace(DRILL, tasks=()), 2)


def test_solved_tasks_end_the_stage_early(bench: Bench, write_reward: Callable[[str], Reward]):
    asking = Asking(max_new_tokens=4, reward=write_reward("return 1.0"))
    assert run(bench, replace(DRILL, asking=asking), 5) == []
    assert "solved" in of(bench.log, Noticed)[0].text


@pytest.mark.slow
def test_levels_that_are_hopeless_are_left_for_those_that_are_not(bench: Bench):
    """Tasks of level 2 want a word that is never said: after a few batches nearly all groups are of level 1."""
    hard = tuple(replace(t, id=f"h{n}", fields={"level": 2}) for n, t in enumerate(tasks(12, "never")))
    easy = tuple(replace(t, fields={"level": 1}) for t in tasks(12))
    run(bench, replace(DRILL, tasks=(*hard, *easy), level="level"), 8, lr=0.0)
    late = [g for e in of(bench.log, RolloutStep)[4:] for g in e.groups]
    assert sum(g.startswith("h") for g in late) < len(late) / 4


@pytest.mark.slow
def test_tasks_held_out_are_looked_at_and_never_learnt(bench: Bench):
    """Greedily, at the first and every second batch; a grader of its own looks at the same replies."""
    aside = tuple(replace(t, id=f"aside-{t.id}") for t in tasks(3))
    audit = load_reward({"length": {"free": 1, "limit": 4}})
    run(bench, replace(DRILL, heldout=aside, look_every=2, audit=audit), 5)
    steps = of(bench.log, RolloutStep)
    assert [sorted(s.heldout) for s in steps] == [
        ["aside-t0", "aside-t1", "aside-t2"] if s.step in (1, 3, 5) else [] for s in steps
    ]
    assert set(steps[0].audit) == set(steps[0].heldout)
    assert all(not group.startswith("aside") for s in steps for group in s.groups)


def test_a_reward_that_breaks_is_told_and_then_stops_the_stage(bench: Bench, write_reward: Callable[[str], Reward]):
    """A third of the replies cannot be graded: a warning at once, a stop when it lasts."""
    asking = Asking(max_new_tokens=4, reward=write_reward("return {' yes': 1.0, ' no': 0.0}[reply]"))
    run(bench, replace(DRILL, asking=asking), 6, lr=0.0)
    health = [(h.rule, h.level, h.step) for h in of(bench.log, Health)]
    assert ("reward-errors", "warn", 1) in health
    assert ("reward-errors", "stop", 5) in health
    assert len([h for h in health if h[:2] == ("reward-errors", "warn")]) == 1, "nothing is said twice"
    (verdict,) = of(bench.log, Verdict)
    assert (verdict.level, verdict.step) == ("stop", 5)
    assert "reward-errors" in verdict.reason
