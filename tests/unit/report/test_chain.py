"""The chain of a run: what came out of what, with what was learnt, in a picture and in one line."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

from temper.events import (
    Candidate,
    CheckpointSaved,
    Choice,
    Event,
    GateReport,
    Reused,
    RunFinished,
    Setting,
    StageStarted,
    Verdict,
)
from temper.report import render_report, summarise
from temper.report.chain import Box, Fact, chain, line
from temper.report.chain_picture import draw
from temper.report.runlog import sort_log
from temper.report.summary import summary_of
from temper.report.words import ARROW, MINUS, SPACE
from tests.report_events import STAGE, kept_base_events, run_events, stopped_events, two_stage_events

CHOSEN = f"{STAGE}/step-000120@0.80"


def boxes(events: list[Event]) -> tuple[Box, ...]:
    log = sort_log(events)
    return chain(log, summary_of(log))


def told(box: Box) -> dict[str, str]:
    return {fact.label: fact.value.replace(SPACE, " ") for fact in box.facts}


def linked() -> list[Event]:
    """Two stages, the second of which starts from what the first chose."""
    return [
        replace(e, parent=CHOSEN) if isinstance(e, StageStarted) and e.stage == "02-sft" else e
        for e in two_stage_events()
    ]


def with_third(parent: str, chosen: str, *, stopped: bool) -> list[Event]:
    """The same with a third stage that hands on what it started from."""
    end = [
        StageStarted(stage="03-rft", technique="rft", parent=parent, key="k3", steps=40),
        *([Verdict(stage="03-rft", step=7, level="stop", drop=0.2, lcb95=0.1, ucb95=0.3, axes={}, reason="x")]
          if stopped else []),
        Choice(stage="03-rft", step=0, alpha=0.0, checkpoint=chosen, path="p", verdict="stopped", reason="no gain"),
        RunFinished(verdict="improved", tokens=1, seconds=1.0),
    ]  # fmt: skip
    return [*(e for e in linked() if not isinstance(e, RunFinished)), *end]


def test_boxes_say_what_was_learnt_how_and_what_it_cost() -> None:
    base, stage, end = boxes(run_events())
    assert (base.title, base.parent, stage.parent, end.parent) == ("smollm2-135m-instruct", -1, 0, 1)
    assert told(base) == {"exam": "0.6 %"}
    facts = told(stage)
    assert (facts["data"], facts["replay"]) == ("train.jsonl, 1\N{NARROW NO-BREAK SPACE}840 rows", "25 % general")
    assert (facts[""], facts["chosen"]) == ("sft", "step 120 at alpha 0.8")
    (candidate,) = [e for e in run_events() if isinstance(e, Candidate) and e.checkpoint == CHOSEN]
    assert facts["at most"] == f"{100 * candidate.ucb95:.2f} %".replace("-", MINUS)
    assert end.title == "01-sft, step 120 at alpha 0.8"
    assert told(end)[""] == "test split"
    assert all(box.lives_on for box in (base, stage, end))


def test_a_bound_beyond_the_tolerance_is_marked() -> None:
    def tone(events: list[Event]) -> str:
        return next(fact.tone for fact in boxes(events)[1].facts if fact.label == "at most")

    assert (tone(run_events()), tone(run_events(harm=0.5))) == ("good", "bad")


def test_adapter_and_rank_are_those_of_the_stage() -> None:
    events = [
        replace(e, settings=(*e.settings, Setting(path="stages.0.adapter", value="lora", origin="rule"),
                             Setting(path="stages.0.rank", value="16", origin="rule"),
                             Setting(path="stages.1.adapter", value="full", origin="rule")))
        if hasattr(e, "settings") else e
        for e in linked()
    ]  # fmt: skip
    assert [told(box)[""] for box in boxes(events)[1:3]] == ["sft, lora rank 16", "sft, full"]


def test_a_stage_that_keeps_its_start_leads_nowhere() -> None:
    second = "02-sft/step-000120@0.80"
    base, one, two, three, end = boxes(with_third(second, second, stopped=True))
    assert (one.parent, two.parent, three.parent, end.parent) == (0, 1, 2, 2)
    assert [box.lives_on for box in (base, one, two, three, end)] == [True, True, True, False, True]
    assert [mark.value for mark in three.marks] == ["stopped at step 7", "hands its start on"]
    assert end.title == "02-sft, step 120 at alpha 0.8"  # the stage that made it, not the one that handed it on


def test_a_stage_behind_one_that_kept_its_start_comes_from_the_stage_before_that() -> None:
    events = [
        replace(e, checkpoint=CHOSEN) if isinstance(e, Choice) and e.stage == "02-sft" else e
        for e in with_third(CHOSEN, CHOSEN, stopped=False)
    ]
    _, one, two, three, end = boxes(events)
    assert (two.parent, three.parent, end.parent) == (1, 1, 1)
    assert one.lives_on and not two.lives_on and not three.lives_on


def test_a_kept_base_is_the_end_of_the_chain() -> None:
    for events, mark in ((kept_base_events(), "hands its start on"), (stopped_events(), "stopped at step 40")):
        base, stage, end = boxes(events)
        assert (end.title, end.parent, stage.lives_on, base.lives_on) == ("the base, unchanged", 0, False, True)
        assert mark in [fact.value for fact in stage.marks]


def test_a_stage_taken_over_says_from_where() -> None:
    events = linked()
    place = next(n for n, e in enumerate(events) if isinstance(e, StageStarted))
    events.insert(place, Reused(stage=STAGE, run="monday"))
    assert boxes(events)[1].marks == (Fact(label="", value="taken over from monday", tone="calm"),)
    assert summarise(events)["chain"][0]["taken_over_from"] == "monday"
    assert f"{STAGE} (taken over from monday, step 120 at alpha 0.8, domain " in line(sort_log(events))


def test_tasks_are_counted_by_the_gate() -> None:
    second = "02-sft/step-000120@0.80"
    none = (0.0, 1.0)
    gate = GateReport(
        stage="03-rft", verdict="GO", reasons=("r",), tasks=64, total=211, tries=8, group_size=8, reward=0.5,
        reward_95=none, pass_1=0.5, pass_1_95=none, pass_k=1.0, pass_k_95=none, useful=1.0, useful_95=none, gain=0.5,
        histogram=(0,) * 9, spread={}, outcomes={}, capped=0.0, length=4.0,
    )  # fmt: skip
    events = [
        replace(e, settings=(*e.settings, Setting(path="stages.2.data", value="tasks.jsonl", origin="recipe")))
        if hasattr(e, "settings") else e
        for e in [*with_third(second, second, stopped=False), gate]
    ]  # fmt: skip
    assert told(boxes(events)[3])["data"] == "tasks.jsonl, 211 rows"


def test_the_line_for_a_terminal_follows_the_chain() -> None:
    text = line(sort_log(linked())).replace(SPACE, " ")
    parts = text.split(f" {ARROW} ")
    assert parts[0] == "smollm2-135m-instruct"
    assert re.fullmatch(
        r"01-sft \(step 120 at alpha 0\.8, domain [\d.]+ %, general drop .+ %, at most .+ %\)", parts[1]
    )
    assert parts[3] == "02-sft/step-000120@0.80 is handed over"
    assert line(sort_log(kept_base_events())).endswith(f"01-sft (hands its start on) {ARROW} the base is kept")
    assert line(sort_log(run_events(finished=False))).endswith(f"01-sft (not finished) {ARROW} nothing chosen yet")
    assert line(sort_log([])) == "" and boxes([]) == ()


def test_the_picture_has_a_box_and_an_arrow_for_every_link_and_is_escaped() -> None:
    events = [replace(e, source="<b>.jsonl") if getattr(e, "source", "") == "train.jsonl" else e for e in linked()]
    page = render_report(events)
    picture = page[page.index('<div class="panel chain">') :]
    picture = picture[: picture.index("</svg>")]
    assert picture.count("<rect") == 4 and picture.count('class="arrow') == 3
    assert "<b>.jsonl" not in picture and "<b>.jsonl, 1" in unescape(picture)
    for words in ("01-sft", "02-sft", "smollm2-135m-instruct", "step 120 at alpha 0.8"):
        assert words in picture


def test_the_summary_has_the_chain() -> None:
    first, second = summarise(linked())["chain"]
    assert (first["parent"], second["parent"]) == ("base", CHOSEN)
    assert first["data"] == {"train.jsonl": 1840}
    assert (first["chosen"], first["steps"], first["of"], first["stopped_at"]) == (CHOSEN, 120, 120, None)
    saved = [e for e in linked() if isinstance(e, CheckpointSaved)]
    assert first["chosen"] in {e.checkpoint for e in saved}


def test_a_place_that_is_too_long_for_its_box_loses_the_stage_and_not_the_beginning_of_a_word() -> None:
    """It read `...tep 120 at alpha 0.8`."""
    picture = draw(boxes(run_events()))
    assert ">step 120 at alpha 0.8</text>" in picture and "...tep" not in picture
