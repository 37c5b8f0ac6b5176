"""Rules that watch reinforcement: histories that must raise an alarm, and some that must not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from temper.decide.health import looks, review
from temper.events import Health, Measurement, RolloutStep, Step


def step(number: int, *, dead: float = 0.2, **figures: Any) -> RolloutStep:
    """Ten groups; a healthy update unless told otherwise."""
    useful = tuple(i >= round(10 * dead) for i in range(10))
    values: dict[str, Any] = {"reward": 0.5, "length": 100.0, "entropy": 1.0} | figures
    return RolloutStep(
        stage="01-rft", step=number, groups=tuple("abcdefghij"), means=(0.5,) * 10, graded=(8,) * 10, useful=useful,
        **values,
    )  # fmt: skip


def history(name: str, values: Sequence[float], **fixed: Any) -> list[RolloutStep]:
    return [step(i, **{name: value}, **fixed) for i, value in enumerate(values, start=1)]


def updates(name: str, values: Sequence[float]) -> list[Step]:
    """Updates whose losses say this under a name."""
    return [
        Step(
            stage="01-rft", step=i, lr=1e-4, tokens=1, supervised=1, loss=0.0, losses={}, grad_norm=1.0, seconds=0.0,
            figures={name: value},
        )
        for i, value in enumerate(values, start=1)
    ]  # fmt: skip


def look(at: int, score: float, *, reward: float | None = None, items: int = 200, probe: str = "exam") -> Measurement:
    """Items of 0 and 1, of which the first are right: looks differ in as few items as they can."""
    right = round(score * items)
    return Measurement(
        step=at, checkpoint=f"s{at}", probe=probe, axis="domain", role="domain", method="generate", metric="exact",
        split="selection", ids=tuple(map(str, range(items))), items=(1.0,) * right + (0.0,) * (items - right),
        parts={} if reward is None else {"reward": reward},
    )  # fmt: skip


def rules(found: tuple[Health, ...]) -> dict[str, str]:
    return {h.rule: h.level for h in found}


def test_a_healthy_run_is_left_alone() -> None:
    """Reward up and down with the batch, entropy falling gently, replies growing slowly, some dead groups."""
    steps = [
        step(
            i, reward=0.3 + 0.005 * i + (0.08 if i % 2 else -0.08), entropy=1.0 - 0.006 * i, length=100.0 + 2 * i,
            dead=0.3 if i % 3 else 0.5, capped=0.02, errors=0.005,
        )
        for i in range(1, 81)
    ]  # fmt: skip
    heldout = [look(at, 0.3 + 0.004 * at) for at in range(0, 81, 20)]
    clipped = updates("dapo/clipped", [0.05] * 80)
    for n in range(1, 81):
        assert review(steps[:n], [m for m in heldout if m.step <= n], updates=clipped[:n]) == ()


def test_reward_up_and_held_out_down_is_hacking() -> None:
    steps = history("reward", [0.3] * 5 + [0.4] * 20 + [0.7] * 5)
    heldout = [look(0, 0.4), look(10, 0.5), look(30, 0.35)]
    (found,) = review(steps, heldout)
    assert (found.rule, found.level, found.stage, found.step) == ("hacking", "stop", "01-rft", 30)
    # 30 of the same 200 items were lost since the best look: -0.15, standard error sqrt(0.15 x 0.85 / 199) = 0.025.
    assert found.value == pytest.approx(-0.15)
    assert "gained 40 % in training while the held-out metric fell by 15 %" in found.reason


def test_reward_up_and_held_out_flat_is_suspicious() -> None:
    steps = history("reward", [0.3] * 5 + [0.6] * 25)
    heldout = [look(0, 0.4), look(10, 0.41), look(30, 0.405)]
    assert rules(review(steps, heldout)) == {"hacking": "warn"}


def test_held_out_that_follows_is_not_hacking() -> None:
    steps = history("reward", [0.3] * 5 + [0.6] * 25)
    assert review(steps, [look(0, 0.4), look(10, 0.45), look(30, 0.6)]) == ()


def test_held_out_within_its_noise_is_not_hacking() -> None:
    """Of 40 items two were lost since the best of many looks: that happens."""
    steps = history("reward", [0.3] * 5 + [0.38] * 45)
    heldout = [
        look(at, score, items=40) for at, score in zip(range(0, 50, 10), (0.4, 0.45, 0.425, 0.45, 0.4), strict=True)
    ]
    assert review(steps, heldout) == ()


def test_exams_that_fall_while_the_reward_rises_are_hacking_whatever_the_held_out_tasks_say() -> None:
    """The tasks held out are of the kind that is trained; the exams of the checkpoints are not."""
    seen = {f"t{i}": 1.0 for i in range(50)}
    low = dict.fromkeys(seen, 0.5)
    steps = [step(i, reward=0.5, heldout=low if i == 1 else seen if i == 29 else {}) for i in range(1, 31)]
    exams = [look(0, 0.5), look(10, 0.5), look(30, 0.4)]
    (found,) = review(steps, exams=exams)
    assert (found.rule, found.level) == ("hacking", "stop")
    assert "gained 50 % on the tasks held out while the exam exam fell by 10 %" in found.reason
    # The same exams beside a reward that has not moved: a bad run, but no hacking.
    assert review(history("reward", [0.5] * 30), exams=exams) == ()


def test_the_weightier_of_two_views_is_told() -> None:
    steps = history("reward", [0.3] * 5 + [0.6] * 25)
    flat, falling = [look(0, 0.4), look(10, 0.41), look(30, 0.405)], [look(0, 0.5), look(10, 0.5), look(30, 0.3)]
    for heldout, exams in ((flat, falling), (falling, flat)):
        (found,) = review(steps, heldout, exams=exams)
        assert (found.level, "fell by 20 %" in found.reason) == ("stop", True)
    assert rules(review(steps, exams=flat)) == {"hacking": "warn"}


def test_a_sure_fall_of_next_to_nothing_stops_nothing() -> None:
    """Probabilities of one option differ little between items: their fall is sure however small it is."""
    steps = history("reward", [0.3] * 5 + [0.38] * 25)
    soft = [replace(look(at, 1.0), items=(value,) * 200) for at, value in ((0, 0.3), (10, 0.3), (30, 0.295))]
    assert review(steps, exams=soft) == ()


def test_two_looks_are_not_enough_for_a_verdict() -> None:
    assert review(history("reward", [0.3] * 5 + [0.7] * 5), [look(0, 0.5), look(10, 0.3)]) == ()


def test_the_reward_on_the_held_out_items_decides_where_it_is_measured() -> None:
    """A sampler that looks for tasks near one half holds the training reward there: it shows nothing of the hacking."""
    steps = history("reward", [0.5] * 30)
    falling = [look(0, 0.5, reward=0.3), look(10, 0.5, reward=0.5), look(30, 0.4, reward=0.8)]
    (found,) = review(steps, falling)
    assert (found.rule, found.level) == ("hacking", "stop")
    assert "gained 50 % on the same held-out items" in found.reason
    # Both fall together: a bad run, but no hacking.
    assert review(steps, [look(0, 0.5, reward=0.5), look(10, 0.5, reward=0.5), look(30, 0.4, reward=0.4)]) == ()


def test_a_loss_is_no_score() -> None:
    bits = [
        Measurement(
            step=at, checkpoint="x", probe="text", axis="domain", role="domain", method="loss", metric="bits",
            split="selection", ids=("a", "b"), items=(value, value), sizes=(1.0, 1.0),
        )
        for at, value in ((0, 9.0), (5, 5.0), (10, 1.0))
    ]  # fmt: skip
    assert review(history("reward", [0.3] * 5 + [0.9] * 5), bits) == ()


def test_entropy_below_a_third_of_the_start_is_a_collapse() -> None:
    assert rules(review(history("entropy", [1.0] * 5 + [0.4] * 5))) == {}
    assert rules(review(history("entropy", [1.0] * 5 + [0.25] * 5))) == {"entropy": "warn"}
    assert rules(review(history("entropy", [1.0] * 5 + [0.25] * 5, dead=0.9)))["entropy"] == "stop"


def test_a_model_that_is_sure_because_it_is_right_has_not_collapsed() -> None:
    found = review(history("entropy", [1.0] * 5 + [0.05] * 5, reward=0.97))
    assert found == ()


def test_dead_groups_warn_and_stop_when_they_stay_dead() -> None:
    assert rules(review(history("dead", [0.7] * 30))) == {}
    assert rules(review(history("dead", [0.8] * 4))) == {}
    assert rules(review(history("dead", [0.2] * 10 + [0.8] * 5))) == {"dead-groups": "warn"}
    assert rules(review(history("dead", [0.8] * 15))) == {"dead-groups": "warn"}  # others take their place in the step
    assert rules(review(history("dead", [0.9] * 15))) == {"dead-groups": "stop"}
    assert rules(review(history("dead", [0.9] * 10 + [0.8] * 5))) == {"dead-groups": "warn"}
    limits = [found.limit for dead in (0.8, 0.9) for found in review(history("dead", [dead] * 15))]
    assert limits == [0.7, 0.85]  # the one that was broken


def test_dead_groups_of_solved_tasks_end_the_stage() -> None:
    (found,) = review(history("dead", [0.2] * 10 + [0.9] * 5, reward=0.98))
    assert found.level == "stop"
    assert "solved" in found.reason


def test_a_jump_in_length_is_a_spike_and_slow_growth_is_none() -> None:
    assert rules(review(history("length", [100.0] * 20 + [190.0] * 5))) == {}
    assert rules(review(history("length", [100.0] * 20 + [250.0] * 5))) == {"length": "warn"}
    # One long batch is not a spike: the median of five is.
    assert rules(review(history("length", [100.0] * 20 + [100.0, 900.0, 100.0, 900.0, 100.0]))) == {}
    assert rules(review(history("length", [100.0 * 1.03**i for i in range(60)]))) == {}


def test_noisy_lengths_need_a_larger_jump() -> None:
    # Lengths of 40, 100 and 160 in turn: median 100, deviation 1.4826 x 60; six of them are 534 more.
    usual = [40.0, 100.0, 160.0] * 7
    assert rules(review(history("length", usual + [300.0] * 5))) == {}
    assert rules(review(history("length", usual + [700.0] * 5))) == {"length": "warn"}


def test_long_replies_at_the_limit_are_loops() -> None:
    steps = [step(i, length=100.0) for i in range(20)] + [step(i, length=400.0, capped=0.5) for i in range(20, 25)]
    assert rules(review(steps)) == {"length": "stop", "truncation": "stop"}


def test_truncation_counts_when_it_rises() -> None:
    assert rules(review(history("capped", [0.12] * 30))) == {}
    assert rules(review(history("capped", [0.02] * 5 + [0.08] * 5))) == {}
    assert rules(review(history("capped", [0.02] * 5 + [0.15] * 5))) == {"truncation": "warn"}
    assert rules(review(history("capped", [0.02] * 5 + [0.35] * 5))) == {"truncation": "stop"}


def test_clipping_of_a_fifth_of_the_tokens_warns() -> None:
    assert rules(review([step(1)], updates=updates("clipped", [0.5] * 4))) == {}
    assert rules(review([step(1)], updates=updates("clipped", [0.2] * 5))) == {}
    assert rules(review([step(1)], updates=updates("clipped", [0.25] * 5))) == {"clipping": "warn"}


def test_sampler_and_learner_that_drift_apart_are_told() -> None:
    assert rules(review([step(1)], updates=updates("ratio_drift", [0.05] * 9))) == {}
    assert rules(review([step(1)], updates=updates("ratio_drift", [0.01] * 5 + [0.2] * 5))) == {"ratio-drift": "warn"}
    assert rules(review([step(1)], updates=updates("ratio_drift", [0.6] * 5))) == {"ratio-drift": "stop"}


def test_failing_rewards_warn_at_once_and_stop_when_they_go_on() -> None:
    assert rules(review(history("errors", [0.01]))) == {}
    assert rules(review(history("errors", [0.5]))) == {"reward-errors": "warn"}
    assert rules(review(history("errors", [0.2] * 5))) == {"reward-errors": "stop"}


def test_a_reward_that_was_there_and_is_gone_is_a_collapse() -> None:
    assert rules(review(history("reward", [0.3] * 5 + [0.6] * 30 + [0.1] * 5))) == {"reward-collapse": "stop"}
    assert rules(review(history("reward", [0.3] * 5 + [0.6] * 30 + [0.4] * 5))) == {}
    # One hopeless batch among good ones is none, and nothing was ever there to collapse.
    assert rules(review(history("reward", [0.6] * 30 + [0.6, 0.0, 0.6, 0.6, 0.6]))) == {}
    assert rules(review(history("reward", [0.05] * 10 + [0.0] * 10))) == {}


@pytest.mark.parametrize("name", ["reward", "length", "entropy"])
def test_a_figure_that_is_no_number_stops_at_once(name: str) -> None:
    found = review([step(1, **{name: math.nan})])
    assert rules(found)["not-finite"] == "stop"
    assert f"{name} is nan" in found[0].reason


def test_a_figure_of_the_loss_that_is_no_number_stops_at_once() -> None:
    found = review([step(1)], updates=updates("ratio_drift", [math.nan]))
    assert rules(found) == {"not-finite": "stop"}


def test_own_looks_at_held_out_tasks_are_measurements() -> None:
    """The grader that nobody optimises is the metric, the reward of the same replies stands beside it."""
    seen = step(10, heldout={"a": 1.0, "b": 0.5}, audit={"a": 0.0, "b": 1.0})
    (found,) = looks([step(9), seen])
    assert (found.step, found.ids, found.items, found.parts) == (10, ("a", "b"), (0.0, 1.0), {"reward": 0.75})
    (alone,) = looks([replace(seen, audit={})])
    assert (alone.items, alone.parts) == ((1.0, 0.5), {})


def test_training_reward_up_and_held_out_reward_flat_is_hacking() -> None:
    """Without a second grader the held-out reward is compared with that of training."""
    held = {f"t{i}": float(i < 120) for i in range(300)}
    steps = [step(i, reward=0.3 + 0.02 * i, heldout=held if i % 10 == 1 else {}) for i in range(1, 32)]
    assert rules(review(steps, looks(steps))) == {"hacking": "warn"}


def test_looks_at_other_items_are_not_compared() -> None:
    steps = history("reward", [0.3] * 5 + [0.4] * 20 + [0.7] * 5)
    quick = replace(look(20, 0.1, items=20), split="quick")
    assert review(steps, [look(0, 0.4), quick, look(30, 0.6)]) == ()
