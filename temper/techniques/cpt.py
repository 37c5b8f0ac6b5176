"""Continued pre-training: raw text of the domain, every token learnt, and replay in one mixture.

Documents are cut into windows that the learner can take in; in its passes several lie side by side and none sees
another. With `residual` the base of a chat model is trained, and what made it a chat model is added back
(`temper/model/residual.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from temper.calibrate import rules
from temper.calibrate.rules import Ruled
from temper.data.render import Renderer
from temper.data.windows import Windows
from temper.errors import RecipeError
from temper.model.protocol import Backend, Base
from temper.probes.base import Item, Probe
from temper.recipe.facts import Facts
from temper.recipe.inputs import Frozen, invalid
from temper.recipe.resolve import ResolvedStage, extend
from temper.recipe.schema import Learns, Stage
from temper.recipe.sheet import Sheet
from temper.recipe.values import as_base, as_list, problem
from temper.techniques.base import Plan
from temper.techniques.inventory import Inventory
from temper.techniques.mixing import mixture, plan_rows

SHORTEST = 16
"""Tokens of a window at least."""
Model = Annotated[str, BeforeValidator(as_base), Field(min_length=1)]


class Residual(Frozen):
    """Two models of one lineage, before and after it was taught to chat."""

    instruct: Model
    """Built-in name, hub id or folder."""
    base: Model
    """What `instruct` was made from; the stage trains this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedCPT(ResolvedStage):
    """A stage of continued pre-training with nothing left open."""

    add_tokens: tuple[str, ...]
    """Words that become tokens of their own."""
    residual: tuple[str, str] | None
    """Names of the chat model and of its base; None for a stage that trains what it starts from."""


class CPT(Stage):
    """Continued pre-training on documents."""

    learns: ClassVar[Learns] = "text"
    judged_by: ClassVar[Literal["score", "loss"]] = "loss"

    technique: Literal["cpt"] = "cpt"  # pyright: ignore[reportIncompatibleVariableOverride]
    add_tokens: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(as_list)] = ()
    """Words of the domain that become tokens of their own, with the mean of their pieces to begin with."""
    residual: Residual | None = None
    """Train the base of a chat model and add the difference of the two back."""

    @model_validator(mode="after")
    def _tokens_can_be_learnt(self) -> CPT:
        words = self.add_tokens
        told = (
            (
                self.adapter != "full", "nothing without `adapter: full`: new tokens are learnt in the embeddings",
                "add `adapter: full`, or remove it",
            ),
            (
                any(word != word.strip() for word in words) or len(set(words)) < len(words),
                "different words without blanks around them", "write each once, e.g. [autovacuum, tablespace]",
            ),
            (
                self.residual is not None, "nothing beside `residual`, whose two models share one vocabulary",
                "remove one of the two",
            ),
        )  # fmt: skip
        for is_wrong, expected, do in told if words else ():
            if is_wrong:
                raise invalid(self, ("add_tokens",), problem(expected, do), words)
        return self

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedCPT:
        """Adds the new tokens and the residual, and sees that the windows fit into a step."""
        tokens, own = facts.domain_supervised, rules.read_table(self.technique).own
        fewest, enough, most = (rules.pick(own[name]) for name in ("fewest_tokens", "enough_tokens", "lora_tokens"))
        if tokens < fewest.value:
            expected = f"at least {fewest.value:,} to learn anything from"
            do = "add documents, or put the text into the prompts of `technique: sft`"
            raise sheet.refuse("data", f"{tokens:,} tokens of text", expected, do)
        if tokens < enough.value:
            sheet.note("data", f"{tokens:,} tokens teach a language rather than facts: {enough.evidence}")
        if common.adapter == "lora" and tokens > most.value:
            sheet.note("adapter", f"{tokens:,} tokens are more than an adapter takes in: {most.evidence}")
        if self.add_tokens:
            sheet.put("add_tokens", ", ".join(self.add_tokens), "recipe")
        residual = (self.residual.instruct, self.residual.base) if self.residual else None
        if residual:
            sheet.put("residual", f"{residual[0]} - {residual[1]}", "recipe", "added to what the base has learnt")
        return extend(
            common, ResolvedCPT, max_length=self._window(common, facts, sheet), add_tokens=self.add_tokens,
            residual=residual,
        )  # fmt: skip

    def plan(self, stage: ResolvedCPT, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage trains on, how long, and at which rates."""
        cut = windowed(stage, inventory)
        made = plan_rows(stage, mixture(stage, cut, seed=seed))
        return replace(made, notices=(*cut_notices(inventory, cut, stage.max_length), *made.notices))

    def _window(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> int:
        """Tokens of a window: the table's, where a step has that many of the domain and a document is that long."""
        ruled = rules.pick(rules.read_table(self.technique).own["window"])
        share = int((1 - common.replay_share) * common.batch_tokens)
        limits = {
            f"{ruled.value} at most": ruled.value, f"longest document {facts.longest_row}": facts.longest_row,
            f"{share} tokens of a step are the domain's": share,
        }  # fmt: skip
        if facts.context_length is not None:
            limits[f"context of the model {facts.context_length}"] = facts.context_length
        rule = min(limits, key=lambda name: limits[name])
        window = Ruled(value=max(SHORTEST, limits[rule]), rule=f"windows: {rule}", evidence=ruled.evidence)
        return sheet.take("max_length", self.max_length, window)


def trained_instead(stage: ResolvedStage, index: int, start: Base, backend: Backend) -> Base | None:
    """The model that a stage with a residual trains in place of the chat model it starts from; None for any other.

    Args:
        stage: Resolved.
        index: Of the stage, from 0.
        start: What the run starts from.
        backend: Finds the two models.

    Raises:
        RecipeError: The stage does not start from the chat model that the residual names.
        CheckpointError: There is no such model, or the two are of different lineage.
    """
    if not isinstance(stage, ResolvedCPT) or stage.residual is None:
        return None
    where = f"stages.{index}.residual"
    if index:
        raise RecipeError(
            f"{where}: found in a stage that starts from what another one made; expected in the first stage, which "
            "starts from the chat model itself; move the stage to the front, or leave residual out"
        )
    if words := start.lineage.get("added tokens"):
        raise RecipeError(
            f"{where}: found beside add_tokens ({words}) of another stage; expected none in the run, as the two models "
            "share one vocabulary; remove one of the two, or make two runs of it"
        )
    instruct, base = (backend.locate(name) for name in stage.residual)
    if instruct.sha256 != start.sha256:
        raise RecipeError(
            f"{where}.instruct: found {instruct.name}; expected the model that the run starts from, {start.name}; name "
            "the chat model in both places"
        )
    backend.require_kin(instruct.folder, base.folder)
    return base


def without_new_tokens(base: Base, named: str, backend: Backend) -> Base:
    """The model that the recipe names, before a stage's new tokens were added; `base` itself where none were.

    What is learnt is counted from there. With new tokens that nobody has trained yet a model finds the words of the
    domain harder than it did with their pieces, and a gain over that would be flattered.

    Args:
        base: What the stages start from.
        named: As the recipe calls it.
        backend: Finds it.
    """
    return backend.locate(named) if base.lineage.get("added tokens") else base


def on_same_bytes(probes: Sequence[Probe], renderer: Renderer, other: Renderer) -> tuple[Probe, ...]:
    """The probes without the texts of which two tokenizers leave different bytes uncounted.

    The first token of a text has no context and is not scored; where a new token begins the text, it is longer.
    """
    if renderer is other:
        return tuple(probes)

    def alike(text: str) -> bool:
        return len({r.decode(r.text(text)[:1]) for r in (renderer, other)}) == 1

    def kept(probe: Probe, items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(i for i in items if probe.spec.kind != "text" or alike(i["text"]))

    return tuple(replace(p, items=kept(p, p.items), reserve=kept(p, p.reserve)) for p in probes)


def windowed(stage: ResolvedStage, inventory: Inventory) -> Inventory:
    """The inventory with its documents cut to what a step can hold."""
    return replace(
        inventory,
        domain=tuple(replace(r, datums=Windows(r.datums, length=stage.max_length)) for r in inventory.domain),
    )


def cut_notices(whole: Inventory, cut: Inventory, length: int) -> Iterator[str]:
    """One sentence per source that has documents longer than a window."""
    for rows, documents in zip(cut.domain, whole.domain, strict=True):
        if isinstance(rows.datums, Windows) and rows.datums.cut:
            yield (
                f"{rows.name}: {rows.datums.cut} of {len(documents.datums)} documents are longer than {length} tokens "
                f"and are learnt in windows, {len(rows.datums)} windows in all; no token is left out"
            )
