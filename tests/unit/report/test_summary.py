from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from temper.events import Candidate, Choice, Event, Measurement, RunFinished, StageStarted, Verdict
from temper.report import render_report, summarise
from temper.report.runlog import BASE, sort_log
from temper.report.summary import caution, sentence, summary_of
from tests.report_events import STAGE, kept_base_events, run_events, stopped_events, two_stage_events

BLEND = f"{STAGE}/step-000120@0.80"


def said(events: list[Event]) -> str:
    log = sort_log(events)
    return sentence(summary_of(log), log).replace("\N{NO-BREAK SPACE}", " ")


def test_the_summary_has_the_promised_keys() -> None:
    document = summarise(run_events())
    assert set(document) >= {"base", "verdict", "chosen", "domain", "general", "candidates", "cost"}
    assert set(document["chosen"]) >= {"stage", "step", "alpha", "path"}
    assert set(document["domain"][0]) >= {"probe", "metric", "items", "base", "chosen", "ci95"}
    assert set(document["general"]) >= {"drop", "ucb95", "tolerance", "probes"}
    assert set(document["general"]["probes"][0]) >= {"probe", "items", "base", "chosen", "drop", "ucb95"}
    assert set(document["candidates"][0]) >= {"stage", "step", "alpha", "domain", "drop", "ucb95"}
    assert set(document["cost"]) >= {"tokens", "seconds", "rollouts"}


def test_figures_come_from_the_test_split_where_it_was_read() -> None:
    events = run_events()
    document = summarise(events)
    (exam,) = [
        e for e in events if isinstance(e, Measurement) and (e.checkpoint, e.split, e.role) == (BLEND, "test", "domain")
    ]
    assert document["split"] == "test"
    assert document["domain"][0]["chosen"] == exam.value
    low, high = document["domain"][0]["ci95"]
    assert low < exam.value < high


def test_figures_come_from_the_selection_split_while_the_test_split_is_unread() -> None:
    events = [e for e in run_events() if not (isinstance(e, Measurement) and e.split == "test")]
    assert summarise(events)["split"] == "selection"


def test_the_drop_comes_from_the_candidate_where_no_measurement_was_kept() -> None:
    events = [e for e in run_events() if not isinstance(e, Measurement)]
    document = summarise(events)
    (candidate,) = [e for e in events if isinstance(e, Candidate) and e.checkpoint == BLEND]
    assert (document["split"], document["domain"]) == (None, [])
    assert document["general"]["drop"] == candidate.drop
    assert document["general"]["probes"] == []


def test_the_sentence_of_an_improved_run_names_all_figures() -> None:
    text = said(run_events())
    assert text.startswith("Improved: exam exact match 1.9 % \N{RIGHTWARDS ARROW} 80.6 % (95 % interval 73.8 to 86 %)")
    assert "general drop 0.27 % (at most 0.30 % with 95 % confidence, tolerance 1 %)" in text
    assert text.endswith("chosen: step 120 at alpha 0.8.")


def test_the_sentence_names_the_stage_where_there_are_several() -> None:
    assert said(two_stage_events()).endswith("chosen: 02-sft, step 120 at alpha 0.8.")


def test_a_kept_base_has_dropped_nothing_and_gained_nothing() -> None:
    document = summarise(kept_base_events())
    assert document["verdict"] == "kept-base"
    assert document["chosen"]["checkpoint"] == "base"
    assert (document["general"]["drop"], document["general"]["ucb95"]) == (0.0, 0.0)
    assert document["domain"][0]["base"] == document["domain"][0]["chosen"]
    assert said(kept_base_events()) == "Kept the base: no checkpoint beat it inside the tolerance of 1 %."


def test_a_stopped_run_says_what_stopped_it() -> None:
    text = said(stopped_events())
    assert text.startswith("Stopped: the guard ended 01-sft at step 40 of 120, because behaviour fell by 30.0%")
    assert text.endswith("; the base is kept.")


def test_a_run_stopped_without_the_guard_gives_the_reason_of_the_choice() -> None:
    events = [e for e in stopped_events() if not isinstance(e, Verdict)]
    assert said(events).startswith("Stopped: The guard stopped the stage and no candidate keeps the tolerance; ")


def test_an_unfinished_run_says_how_far_it_is() -> None:
    events = run_events(finished=False)
    assert said(events) == "Unfinished: 01-sft is at step 120 of 120; the run has not chosen a checkpoint."
    document = summarise(events)
    assert (document["verdict"], document["chosen"], document["general"]["drop"]) == ("unfinished", None, None)
    assert said([]) == "Unfinished: no step has been taken yet."


@pytest.mark.parametrize(("harm", "words"), [(0.006, ""), (0.5, "breaks the tolerance of 1 %")])
def test_a_caution_stands_where_the_reported_split_does_not_keep_the_tolerance(harm: float, words: str) -> None:
    text = caution(summary_of(sort_log(run_events(harm=harm)))).replace("\N{NO-BREAK SPACE}", " ")
    assert words in text
    assert bool(text) == bool(words)


def test_a_bound_beyond_the_tolerance_is_called_not_certified() -> None:
    # The drop is 0.8 % for every loss probe and noise widens the bound; the tolerance sits between drop and bound.
    events = run_events(harm=0.03)
    general = summarise(events)["general"]
    between = (general["drop"] + general["ucb95"]) / 2
    started = events[0]
    log = sort_log([replace(started, tolerance=between), *events[1:]])  # type: ignore[call-arg]
    assert "is not certified" in caution(summary_of(log))


def test_an_exam_that_did_not_become_better_where_it_is_reported_is_no_improvement() -> None:
    def failed(event: Event) -> Event:
        at_test = isinstance(event, Measurement) and (event.checkpoint, event.split) == (BLEND, "test")
        if at_test and event.role == "domain":
            return replace(event, items=tuple(0.0 for _ in event.items))
        return event

    events = [failed(event) for event in run_events()]
    log = sort_log(events)
    (exam,) = summary_of(log).domain
    assert said(events).startswith("Better where it was chosen, not on the test split: ")
    assert 'class="is-unconfirmed"' in render_report(events, name="mine")
    assert 'class="is-improved"' in render_report(run_events(), name="mine")
    assert caution(summary_of(log)) == f"On the test split {exam.probe} did not become better than before."


def test_a_gain_that_may_be_chance_is_said_to_be_so() -> None:
    def little(event: Event) -> Event:
        at_test = isinstance(event, Measurement) and (event.checkpoint, event.split) == (BLEND, "test")
        if at_test and event.role == "domain":
            before = next(
                e for e in run_events()
                if isinstance(e, Measurement) and (e.checkpoint, e.split, e.probe) == (BASE, "test", event.probe)
            )  # fmt: skip
            won = before.items.index(0.0)
            return replace(event, ids=before.ids, items=(*before.items[:won], 1.0, *before.items[won + 1 :]))
        return event

    document = summarise(run_events())
    low, high = document["domain"][0]["gain95"]
    assert 0.6 < low < document["domain"][0]["chosen"] - document["domain"][0]["base"] < high
    assert "gained 71" in render_report(run_events(), name="mine").replace("\N{NO-BREAK SPACE}", " ")
    text = caution(summary_of(sort_log([little(event) for event in run_events()])))
    assert text.startswith("On the test split the gain on exam may be chance: with 95 % confidence it is ")
    assert text.endswith(" points.")


def test_the_summary_is_valid_json_even_after_a_divergence() -> None:
    events: list[Event] = []
    for event in run_events():
        if isinstance(event, Candidate):
            event = replace(event, drop=math.inf, ucb95=math.nan)
        if isinstance(event, Measurement) and event.checkpoint == BLEND:
            event = replace(event, items=tuple(math.nan for _ in event.items))
        events.append(event)
    text = json.dumps(summarise(events), allow_nan=False)
    assert json.loads(text)["candidates"][0]["drop"] is None


def test_cost_is_counted_from_the_steps_until_the_run_ends() -> None:
    events = [e for e in run_events() if not isinstance(e, (RunFinished, Choice))]
    cost = summarise(events)["cost"]
    assert cost["tokens"] == 120 * 510
    assert cost["training_seconds"] == pytest.approx(120 * 1.4)
    assert cost["seconds"] == pytest.approx(cost["training_seconds"] + cost["probing_seconds"])
    assert summarise(run_events())["cost"]["seconds"] == 520.0


def test_a_last_checkpoint_that_kept_the_tolerance_and_was_no_better_does_not_break_it() -> None:
    """It was said to break the tolerance, whatever the drop was."""

    def handed_on(harm: float) -> str:
        log = sort_log(run_events(harm=harm))
        return sentence(replace(summary_of(log), verdict="kept-base"), log)

    assert handed_on(0.001).startswith("No better than before: ")
    assert handed_on(0.4).startswith("Breaks the tolerance: ")


def test_a_last_stage_that_hands_its_start_on_does_not_stand_for_what_it_hands_on() -> None:
    """The result of the first stage was called `02-sft, step 0`."""
    events = run_events()
    at = next(n for n, e in enumerate(events) if isinstance(e, Choice))
    first = next(e for e in events if isinstance(e, Choice))
    started = next(e for e in events if isinstance(e, StageStarted))
    again = replace(started, stage="02-sft", parent=first.checkpoint, key="other")
    kept = replace(first, stage="02-sft", step=0, alpha=0.0, verdict="kept-base", reason="its start is kept")
    log = sort_log([*events[: at + 1], again, kept, *events[at + 1 :]])
    assert sentence(summary_of(log), log).endswith("chosen: 01-sft, step 120 at alpha 0.8.")
    chosen = summarise([*events[: at + 1], again, kept, *events[at + 1 :]])["chosen"]
    assert (chosen["stage"], chosen["step"], chosen["alpha"]) == ("01-sft", 120, 0.8)
