"""When the guard stops, warns or stays calm; and which losses are beyond hope."""

from __future__ import annotations

import math

import pytest

from temper.decide.drop import general_drop
from temper.decide.guard import Mode, diverged, guard
from temper.events import Measurement, Verdict

AXES = ("language", "knowledge", "reasoning", "instruction")


def suite(*scores: tuple[float, ...]) -> list[Measurement]:
    """One pass-rate probe per axis."""
    return [
        Measurement(
            checkpoint="x", probe=f"p-{axis}", axis=axis, role="general", method="generate", metric="pass",
            split="quick", ids=tuple(str(i) for i in range(len(items))), items=items,
        )
        for axis, items in zip(AXES, scores, strict=False)
    ]  # fmt: skip


BASE = suite(*[(1.0,) * 20] * 4)


def look(now: list[Measurement], *, tolerance: float = 0.01, progress: float = 0.5, mode: Mode = "stop") -> Verdict:
    return guard(BASE, now, stage="01-sft", step=40, tolerance=tolerance, progress=progress, mode=mode)


def flat(*drops: float) -> list[Measurement]:
    """Every item of an axis falls alike, so the bounds are the drop itself."""
    return suite(*[(1.0 - d,) * 20 for d in drops])


def noisy(drop: float) -> list[Measurement]:
    """Half the items keep everything, half fall by twice the drop: SE = drop / sqrt(19) per axis, half that overall."""
    return suite(*[(1.0, 1.0 - 2 * drop) * 10] * 4)


def test_guard_stops_when_the_lower_bound_is_above_the_tolerance():
    verdict = look(flat(0.02, 0.02, 0.02, 0.02))
    assert verdict.level == "stop"
    assert (verdict.drop, verdict.lcb95) == pytest.approx((0.02, 0.02))
    assert verdict.reason.startswith("general abilities dropped by 2 %, by 2 % at least (tolerance 1 %); worst is ")


def test_guard_warns_when_the_drop_is_above_the_tolerance_without_proof():
    # overall SE = 0.012 / sqrt(19) / 2 = 0.00138, so the lower bound is 0.012 - 0.0023 = 0.0097
    verdict = look(noisy(0.012))
    assert verdict.level == "warn"
    assert verdict.lcb95 < 0.01 < verdict.drop
    assert "not certain enough to stop" in verdict.reason


def test_guard_is_calm_when_only_the_upper_bound_is_above_the_tolerance():
    """Few items always leave the upper bound high: a warning at every look would be no warning."""
    verdict = look(noisy(0.009))
    assert verdict.level == "ok"
    assert verdict.ucb95 > 0.01 > verdict.drop


def test_guard_stops_for_one_axis_far_below_although_the_whole_keeps_the_tolerance():
    # instruction falls by 3.5 %, more than 3 x 1 %; overall 3.5 / 4 = 0.875 %
    verdict = look(flat(0.0, 0.0, 0.0, 0.035))
    assert verdict.drop == pytest.approx(0.00875)
    assert verdict.level == "stop"
    assert verdict.reason == (
        "instruction dropped by 3.5 %, by 3.5 % at least, more than an ability alone may, 3 % (tolerance 1 %); "
        "general abilities as a whole dropped by 0.88 %"
    )


def test_the_reason_names_the_worst_axis_with_its_figures():
    assert "worst is reasoning, 2.9 % (2.9 % to 2.9 %)" in look(flat(0.01, 0.02, 0.029, 0.0)).reason


def test_early_in_a_stage_a_stop_takes_three_times_as_much():
    assert look(flat(0.02, 0.02, 0.02, 0.02), progress=0.1).level == "warn"
    assert look(flat(0.04, 0.04, 0.04, 0.04), progress=0.1).level == "stop"
    assert "too early to stop" in look(flat(0.02, 0.02, 0.02, 0.02), progress=0.1).reason


def test_a_gain_is_never_held_against_a_model():
    verdict = look(flat(-0.05, -0.05, -0.05, -0.05))
    assert verdict.level == "ok"
    assert verdict.reason.startswith("general abilities rose by 5 %")


def test_mode_warn_never_stops_and_mode_off_never_warns():
    now = flat(0.5, 0.5, 0.5, 0.5)
    assert look(now, mode="warn").level == "warn"
    assert look(now, mode="off").level == "ok"
    assert look(now, mode="off").drop == pytest.approx(0.5)


def test_a_model_that_answers_nan_is_stopped_and_named():
    verdict = look(suite(*[(math.nan,) * 20] * 4))
    assert verdict.level == "stop"
    assert "p-language: 20 of 20 items are not finite" in verdict.reason


def test_the_axis_rule_holds_all_axes_to_one_error_rate():
    """An axis whose own 95 % bound is just above the limit does not stop: one of four would do so by luck too often.

    Instruction: 20 falls evenly from -0.003 to 0.087, mean 0.042. Their spacing is 0.09 / 19, so sd = 0.09 / 19
    sqrt(399 / 12) = 0.0273 and SE = 0.0273 / sqrt(19) = 0.00627. Its 95 % bound is 0.042 - 1.645 SE = 0.0317 > 0.03,
    the joint one at 98.75 % is 0.042 - 2.24 SE = 0.0280 < 0.03.
    """
    kept, falls = (1.0,) * 20, [-0.003 + 0.09 * i / 19 for i in range(20)]
    now = suite(kept, kept, kept, tuple(1.0 - fall for fall in falls))
    assert general_drop(BASE, now).axes["instruction"].lcb95 > 0.03
    assert look(now).level == "warn"


def test_a_healthy_series_of_losses_has_not_diverged():
    assert diverged([3.0 - 0.05 * i + 0.2 * (-1) ** i for i in range(50)]) is None
    assert diverged([]) is None
    assert diverged([3.0]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_has_diverged(bad: float):
    assert diverged([3.0, bad]) == f"the training loss is {bad}; lower the learning rate"


def test_a_loss_far_above_its_past_and_its_start_has_diverged():
    # the last three average 9, two nats above 3 and far above a spread of zero
    assert diverged([3.0, 3.0, 3.0, 3.0, 9.0, 9.0, 9.0]) == (
        "the training loss rose to 9.00 nats per token over the last 3 steps (running mean 3.00, at the start 3.00); "
        "lower the learning rate"
    )


def test_one_hard_batch_is_no_divergence():
    # (3 + 3 + 7) / 3 = 4.33, above the past but less than two nats above the start
    assert diverged([3.0] * 10 + [7.0, 3.0, 3.0]) is None


def test_a_rise_back_to_the_start_is_no_divergence():
    # from 6 down to 1 and back to 7: six spreads above the mean perhaps, but not two nats above the start
    assert diverged([6.0, 6.0, 6.0] + [1.0] * 20 + [7.0, 7.0, 7.0]) is None


def test_an_explosion_within_the_first_steps_has_diverged():
    """The start was once the mean of the first three losses, which an explosion raises: such a run was not ended."""
    # running mean of 6.9, 87 and 188 is about 32; their middle is 87 with a spread of 80; 114 + 400 + 900 is far above
    assert diverged([6.9, 87.0, 188.0, 114.0, 400.0, 900.0]) is None  # 471 is below 32 + 6 x 80: not yet sure
    assert diverged([6.9, 6.8, 7.0, 87.0, 188.0, 114.0]) is not None


def test_losses_that_always_swing_widely_have_not_diverged():
    # past: 16 times 1, 13 times 5, 13 times 9: median 5, spread 4, so 6 spreads allow 24 above the running mean
    assert diverged([1.0, 1.0, 1.0] + [5.0, 1.0, 9.0] * 13 + [9.0, 9.0, 9.0]) is None
