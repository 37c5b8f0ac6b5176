from __future__ import annotations

import math
from dataclasses import replace

import pytest

from temper.decide.drop import general_drop
from temper.events import Measurement
from temper.report.retention import gain, interval, paired, retention
from tests.report_events import STAGE, run_events


def choice(items: tuple[float, ...], *, probe: str = "piqa", hard: tuple[float, ...] = ()) -> Measurement:
    return Measurement(
        checkpoint="x", probe=probe, axis="reasoning", role="general", method="choice", metric="soft accuracy",
        split="test", chance=0.5, ids=tuple(str(i) for i in range(len(items))), items=items, hard=hard,
    )  # fmt: skip


def loss(items: tuple[float, ...], *, size: float = 100.0) -> Measurement:
    return Measurement(
        checkpoint="x", probe="wiki", axis="language", role="general", method="loss", metric="bits per byte",
        split="test", ids=tuple(str(i) for i in range(len(items))), items=items, sizes=(size,) * len(items),
    )  # fmt: skip


def test_drop_of_a_choice_probe_is_relative_to_the_room_above_chance() -> None:
    # base 0.8, now 0.7, chance 0.5: (0.8 - 0.7) / (0.8 - 0.5) = 1/3; both items fall alike, so there is no spread.
    kept = retention([choice((0.9, 0.7))], [choice((0.8, 0.6))])
    bounds = kept.probes[0].bounds
    assert bounds is not None
    assert (bounds.drop, bounds.lcb95, bounds.ucb95) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_overall_drop_is_the_mean_of_the_axes() -> None:
    # reasoning 1/3 as above; language: 200 -> 202 bits over the same bytes = 0.01. Mean: 0.171667.
    kept = retention([choice((0.9, 0.7)), loss((100.0, 100.0))], [choice((0.8, 0.6)), loss((101.0, 101.0))])
    assert kept.overall is not None
    assert kept.overall.drop == pytest.approx((1 / 3 + 0.01) / 2)
    assert {axis: round(b.drop, 4) for axis, b in kept.axes.items()} == {"reasoning": 0.3333, "language": 0.01}
    assert kept.counted("language") == ("wiki",)


def test_a_probe_near_chance_is_shown_and_left_out_with_the_reason() -> None:
    kept = retention([choice((0.54, 0.54)), loss((100.0, 90.0))], [choice((0.1, 0.1)), loss((100.0, 90.0))])
    assert kept.probes[0].bounds is None
    assert "within 5 points of chance" in kept.probes[0].why
    assert kept.overall is not None and (kept.overall.drop, kept.overall.ucb95) == (0.0, 0.0)


def test_transitions_count_answers_lost_and_won() -> None:
    old = choice((0.9, 0.9, 0.6, 0.6), hard=(1.0, 1.0, 0.0, 0.0))
    new = choice((0.4, 0.9, 0.7, 0.8), hard=(0.0, 1.0, 1.0, 1.0))
    row = retention([old], [new]).probes[0]
    assert (row.lost, row.won, row.hard_base, row.hard_now) == (1, 2, 0.5, 0.75)


def test_items_are_paired_by_id_and_not_by_place() -> None:
    old, new = choice((0.9, 0.7, 0.6)), replace(choice((0.7, 0.9)), ids=("1", "0"))
    one, other = paired(old, new)
    assert (one.ids, one.items, other.items) == (("0", "1"), (0.9, 0.7), (0.9, 0.7))


def test_no_counted_probe_gives_no_overall_drop() -> None:
    assert retention([choice((0.5, 0.5))], [choice((0.5, 0.5))]).overall is None
    assert retention([], []).probes == ()


@pytest.mark.parametrize("broken", [False, True])
def test_the_report_counts_the_same_drop_as_the_guard(broken: bool) -> None:
    """The report may not import the guard's arithmetic, so both are held to the same figures here."""
    events = run_events(harm=0.3)
    before = [e for e in events if isinstance(e, Measurement) and (e.checkpoint, e.split) == ("base", "selection")]
    now = [
        e
        for e in events
        if isinstance(e, Measurement) and (e.checkpoint, e.split) == (f"{STAGE}/step-000080", "selection")
    ]
    if broken:
        now = [replace(m, items=(math.nan, *m.items[1:])) for m in now]
    ours = retention([m for m in before if m.role == "general"], [m for m in now if m.role == "general"])
    theirs = general_drop(before, now)
    assert ours.overall is not None
    assert (ours.overall.drop, ours.overall.lcb95, ours.overall.ucb95) == pytest.approx(
        (theirs.drop, theirs.lcb95, theirs.ucb95), rel=1e-12
    )
    assert {p.probe for p in ours.probes if p.bounds is None} == {n for n, p in theirs.probes.items() if not p.counted}
    assert ours.overall.drop > 0.05


def test_interval_of_right_and_wrong_answers_is_wilsons() -> None:
    # 8 of 10, z = 1.96: centre 0.99207 / 1.38414, half width 1.96 sqrt(0.0256036) / 1.38414.
    found = interval(choice((1.0,) * 8 + (0.0,) * 2))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_interval_of_graded_scores_surrounds_their_mean() -> None:
    same = interval(choice((0.6, 0.6, 0.6)))
    assert same is not None and (same.low, same.high) == pytest.approx((0.6, 0.6))
    mixed = interval(choice((0.2, 0.4, 0.6, 0.9) * 10))
    # mean 0.525, standard error 0.2586 / sqrt(40) = 0.0409 (sample): about 0.445 to 0.605
    assert mixed is not None
    assert (mixed.low, mixed.high) == pytest.approx((0.445, 0.605), abs=0.01)


def test_interval_of_a_loss_is_in_bits_per_byte() -> None:
    found = interval(loss((150.0, 150.0)))
    assert found is not None and (found.low, found.high) == pytest.approx((1.5, 1.5))


def test_the_gain_of_right_and_wrong_answers_follows_their_changes() -> None:
    before, now = (0.0,) * 81, (1.0,) * 4 + (0.0,) * 77
    found = gain(choice(before), choice(now))
    assert found is not None and (found.low, found.high) == pytest.approx((-0.00494, 0.12020), abs=1e-4)


def test_the_gain_of_graded_scores_and_of_a_loss_points_upwards_where_it_became_better() -> None:
    graded = gain(choice((0.2, 0.4, 0.6) * 10), choice((0.3, 0.5, 0.7) * 10))
    assert graded is not None and (graded.low, graded.high) == pytest.approx((0.1, 0.1))
    bits = gain(loss((150.0, 150.0)), loss((120.0, 120.0)))  # 1.5 -> 1.2 bits per byte
    assert bits is not None and (bits.low, bits.high) == pytest.approx((0.3, 0.3))
    assert gain(choice((0.5,)), choice((math.nan,))) is None


def test_no_interval_for_values_that_are_not_finite() -> None:
    assert interval(choice((0.5, math.inf))) is None
