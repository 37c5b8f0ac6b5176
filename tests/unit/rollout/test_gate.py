"""The gate asks the fake model: a verdict per kind of reward, what it keeps, and what the first update does with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from temper.errors import NotReady
from temper.events import GateReport, RolloutStep
from temper.probes.base import ProbeSpec
from temper.rollout import gate, record
from temper.rollout.asking import Asking
from temper.rollout.exam import Exam
from temper.rollout.gate import Examined, Question
from temper.rollout.reward import Reward, load_reward
from temper.rollout.task import Task
from tests.unit.rollout.conftest import Bench, tasks
from tests.unit.rollout.test_feed import DRILL, of, run

EXAM = Exam(spec=ProbeSpec(name="exam", axis="domain", kind="exact", source="exam", role="domain", max_new_tokens=4))
EXACT = Asking(max_new_tokens=4, reward=load_reward("exact"))
MIXED = tuple(replace(t, id=f"{t.id}-{w}", reference=w, fields={"prompt": t.prompt, "reference": w})
              for w in ("yes", "no", "fox") for t in tasks(12))  # fmt: skip


def hopeless(count: int) -> tuple[Task, ...]:
    """Tasks whose answers, all of them different, are never given."""
    return tuple(
        replace(t, id=f"bad{n}", reference=f"never{n}", fields={**t.fields, "reference": f"never{n}"})
        for n, t in enumerate(tasks(count))
    )


def ask(
    bench: Bench, given: tuple[Task, ...] = MIXED, asking: Asking = EXACT, *, tries: int = 8, measured: int = 64
) -> Examined:
    question = Question(
        stage="01-rft", tasks=given, asking=asking, group_size=tries, seed=0, measured=measured
    )  # fmt: skip
    return gate.examine(question, bench.asker(asking), model="m", cache=bench.folder / "cache")


@pytest.mark.slow
def test_tasks_that_are_sometimes_solved_open_the_gate(bench: Bench):
    found = ask(bench)
    report = found.report
    assert (report.verdict, report.remedy) == ("GO", "")
    assert (report.tasks, report.total, report.tries, report.group_size) == (36, 36, 8, 8)
    # One word in three is right: 1 - (1/3)^8 - (2/3)^8 = 0.96 of the groups are useful.
    assert 0.2 < report.pass_1 < 0.5 and report.useful > 0.8
    assert (report.gold, report.noise) == (1.0, 0.0) and report.capped < 0.05
    assert report.tricks["empty"] == report.tricks["copied-prompt"] == report.tricks["format-only"] == 0.0
    # The most common answer, asked where it is wrong.
    assert report.tricks["constant"] == 0.0
    assert len(found.rollouts) == 36 * 8 and found.tasks == MIXED
    assert gate.admit(found) is found


def test_a_task_that_is_never_solved_asks_for_examples(bench: Bench):
    found = ask(bench, hopeless(12))
    assert found.report.verdict == "SFT FIRST"
    with pytest.raises(NotReady, match=r"stage 01-rft: the gate says SFT FIRST: .*put an SFT stage.*--force") as caught:
        gate.admit(found)
    assert caught.value.exit_code == 3
    forced = gate.admit(found, forced=True)
    assert forced.report.forced and forced.opens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 0.5", "every rollout of every task has the same reward, 0.5"),
        pytest.param("return 1.0", "replies earn 100", marks=pytest.mark.slow),
        ("return float(len(reply) > 0)", "copied-prompt replies earn 100"),
        ("return __import__('random').random() if reply else 0.0", "the same reply is graded differently"),
        (
            "return 1 / 0",
            "no rollout was graded: reward rewards.py:mine on tasks.jsonl:1: ZeroDivisionError: division by zero"
            " (rewards.py:3)",
        ),
        ("return {' yes': 1.0, ' no': 0.0}[reply]", "of the rollouts (at most 1 %): reward rewards.py:mine on tasks.j"),
        pytest.param("return None", "on tasks.jsonl:1: returned None; expected a number", marks=pytest.mark.slow),
        pytest.param(
            "return float('nan')", "on tasks.jsonl:1: returned nan; expected a finite number", marks=pytest.mark.slow
        ),
        pytest.param(
            "return '1.0'", "on tasks.jsonl:1: returned '1.0', a str; expected a number", marks=pytest.mark.slow
        ),
        ("return 5.0 * (task['reference'] == reply.strip())", "rewards from 0 to 5 of what it declares"),
    ],
)
def test_a_reward_that_cannot_be_trusted_is_refused(
    bench: Bench, write_reward: Callable[[str], Reward], body: str, reason: str
):
    found = ask(bench, asking=Asking(max_new_tokens=4, reward=write_reward(body)))
    assert found.report.verdict == "FIX REWARD"
    assert any(reason in said for said in found.report.reasons), found.report.reasons


@pytest.mark.slow
def test_a_reward_that_prints_is_none_the_worse(bench: Bench, write_reward: Callable[[str], Reward]):
    body = "print('hello'); return float(reply.strip() == task['reference'])"
    assert ask(bench, asking=Asking(max_new_tokens=4, reward=write_reward(body))).report.verdict == "GO"


@pytest.mark.slow
def test_a_reward_that_pays_what_the_exam_fails_is_refused(bench: Bench, write_reward: Callable[[str], Reward]):
    """The reward wants another word than the reference, so that of two replies it never prefers the right one."""
    asking = Asking(max_new_tokens=4, reward=write_reward("return float(bool(reply.strip()) and reply != ' yes')"))
    question = Question(stage="01-rft", tasks=tasks(24), asking=asking, group_size=8, seed=0, exam=EXAM)
    report = gate.examine(question, bench.asker(asking), model="m", cache=bench.folder / "cache").report
    assert report.verdict == "FIX REWARD"
    assert (report.exam, report.agreement) == ("exam (exact)", 0.0)
    assert report.hollow == round(report.reward * 24 * 8), "every reply that is paid fails the exam"
    (hollow,) = [r for r in report.reasons if "a high reward" in r]
    assert hollow.startswith("a high reward where the domain probe exam (exact) says failed: tasks.jsonl:1, tasks.jso")
    assert "probes.domain" in report.remedy


@pytest.mark.slow
def test_a_reward_that_is_the_exams_own_metric_agrees_with_it(bench: Bench):
    question = Question(stage="01-rft", tasks=MIXED, asking=EXACT, group_size=8, seed=0, exam=EXAM)
    report = gate.examine(question, bench.asker(EXACT), model="m", cache=bench.folder / "cache").report
    assert (report.verdict, report.agreement, report.hollow) == ("GO", 1.0, 0)
    assert report.agreement_95 is not None and 0.8 < report.agreement_95[0] < 1.0 == report.agreement_95[1]
    assert not any("domain probe" in remark for remark in report.remarks)


def test_another_exam_is_another_question(bench: Bench):
    question = Question(stage="01-rft", tasks=MIXED, asking=EXACT, group_size=8, seed=0, exam=EXAM)
    other = replace(EXAM, spec=replace(EXAM.spec, kind="rouge-l"))
    keys = {replace(question, exam=exam).key("m") for exam in (None, EXAM, other)}
    assert len(keys) == 3


@pytest.mark.slow
def test_what_a_check_asked_a_run_does_not_ask_again(bench: Bench):
    first = ask(bench)
    asked: list[int] = []
    policy = bench.policy
    bench.policy = replace(policy, sampler=Counting(asked))
    assert ask(bench).report == first.report
    assert not asked
    with pytest.raises(AssertionError):
        ask(bench, MIXED[:30])
    assert asked == [1]


class Counting:
    """A sampler that must not be asked."""

    def __init__(self, asked: list[int]) -> None:
        self._asked = asked

    def generate(self, *_: object, **__: object) -> list[object]:
        self._asked.append(1)
        raise AssertionError


def filtered(bench: Bench) -> Examined:
    """Forty tasks of which a third of the replies is right, and forty that nobody can solve."""
    good = tuple(replace(t, id=f"good{n}") for n, t in enumerate(tasks(40)))
    return ask(bench, (*good, *hopeless(40)), tries=16, measured=80)


@pytest.mark.slow
def test_a_reward_that_was_corrected_in_a_module_beside_it_is_asked_again(bench: Bench, tmp_path: Path):
    """The verdict FIX REWARD came from the cache for ever: only the reward's own file was part of the key."""
    (tmp_path / "mine.py").write_text(
        "import importlib\ndef mine(task, reply):\n"
        "    return importlib.import_module('marking').mark(task, reply)\n", encoding="utf-8",
    )  # fmt: skip
    beside = tmp_path / "marking.py"
    beside.write_text("def mark(task, reply):\n    return 0.5\n", encoding="utf-8")
    asking = Asking(max_new_tokens=4, reward=load_reward("mine.py:mine", tmp_path))
    assert ask(bench, asking=asking).report.verdict == "FIX REWARD"
    beside.write_text("def mark(task, reply):\n    return float(reply.strip() == task['reference'])\n")
    assert ask(bench, asking=asking).report.verdict == "GO"


def test_another_module_beside_the_reward_is_another_question(tmp_path: Path):
    """A GO from the cache outlived the change of what the reward imports."""
    (tmp_path / "mine.py").write_text("import marking\ndef mine(task, reply):\n    return 0.5\n", encoding="utf-8")
    (tmp_path / "marking.py").write_text("FULL = 1.0\n", encoding="utf-8")
    asking = Asking(max_new_tokens=4, reward=load_reward("mine.py:mine", tmp_path))
    question = Question(stage="01-rft", tasks=MIXED, asking=asking, group_size=8, seed=0)
    before = question.key("m")
    assert question.key("m") == before
    (tmp_path / "marking.py").write_text("FULL = 2.0\n", encoding="utf-8")
    assert question.key("m") != before


def test_more_time_for_the_reward_is_another_question(bench: Bench):
    """A reward that ran out of time was refused again, from the cache, when it had been given more."""
    question = Question(stage="01-rft", tasks=MIXED, asking=EXACT, group_size=8, seed=0)
    assert replace(question, asking=replace(EXACT, seconds=60.0)).key("m") != question.key("m")


@pytest.mark.slow
def test_a_filter_keeps_the_list_of_tasks(bench: Bench, tmp_path: Path):
    found = filtered(bench)
    assert found.report.verdict == "FILTER" and found.opens
    assert {t.id[:3] for t in found.tasks} == {"goo"} and len(found.tasks) >= 36
    gate.keep(found, tmp_path / "stage")
    listed = [json.loads(line) for line in (tmp_path / "stage" / "tasks.jsonl").read_text().splitlines()]
    assert listed == [dict(t.fields) for t in found.tasks]


@pytest.mark.slow
def test_tasks_that_were_not_tried_stay_after_a_filter(bench: Bench):
    """A hundred of the 160 are tried; of the others nobody knows better."""
    good = tuple(replace(t, id=f"good{n}") for n, t in enumerate(tasks(60)))
    bad = hopeless(100)
    found = ask(bench, (*good, *bad), tries=16, measured=100)
    assert found.report.verdict == "FILTER"
    tried = {r.task for r in found.rollouts}
    kept = {t.id for t in found.tasks}
    assert len(tried) == 100 and kept >= {t.id for t in (*good, *bad)} - tried
    assert "on the 60 that were not tried" in found.report.remedy


@pytest.mark.slow
def test_the_first_update_uses_the_rollouts_of_the_gate(bench: Bench):
    drill = replace(DRILL, tasks=MIXED, group_size=8)
    found = ask(bench)
    gate.keep(found, bench.folder / "stage")
    (batch,) = run(bench, drill, 1)
    (event,) = of(bench.log, RolloutStep)
    first = [r for r in found.rollouts if r.task in event.groups]
    written = record.read(bench.folder / "stage" / "rollouts.jsonl")
    assert len(written[0]) == 36 * 8
    assert [r.logprobs for r in written[1]] == [r.logprobs for r in first], "the very same rollouts"
    assert len(batch) == 8 * 3


@pytest.mark.slow
def test_what_the_filter_left_out_is_not_trained_on(bench: Bench):
    found = filtered(bench)
    gate.keep(found, bench.folder / "stage")
    everything = tuple({r.task: r.task for r in found.rollouts})
    by_id = {t.id: t for t in found.tasks}
    bad = tuple(replace(t, id=name) for t in tasks(1, "never") for name in everything if name not in by_id)
    run(bench, replace(DRILL, tasks=(*found.tasks, *bad), group_size=4), 4, lr=0.0)
    groups = {g for e in of(bench.log, RolloutStep) for g in e.groups}
    assert groups <= set(by_id)


@pytest.mark.slow
def test_the_report_survives_the_log(bench: Bench):
    from temper import events

    report = ask(bench).report
    again = events.decode(events.encode(report))
    assert isinstance(again, GateReport)
    assert (again.verdict, again.keep, again.tricks) == (report.verdict, report.keep, dict(report.tricks))
