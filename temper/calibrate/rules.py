"""Rules: pure functions from facts to one hyperparameter, with the sentence and the evidence that explain it.

The numbers live in `table.toml`; `read_table` checks that file, so that a typing error in it is found by a test.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from temper.calibrate.rates import REFERENCE_ALPHA, normalised_rate

T = TypeVar("T")

REFERENCE_HIDDEN = 2000
"""Hidden size that the table's learning rates hold for."""
REFERENCE_TECHNIQUE = "sft"
"""Whose entries hold for a technique that says nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled(Generic[T]):
    """A value, how it follows from the facts, and why the rule is believed."""

    value: T
    rule: str
    evidence: str


class Frozen(BaseModel):
    """Part of the table: unknown keys are refused, nothing changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(Frozen):
    """One row of an entry that depends on a fact."""

    since: float = 0.0
    """Between the limit of the case before and this fact the value goes over; at once where it is 0."""
    up_to: float = math.inf
    value: float


class Entry(Frozen):
    """One number of the table: a `value`, or `cases` over the fact named by `by`."""

    evidence: str
    value: Any = None
    by: str = ""
    cases: tuple[Case, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Entry:
        limits = [case.up_to for case in self.cases]
        if (self.value is None) != bool(self.cases and self.by):
            raise ValueError("an entry has either `value`, or `by` and `cases`")
        if limits and (limits != sorted(limits) or limits[-1] != math.inf):
            raise ValueError("cases rise by `up_to`, and the last one has none")
        ends = zip((0.0, *limits), self.cases, strict=False)
        if any(one.since and not before < one.since <= one.up_to for before, one in ends):
            raise ValueError("`since` lies between the case before and `up_to`")
        return self


class Range(Frozen):
    """Which learning rates are usual for an adapter, and from where on a run is refused."""

    low: float
    high: float
    absurd: float
    evidence: str


class Usual(Frozen):
    """Between what a number usually lies, and what one outside does."""

    low: float
    high: float
    below: str = ""
    above: str = ""

    @model_validator(mode="after")
    def _is_complete(self) -> Usual:
        if self.low > self.high or not (self.below or self.above):
            raise ValueError("a range rises, and says what lies below it or above it")
        return self


class Sizes(Frozen):
    """For which sizes of model the numbers hold."""

    measured: float
    """Parameters of the largest model that anything was measured on here."""
    large: float
    """From so many on the entries of `[large.*]` hold."""
    evidence: str


class TechniqueTable(Frozen):
    """The entries of one technique: those of `[sft.*]`, overridden by its own."""

    adapter: Entry
    rank: Entry
    alpha: Entry
    lr_lora: Entry
    lr_full: Entry
    lr_width: Entry
    lr_range_lora: Range
    lr_range_full: Range
    schedule: Entry
    warmup: Entry
    epochs: Entry
    batch_tokens: Entry
    batch_least_rows: Entry
    batch_most_rows: Entry
    batch_steps_per_epoch: Entry
    replay_share: Entry
    replay_least: Entry
    replay_categories: Entry
    replay_epochs: Entry
    keep: Entry
    keep_scale: Entry
    weight_decay: Entry
    clip: Entry
    betas: Entry
    length_multiple: Entry
    checkpoints: Entry
    usual: Mapping[str, Usual]
    """By path within a stage, e.g. `replay.share`; what has none is held to its range by the recipe itself."""
    own: Mapping[str, Entry]
    """Entries that only this technique has."""


def read_table(technique: str = REFERENCE_TECHNIQUE, path: Path | None = None, *, params: float = 0) -> TechniqueTable:
    """The calibration of a technique from temper's own table, or another file.

    What a technique does not say is as for supervised fine-tuning, and so is everything of a technique that the table
    does not know.

    Args:
        technique: Its name in the table.
        path: Another table.
        params: Parameters of the model: for a large one the entries of `[large.*]` come before those they replace.
    """
    written = _written(path)
    large = written["large"] if params >= read_sizes(path).large else {}
    names = dict.fromkeys((REFERENCE_TECHNIQUE, technique))
    layers = [part.get(name, {}) for name in names for part in (written, large)]
    entries = {name: entry for layer in layers for name, entry in layer.items()}
    entries["usual"] = {name: entry for layer in layers for name, entry in layer.get("usual", {}).items()}
    own = {name: entry for name, entry in entries.items() if name not in TechniqueTable.model_fields}
    shared = {name: entry for name, entry in entries.items() if name not in own}
    return TechniqueTable.model_validate({**shared, "own": own})


def read_sizes(path: Path | None = None) -> Sizes:
    """For which sizes of model the table holds."""
    return Sizes.model_validate(_written(path)["sizes"])


def _written(path: Path | None) -> Mapping[str, Any]:
    return tomllib.loads((path or Path(__file__).with_name("table.toml")).read_text(encoding="utf-8"))


def pick(entry: Entry, fact: float = math.nan) -> Ruled[Any]:
    """The value of an entry for a fact, with the case that held as its rule."""
    if not entry.cases:
        return Ruled(value=entry.value, rule="", evidence=entry.evidence)
    place, case = next((n, c) for n, c in enumerate(entry.cases) if fact <= c.up_to)
    if fact < case.since:
        return _between(entry, entry.cases[place - 1], case, fact)
    limit = f"up to {case.up_to:,.0f}" if math.isfinite(case.up_to) else f"above {_last_limit(entry):,.0f}"
    rule = f"{case.value:g} for {_words(entry.by)} {limit}; here {fact:,.0f}"
    return Ruled(value=case.value, rule=rule, evidence=entry.evidence)


def learning_rate(
    table: TechniqueTable, *, adapter: str, alpha: float, steps: int, hidden: int, rank: int = 1
) -> Ruled[float]:
    """The rate for this adapter, run length and width of model, two digits, within the usual range.

    The table's rates hold for a model of `REFERENCE_HIDDEN` and, with LoRA, for alpha 32; another alpha gets the rate
    that moves the weights as far (`normalised_rate`), but never one above the range: A itself moves by the plain rate.
    """
    usual = lr_range(table, adapter)
    ruled = pick(table.lr_full if adapter == "full" else table.lr_lora, steps)
    value = ruled.value * (REFERENCE_HIDDEN / hidden) ** table.lr_width.value
    rule = f"{ruled.rule}; x ({REFERENCE_HIDDEN}/{hidden})^{table.lr_width.value:g} for the width"
    held = min(max(value, usual.low), usual.high)
    if held != value:
        rule += f"; within {usual.low:g} to {usual.high:g}"
    if adapter == "lora" and alpha != REFERENCE_ALPHA:
        scaled = held / normalised_rate(1.0, alpha=alpha, rank=rank)
        held = min(scaled, usual.high)
        rule += f"; x {REFERENCE_ALPHA:g}/{alpha:g} for alpha {alpha:g}"
        rule += f"; at most {usual.high:g}" if held != scaled else ""
    return Ruled(value=float(f"{held:.1e}"), rule=rule, evidence=f"{ruled.evidence}; {table.lr_width.evidence}")


def lr_range(table: TechniqueTable, adapter: str) -> Range:
    """Usual and absurd learning rates of an adapter."""
    return table.lr_range_full if adapter == "full" else table.lr_range_lora


def batch_tokens(table: TechniqueTable, *, rows: int, supervised: int) -> Ruled[int]:
    """Supervised tokens per step: the table's, less for tiny data, never fewer than a handful of rows."""
    usual = pick(table.batch_tokens, supervised)
    answer = supervised / rows
    least, crowd, epoch = table.batch_least_rows, pick(table.batch_most_rows, supervised), table.batch_steps_per_epoch
    fewest, most = least.value * answer, supervised / epoch.value
    if fewest > min(usual.value, most):
        wanted, rule, evidence = fewest, f"{least.value} rows of {answer:.0f} supervised tokens", least.evidence
    elif crowd.value * answer < min(usual.value, most):
        wanted, rule = crowd.value * answer, f"{crowd.value:g} rows of {answer:.0f} supervised tokens"
        evidence = crowd.evidence
    elif most < usual.value:
        wanted, rule = most, f"{epoch.value} steps per epoch over {supervised:,} supervised tokens"
        evidence = epoch.evidence
    else:
        return Ruled(value=int(usual.value), rule=usual.rule, evidence=usual.evidence)
    value = 16 * math.ceil(wanted / 16)
    return Ruled(value=value, rule=f"{rule}, rounded up to a multiple of 16", evidence=evidence)


def replay_share(table: TechniqueTable, *, batch: int, answer: float) -> Ruled[float]:
    """Share of general rows in a step: the table's, more where that would be too few tokens beside the domain's.

    Args:
        table: Of the technique.
        batch: Supervised tokens per step as if the share were the table's (`batch_tokens`).
        answer: Supervised tokens of a domain row, on average.
    """
    ruled, least = pick(table.replay_share), pick(table.replay_least, answer)
    if ruled.value * batch >= least.value:
        return ruled
    domain = (1 - ruled.value) * batch
    share = least.value / (least.value + domain)
    rule = f"{least.value:.0f} general tokens beside {domain:g} of the domain's, in answers of {answer:.0f}"
    return Ruled(value=round(share, 3), rule=rule, evidence=least.evidence)


def batch_at_share(batch: int, table: TechniqueTable, share: float) -> int:
    """Supervised tokens of a step that has as many of the domain as `batch` has at the table's share."""
    return round(batch * (1 - table.replay_share.value) / (1 - share))


def count_steps(*, epochs: float, supervised: int, share: float, batch: int) -> int:
    """Steps that pass `epochs` times over the domain data, when `share` of every step is replay."""
    # The product is rounded first: 3 * 1000 / (0.75 * 500) is 8 steps, whatever floats make of it.
    return max(1, math.ceil(round(epochs * supervised / ((1 - share) * batch), 6)))


def count_epochs(*, steps: int, supervised: int, share: float, batch: int) -> float:
    """Passes over the domain data that `steps` make; the inverse of `count_steps`."""
    return steps * (1 - share) * batch / supervised


def max_length(table: TechniqueTable, *, longest: int, context: int | None) -> Ruled[int]:
    """The longest row rounded up, but no more than the model can read."""
    multiple, evidence = table.length_multiple.value, table.length_multiple.evidence
    value = multiple * math.ceil(longest / multiple)
    if context is not None and value > context:
        return Ruled(value=context, rule=f"context of the model; longest row {longest}", evidence=evidence)
    return Ruled(value=value, rule=f"longest row {longest}, up to a multiple of {multiple}", evidence=evidence)


def replay_categories(table: TechniqueTable, available: Mapping[str, int]) -> Ruled[Mapping[str, float]]:
    """Weights of the general categories that there is data for, summing to 1; empty when there is none."""
    wanted: Mapping[str, float] = table.replay_categories.value
    held = {name: weight for name, weight in wanted.items() if available.get(name, 0) > 0}
    missing = [name for name in wanted if name not in held]
    rule = f"no data for {', '.join(missing)}: its weight goes to the others" if missing else ""
    return Ruled(value=normalised(held), rule=rule, evidence=table.replay_categories.evidence)


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The same weights scaled to a sum of 1; a zero stays, since it says that a source is not wanted."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _between(entry: Entry, one: Case, other: Case, fact: float) -> Ruled[float]:
    """A value on the power law that joins two cases."""
    part = math.log(fact / one.up_to) / math.log(other.since / one.up_to)
    value = float(f"{one.value * (other.value / one.value) ** part:.2g}")
    rule = (
        f"{value:g} between {one.value:g} for {_words(entry.by)} up to {one.up_to:,.0f} and {other.value:g} from "
        f"{other.since:,.0f} on; here {fact:,.0f}"
    )
    return Ruled(value=value, rule=rule, evidence=entry.evidence)


def _last_limit(entry: Entry) -> float:
    return entry.cases[-2].up_to if len(entry.cases) > 1 else 0.0


def _words(fact: str) -> str:
    named = {"domain_supervised": "supervised domain tokens", "answer_tokens": "tokens of an answer"}
    return named.get(fact, fact)
