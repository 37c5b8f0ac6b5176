"""The exam's own metric, put to replies that are there already."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from temper.data.row import Message
from temper.probes.base import Probe, ProbeSpec
from temper.rollout.asking import Attempt, Turn
from temper.rollout.exam import exam_of
from temper.rollout.score import Score
from temper.rollout.task import Task

if TYPE_CHECKING:
    from tests.unit.rollout.conftest import Bench


def probe(kind: str) -> Probe:
    return Probe(spec=ProbeSpec(name="exam", axis="domain", kind=kind, source="x", role="domain"), items=())


def task(reference: str, **fields: Any) -> Task:
    asked = (Message(role="user", content="light"),)
    return Task(id=f"t-{reference}", messages=asked, reference=reference, fields={"reference": reference, **fields})


def marked(bench: Bench, kind: str, *pairs: tuple[Task, str]) -> list[tuple[float, float | None] | None]:
    """Value and right or wrong of every reply; None where the metric could not mark it."""
    exam = exam_of([probe(kind)], [task for task, _ in pairs])
    assert exam is not None
    said = [(t, attempt(bench, reply)) for t, reply in pairs]
    return [mark and (mark.value, mark.hard) for mark in exam.marks(bench.renderer, said)]


def attempt(bench: Bench, reply: str) -> Attempt:
    tokens = (*bench.renderer.text(reply), bench.renderer.end_tokens[0])
    turn = Turn(prompt=(1,), tokens=tokens, logprobs=(0.0,) * len(tokens))
    return Attempt(turns=(turn,), reply=reply, score=Score(value=0.0), capped=False, reward=0.0)


def test_replies_are_marked_as_the_exam_marks_them(bench: Bench):
    found = marked(bench, "exact", (task("yes"), " yes"), (task("yes"), "yes no"), (task('{"a": 1}'), '{"a":1.0}'))
    assert found == [(1.0, 1.0), (0.0, 0.0), (1.0, 1.0)]
    assert marked(bench, "numeric", (task("21"), "The answer is 21."), (task("21"), "no")) == [(1.0, 1.0), (0.0, 0.0)]


def test_a_metric_of_degrees_knows_no_right_and_wrong(bench: Bench):
    # Three words of the reference's four: precision 1, recall 3/4, F1 = 2 x 3 / 7.
    found = marked(bench, "rouge-l", (task("the quick brown fox"), "the brown fox"))
    assert found == [(pytest.approx(6 / 7), None)]


def test_a_task_without_what_the_metric_reads_gets_no_mark(bench: Bench):
    with_pattern = task("x", pattern="^no")
    assert marked(bench, "regex", (task("x"), "no"), (with_pattern, "no fox"), (task("x"), "yes")) == [
        None, (1.0, 1.0), None,
    ]  # fmt: skip
    # A number is compared with a number, an object with an object.
    assert marked(bench, "numeric", (task("a word"), "3"), (task("3"), "3")) == [None, (1.0, 1.0)]
    assert marked(bench, "json", (task("3"), "3"), (task('{"a": 3}'), '{"a": 3}')) == [None, (1.0, 1.0)]


def test_the_first_probe_that_can_mark_replies_is_taken():
    tasks = [task("yes")]
    found = exam_of([probe("text"), probe("reply-choice"), probe("regex"), probe("exact"), probe("rouge-l")], tasks)
    assert found is not None and found.label == "exam (exact)"
    assert exam_of([probe("text"), probe("code")], tasks) is None
    assert exam_of([], tasks) is None


def test_another_metric_is_another_key():
    keys = {exam.key for kind in ("exact", "numeric") if (exam := exam_of([probe(kind)], [task("3")]))}
    assert len(keys) == 2
    exam = exam_of([probe("exact")], [task("3")])
    assert exam is not None and replace(exam, spec=replace(exam.spec, name="other")).key == exam.key
