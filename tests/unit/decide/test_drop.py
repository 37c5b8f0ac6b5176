"""The general drop as product and reports define it: formulas by hand, pairing, what is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from temper.decide.drop import WORST_BITS_PER_BYTE, Drop, general_drop, percent
from temper.errors import RecipeError
from temper.events import Measurement


def measured(probe: str, items: tuple[float, ...], **fields: Any) -> Measurement:
    defaults: dict[str, Any] = {"axis": "reasoning", "role": "general", "method": "generate", "metric": "pass"}
    defaults |= {"split": "selection", "checkpoint": "x", "ids": tuple(str(i) for i in range(len(items)))}
    return Measurement(probe=probe, items=items, **defaults | fields)


def wiki(*bits: float) -> Measurement:
    return measured("wiki", bits, axis="language", method="loss", sizes=tuple(10.0 for _ in bits))


def piqa(*soft: float) -> Measurement:
    hard = tuple(float(s > 0.5) for s in soft)
    return measured("piqa", soft, method="choice", chance=0.5, hard=hard)


def formats(*passed: float) -> Measurement:
    return measured("formats", passed, axis="instruction", hard=passed)


def left_out(drop: Drop) -> tuple[str, ...]:
    return tuple(name for name, probe in drop.probes.items() if not probe.counted)


def test_loss_counts_the_relative_rise_of_bits_per_byte():
    # 20 + 20 bits of 20 bytes = 2.0 bits per byte, then 21 + 20 = 2.05: a rise of 2.5 %
    drop = general_drop([wiki(20, 20)], [wiki(21, 20)])
    assert drop.drop == pytest.approx(0.025)


def test_choice_counts_the_fall_of_soft_accuracy_above_chance():
    # mean 0.75 -> 0.70 with chance 0.5: 0.05 / 0.25 = 20 %
    drop = general_drop([piqa(0.9, 0.6)], [piqa(0.9, 0.5)])
    assert drop.drop == pytest.approx(0.2)


def test_generate_counts_the_relative_fall_of_the_pass_rate():
    # 3 of 4 -> 2 of 4: 1/3
    drop = general_drop([formats(1, 1, 1, 0)], [formats(1, 1, 0, 0)])
    assert drop.probes["formats"].drop == pytest.approx(1 / 3)


def test_an_axis_is_the_mean_of_its_probes_and_the_whole_the_mean_of_the_axes():
    # reasoning: piqa 0.2 and arc (0.8 - 0.7) / (0.8 - 0) = 0.125, mean 0.1625; language 0.025; overall 0.09375
    arc = measured("arc", (0.8, 0.8)), measured("arc", (0.7, 0.7))
    before, now = [wiki(20, 20), piqa(0.9, 0.6), arc[0]], [wiki(21, 20), piqa(0.9, 0.5), arc[1]]
    drop = general_drop(before, now)
    assert drop.axes["reasoning"].drop == pytest.approx(0.1625)
    assert drop.axes["reasoning"].probes == ("piqa", "arc")
    assert drop.drop == pytest.approx(0.09375)
    assert drop.worst == "reasoning"
    assert drop.lcb95 <= drop.drop <= drop.ucb95


def test_a_gain_is_a_negative_drop_and_offsets_another_axis():
    # language gains 10 %, instruction loses half of its passes: (0.5 - 0.1) / 2 = 0.2
    drop = general_drop([wiki(20, 20), formats(1, 1)], [wiki(18, 18), formats(1, 0)])
    assert drop.axes["language"].drop == pytest.approx(-0.1)
    assert drop.drop == pytest.approx(0.2)


def test_the_untouched_base_has_a_drop_and_bounds_of_exactly_zero():
    before = [wiki(20, 31, 17), piqa(0.9, 0.6, 0.7), formats(1, 0, 1)]
    drop = general_drop(before, before)
    assert (drop.drop, drop.lcb95, drop.ucb95, drop.resolution) == (0.0, 0.0, 0.0, 0.0)
    assert all((a.drop, a.lcb95, a.ucb95) == (0.0, 0.0, 0.0) for a in drop.axes.values())


def test_bounds_and_resolution_follow_the_paired_spread():
    # Pass rate 1, falls of 0.1 and 0.3 in turn over 50 items: SE = 0.1 / 7, so 0.2 +- 1.645 * 0.0142857 = 0.0235
    before, now = measured("formats", (1.0,) * 50), measured("formats", (0.9, 0.7) * 25)
    drop = general_drop([before], [now], draws=20_000)
    assert drop.resolution == pytest.approx(0.0235, rel=0.02)
    assert (drop.lcb95, drop.ucb95) == pytest.approx((0.2 - 0.0235, 0.2 + 0.0235), abs=0.001)


def test_items_are_paired_by_id_whatever_their_order():
    before = [wiki(20, 40, 60), piqa(0.9, 0.6)]
    swapped = replace(wiki(66, 42, 22), ids=("2", "1", "0"))
    drop = general_drop(before, [piqa(0.9, 0.6), swapped])
    same = general_drop(before, [wiki(22, 42, 66), piqa(0.9, 0.6)])
    assert drop.probes["wiki"] == same.probes["wiki"]
    assert drop.drop == same.drop


@pytest.mark.parametrize(
    "now",
    [
        pytest.param([replace(wiki(20, 20), ids=("0", "7"))], id="other items"),
        pytest.param([wiki(20, 20, 20)], id="more items"),
        pytest.param([replace(wiki(20, 20), split="test")], id="other split"),
        pytest.param([replace(wiki(20, 20), sizes=(10.0, 11.0))], id="other texts"),
        pytest.param([], id="probe missing"),
        pytest.param([wiki(20, 20), wiki(20, 20)], id="measured twice"),
    ],
)
def test_measurements_that_do_not_pair_are_a_fault_of_ours(now: list[Measurement]):
    with pytest.raises(AssertionError):
        general_drop([wiki(20, 20)], now)


def test_a_base_near_chance_is_shown_and_left_out_with_the_reason():
    # soft accuracy 0.55 with chance 0.5: exactly 5 points above, so left out
    drop = general_drop([piqa(0.6, 0.5), wiki(20, 20)], [piqa(0.5, 0.5), wiki(20, 20)])
    probe = drop.probes["piqa"]
    assert left_out(drop) == ("piqa",)
    assert (probe.counted, probe.drop) == (False, None)
    assert probe.why == "base 55 % is within 5 points of chance (50 %): too little to lose"
    assert list(drop.axes) == ["language"]


def test_a_base_below_chance_is_left_out_too():
    drop = general_drop([piqa(0.2, 0.3), wiki(20, 20)], [piqa(0.9, 0.9), wiki(20, 20)])
    assert left_out(drop) == ("piqa",)


def test_a_base_that_passes_next_to_nothing_is_left_out():
    # 1 of 25 = 4 %, within 5 points of zero; 2 of 25 = 8 % counts
    few, more = formats(*[1] * 1 + [0] * 24), formats(*[1] * 2 + [0] * 23)
    assert left_out(general_drop([few, wiki(20, 20)], [few, wiki(20, 20)])) == ("formats",)
    assert left_out(general_drop([more, wiki(20, 20)], [more, wiki(20, 20)])) == ()


def test_one_item_says_nothing_about_spread_and_is_left_out():
    drop = general_drop([wiki(20), piqa(0.9, 0.8)], [wiki(30), piqa(0.9, 0.8)])
    assert left_out(drop) == ("wiki",)


def test_a_suite_without_a_probe_that_counts_is_refused_with_a_remedy():
    with pytest.raises(RecipeError, match=r"^probes\.general: nothing to count .*piqa: base 50 % .*; name another"):
        general_drop([piqa(0.5, 0.5)], [piqa(0.5, 0.5)])


def test_domain_probes_do_not_enter():
    domain = measured("exam", (1.0, 1.0), axis="domain", role="domain")
    drop = general_drop([wiki(20, 20), domain], [wiki(20, 20)])
    assert list(drop.probes) == ["wiki"]


def test_a_model_that_answers_nan_has_lost_everything_and_the_figures_stay_finite():
    # wiki: 16 bits per byte against 2: a rise of 7. formats: nothing passes: 1. Overall 4.
    drop = general_drop([wiki(20, 20), formats(1, 1)], [wiki(math.nan, math.inf), formats(math.nan, math.nan)])
    assert drop.drop == pytest.approx(((WORST_BITS_PER_BYTE / 2.0 - 1.0) + 1.0) / 2)
    assert math.isfinite(drop.ucb95)
    assert drop.probes["wiki"].why == "2 of 2 items are not finite (counted as entirely lost)"


def test_the_same_seed_gives_the_same_bounds_and_a_neighbour_changes_none():
    before, now = [wiki(20, 40, 60)], [wiki(22, 41, 66)]
    alone = general_drop(before, now)
    beside = general_drop([piqa(0.9, 0.6), *before], [piqa(0.8, 0.6), *now])
    assert alone == general_drop(before, now)
    assert alone.axes["language"] == beside.axes["language"]


def test_items_of_one_passage_are_drawn_together_and_say_less():
    """Four questions about each of five passages that fall together are five observations, not twenty.

    Falls of 0 and 0.2 in turn per passage: by passage sd = 0.2 sqrt(6 / 25) = 0.098, SE = 0.098 / sqrt(5 - 1) = 0.049;
    as if all were independent, 0.098 / sqrt(19) = 0.0225.
    """
    falls = [0.2 * (i // 4 % 2) for i in range(20)]
    before, now = measured("reading", (1.0,) * 20), measured("reading", tuple(1.0 - f for f in falls))
    passages = {"reading": {str(i): f"passage {i // 4}" for i in range(20)}}
    alone, together = general_drop([before], [now]), general_drop([before], [now], passages=passages)
    assert together.drop == alone.drop == pytest.approx(0.08)
    assert alone.resolution == pytest.approx(1.645 * 0.0225, rel=0.05)
    assert together.resolution == pytest.approx(1.645 * 0.049, rel=0.05)


def test_items_of_a_single_passage_have_no_spread_and_are_left_out():
    before = [measured("reading", (1.0, 1.0)), wiki(20, 20)]
    drop = general_drop(before, before, passages={"reading": {"0": "a", "1": "a"}})
    assert left_out(drop) == ("reading",)
    assert drop.probes["reading"].why.startswith("all items are of one passage")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.004, "0.4 %"),
        (0.0025, "0.25 %"),
        (0.125, "12.5 %"),
        (0.01, "1 %"),
        (-0.03, "-3 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (-0.00001, "0 %"),
    ],
)
def test_percent_is_short(share: float, text: str):
    assert percent(share) == text
