"""Eligibility, the order of confirmation, the interpolation line, the choice and the Pareto set."""

from __future__ import annotations

import pytest

from temper.decide.drop import AxisDrop, Drop
from temper.decide.frontier import Point, choose, eligible, line_alphas, next_to_confirm, pareto
from temper.events import Split


def dropped(value: float, half: float = 0.002, **axes: float) -> Drop:
    """A drop with bounds at `half` on either side, and axes whose lower bounds are given."""
    lows = axes or {"language": value - half}
    parts = {a: AxisDrop(drop=low + half, lcb95=low, ucb95=low + 2 * half, probes=(a,)) for a, low in lows.items()}
    return Drop(drop=value, lcb95=value - half, ucb95=value + half, axes=parts, probes={}, left_out=(), resolution=half)


def point(step: int, domain: float, drop: Drop | None, split: Split = "selection", alpha: float = 1.0) -> Point:
    return Point(
        checkpoint=f"01-sft/step-{step}", stage="01-sft", step=step, alpha=alpha, path=f"s{step}", domain=domain,
        drop=drop, split=split,
    )  # fmt: skip


def test_a_drop_whose_upper_bound_is_the_tolerance_is_eligible():
    assert eligible(dropped(0.0078125, half=0.0078125), 0.015625) == (
        True,
        "general drop 0.78 %, at most 1.6 % (tolerance 1.6 %)",
    )


def test_a_drop_whose_upper_bound_is_above_the_tolerance_is_not_and_says_what_the_items_resolve():
    kept, why = eligible(dropped(0.008, half=0.004), 0.01)
    assert not kept
    assert why == (
        "general drop 0.8 %, may be 1.2 % (tolerance 1 %); worst is language, 0.8 %; these items resolve 0.4 %, "
        "more items would tell"
    )


def test_an_axis_proven_three_times_the_tolerance_down_is_not_eligible_although_the_whole_is():
    kept, why = eligible(dropped(0.005, language=-0.01, safety=0.031), 0.01)
    assert not kept
    assert why == "safety dropped by 3.3 %, by 3.1 % at least (limit 3 %)"
    assert eligible(dropped(0.005, language=-0.01, safety=0.029), 0.01)[0]


def test_the_highest_domain_score_is_confirmed_first_and_ties_go_to_the_smaller_drop():
    points = [point(1, 0.5, dropped(0.0), "quick"), point(2, 0.7, dropped(0.009), "quick")]
    points.append(point(3, 0.7, dropped(0.004), "quick"))
    found = next_to_confirm(points, [], tolerance=0.01, base_domain=0.1)
    assert found is not None and found.step == 3


def test_a_point_that_has_surely_lost_too_much_is_passed_over():
    # screened lower bound 0.02 - 0.002 > 0.01; the next one, 0.011 - 0.002, may still be fine
    points = [point(1, 0.9, dropped(0.02), "quick"), point(2, 0.7, dropped(0.011), "quick")]
    found = next_to_confirm(points, [], tolerance=0.01, base_domain=0.1)
    assert found is not None and found.step == 2


def test_confirmation_walks_on_after_a_refusal_and_ends_with_the_first_success():
    points = [point(s, d, dropped(0.005), "quick") for s, d in ((1, 0.9), (2, 0.8), (3, 0.7))]
    refused, fine = point(1, 0.9, dropped(0.05)), point(2, 0.8, dropped(0.001))
    second = next_to_confirm(points, [refused], tolerance=0.01, base_domain=0.1)
    assert second is not None and second.step == 2
    assert next_to_confirm(points, [refused, fine], tolerance=0.01, base_domain=0.1) is None


def test_a_place_on_the_line_is_another_candidate_than_its_checkpoint():
    whole, part = point(1, 0.9, dropped(0.005), "quick"), point(1, 0.8, dropped(0.002), "quick", alpha=0.5)
    refused = point(1, 0.9, dropped(0.05))
    assert next_to_confirm([whole, part], [refused], tolerance=0.01, base_domain=0.1) is part


def test_nothing_is_confirmed_that_does_not_beat_the_base():
    assert next_to_confirm([point(1, 0.4, dropped(0.0), "quick")], [], tolerance=0.01, base_domain=0.4) is None
    assert next_to_confirm([], [], tolerance=0.01, base_domain=0.4) is None


def test_the_line_proposes_the_square_root_and_its_neighbours():
    # 0.01 / 0.04: alpha 0.5; 0.5^0.5 = 0.71, 0.5^1.5 = 0.35
    assert line_alphas(0.04, 0.01) == (0.71, 0.5, 0.35)


@pytest.mark.parametrize("drop", [-0.01, 0.0, 0.001, 0.01, 0.5, 100.0])
def test_proposals_lie_inside_the_line_and_fall(drop: float):
    alphas = line_alphas(drop, 0.01)
    assert 2 <= len(alphas) <= 3
    assert list(alphas) == sorted(alphas, reverse=True)
    assert all(0 < a < 1 and round(a, 2) == a for a in alphas)


def test_the_choice_is_the_best_domain_score_inside_the_tolerance():
    points = [point(1, 0.9, dropped(0.05)), point(2, 0.8, dropped(0.004)), point(3, 0.7, dropped(0.001))]
    result = choose(points, tolerance=0.01, base_domain=0.02)
    assert result.point is points[1]
    assert result.verdict == "improved"
    assert result.reason == (
        "step 2 of 01-sft is the best of 2 candidates that keep the tolerance and beats the base: "
        "domain 2 % -> 80 %, general drop 0.4 %, at most 0.6 % (tolerance 1 %)"
    )


def test_at_equal_domain_scores_the_smaller_drop_is_chosen():
    points = [point(1, 0.8, dropped(0.006)), point(2, 0.8, dropped(0.002), alpha=0.5)]
    result = choose(points, tolerance=0.01, base_domain=0.0)
    assert result.point is points[1]
    assert "step 2 of 01-sft at alpha 0.5 is the best of 2" in result.reason


def test_a_screened_point_is_never_chosen():
    result = choose([point(1, 0.9, dropped(0.0), "quick")], tolerance=0.01, base_domain=0.1)
    assert (result.point, result.verdict) == (None, "kept-base")


def test_the_base_is_kept_when_nothing_keeps_the_tolerance_and_the_reason_names_the_closest():
    result = choose([point(1, 0.9, dropped(0.05))], tolerance=0.01, base_domain=0.1)
    assert (result.point, result.verdict) == (None, "kept-base")
    assert result.reason == (
        "the base is kept: no candidate keeps the tolerance; step 1 of 01-sft reaches domain 90 %, but general drop "
        "5 %, may be 5.2 % (tolerance 1 %); worst is language, 5 %"
    )


def test_the_base_is_kept_when_nothing_beats_its_domain_score():
    result = choose([point(1, 0.4, dropped(-0.01))], tolerance=0.01, base_domain=0.4)
    assert result.point is None
    assert result.reason == "the base is kept: no candidate beats the base's domain score of 40 %; the best is 40 %"


def test_a_stopped_stage_says_so_unless_something_saved_before_can_be_chosen():
    lost, fine = point(2, 0.9, dropped(0.05)), point(1, 0.5, dropped(0.001))
    assert choose([lost], tolerance=0.01, base_domain=0.1, stopped=True).verdict == "stopped"
    assert choose([lost, fine], tolerance=0.01, base_domain=0.1, stopped=True).verdict == "improved"
    assert choose([], tolerance=0.01, base_domain=0.1, stopped=True).reason.endswith("the stage left no candidate")


def test_pareto_keeps_what_no_other_point_beats_on_both_sides():
    a, b = point(1, 0.5, dropped(0.001)), point(2, 0.8, dropped(0.01))
    dominated, unmeasured = point(3, 0.4, dropped(0.005)), point(4, 0.9, None)
    twin = point(5, 0.5, dropped(0.002))
    assert pareto([dominated, b, unmeasured, twin, a]) == [a, b]
