"""Preference optimisation: pairs of answers to one prompt, of which the chosen one is to become likelier.

`dpo` (2305.18290) counts what each answer has gained since the start of the stage; `simpo` (2405.14734) needs no
reference and compares mean log-probabilities. Both are content when the rejected answer loses faster than the chosen
one, so both can lose; `rpo` adds cross-entropy on the chosen answer against that. General rows are mixed in and held as
in every stage; a pair is never divided between steps or passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, overload

import numpy as np
from pydantic import Field, model_validator

from temper.calibrate import rules
from temper.data.datum import Datum, item, lengths, supervised_lengths
from temper.losses import Objective, Term
from temper.recipe.facts import Facts
from temper.recipe.inputs import invalid
from temper.recipe.resolve import ResolvedStage, extend, plain
from temper.recipe.schema import Learns, Stage
from temper.recipe.sheet import Sheet
from temper.recipe.values import AUTO_NUMBER, problem
from temper.techniques.base import Live, Plan
from temper.techniques.general import Rows
from temper.techniques.inventory import Inventory
from temper.techniques.mixing import batches, mixture, objective, schedule_of
from temper.techniques.reference import reference

Array = np.ndarray[Any, Any]
CHOSEN = "chosen"
"""The loss that learns the chosen answer beside the preference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDPO(ResolvedStage):
    """A stage of preference optimisation with nothing left open."""

    loss: Literal["dpo", "simpo"]
    beta: float
    """What a nat of margin counts for in the logistic loss."""
    margin: float
    """Lead of the chosen answer that `simpo` asks for, after `beta`; 0 with `dpo`."""
    rpo: float
    """Weight of the cross-entropy of the chosen answer; 0 for none."""


class DPO(Stage):
    """Preference optimisation on pairs of a chosen and a rejected answer."""

    learns: ClassVar[Learns] = "pairs"

    technique: Literal["dpo"] = "dpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: Literal["auto", "dpo", "simpo"] = "auto"
    """Against the start of the stage, or without a reference."""
    beta: Annotated[Annotated[float, Field(gt=0)] | None, AUTO_NUMBER] = None
    """What a nat of margin counts for; with `dpo` small values let the model go further from its start."""
    margin: Annotated[Annotated[float, Field(ge=0)] | None, AUTO_NUMBER] = None
    """Lead of the chosen answer that `simpo` asks for, after `beta`."""
    rpo: Annotated[Annotated[float, Field(ge=0)] | None, AUTO_NUMBER] = None
    """Weight of the cross-entropy of the chosen answer."""

    @model_validator(mode="after")
    def _margin_is_simpos(self) -> DPO:
        if self.margin is not None and self.loss != "simpo":
            expected = "nothing, `loss: dpo` asks for no margin"
            raise invalid(self, ("margin",), problem(expected, "remove it, or write `loss: simpo`"), self.margin)
        return self

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedDPO:
        """Adds the loss and its strength."""
        del facts
        own = rules.read_table(self.technique).own
        loss = sheet.take("loss", self.loss, plain("dpo", "against the start of the stage"))
        margin = 0.0
        if loss == "simpo":
            margin = sheet.take("margin", self.margin, rules.pick(own["margin"]))
        return extend(
            common, ResolvedDPO, loss=loss, margin=margin,
            beta=sheet.take("beta", self.beta, rules.pick(own[f"beta_{loss}"])),
            rpo=sheet.take("rpo", self.rpo, rules.pick(own["rpo"])),
        )  # fmt: skip

    def plan(self, stage: ResolvedDPO, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage trains on, how long, and at which rates."""

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            def opinion(rows: Rows) -> Array | None:
                if stage.loss != "dpo":
                    return None
                return reference(rows, live, fresh=start == 0, four_bit=stage.four_bit)

            mixed = mixture(stage, _paired(stage, inventory, opinion), seed=seed)
            return map(numbered, batches(stage, mixed, start))

        unmeasured = mixture(stage, _paired(stage, inventory, lambda _: None), seed=seed)
        return Plan(
            feed=feed, rows=lambda: (datum for batch in batches(stage, unmeasured, 0) for datum in batch),
            objective=_objective(stage), steps=stage.steps, schedule=schedule_of(stage),
            notices=unmeasured.notices(stage.steps, stage.batch_tokens),
        )  # fmt: skip


class Pairs(Sequence[Datum]):
    """Pairs as their loss wants them: +1 on the chosen answer, -1 on the rejected one, and the start's opinion beside.

    Attributes:
        lengths: Tokens per answer, prompts included.
        supervised: Supervised tokens per answer.
        group: Number of the pair that each answer belongs to.
    """

    def __init__(self, answers: Sequence[Datum], stage: ResolvedDPO, *, reference: Array | None) -> None:
        self._answers, self._stage, self._reference = answers, stage, reference
        self.lengths, self.supervised = lengths(answers), supervised_lengths(answers)
        self._begins = np.cumsum(self.supervised) - self.supervised
        found = getattr(answers, "group", None)
        self.group: Array = np.array([d.group for d in answers], np.int64) if found is None else found
        whole = len(answers) % 2 == 0 and (self.group[::2] == self.group[1::2]).all() and (self.group >= 0).all()
        assert whole, "answers of a pair stand side by side"

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        return item(index, len(self), self._answer)

    def _answer(self, index: int) -> Datum:
        answer = self._answers[index]
        (learnt,) = answer.weights.values()
        is_chosen = index % 2 == 0
        weights = {self._stage.loss: learnt if is_chosen else tuple(-w for w in learnt)}
        if is_chosen and self._stage.rpo:
            weights[CHOSEN] = learnt
        if self._reference is None:
            return replace(answer, weights=weights)
        begin = int(self._begins[index])
        values = iter(self._reference[begin : begin + int(self.supervised[index])].tolist())
        side = {"ref_logprobs": tuple(next(values) if w else 0.0 for w in learnt)}
        return replace(answer, weights=weights, side=side)


def numbered(batch: Sequence[Datum]) -> list[Datum]:
    """The batch with a number of its own for every pair in it.

    Sources count alike, and at the end of an epoch a pair may come twice in a step: two pairs of one number would be
    compared as one.
    """
    number = -1
    renamed: list[Datum] = []
    for datum in batch:
        if datum.group < 0:
            renamed.append(datum)
            continue
        number += _is_chosen(datum)
        renamed.append(replace(datum, group=number))
    return renamed


def _paired(stage: ResolvedDPO, inventory: Inventory, opinion: Callable[[Rows], Array | None]) -> Inventory:
    """The same rows, the domain's with what the start of the stage thinks of them."""
    domain = (replace(rows, datums=Pairs(rows.datums, stage, reference=opinion(rows))) for rows in inventory.domain)
    return replace(inventory, domain=tuple(domain))


def _is_chosen(datum: Datum) -> bool:
    """Whether it is the first of its pair."""
    return max(next(iter(datum.weights.values()))) > 0


def _objective(stage: ResolvedDPO) -> Objective:
    """The preference, the chosen answers, and what the general rows are for."""
    params = {"beta": stage.beta, **({"gamma": stage.margin} if stage.loss == "simpo" else {})}
    preference, *general = objective(stage, Term(loss=stage.loss, params=params))
    chosen = (Term(loss=CHOSEN, scale=stage.rpo),) if stage.rpo else ()
    return (preference, *chosen, *general)
