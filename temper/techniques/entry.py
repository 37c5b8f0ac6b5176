"""Entry: the gate before a stage of reinforcement, asked before the first step of a run."""

from __future__ import annotations

from collections.abc import Callable

from temper.errors import NotReady
from temper.events import GateReport
from temper.rollout import gate
from temper.rollout.asking import Asker
from temper.rollout.gate import Question
from temper.techniques.base import Live


def enter(ask: Callable[[], Question], live: Live, *, model: str, forced: bool = False) -> GateReport:
    """Asks the gate before the first step of a stage, logs what it says, and leaves its rollouts where the feed looks.

    A stage that has been let in is not asked again when its run continues.

    Args:
        ask: What the technique wants to know (`RFT.question`).
        live: With the weights that the stage starts from.
        model: What makes two starts the same, e.g. the hash of their weights.
        forced: Whether to go on against the verdict.

    Raises:
        NotReady: the verdict, why, and what to do; it is in the log as well.
    """
    known = gate.reported(live.folder)
    if known is not None:
        return known
    question = ask()
    asker = Asker(policy=live.policy, renderer=live.renderer, asking=question.asking, grader=None)
    examined = gate.examine(question, asker, model=model, cache=live.cache, progress=live.progress)
    try:
        examined = gate.admit(examined, forced=forced)
    except NotReady:
        live.log(examined.report)
        raise
    gate.keep(examined, live.folder)
    live.log(examined.report)
    return examined.report
