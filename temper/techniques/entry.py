"""Entry: the gate before a stage of reinforcement, asked before the first step of a run."""

from __future__ import annotations

from temper.errors import NotReady
from temper.events import GateReport
from temper.rollout import gate
from temper.rollout.asking import Asker
from temper.techniques.base import Live
from temper.techniques.inventory import Inventory
from temper.techniques.rft import RFT, ResolvedRFT


def enter(
    technique: RFT, stage: ResolvedRFT, inventory: Inventory, live: Live, *, model: str, seed: int, forced: bool = False
) -> GateReport:  # fmt: skip
    """Asks the gate before the first step of a stage, logs what it says, and leaves its rollouts where the feed looks.

    A stage that has been let in is not asked again when its run continues.

    Args:
        technique: Of the recipe.
        stage: Settled.
        inventory: Its tasks.
        live: With the weights that the stage starts from.
        model: What makes two starts the same, e.g. the hash of their weights.
        seed: Of the recipe.
        forced: Whether to go on against the verdict.

    Raises:
        NotReady: the verdict, why, and what to do; it is in the log as well.
    """
    known = gate.reported(live.folder)
    if known is not None:
        return known
    question = technique.question(stage, inventory, seed=seed)
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
