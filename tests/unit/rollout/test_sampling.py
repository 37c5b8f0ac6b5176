"""Which prompts come next: beliefs by hand, choices by simulation with a fixed seed."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from temper import events
from temper.events import RolloutStep
from temper.rollout.sampling import Beliefs, Intake, begin, expected_useful, learn, posterior, select


def rolled(step: int, **groups: tuple[float, int]) -> RolloutStep:
    """Groups by task: mean reward and number of graded rollouts; means of 0 and 1 have no spread."""
    means = tuple(mean for mean, _ in groups.values())
    return RolloutStep(
        stage="01-rft", step=step, groups=tuple(groups), means=means, graded=tuple(n for _, n in groups.values()),
        useful=tuple(0 < m < 1 for m in means), reward=0.0, length=1.0, entropy=1.0,
    )  # fmt: skip


def beliefs_of(rates: dict[str, float], *, tries: int = 400) -> Beliefs:
    """So well known that the posterior is nearly a point."""
    return learn(begin(list(rates)), rolled(0, **{t: (p, tries) for t, p in rates.items()}))


def test_a_new_task_is_believed_to_pass_half_the_time() -> None:
    believed = posterior(begin(["a"]), step=0)
    assert (believed.passed[0], believed.failed[0]) == (1.0, 1.0)


def test_evidence_is_counted_in_rollouts() -> None:
    # Two of eight passed. All tasks: (1 + 2) / (2 + 8) = 0.3; its level: (2 x 0.3 + 2) / (2 + 8) = 0.26; the task:
    # 2 x 0.26 + 2 passed, 2 x 0.74 + 6 failed. The task never tried has the prior of the level alone.
    believed = posterior(learn(begin(["a", "b"]), rolled(0, a=(0.25, 8))), step=0)
    assert believed.passed == pytest.approx([2.52, 0.52])
    assert believed.failed == pytest.approx([7.48, 1.48])


def test_evidence_fades_to_half_in_a_half_life() -> None:
    later = learn(learn(begin(["a"]), rolled(0, a=(0.25, 8))), rolled(50, a=(0.5, 8)))
    # 1 of 2 passes and 3 of 6 failures are left; 4 and 4 are added.
    assert (later.evidence["a"].passed, later.evidence["a"].failed) == (5.0, 7.0)


def test_a_group_without_spread_teaches_nothing_whatever_its_mean() -> None:
    """A graded reward of 0.4 for every reply: p = 0.4 would be chosen again and again."""
    stuck = RolloutStep(
        step=0, groups=("a", "b"), means=(0.4, 0.6), graded=(8, 8), useful=(False, False), reward=0.5, length=1.0,
        entropy=1.0,
    )  # fmt: skip
    evidence = learn(begin(["a", "b"]), stuck).evidence
    assert (evidence["a"].passed, evidence["a"].failed) == (0.0, 8.0)
    assert (evidence["b"].passed, evidence["b"].failed) == (8.0, 0.0)


def test_groups_without_a_graded_rollout_and_foreign_tasks_are_no_evidence() -> None:
    assert learn(begin(["a"]), rolled(0, a=(0.0, 0), elsewhere=(0.5, 8))).evidence == {}


def test_the_chance_of_a_useful_group_is_the_expectation_over_the_posterior() -> None:
    # Uniform p, G = 2: 1 - E[p^2] - E[(1-p)^2] = 1 - 2/3. G = 8: 1 - 2/9.
    new = begin(["a", "b"])
    assert expected_useful(new, ["a"], step=0, group_size=2) == pytest.approx(1 / 3)
    assert expected_useful(new, ["a", "b"], step=0, group_size=8) == pytest.approx(7 / 9)
    assert expected_useful(new, [], step=0, group_size=8) == 0.0


def test_tasks_near_one_half_are_chosen() -> None:
    rates = {f"t{i:02}": i / 20 for i in range(21)}
    counts = dict.fromkeys(rates, 0)
    for seed in range(200):
        for task in select(beliefs_of(rates), 5, step=0, seed=seed):
            counts[task] += 1
    near = sum(counts[t] for t, p in rates.items() if 0.35 <= p <= 0.65)
    # The aimed nine tenths go to the nearest seven; one tenth is blind, of which a third or less hits them.
    assert 0.88 <= near / 1000 <= 0.97
    assert min(counts.values()) > 0  # nothing is forgotten


def test_an_unknown_task_is_preferred_to_one_known_to_be_hopeless() -> None:
    known = learn(begin(["dead", "half", "new"]), rolled(0, dead=(0.0, 40), half=(0.5, 40)))
    firsts = [select(known, 1, step=0, seed=seed)[0] for seed in range(300)]
    assert firsts.count("half") > firsts.count("new") > 2 * firsts.count("dead")


def test_a_hopeless_task_comes_back_when_its_evidence_has_faded() -> None:
    known = learn(begin(["dead", "half"]), rolled(0, dead=(0.0, 40), half=(0.5, 40)))
    now, later = posterior(known, step=0), posterior(known, step=800)
    assert now.mean[0] < 0.05
    assert later.mean[0] == pytest.approx(0.5, abs=0.01)


def test_what_is_learnt_of_a_few_tasks_of_a_level_counts_for_all_of_it() -> None:
    levels = {f"{level}{i}": level for level in ("easy", "hard") for i in range(50)}
    tried = {f"easy{i}": (0.5, 8) for i in range(5)} | {f"hard{i}": (0.0, 8) for i in range(5)}
    known = learn(begin(list(levels), levels=levels), rolled(0, **tried))
    chosen = [t for seed in range(50) for t in select(known, 10, step=0, seed=seed) if int(t[4:]) >= 5]
    assert sum(t.startswith("easy") for t in chosen) / len(chosen) > 0.75


def test_a_choice_has_no_task_twice_and_tasks_already_tried_come_last() -> None:
    new = begin([f"t{i}" for i in range(10)])
    first = select(new, 6, step=3, seed=1)
    second = select(new, 6, step=3, seed=1, tried=first)
    assert len(set(first)) == 6
    assert sorted(first + second) == sorted(new.levels)
    assert len(select(new, 6, step=3, seed=1, tried=first + second)) == 6
    assert len(select(new, 99, step=3, seed=1)) == 10


def test_the_same_history_and_seed_give_the_same_choice_also_from_the_log() -> None:
    history = [rolled(0, a=(0.25, 8), b=(1.0, 8)), rolled(1, c=(0.5, 8)), rolled(2, a=(0.5, 8))]
    start = begin(["a", "b", "c", "d", "e"])
    live = start
    for step in history:
        live = learn(live, step)
    logged = [events.decode(events.encode(step)) for step in history]
    rebuilt = functools.reduce(learn, logged, start)
    assert rebuilt == live
    picks = [select(live, 3, step=2, seed=s) for s in range(20)]
    assert picks == [select(rebuilt, 3, step=2, seed=s) for s in range(20)]
    assert len(set(picks)) > 1


def test_thompson_sampling_wastes_fewer_groups_than_drawing_blindly() -> None:
    """200 tasks with pass rates piled up at both ends: three groups of five are dead when drawn blindly.

    Of these tasks a quarter is useful nine times in ten; one prompt in ten is blind whatever is known.
    """
    rng = np.random.default_rng(0)
    rates = dict(zip((f"t{i}" for i in range(200)), rng.beta(0.25, 0.25, 200), strict=True))

    def useful(task: str) -> tuple[float, int]:
        return float(rng.binomial(8, rates[task]) / 8), 8

    known, aimed, blind = begin(list(rates)), [], []
    for step in range(40):
        groups = {t: useful(t) for t in select(known, 16, step=step, seed=7)}
        aimed += [0 < mean < 1 for mean, _ in groups.values()]
        known = learn(known, rolled(step, **groups))
        blind += [0 < useful(t)[0] < 1 for t in rng.choice(list(rates), 16)]
    assert np.mean(aimed[320:]) > 0.7 > 0.5 > np.mean(blind)


def test_dynamic_sampling_asks_for_what_is_missing_and_stops_at_its_bound() -> None:
    intake = Intake(wanted=8, bound=3.0)
    assert intake.more(1.0) == 8
    assert intake.more(0.5) == 16
    assert intake.more(0.0) == 24  # as if a third were useful: no more than the bound anyway
    some = intake.and_then([True] * 6 + [False] * 10)
    assert (some.useful, some.dead, some.more(0.5)) == (6, 10, 4)
    assert some.and_then([True, True]).more(0.5) == 0
    spent = some.and_then([False] * 7)
    assert spent.more(0.1) == 1  # 23 of 24 are tried
    assert spent.and_then([False]).more(0.1) == 0
