"""Gate: tries the tasks with the start of a stage, judges whether reinforcement can work, and keeps what was sampled.

`examine` is what `temper check` and `temper run` call; the same model, tasks, reward and seed give the same answer,
which is kept in the cache, so that a run does not ask again what a check has asked; only a reward that was refused is
asked again, since it may have been corrected where the key does not look. `keep` lays it into the folder of
the stage, where the first update finds its rollouts. The judgement itself is `temper.decide.gates`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from temper import events
from temper.data.fetch import replacing
from temper.decide.gates import gate
from temper.decide.rollouts import Evidence, Tried, Try
from temper.errors import NotReady
from temper.events import GateReport, Rollout
from temper.rollout import record
from temper.rollout.asking import Asker, Asking, Attempt, Group, Place, lines
from temper.rollout.exam import Exam, Mark
from temper.rollout.grading import Grader, Limits
from temper.rollout.score import Score
from temper.rollout.task import Task

ROLLOUTS, REPORT, TASKS = "rollouts.jsonl", "gate.json", "tasks.jsonl"
RULES = 2
"""Counts the changes of this module that change what is asked; part of the key of the cache."""
NO_ANSWER = "I do not know."
"""The constant reply to tasks without references."""
MEASURED = 64
"""Tasks tried at most (methods 4: 64 prompts x 16; the tries are as many as a group of the training has)."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the gate asks, all settled."""

    stage: str
    tasks: tuple[Task, ...]
    asking: Asking
    group_size: int
    seed: int
    measured: int = MEASURED
    """Tasks to try at most."""
    exam: Exam | None = None
    """What the reward is held against: the metric of the domain probe, where it can mark replies to the tasks."""

    def key(self, model: str) -> str:
        """What the answer follows from: model, tasks, how they are asked and graded, seed."""
        asking, reward = self.asking, self.asking.reward
        terms = [asdict(term) for term in reward.terms] if reward is not None else []
        parts = [
            RULES, model, [[task.id, dict(task.fields)] for task in self.tasks], asking.max_new_tokens,
            asking.temperature, asking.max_turns, asking.seconds, terms, _files(terms), self.group_size, self.seed,
            self.measured, asking.played, self.exam and self.exam.key,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What the gate found, and what it found it with."""

    report: GateReport
    rollouts: tuple[Rollout, ...]
    tasks: tuple[Task, ...]
    """Those to train on: all but the ones that FILTER leaves out."""

    @property
    def opens(self) -> bool:
        """Whether the stage may start."""
        return self.report.verdict in ("GO", "FILTER") or self.report.forced


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What the gate left in the folder of a stage."""

    groups: tuple[Group, ...] = ()
    dropped: frozenset[str] = frozenset()
    """Ids of tasks that FILTER leaves out."""


def examine(question: Question, asker: Asker, *, model: str, cache: Path, progress: Progress | None = None) -> Examined:
    """Tries a sample of the tasks with the model that a stage starts from, and judges.

    Args:
        question: What is asked.
        asker: The model that answers; its grader is not used.
        model: What makes two models the same, e.g. the hash of the weights.
        cache: Folder that all runs share.
        progress: Told (what, done, of) while rollouts are sampled.

    Raises:
        TemperError: the reward cannot be loaded, hangs, or an endpoint is down.
    """
    folder = cache / "gate" / question.key(model)
    by_id = {task.id: task for task in question.tasks}
    known = _known(folder)
    if known is None:
        known = _measure(question, asker, progress)
        # Its remedy is to correct what the key may not see: a module beside the reward, an endpoint, a judge.
        if known[0].verdict != "FIX REWARD":
            _write(folder, known[0], known[1])
    report = replace(known[0], stage=question.stage)
    rollouts = tuple(replace(r, stage=question.stage) for r in known[1])
    left = _left(report, {r.task for r in rollouts})
    return Examined(report=report, rollouts=rollouts, tasks=tuple(t for t in by_id.values() if t.id not in left))


def keep(examined: Examined, folder: Path) -> None:
    """Lays the gate's rollouts, its report and, after FILTER, the list of tasks into the folder of a stage."""
    _write(folder, examined.report, examined.rollouts)
    if examined.report.verdict == "FILTER":
        write_tasks(examined.tasks, folder / TASKS)


def write_tasks(tasks: Sequence[Task], to: Path) -> None:
    """A file of tasks that a recipe may name as `data`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as file:
        for task in tasks:
            row = dict(task.fields) or {"messages": task["messages"], "reference": task.reference}
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")


def admit(examined: Examined, *, forced: bool = False) -> Examined:
    """The same where the stage may start; with `forced` in any case, which the report then says.

    Raises:
        NotReady: the verdict, why, and what to do.
    """
    if examined.opens:
        return examined
    if forced:
        return replace(examined, report=replace(examined.report, forced=True))
    raise NotReady(refusal(examined.report))


def refusal(report: GateReport) -> str:
    """Why a stage may not start, and what to do."""
    return (
        f"stage {report.stage}: the gate says {report.verdict}: {'; '.join(report.reasons)}; {report.remedy}; or go on"
        " against it with --force"
    )


def recall(folder: Path, tasks: Mapping[str, Task], asking: Asking) -> Recalled:
    """What `keep` left in a folder; nothing where no gate was asked."""
    known = _known(folder)
    if known is None:
        return Recalled()
    report, rollouts = known
    groups = tuple(record.groups(rollouts, tasks, asking))
    return Recalled(groups=groups, dropped=frozenset(_left(report, {r.task for r in rollouts})))


def reported(folder: Path) -> GateReport | None:
    """What the gate said where `keep` laid it down."""
    known = _known(folder)
    return known[0] if known is not None else None


def _measure(question: Question, asker: Asker, progress: Progress | None) -> tuple[GateReport, tuple[Rollout, ...]]:
    order = np.random.default_rng([question.seed, len(question.tasks)]).permutation(len(question.tasks))
    chosen = [question.tasks[n] for n in sorted(order[: question.measured].tolist())]
    groups: list[Group] = []
    reward = question.asking.reward
    # Every error is wanted as data here: the verdict tells how many there are.
    grader = Grader(reward, limits=Limits(errors=1.0, seconds=question.asking.seconds)) if reward is not None else None
    try:
        asker = replace(asker, asking=question.asking, grader=grader)
        size = max(1, 256 // question.group_size)
        for first in range(0, len(chosen), size):
            if progress is not None:
                progress(f"{question.stage}: rollouts of the gate", first, len(chosen))
            groups += asker.groups(chosen[first : first + size], question.group_size, seed=question.seed * 1009 + first)
        controls = _controls(groups, grader, question.asking) if grader is not None else {}
    finally:
        if grader is not None:
            grader.close()
    place = Place(stage=question.stage, step=0)
    evidence = _evidence(question, groups, controls, asker)
    return gate(evidence, stage=question.stage), tuple(lines(groups, place))


def _evidence(question: Question, groups: Sequence[Group], controls: Mapping[str, Tried], asker: Asker) -> Evidence:
    """What was found, with what the exam says of the same replies."""
    asked = [(group.task, attempt) for group in groups for attempt in group.attempts]
    exam = question.exam
    marks = exam.marks(asker.renderer, asked) if exam is not None else [None] * len(asked)
    marked = [mark for mark in marks if mark is not None]
    left = iter(marks)
    return Evidence(
        tried=tuple(_tried(group, controls.get(group.task.id), left) for group in groups),
        group_size=question.group_size, total=len(question.tasks), exam=exam.label if exam and marked else "",
        degrees=any(mark.hard is None for mark in marked), played=question.asking.environment is not None,
    )  # fmt: skip


def _controls(groups: Sequence[Group], grader: Grader, asking: Asking) -> dict[str, Tried]:
    """By task: the reference graded like a reply, one reply graded twice, and replies that deserve nothing."""
    asked: list[tuple[Task, str, str]] = []
    references = [group.task.reference for group in groups]
    usual = Counter(r for r in references if r).most_common(1)
    constant = usual[0][0] if usual else NO_ANSWER
    for place, group in enumerate(groups):
        task = group.task
        asked += [(task, "again", group.attempts[0].reply), (task, "empty", ""), (task, "copied-prompt", task.prompt)]
        if constant.split() != task.reference.split():  # where it is right, it deserves what it gets
            asked.append((task, "constant", constant))
        if task.reference:
            asked.append((task, "gold", task.reference))
        other = _other(references, place)
        if other:
            asked.append((task, "format-only", other))
    scores = grader.grade([task for task, _, _ in asked], [reply for _, _, reply in asked])
    graded = [(task.id, name, _graded(score, asking)) for (task, name, _), score in zip(asked, scores, strict=True)]
    return {
        group.task.id: _control(group, {name: found for task, name, found in graded if task == group.task.id})
        for group in groups
    }


def _graded(score: Score, asking: Asking) -> Try:
    reward = asking.scaled(score.value) if score.counts else None
    return Try(reward=reward, outcome=score.outcome.value, parts=dict(score.parts))


def _control(group: Group, found: Mapping[str, Try]) -> Tried:
    first, again = group.attempts[0].reward, found["again"].reward
    tricks = {n: t.reward for n, t in found.items() if n not in ("again", "gold") and t.reward is not None}
    return Tried(
        task=group.task.id, tries=(), gold=found.get("gold"), tricks=tricks,
        repeats=(abs(first - again),) if first is not None and again is not None else (),
    )  # fmt: skip


def _other(references: Sequence[str], place: int) -> str:
    """The right answer to another task: the form of an answer with the wrong content."""
    own = references[place]
    rest = (*references[place + 1 :], *references[:place])
    return next((r for r in rest if r and r.split() != own.split()), "") if own else ""


def _tried(group: Group, controls: Tried | None, marks: Iterator[Mark | None]) -> Tried:
    tries = tuple(_try(attempt, next(marks)) for attempt in group.attempts)
    return replace(controls or Tried(task=group.task.id, tries=()), tries=tries, origin=group.task.origin)


def _try(attempt: Attempt, mark: Mark | None) -> Try:
    score = attempt.score
    return Try(
        reward=attempt.reward, outcome=score.outcome.value, length=attempt.length, capped=attempt.capped,
        parts=dict(score.parts), metric=mark and mark.value,
        seconds=score.seconds, note="" if score.counts else score.note,
    )  # fmt: skip


def _left(report: GateReport, measured: set[str]) -> set[str]:
    """Tasks that FILTER leaves out: those that were tried and are not worth it; the others are found out on the way."""
    return measured - set(report.keep) if report.verdict == "FILTER" else set()


def _write(folder: Path, report: GateReport, rollouts: Sequence[Rollout]) -> None:
    """The report comes last: where it lies, everything lies."""
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / ROLLOUTS, rollouts)
    with replacing(folder / REPORT) as file:
        file.write(events.encode(report).encode())


def _known(folder: Path) -> tuple[GateReport, tuple[Rollout, ...]] | None:
    if not (folder / REPORT).is_file():
        return None
    report = events.decode((folder / REPORT).read_text(encoding="utf-8"))
    assert isinstance(report, GateReport)
    return report, tuple(record.read(folder / ROLLOUTS, step=0).get(0, []))


def _files(terms: Sequence[Mapping[str, Mapping[str, str]]]) -> list[str]:
    """What stands in the files of the user that the terms name, and in the modules beside, which they may import."""
    places = [Path(str(term["leaf"]["name"]).rpartition(":")[0]) for term in terms]
    folders = dict.fromkeys(p.parent for p in places if p.suffix == ".py" and p.is_file())
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
