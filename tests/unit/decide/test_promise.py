"""Which candidate is measured in full next, which line is tried, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from temper.decide.drop import AxisDrop, Drop
from temper.decide.frontier import Aim, Point, choose, domain_draws, judge
from temper.decide.joint import Tried, joint_shares, upper_bound
from temper.decide.promise import line_alphas, next_line, next_to_confirm, outlooks
from temper.events import Measurement
from temper.stats import z_value
from tests.unit.decide.drops import moved, screened

AIM = Aim(tolerance=0.01, base_domain=0.0)


def full(point: Point, drop: Drop) -> Point:
    """The same point, confirmed."""
    return replace(point, split="selection", drop=drop)


def test_the_run_that_kept_its_base_although_a_good_candidate_existed():
    """On the demo four checkpoints were confirmed by falling domain score, with lines to the last one between.

    The last one broke the tolerance, and so did three points of its line; step 112, good by itself (0.1 %, at most
    0.76 %), was refused as the third of six looks. Correlations as measured there (0.9 between neighbours of the line).
    """
    points = [
        screened(38, 0.25, moved(0.0054, 0.018, alike=0.6, order=1)),
        screened(75, 0.543, moved(0.0083, 0.0155, alike=0.85, order=2)),
        screened(112, 0.655, moved(0.0059, 0.0117, alike=0.94, order=3)),
        screened(150, 0.707, moved(0.0124, 0.0105, alike=0.96, order=4)),
    ]
    truth = {
        75: moved(-0.0015, 0.0048, alike=0.85, order=12), 112: moved(0.0010, 0.0040, alike=0.94, order=13),
        150: moved(0.0072, 0.0035, alike=0.96, order=14),
    }  # fmt: skip
    confirmed: list[Point] = []
    while (point := next_to_confirm([*points, *confirmed], AIM)) is not None:
        confirmed.append(full(point, truth[point.step]))
    # Two looks instead of six; the middle of the last one's line, 0.84 x 70.7 %, promises less than 65.5 %.
    assert [p.step for p in confirmed] == [112, 150]
    assert next_line([*points, *confirmed], AIM, drawn=()) is None
    result = choose([*points, *confirmed], AIM)
    assert result.point is confirmed[0]
    assert "domain 0 % -> 65.5 %, general drop 0.1 %, at most 0.75 % (tolerance 1 %)" in result.reason
    # Whatever is confirmed beside it takes nothing from it: no order of looks makes a good candidate a bad one.
    everything = [*points, *(full(p, truth[p.step]) for p in points[1:])]
    line = [full(screened(150, 0.69, moved(0.0064, 0.0033, alike=0.96, order=14), alpha=0.92, wave=1), truth[150])]
    assert choose([*everything, *line], AIM).point == full(points[2], truth[112])


def test_the_largest_expected_gain_is_confirmed_first():
    # A bound of 0.6 % + 1.9 x 0.33 % is above 1 %, one of 0.1 % + 1.9 x 0.33 % is not: chances of about 0.4 and 0.7.
    risky, safe = screened(2, 0.5, moved(0.006, 0.01, order=1)), screened(1, 0.45, moved(0.001, 0.01, order=2))
    assert next_to_confirm([risky, safe], AIM) is safe
    assert next_to_confirm([replace(risky, domain=0.99), safe], AIM).step == 2  # pyright: ignore[reportOptionalMemberAccess]


def test_hopeless_points_are_not_confirmed_at_all():
    # The screened lower bound, 2.2 % - 1.645 x 0.8 % = 0.9 %, does not rule it out; the expected bound is 2.6 SE off.
    assert next_to_confirm([screened(1, 0.9, moved(0.022, 0.008))], AIM) is None
    assert next_to_confirm([screened(1, 0.9, moved(0.012, 0.008))], AIM) is not None


def test_nothing_is_confirmed_that_does_not_beat_the_base_or_what_is_kept_by_enough():
    base = replace(AIM, base_domain=0.4)
    assert next_to_confirm([screened(1, 0.4, moved(0.0, 0.001))], base) is None
    assert next_to_confirm([], base) is None
    first, second = screened(1, 0.8, moved(0.0, 0.001)), screened(2, 0.801, moved(0.0, 0.001))
    found = full(first, moved(0.0, 0.001))
    assert next_to_confirm([first, second, found], base) is None  # 0.1 points more, where 40 are gained
    assert next_to_confirm([first, replace(second, domain=0.82), found], base) is not None


@pytest.mark.parametrize(("alike", "expected"), [(0.99, 0.0022), (0.0, 0.0122)])
def test_what_a_full_look_corrects_is_corrected_in_what_errs_alike(alike: float, expected: float):
    # The first was screened 1 % too high: its like is expected 0.98 x 1 % (less the noise of the look) lower as well.
    first, second = (screened(s, 0.5, moved(0.0122, 0.01, alike=alike, order=s)) for s in (1, 2))
    points = [first, second, full(first, moved(0.0022, 0.001, alike=alike, order=3))]
    found = outlooks(points, judge(points, AIM), AIM)[second.key]
    assert found.drop == pytest.approx(expected, abs=5e-4)
    # Strangers are known no better than before: 1 %. The like: sqrt(1 - 0.98^2) = 0.2 of that.
    assert found.spread == pytest.approx(0.01 if alike == 0.0 else 0.0022, rel=0.15)


def test_a_checkpoint_that_breaks_the_tolerance_has_a_line_where_that_promises_more_than_what_is_kept():
    # Four times the tolerance: alpha 0.5 in the middle keeps half of the gain, 0.45.
    broken = screened(3, 0.9, moved(0.04, 0.0001))
    low, high = (full(screened(1, d, moved(0.0, 0.0001)), moved(0.0, 0.0001)) for d in (0.4, 0.5))
    found = next_line([broken], AIM, drawn=())
    assert found is not None and found.point is broken
    assert found.alphas == pytest.approx((0.71, 0.5, 0.35), abs=0.011)
    assert next_line([broken, low], AIM, drawn=()) is not None
    assert next_line([broken, high], AIM, drawn=()) is None
    assert next_line([broken], AIM, drawn=(broken.checkpoint,)) is None


def test_a_line_is_drawn_of_what_promises_most_and_never_of_a_line():
    worst, mild = screened(3, 0.9, moved(0.64, 0.0001)), screened(2, 0.8, moved(0.04, 0.0001))
    on_line = replace(screened(3, 0.95, moved(0.02, 0.0001), alpha=0.5), domain=0.95)
    made = replace(screened(4, 0.95, moved(0.02, 0.0001)), made="mean of 2")
    # 0.9 x sqrt(1/64) = 0.11 against 0.8 x sqrt(1/4) = 0.4
    found = next_line([worst, mild, on_line, made], AIM, drawn=())
    assert found is not None and found.point is mild


def test_the_line_proposes_the_square_root_and_its_neighbours():
    # 0.01 / 0.04: alpha 0.5; 0.5^0.5 = 0.71, 0.5^1.5 = 0.35
    assert line_alphas(0.04, 0.01) == (0.71, 0.5, 0.35)


@pytest.mark.parametrize("drop", [-0.01, 0.0, 0.001, 0.01, 0.5, 100.0])
def test_proposals_lie_inside_the_line_and_fall(drop: float):
    alphas = line_alphas(drop, 0.01)
    assert 2 <= len(alphas) <= 3
    assert list(alphas) == sorted(alphas, reverse=True)
    assert all(0 < a < 1 and round(a, 2) == a for a in alphas)


def test_prefer_general_goes_on_confirming_what_scores_as_well_and_seems_to_have_lost_less():
    general = replace(AIM, prefer="general")
    scores = (0.72, 0.70, 0.40)
    drops = [moved(d, 0.001, order=n) for n, d in enumerate((0.006, 0.003, 0.001))]
    points = [
        replace(screened(3 - n, scores[n], drops[n]), domain_drawn=domain_draws([exam(scores[n])])) for n in range(3)
    ]
    best = full(points[0], drops[0])
    assert next_to_confirm([*points, best], AIM) is None
    assert next_to_confirm([*points, best], general) is points[1]
    assert next_to_confirm([*points, best, full(points[1], drops[1])], general) is None


def exam(share: float) -> Measurement:
    right = round(100 * share)
    return Measurement(
        checkpoint="x", probe="exam", axis="domain", role="domain", method="generate", metric="exact",
        split="selection", ids=tuple(f"{i:03}" for i in range(100)), items=(1.0,) * right + (0.0,) * (100 - right),
    )  # fmt: skip


def test_a_candidate_that_a_full_look_cannot_decide_is_looked_at_closer_where_items_are_in_reserve():
    """0.45 % with an error of 0.3 % may be 0.45 + 2.17 x 0.3 = 1.1 % at 40 % of its share of 3.8 %.

    At the other 60 %, with 0.6 of the error, it may be 0.45 + 2.0 x 0.18 = 0.8 %.
    """
    closer = replace(AIM, closer=True)
    point = screened(1, 0.8, moved(0.0045, 0.009))
    once = full(point, moved(0.0045, 0.003))
    assert next_to_confirm([point, once], AIM) is None  # the whole share at once: 0.45 + 1.77 x 0.3 = 0.98 %
    assert not judge([point, once], AIM)[0].refusal
    (found,) = judge([point, once], closer)
    assert found.bound == pytest.approx(0.0045 + z_value(1 - 0.4 * 0.038) * 0.003, abs=3e-4)
    assert found.refusal.endswith("allowing for the other candidates; more items would tell")
    assert next_to_confirm([point, once], closer) is once
    twice = replace(once, drop=moved(0.0045, 0.0018), closer=True)
    (found,) = judge([point, once, twice], closer)
    assert found.bound == pytest.approx(0.0045 + z_value(1 - 0.6 * 0.038) * 0.0018, abs=2e-4)
    assert not found.refusal and next_to_confirm([point, once, twice], closer) is None
    assert choose([point, once, twice], closer).point is twice
    # Where time has run out since, the full look has spent its part all the same.
    assert judge([point, once, twice], AIM)[0].bound == found.bound


def test_a_closer_look_is_not_taken_where_nothing_is_to_be_hoped_of_it():
    closer = replace(AIM, closer=True)
    point = screened(1, 0.8, moved(0.009, 0.009))
    # 1.4 % would have to come down to 0.65 %: three times what the items in reserve may move it, 0.8 x 0.3 %.
    assert next_to_confirm([point, full(point, moved(0.014, 0.003))], closer) is None
    kept = full(point, moved(0.0, 0.001))
    assert next_to_confirm([point, kept], closer) is None
    once = full(point, moved(0.0045, 0.003))
    assert once.drop is not None
    lost = AxisDrop(drop=0.05, lcb95=0.031, ucb95=0.069, probes=("q",))  # no ability may surely fall by 3 %
    assert next_to_confirm([point, replace(once, drop=replace(once.drop, axes={"behaviour": lost}))], closer) is None
    assert next_to_confirm([point, once], closer) is once


def limits(tried: Sequence[tuple[Drop, float, int]]) -> list[float]:
    """How many standard errors each candidate's bound is above its drop."""
    shares = joint_shares([Tried(drawn=d.drawn, gain=gain, wave=wave) for d, gain, wave in tried])
    return [upper_bound(d.drawn, s) / 0.01 for (d, _, _), s in zip(tried, shares, strict=True)]


def test_the_first_may_err_most_often_and_the_last_has_what_is_left():
    # A wave may spend 0.95 x 0.8 x 5 % = 3.8 %: one that stands alone all of it, of two strangers the first 60 %,
    # 2.28 %, and the other 1.52 % where the first does not err, which is in 97.7 % of the cases.
    alone = limits([(moved(0, 0.01), 1.0, 0)])
    assert alone == pytest.approx([z_value(1 - 0.038)], abs=0.03)
    strangers = [(moved(0, 0.01, alike=0.0, order=o), gain, 0) for o, gain in ((1, 0.8), (2, 0.9))]
    assert limits(strangers) == pytest.approx([z_value(1 - 0.0152 / 0.977), z_value(1 - 0.0228)], abs=0.1)
    assert limits(strangers[::-1]) == pytest.approx(limits(strangers)[::-1], abs=1e-9)


def test_a_twin_of_the_first_spends_the_same_once():
    # What errs together is one error: the second may go as far as both may together.
    first, second = limits([(moved(0, 0.01), 1.0, 0)] * 2)
    assert (first, second) == pytest.approx((z_value(1 - 0.0228), z_value(1 - 0.038)), abs=0.03)


def test_a_later_wave_changes_no_earlier_bound_and_pays_little_where_it_is_alike():
    first = [(moved(0, 0.01), 1.0, 0)]
    assert limits([*first, (moved(0, 0.01, alike=0.0), 1.0, 1)])[0] == limits(first)[0]
    # A twin may go as far as all that is to be spent until then: 96 % of 4.75 %.
    twin = limits([*first, (moved(0, 0.01), 1.0, 1)])[1]
    assert twin == pytest.approx(z_value(1 - 0.0456), abs=0.03)
    # A stranger has what is left, 16 % of 4.75 %.
    stranger = limits([*first, (moved(0, 0.01, alike=0.0), 1.0, 1)])[1]
    assert stranger == pytest.approx(z_value(1 - 0.0076 / 0.962), abs=0.2)


def test_a_drop_without_spread_is_its_own_bound():
    assert limits([(moved(0.02, 0.0), 1.0, 0)]) == pytest.approx([2.0])
