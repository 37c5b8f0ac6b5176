"""What `temper check` says of reinforcement: the gate of a stage that starts from the base, asked and printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from temper.cli.console import console, say, table

if TYPE_CHECKING:
    from temper.events import GateReport
    from temper.model.protocol import Backend
    from temper.rollout.gate import Examined
    from temper.run.context import Progress
    from temper.run.prepare import Prepared


def ask(prepared: Prepared, backend: Backend, progress: Progress) -> Examined | None:
    """The gate's word on the first stage; None where that is no reinforcement.

    A later stage starts from what the one before hands on, so that its gate is asked by `temper run`.
    """
    from temper.data import fetch
    from temper.rollout.asking import Asker
    from temper.rollout.gate import examine
    from temper.techniques.rft import RFT, ResolvedRFT

    technique, stage = prepared.recipe.stages[0], prepared.resolved.stages[0]
    if not (isinstance(technique, RFT) and isinstance(stage, ResolvedRFT)):
        return None
    question = technique.question(
        stage, prepared.inventories[0], seed=prepared.recipe.seed, exams=prepared.domain
    )  # fmt: skip
    policy = backend.open(prepared.base.checkpoint)
    asker = Asker(policy=policy, renderer=prepared.renderer, asking=question.asking, grader=None)
    return examine(question, asker, model=prepared.base.sha256, cache=fetch.cache_dir(), progress=progress)


def tell(report: GateReport) -> None:
    """The verdict with the figures it rests on."""
    say()
    console().print(table(f"Gate of {report.stage}: {report.verdict}", ("", "found"), _figures(report)))
    for reason in report.reasons:
        say(f"because {reason}")
    for remark in report.remarks:
        say(f"note {remark}", style="yellow")
    if report.remedy:
        say(f"do      {report.remedy}")


def _figures(report: GateReport) -> list[list[str]]:
    from temper.report.words import percent

    low, high = report.useful_95
    outcomes = ", ".join(f"{name} {percent(part)}" for name, part in report.outcomes.items() if part)
    if not report.tries:  # nothing was graded
        return [["tasks tried", f"{report.tasks} of {report.total}"], ["outcomes", outcomes]]
    rows = [
        ["tasks tried", f"{report.tasks} of {report.total}, {report.tries} times each"],
        ["mean reward", f"{report.reward:.3f} ({report.reward_95[0]:.3f} to {report.reward_95[1]:.3f})"],
        ["solved at the first try", _between(report.pass_1, report.pass_1_95)],
        [f"solved in {report.tries}", _between(report.pass_k, report.pass_k_95)],
        ["groups that teach something", f"{percent(report.useful)} ({percent(low)} to {percent(high)})"],
        ["tasks by times solved", " ".join(map(str, report.histogram))],
        ["spread of the reward", ", ".join(f"{name} {value:.3g}" for name, value in report.spread.items())],
        ["outcomes", outcomes],
        ["reached the token limit", percent(report.capped)],
    ]
    if report.gold is not None:
        rows.append(["references with full marks", percent(report.gold)])
    if report.agreement is not None and report.agreement_95 is not None:
        rows.append([f"agrees with {report.exam}", _between(report.agreement, report.agreement_95)])
    if report.hollow is not None:
        rows.append([f"rewarded, failed by {report.exam}", f"{report.hollow} replies"])
    if report.tricks:
        rows.append(["empty tricks", ", ".join(f"{name} {value:.2f}" for name, value in report.tricks.items())])
    return rows


def leave_filtered(examined: Examined, recipe: Path) -> None:
    """After FILTER, the tasks that are left, in a file beside the recipe."""
    from temper.rollout import gate

    if examined.report.verdict == "FILTER":
        path = recipe.with_name(f"{recipe.stem}-{examined.report.stage}-tasks.jsonl")
        gate.write_tasks(examined.tasks, path)
        say(f"the tasks that are left: {path}")


def _between(value: float, bounds: tuple[float, float]) -> str:
    from temper.report.words import percent

    return f"{percent(value)} ({percent(bounds[0])} to {percent(bounds[1])})"
