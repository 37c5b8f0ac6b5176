"""Which pilots are planned, which are skipped, and what follows from what they found."""

from __future__ import annotations

import math

import pytest

from temper.calibrate.pilots import COST, LADDER, PilotPlan, breaks, conclude, is_pointless, plan_pilots
from temper.events.search import Pilot

PRIOR = 4e-4


def pilot(factor: float = 1.0, *, number: int = 1, share: float = 0.25, **fields: object) -> Pilot:
    """A pilot of 14 steps on exact laws: the lowest loss at twice the prior, drift 0.2 % there at the prior."""
    known: dict[str, object] = {
        "stage": "01-sft", "lr": PRIOR * factor, "steps": 14, "of": 14, "loss": 1.0 + 0.5 * math.log(factor / 2) ** 2,
        "loss_error": 1e-3, "drift": 0.002 * factor**1.5, "drift_error": 1e-5, "tokens": 1400, "seconds": 1.0,
    }  # fmt: skip
    return Pilot(number=number, share=share, **{**known, **fields})  # pyright: ignore[reportArgumentType]


def ladder() -> list[Pilot]:
    return [pilot(factor, number=n) for n, factor in enumerate(LADDER, start=1)]


def result(done: list[Pilot], *, tolerance: float = 0.1, steps: int = 113):
    return conclude(done, prior=PRIOR, share=0.25, steps=steps, tolerance=tolerance, run_tokens=100.0 * steps)


def test_six_pilots_with_replay_take_three_quarters_of_the_run_at_most() -> None:
    planned = plan_pilots(prior=PRIOR, share=0.25, steps=113)
    assert [p.lr / PRIOR for p in planned] == pytest.approx([1, 2, 4, 0.5, 0.25, 1])
    assert [p.share for p in planned] == [0.25] * 5 + [0.0]
    assert {p.steps for p in planned} == {14}  # 0.75 / 6 of 113
    assert sum(p.steps for p in planned) <= COST * 113
    alone = plan_pilots(prior=PRIOR, share=0.0, steps=113)
    assert (len(alone), alone[0].steps) == (5, 16)  # 0.15 of 113


def test_a_stage_too_short_has_no_pilots() -> None:
    assert plan_pilots(prior=PRIOR, share=0.25, steps=63) == ()  # 63 / 8 = 7.9 steps each
    assert plan_pilots(prior=PRIOR, share=0.25, steps=64) != ()


def test_a_higher_rate_is_not_tried_where_a_lower_one_broke_the_tolerance() -> None:
    # 0.03 - 1.645 * 0.005 = 0.0218
    broken = pilot(2.0, drift=0.03, drift_error=0.005)
    assert breaks(0.03, 0.005, 0.02) and not breaks(0.03, 0.005, 0.022)
    plans = {p.lr / PRIOR: p for p in plan_pilots(prior=PRIOR, share=0.25, steps=200)[:5]}
    assert is_pointless(plans[4.0], [broken], 0.02)
    assert not is_pointless(plans[1.0], [broken], 0.02)
    assert not is_pointless(PilotPlan(number=6, lr=PRIOR * 4, share=0.0, steps=14), [broken], 0.02)
    assert is_pointless(plans[4.0], [pilot(2.0, stopped="the training loss is nan")], 0.5)


def test_the_rate_with_the_lowest_loss_is_taken_and_shrunk_for_the_longer_run() -> None:
    found = result(ladder())
    # 113 steps are 8.07 pilots: twice the prior, times 0.7^(ln 8.07 / ln 8) = 0.699
    assert found.bound == "loss"
    assert found.lr == pytest.approx(2 * 0.699 * PRIOR, rel=0.1)
    assert found.low < found.lr < found.high
    assert found.slope == pytest.approx(1.5, abs=0.02)
    assert "the table said 0.0004" in found.reason
    assert (found.pilots, found.tokens) == (5, 5 * 1400)
    assert found.cost == pytest.approx(7000 / 11300)


def test_the_tolerance_decides_when_it_is_tight() -> None:
    # At the prior 0.2 % in a pilot, times sqrt(8.07) = 2.84 at the end: 0.57 %; 1 % is (1 / 0.57)^(2/3) = 1.46 priors.
    found = result(ladder(), tolerance=0.01)
    assert found.bound == "drift"
    assert 0.8 * PRIOR < found.lr < 1.46 * PRIOR
    assert found.lr == pytest.approx(found.limit, rel=0.06)


def test_the_share_of_replay_follows_from_the_pilot_without_any() -> None:
    """With 25 % the drift is 0.2 %, without 1 %: 1 / drift is 100 + 1600 share; the run itself drifts more."""
    bare = pilot(1.0, number=6, share=0.0, drift=0.01, drift_error=1e-5)
    found = result([*ladder(), bare], tolerance=0.05)
    grown = (found.lr / PRIOR) ** found.slope * math.sqrt(113 / 14)
    needed = (grown / 0.05 - 100) / 1600
    assert found.share == pytest.approx(math.ceil(200 * needed) / 100)
    assert "doubled for safety" in found.share_reason


def test_the_share_stays_when_replay_makes_no_difference_or_was_not_tried() -> None:
    same = pilot(1.0, number=6, share=0.0, drift=0.0021, drift_error=1e-3)
    assert result([*ladder(), same]).share == 0.25
    assert "drift alike" in result([*ladder(), same]).share_reason
    assert result(ladder()).share_reason.startswith("not fitted")


def test_pilots_that_came_apart_do_not_spoil_the_fit() -> None:
    broken = [p if p.lr < 3 * PRIOR else pilot(4.0, number=3, loss=math.inf, stopped="nan") for p in ladder()]
    assert result(broken).lr == pytest.approx(result(ladder()).lr, rel=0.15)
