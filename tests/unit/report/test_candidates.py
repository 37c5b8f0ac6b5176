from __future__ import annotations

from dataclasses import replace

import pytest

from temper.events import Candidate, Event, Measurement, RunStarted
from temper.report import render_report, summarise
from temper.report.candidates import on_front, score_name, table
from temper.report.charts import frontier
from temper.report.runlog import sort_log
from temper.report.sections import marks
from temper.stats.pareto import pareto
from tests.report_events import run_events


def test_the_pareto_set_is_what_no_other_point_beats_on_both_axes() -> None:
    # (0.4, 0.005) loses to (0.5, 0.001) on both; (0.5, 0.002) loses it on the drop; (0.8, 0.01) is best on the gain.
    points = [(0.4, 0.005), (0.8, 0.01), (0.9, float("nan")), (0.5, 0.002), (0.5, 0.001)]
    assert pareto(points) == [4, 1]
    assert pareto([(0.5, 0.1), (0.5, 0.1)]) == [0]
    assert pareto([]) == []


def candidate(step: int, domain: float, drop: float, *, split: str = "selection") -> Candidate:
    like = next(e for e in run_events() if isinstance(e, Candidate))
    name = f"01-sft/step-{step:06d}"
    return replace(
        like, step=step, alpha=1.0, checkpoint=name, domain=domain, drop=drop, ucb95=drop + 0.001,
        split=split, reason=f"reason {step}",
    )  # fmt: skip


def log_of(*candidates: Candidate) -> list[Event]:
    """A run whose base scores 1.9 % in the exam, and these candidates."""
    base = [e for e in run_events() if isinstance(e, RunStarted | Measurement) and getattr(e, "step", 0) == 0]
    return [*base, *candidates]


NAMES = {step: f"01-sft/step-{step:06d}" for step in (20, 40, 60, 80)}


def test_confirmed_candidates_are_compared_with_the_base_and_with_each_other() -> None:
    found = [
        candidate(20, 0.5, 0.002), candidate(40, 0.8, 0.01), candidate(60, 0.4, 0.005),
        candidate(80, 0.9, 0.0, split="quick"),
    ]  # fmt: skip
    # 60 is beaten by 20; 80 was screened alone, with fewer items.
    assert on_front(sort_log(log_of(*found))) == {"base", NAMES[20], NAMES[40]}


def test_a_candidate_that_gains_on_both_axes_beats_the_base() -> None:
    assert on_front(sort_log(log_of(candidate(20, 0.5, -0.001)))) == {NAMES[20]}


def test_where_nothing_is_confirmed_the_screened_ones_are_compared() -> None:
    found = [candidate(20, 0.5, 0.002, split="quick"), candidate(40, 0.4, 0.003, split="quick")]
    assert on_front(sort_log(log_of(*found))) == {"base", NAMES[20]}


def test_the_picture_and_the_json_mark_the_same_candidates() -> None:
    found = [candidate(20, 0.5, 0.002), candidate(40, 0.8, 0.01), candidate(60, 0.4, 0.005)]
    events = log_of(*found)
    log = sort_log(events)
    assert {m.label for m in marks(log) if m.is_on_front} == on_front(log)
    told = {c["checkpoint"]: c["pareto"] for c in summarise(events)["candidates"]}
    assert told == {NAMES[20]: True, NAMES[40]: True, NAMES[60]: False}
    picture = frontier({"run": marks(log)}, tolerance=0.01)
    assert picture.count("no other candidate is better on both axes</title>") == 0  # the reason stands last
    assert picture.count("\nno other candidate is better on both axes\n") == 3
    # Three corners of the staircase: its start, and two points for each of the two steps up.
    (line,) = [p for p in picture.split("<polyline ") if 'class="front c0"' in p]
    assert len(line.split('points="')[1].split('"')[0].split()) == 5


def test_the_table_names_every_candidate_and_the_page_holds_it() -> None:
    events = run_events()
    log = sort_log(events)
    rows = table(log)
    assert rows.count("<tr>") == len(log.frontier()) + 1 + 1, "the heads, every candidate, and the base"
    assert rows.count("<td>base</td>") == 1
    assert "chosen, unbeaten" in rows
    assert rows in render_report(events)
    assert table(sort_log([])) == ""


@pytest.mark.parametrize("events", [[], run_events(finished=False)[:3]])
def test_a_log_without_candidates_has_no_front(events: list[Event]) -> None:
    assert on_front(sort_log(events)) <= {"base"}


def test_candidates_of_stages_that_other_exams_judged_are_not_compared() -> None:
    """A stage of text that saved 60 % of its bits stood on the frontier above an answer score of 50 %."""
    text = replace(candidate(20, 0.6, 0.0001), stage="01-cpt", checkpoint="01-cpt/step-000020", exams=("manual",))
    scored = replace(candidate(40, 0.5, 0.002), stage="02-sft", checkpoint="02-sft/step-000040", exams=("exam",))
    log = sort_log(log_of(text, scored))
    assert on_front(log) == {"base", "02-sft/step-000040"}
    assert {m.label for m in marks(log)} == {"base", "02-sft/step-000040"}
    rows = table(log)
    assert rows.index("02-sft, step 40") < rows.index(">base<") < rows.index("01-cpt, step 20")
    assert "60\N{NO-BREAK SPACE}% (manual)" in rows and "50\N{NO-BREAK SPACE}% (exam)" in rows


def test_of_held_out_text_the_base_has_saved_no_bits_and_is_on_the_frontier() -> None:
    """Runs of continued pre-training alone had no base in their picture and no edge from it."""
    of_base = [e for e in run_events() if isinstance(e, Measurement) and e.checkpoint == "base"]
    asked = next(e for e in of_base if (e.role, e.method, e.split) == ("general", "loss", "selection"))
    base = replace(asked, probe="manual", role="domain")
    found = replace(candidate(20, 0.1, 0.002), exams=("manual",))
    log = sort_log([e for e in log_of(base, found) if getattr(e, "role", "") != "domain" or e is base])
    assert {m.label: m.domain for m in marks(log)} == {"base": 0.0, NAMES[20]: 0.1}
    assert on_front(log) == {"base", NAMES[20]}
    assert "bits saved on held-out text" in frontier({"run": marks(log)}, tolerance=0.01, score=score_name(log))


def test_the_table_says_how_weights_were_made_that_nobody_trained() -> None:
    """A mean of checkpoints and the last of them were two rows called `01-sft, step 40`."""
    mean = replace(candidate(40, 0.5, 0.002), checkpoint=f"{NAMES[40]}-mean-2")
    rows = table(sort_log(log_of(candidate(40, 0.4, 0.002), mean)))
    assert "01-sft, step 40 (mean of 2)" in rows and ">01-sft, step 40<" in rows
