"""The page's part about pilots: every short run, and what they led to."""

from __future__ import annotations

import dataclasses
import math

from temper.cli.watch import describe
from temper.events import Reused
from temper.events.search import Calibrated, Pilot
from temper.report import pilots

FIRST = Pilot(
    stage="01-sft", number=1, lr=5e-4, share=0.25, steps=12, of=12, loss=1.25, loss_error=0.02, drift=0.004,
    drift_error=0.003, tokens=9000, seconds=21.0,
)  # fmt: skip
BROKEN = dataclasses.replace(
    FIRST, number=2, lr=4e-3, steps=6, loss=math.inf, drift=math.nan, stopped="the loss came apart"
)
FOUND = Calibrated(
    stage="01-sft", prior=1e-3, lr=6e-4, low=3e-4, high=9e-4, optimum=1.2e-3, limit=6e-4, bound="drift", slope=1.5,
    slope_error=0.3, curvature=0.2, share=0.25, share_reason="the two pilots do not differ", reason="The drift decides",
    pilots=2, tokens=18000, cost=0.12,
)  # fmt: skip


def test_every_pilot_is_a_row_and_the_sentence_says_what_they_led_to() -> None:
    page = str(pilots.section([FIRST, BROKEN, FOUND]))
    assert page.count("<tr>") == 3
    assert "1.250 ± 0.020" in page and "came apart" in page and "6 of 12" in page
    assert "The drift decides (rate 0.0006, between 0.0003 and 0.0009" in page
    assert "The pilots took 12" in page


def test_a_run_without_pilots_has_no_such_part() -> None:
    assert pilots.section([]) == ""


def test_the_terminal_tells_of_pilots_and_of_what_is_taken_over() -> None:
    assert describe(FIRST).startswith("01-sft: pilot at 0.0005, replay 25")
    assert "pilots say 0.0006" in describe(FOUND)
    assert describe(Reused(stage="01-sft", run="demo")) == "01-sft: taken over from demo, which has done the same"
