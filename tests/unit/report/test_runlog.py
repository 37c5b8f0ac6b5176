from __future__ import annotations

from dataclasses import replace

from temper.events import Candidate, Choice, Measurement, Noticed, RunFinished, StageStarted, Step
from temper.report.runlog import sort_log
from tests.report_events import STAGE, run_events, two_stage_events


def test_the_frontier_shows_a_checkpoint_once_confirmed_before_screened() -> None:
    log = sort_log(run_events())
    splits = {c.checkpoint: c.split for c in log.frontier()}
    assert len(splits) == len(log.frontier()) == 7  # looks at 20, 40, ... 120 and the blend of the last
    assert splits[f"{STAGE}/step-000040"] == "selection"
    assert splits[f"{STAGE}/step-000020"] == "quick"


def test_the_test_split_is_not_on_the_frontier() -> None:
    events = run_events()
    candidate = next(e for e in events if isinstance(e, Candidate))
    events.append(replace(candidate, split="test", checkpoint="only-tested"))
    assert "only-tested" not in {c.checkpoint for c in sort_log(events).frontier()}


def test_a_stage_started_again_under_another_key_leaves_nothing_of_its_first_life() -> None:
    events = run_events()
    again = StageStarted(stage=STAGE, technique="sft", parent="base", key="k2", steps=10)
    log = sort_log([*events, again])
    assert (log.steps, log.candidates, log.choice, log.finished, log.verdict) == ((), (), None, None, "unfinished")
    assert len(log.data) == 3
    assert log.of("base", "selection", "general"), "what the base answered stays true"


def test_a_stage_continued_under_the_same_key_keeps_its_steps() -> None:
    events = run_events(finished=False)
    again = StageStarted(stage=STAGE, technique="sft", parent="base", key="k1", steps=120)
    assert len(sort_log([*events, again]).steps) == 120


def test_an_earlier_stage_started_again_takes_the_later_ones_with_it() -> None:
    events = [*two_stage_events(), StageStarted(stage=STAGE, technique="sft", parent="base", key="k2", steps=10)]
    assert {s.stage for s in sort_log(events).steps} == set()


def test_stages_share_one_axis_of_steps() -> None:
    log = sort_log(two_stage_events())
    assert dict(log.offsets()) == {"01-sft": 0, "02-sft": 120}
    assert log.chosen.startswith("02-sft/")


def test_repeated_facts_are_shown_once() -> None:
    notice = Noticed(where="data/a.jsonl:3", text="empty")
    step = Step(stage=STAGE, step=1, lr=1e-4, tokens=1, supervised=1, loss=1.0, losses={}, grad_norm=1.0, seconds=1.0)
    log = sort_log([notice, replace(notice, at=5.0), step, replace(step, loss=2.0)])
    assert len(log.notices) == 1
    assert [s.loss for s in log.steps] == [2.0]


def test_the_verdict_is_the_last_word_of_the_run() -> None:
    events = run_events()
    assert sort_log(events).verdict == "improved"
    without_end = [e for e in events if not isinstance(e, RunFinished)]
    assert sort_log(without_end).verdict == "unfinished"
    assert any(isinstance(e, Choice) for e in without_end)


def test_the_latest_measurement_of_a_probe_counts() -> None:
    events = run_events()
    exam = next(e for e in events if isinstance(e, Measurement) and e.role == "domain")
    later = replace(exam, items=tuple(1.0 for _ in exam.items))
    (found,) = sort_log([*events, later]).of(exam.checkpoint, exam.split, "domain")
    assert found.value == 1.0
