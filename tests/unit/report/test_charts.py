from __future__ import annotations

import math

import pytest

from temper.report import svg, words
from temper.report.charts import Mark, Series, frontier, gauge, over_time, smoothed
from temper.report.retention import Bounded
from temper.report.runlog import sort_log
from temper.report.sections import marks
from tests.report_events import STAGE, run_events


def mark(**changes: object) -> Mark:
    values: dict = {
        "label": "01-sft/step-000040", "stage": "01-sft", "step": 40, "alpha": 1.0, "drop": 0.004, "ucb95": 0.009,
        "domain": 0.7, "ci95": None, "confirmed": True, "eligible": True, "reason": "keeps it", "split": "selection",
    }  # fmt: skip
    return Mark(**{**values, **changes})


def test_ticks_are_round_and_inside() -> None:
    assert list(svg.round_values(0.0, 1.0, 5)) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert list(svg.round_values(-0.013, 0.021, 4)) == pytest.approx([-0.01, 0.0, 0.01, 0.02])


def test_a_scale_maps_its_ends_and_keeps_outsiders_at_the_edge() -> None:
    scale = svg.Scale(low=0.0, high=2.0, start=100.0, end=200.0)
    assert [scale(v) for v in (0.0, 1.0, 2.0, 9.0, -1.0)] == [100.0, 150.0, 200.0, 200.0, 100.0]


def test_a_bent_scale_keeps_order_and_gives_small_values_room() -> None:
    scale = svg.Scale(low=-0.01, high=4.0, start=0.0, end=100.0, knee=0.01)
    places = [scale(v) for v in (-0.01, 0.0, 0.01, 0.1, 4.0)]
    assert places == sorted(places)
    assert places[2] - places[1] > 10.0  # a linear scale would give one tolerance a quarter of a pixel
    assert list(scale.ticks()) == pytest.approx([-0.01, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0])


def test_elements_escape_what_they_hold() -> None:
    assert svg.text(1.0, 2.5, "a<b", data_x='"') == '<text x="1" y="2.5" data-x="&#34;">a&lt;b</text>'


def test_every_mark_of_the_frontier_names_its_checkpoint_on_hover() -> None:
    log = sort_log(run_events())
    picture = frontier({"run": marks(log)}, tolerance=0.01)
    for candidate in log.frontier():
        assert f"<title>{candidate.checkpoint}\n" in picture
    assert picture.count("<title>base\n") == 1
    assert picture.count('class="halo"') == 1, "one checkpoint is chosen"
    assert picture.count('class="hollow"') == 3, "20, 60 and 100 were only screened"
    assert f"{STAGE}, step 120 at alpha 0.8" in picture


def test_weights_made_of_several_are_not_named_like_the_last_of_them() -> None:
    """The mean of two checkpoints is written down under the step of the later one."""
    trained, mean = mark(), mark(label="01-sft/step-000040-mean-2", domain=0.3, is_chosen=True)
    picture = frontier({"run": [trained, mean]}, tolerance=0.01)
    assert ">chosen: 40 (mean of 2)<" in picture
    assert ">40<" in picture


def test_two_runs_from_the_same_base_share_its_mark_and_differ_in_colour() -> None:
    one, other = marks(sort_log(run_events())), marks(sort_log(run_events(harm=0.5)))
    picture = frontier({"careful": one, "naive": other}, tolerance=0.01)
    assert picture.count("<title>base\n") == 1
    assert picture.count('class="base-mark"') == 1
    assert f"<title>naive: {STAGE}/step-000120\n" in picture
    assert 'class="point c1"' in picture
    assert "logarithmic beyond the tolerance" in picture


def test_the_frontier_survives_a_dead_model() -> None:
    picture = frontier({"run": [mark(), mark(label="dead", drop=math.inf, ucb95=math.nan)]}, tolerance=0.01)
    assert "dead" in picture and "nan" not in picture and "inf" not in picture.replace("not finite", "")


def test_nothing_to_draw_is_an_empty_string() -> None:
    assert frontier({"run": []}, tolerance=0.01) == ""
    assert over_time([Series(name="x", points=[])], label="") == ""
    assert over_time([Series(name="x", points=[(1, math.nan)])], label="") == ""


def test_hover_names_every_series_at_a_step_with_its_bounds() -> None:
    line = Series(
        name="drop", points=[(0, 0.0), (20, 0.004)], low=[(0, 0.0), (20, 0.001)], high=[(0, 0.0), (20, 0.009)]
    )
    picture = over_time([line], label="", y_format="drop", tolerance=0.01).replace("\N{NO-BREAK SPACE}", " ")
    assert "<title>step 20\ndrop: 0.40 % (0.10 % to 0.90 %)</title>" in picture
    assert 'class="tolerance"' in picture


def test_a_long_run_is_thinned_and_keeps_its_last_step() -> None:
    picture = over_time([Series(name="loss", points=[(i, 1.0 + i) for i in range(10_001)])], label="")
    assert picture.count('class="hit"') <= 241
    assert "step 1e+04" in picture or "step 10000" in picture


def test_later_stages_are_marked() -> None:
    line = Series(name="loss", points=[(0, 1.0), (200, 2.0)])
    assert ">02-sft<" in over_time([line], label="", stages={"01-sft": 0, "02-sft": 120})


def test_smoothing_starts_at_the_first_value_and_follows_slowly() -> None:
    # weights 0.5: after 1 and 3: (0.25 * 1 + 0.5 * 3) / 0.75 = 2.3333; a gap keeps the mean.
    points = smoothed([(1, 1.0), (2, 3.0), (3, math.nan)], weight=0.5)
    assert [y for _, y in points] == pytest.approx([1.0, 7 / 3, 7 / 3])


def test_the_gauge_says_its_figures() -> None:
    picture = gauge(Bounded(drop=0.004, lcb95=0.0, ucb95=0.009), tolerance=0.01).replace("\N{NO-BREAK SPACE}", " ")
    assert "general drop 0.40 %, at most 0.90 %" in picture


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "2 %"), (0.8125, "81.2 %"), (-0.0001, "0 %"), (math.nan, "not finite"), (-0.02, "\u22122 %")],
)
def test_percent(value: float, text: str) -> None:
    assert words.percent(value).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0041, "0.41 %"), (0.0523, "5.2 %"), (0.4, "40 %"), (-0.003, "\u22120.30 %")]
)
def test_drops_get_digits_where_the_tolerance_needs_them(value: float, text: str) -> None:
    assert words.drop_percent(value).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (4.25, "4.2 s"), (59.96, "1 min 0 s"), (311.0, "5 min 11 s"), (7500.0, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text
