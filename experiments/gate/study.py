"""Does the gate predict what reinforcement gains? Every micro-task is gated, trained and measured on tasks held out.

    python -m experiments.gate.study [--model smollm2-135m-instruct] [--only TASK ...] [--seeds 3] [--steps 60]
    python -m experiments.gate.study --again    asks the gate once more about all results, after a change of its rules

One line per task and seed is appended to results.jsonl beside this file; what is there is not run again, so the study
may be stopped at any time. `python -m experiments.gate.analyse` says what it shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.gate.tasks import KINDS, tasks
from temper import registry
from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.errors import TemperError
from temper.events import Event, GateReport, RolloutStep
from temper.losses import Term
from temper.model.protocol import Backend, Base, Policy, TrainSpec
from temper.rollout import gate
from temper.rollout.advantage import rloo
from temper.rollout.asking import Asker, Asking
from temper.rollout.course import Course
from temper.rollout.feed import Drill, RolloutFeed
from temper.rollout.grading import Grader
from temper.rollout.learning import Lesson
from temper.rollout.reward import load_reward
from temper.rollout.task import Task
from temper.techniques.base import Live, Plan, schedule
from temper.train import train

RESULTS = Path(__file__).with_name("results.jsonl")
ROWS, HELD_OUT, TRIES = 160, 48, 4
"""Tasks of a kind, how many of them are held out (a third, where there are few), and how often each of those is tried
before and after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is done to every task."""

    model: str = "smollm2-135m-instruct"
    steps: int = 60
    group_size: int = 8
    prompts: int = 4
    rank: int = 8
    lr: float = 2.6e-4
    """The table's rate for RFT with an adapter at a width of 576."""
    measured: int = 48
    """Tasks that the gate tries."""
    temperature: float = 0.7
    """At 1 the built-in model hardly ever answers in time: the replies run off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One task and seed."""

    task: str
    seed: int
    verdict: str
    mean: float
    """Mean reward of the gate's rollouts."""
    pass_k: float
    useful: float
    """q."""
    predicted: float
    """q (1 - mean reward)."""
    before: float
    """Mean reward on the tasks held out, sampled like the rollouts."""
    after: float
    gate_rollouts: int
    train_rollouts: int
    steps: int
    ended: str
    """Why the training ended early; empty where it did not."""
    seconds: float
    setting: Setting
    reasons: Sequence[str] = ()
    """Of the verdict."""
    capped: float = 0.0
    """Share of the gate's rollouts that reached the token limit."""
    histogram: Sequence[int] = ()
    """Tasks of the gate by number of passes."""

    @property
    def gain(self) -> float:
        """What reinforcement brought."""
        return self.after - self.before


def read(path: Path = RESULTS) -> list[Result]:
    """What has been found so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    return [Result(**(fields | {"setting": Setting(**fields["setting"])})) for fields in found]


def write(results: Sequence[Result], path: Path = RESULTS) -> None:
    """Writes everything that has been found."""
    text = "".join(json.dumps(asdict(result)) + "\n" for result in results)
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """A task with a fresh model to put it to."""

    asker: Asker
    question: gate.Question
    aside: Sequence[Task]
    """What is held out."""
    base: Base


def pose(backend: Backend, base: Base, name: str, *, seed: int, setting: Setting) -> Posed:
    """A micro-task as it is gated, trained and measured."""
    found = tasks(name, ROWS, seed=seed)
    cut = min(HELD_OUT, len(found) // 3)
    asking = Asking(
        max_new_tokens=KINDS[name].max_new_tokens, temperature=setting.temperature,
        reward=load_reward(KINDS[name].reward),
    )  # fmt: skip
    question = gate.Question(
        stage="01-rft", tasks=found[cut:], asking=asking, group_size=setting.group_size, seed=seed,
        measured=setting.measured,
    )  # fmt: skip
    policy = backend.open(base.checkpoint, TrainSpec(rank=setting.rank, seed=seed))
    asker = Asker(policy=policy, renderer=Renderer.load(base.folder), asking=asking, grader=None)
    return Posed(asker=asker, question=question, aside=found[:cut], base=base)


def examined(posed: Posed, folder: Path) -> gate.Examined:
    """What the gate says."""
    return gate.examine(posed.question, posed.asker, model=posed.base.sha256, cache=folder / "cache")


def study(posed: Posed, name: str, *, seed: int, setting: Setting, folder: Path) -> Result:
    """Gates one task, trains it whatever the gate says, and measures."""
    began, found = time.monotonic(), examined(posed, folder)
    # Trained on all tasks, whatever the verdict: what it would have saved is what is wanted.
    gate.keep(replace(found, report=replace(found.report, verdict="GO")), folder / "stage")
    before = _mean_reward(posed, seed)
    log: list[Event] = []
    steps, ended = _train(posed, folder, setting, log)
    after = _mean_reward(posed, seed)
    trained = sum(setting.group_size * len(e.groups) for e in log if isinstance(e, RolloutStep))
    return Result(
        **_said(found.report), task=name, seed=seed, before=before, after=after, gate_rollouts=len(found.rollouts),
        train_rollouts=trained, steps=steps, ended=ended, seconds=time.monotonic() - began, setting=setting,
    )  # fmt: skip


def again(backend: Backend, result: Result) -> Result:
    """The same result with what the gate says now."""
    posed = pose(backend, backend.locate(result.setting.model), result.task, seed=result.seed, setting=result.setting)
    with tempfile.TemporaryDirectory(prefix="temper-gate-") as folder:
        report = examined(posed, Path(folder)).report
    print(f"{result.task} seed {result.seed}: {result.verdict}, now {report.verdict}", flush=True)
    return replace(result, **_said(report))


def _said(report: GateReport) -> dict[str, Any]:
    """What a result has of the gate's report."""
    return {
        "verdict": report.verdict, "reasons": report.reasons, "mean": report.reward, "pass_k": report.pass_k,
        "useful": report.useful, "predicted": report.gain, "capped": report.capped, "histogram": report.histogram,
    }  # fmt: skip


def _train(posed: Posed, folder: Path, setting: Setting, log: list[Event]) -> tuple[int, str]:
    """Steps taken, and why they ended before they should; empty where they did not."""
    question, asker, start = posed.question, posed.asker, posed.base.checkpoint
    drill = Drill(
        stage=question.stage, tasks=question.tasks, asking=question.asking, seed=question.seed, updates=1,
        lesson=Lesson(terms=("cispo",), estimator=rloo), group_size=setting.group_size, prompts=setting.prompts,
    )  # fmt: skip
    course = Course(stage=question.stage)

    def keep(event: Event) -> Event:
        log.append(event)
        return event

    def feed(start: int, live: Live) -> Iterator[list[Datum]]:
        return RolloutFeed(drill=drill, course=course, site=live).batches(start)

    def other(_: object) -> Policy:
        return asker.policy

    live = Live(
        policy=asker.policy, start=start, open=other, renderer=asker.renderer,
        folder=folder / "stage", cache=folder / "cache", log=keep, progress=_silent,
    )  # fmt: skip
    plan = Plan(
        feed=feed, rows=lambda: iter(()), objective=(Term(loss="cispo"),), steps=setting.steps, on_policy=True,
        schedule=schedule("constant", peak=setting.lr, warmup=3, steps=setting.steps),
    )  # fmt: skip
    steps = 0
    try:
        for taken in train(plan, live):
            steps = taken.step.step
    except TemperError as error:
        return steps, str(error)
    return steps, "" if steps == setting.steps else "solved"


def _mean_reward(posed: Posed, seed: int) -> float:
    """Of the tasks held out; the same streams before and after, so that chance is paired."""
    reward = posed.asker.asking.reward
    assert reward is not None
    with Grader(reward) as grader:
        groups = replace(posed.asker, grader=grader).groups(posed.aside, TRIES, seed=10_000 + seed)
    return statistics.fmean(r for group in groups for r in group.rewards if r is not None)


def _silent(*_: object) -> None:
    """Nobody waits."""


def main() -> None:
    """Runs what is missing of the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=Setting().model)
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Setting().steps)
    parser.add_argument("--threads", type=int, help="measured where not given")
    parser.add_argument("--again", action="store_true", help="no training: the gate's part of every result anew")
    asked = parser.parse_args()
    setting = Setting(model=asked.model, steps=asked.steps)
    made: Callable[[], Backend] = registry.load("backend", "torch")
    backend = made()
    backend.tune(asked.threads)
    if asked.again:
        write([again(backend, result) for result in read()])
        return
    base = backend.locate(asked.model)
    done = {(r.task, r.seed, r.setting) for r in read()}
    for seed in range(asked.seeds):
        for name in asked.only:
            if (name, seed, setting) in done:
                continue
            posed = pose(backend, base, name, seed=seed, setting=setting)
            with tempfile.TemporaryDirectory(prefix="temper-gate-") as folder:
                result = study(posed, name, seed=seed, setting=setting, folder=Path(folder))
            write([*read(), result])
            print(
                f"{name} seed {seed}: {result.verdict}, predicted {result.predicted:.2f}, gained {result.gain:+.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
