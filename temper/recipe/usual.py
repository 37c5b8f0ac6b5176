"""Usual: the learning rate and every other number of a stage against what is usual, and what is said of the rest.

The ranges are those of `calibrate/table.toml`. A rate is judged by what it does, so with an adapter on the scale of
alpha 32; what the recipe's own fields rule out (`schema`, the techniques) does not come here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from temper.calibrate import rules
from temper.calibrate.rates import EVIDENCE, REFERENCE_ALPHA, normalised_rate
from temper.calibrate.rules import TechniqueTable
from temper.recipe.facts import Facts
from temper.recipe.sheet import Sheet, print_share, print_value

if TYPE_CHECKING:
    from temper.recipe.schema import Recipe, Stage

QUICK_RESOLVES = 0.15
"""Drop that the items of the suite `quick` tell from none, about: 14.7 to 16.3 % in a run of the format example."""
MOST_TOLERANCE = 0.1
"""A larger tolerance is pointed out: it hardly protects anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The shape of an adapter: its update is alpha / rank x B A."""

    rank: int
    alpha: float

    def effective(self, lr: float) -> float:
        """The rate that takes steps of the same size with alpha 32."""
        return normalised_rate(lr, alpha=self.alpha, rank=self.rank)


def take_rate(
    stage: Stage, table: TechniqueTable, sheet: Sheet, *, low_rank: LowRank | None, steps: int, hidden: int
) -> float:
    """The peak learning rate, asked for or the table's; an unusual one is pointed out, an absurd one refused.

    Args:
        stage: As the recipe has it.
        table: Of its technique and size of model.
        sheet: Gets the setting and the notices.
        low_rank: None for all weights.
        steps: Of the run.
        hidden: Width of the model.

    Raises:
        RecipeError: A rate that is absurd for what alpha makes of it.
    """
    adapter = "full" if low_rank is None else "lora"
    shape = low_rank or LowRank(rank=1, alpha=REFERENCE_ALPHA)
    ruled = rules.learning_rate(table, adapter=adapter, alpha=shape.alpha, rank=shape.rank, steps=steps, hidden=hidden)
    asked = stage.lr if isinstance(stage.lr, float) else None
    lr = ruled.value if asked is None else asked
    effective = shape.effective(lr)
    does = f"moves the weights as {effective:.3g} does with alpha {REFERENCE_ALPHA:g}" if effective != lr else ""
    if asked is not None and does:
        sheet.put("lr", print_value(lr), "recipe", does, EVIDENCE)
    else:
        sheet.take("lr", asked, ruled)
    if stage.lr == "probe":
        sheet.note("lr", f"short runs around {lr:g} decide before the stage; one too short for them takes it as it is")
    usual = rules.lr_range(table, adapter)
    if effective >= usual.absurd:
        found = f"{lr:g} with alpha {shape.alpha:g}, which {does}"
        raise sheet.refuse("lr", found, f"{usual.low:g} to {usual.high:g} on that scale", "lower lr or alpha")
    scale = f" ({does})" if does else ""
    limits = f"{usual.low:g} to {usual.high:g}, usual with adapter {adapter}"
    if effective > usual.high or lr > usual.high:
        sheet.note("lr", f"{lr:g}{scale} is outside {limits}; it may erase base abilities")
    elif effective < usual.low:
        sheet.note("lr", f"{lr:g}{scale} is outside {limits}; it may learn next to nothing")
    return lr


def note_unusual(stage: Stage, table: TechniqueTable, sheet: Sheet) -> None:
    """Points out every number of a stage that the recipe sets outside what is usual, and what it will do."""
    for path, usual in table.usual.items():
        value = _asked(stage, path)
        if value is None or usual.low <= value <= usual.high:
            continue
        side, effect = ("below", usual.below) if value < usual.low else ("above", usual.above)
        low, high, shown = (_print(path, x) for x in (usual.low, usual.high, value))
        sheet.note(path, f"{shown} is {side} what is usual, {low} to {high}; {effect}")


def note_size(facts: Facts, sheet: Sheet) -> None:
    """Says for a model larger than any that was measured here that its values come from published sweeps."""
    sizes = rules.read_sizes()
    if facts.params > sizes.measured:
        sheet.note(
            "base",
            f"{_count(facts.params)} parameters: rates, lengths and replay for this size come from {sizes.evidence}, "
            f"not measured here (models of up to {_count(sizes.measured)} were); `lr: probe` measures the rate for it",
        )


def note_suite(recipe: Recipe, sheet: Sheet) -> None:
    """Points out that the suite for looks in between cannot show that a small tolerance is kept."""
    if recipe.probes.general == ("quick",) and recipe.tolerance < QUICK_RESOLVES:
        told, asked = print_share(QUICK_RESOLVES), print_share(recipe.tolerance)
        sheet.note(
            "probes.general",
            f"the items of quick tell a drop of about {told} from none, so nothing can be shown to keep {asked} and "
            "the base would be kept; write core, of which a part is asked in between as well",
        )


def note_machine(recipe: Recipe, facts: Facts, sheet: Sheet) -> None:
    """Points out a tolerance that protects nothing, and more threads than there are cores."""
    if recipe.tolerance > MOST_TOLERANCE:
        most = print_share(MOST_TOLERANCE)
        sheet.note("tolerance", f"{print_share(recipe.tolerance)} is above {most}: a drop that every user will notice")
    threads = recipe.machine.threads
    if threads is not None and threads > facts.cores:
        sheet.note("machine.threads", f"{threads} threads on {facts.cores} cores hinder each other; leave it out")


def _asked(stage: Stage, path: str) -> float | None:
    """The number that the recipe has under a path such as `replay.share` or `betas.1`; None where it has none."""
    found: object = stage
    for name in path.split("."):
        if isinstance(found, tuple):
            found = found[int(name)]
        elif isinstance(found, BaseModel) and name in found.model_fields_set:
            found = getattr(found, name)
        else:
            return None
    return float(found) if isinstance(found, int | float) else None


def _print(path: str, value: float) -> str:
    return print_share(value) if path in ("warmup", "replay.share") else f"{value:g}"


def _count(params: float) -> str:
    return f"{params / 1e9:.1f} billion" if params >= 1e9 else f"{params / 1e6:.0f} million"
