"""Techniques of the study's own: supervised fine-tuning with one thing changed, loaded by `stages.py:Name`.

They do what a loss or an optimiser of their own would do, from the feed: batches are reweighed with the current weights
before they are learnt, or the weights are moved between two steps. That costs a forward pass more, is easy to delete,
and brings nothing into temper before it has paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from experiments.frontier.methods import weights
from temper.data.datum import Datum
from temper.events import Step
from temper.losses import Objective, Term
from temper.recipe.facts import Facts
from temper.recipe.resolve import ResolvedStage, extend
from temper.recipe.schema import Stage
from temper.recipe.sheet import Sheet
from temper.techniques.base import Live, Plan
from temper.techniques.inventory import Inventory
from temper.techniques.mixing import batches, mixture, plan_rows, schedule_of

Reweigh = Callable[[list[Datum]], list[Datum]]
Values = Sequence[Sequence[float]]
SAVED = 64
"""Rows per look at the start's log-probabilities."""


class Reweighed(Stage):
    """Cross-entropy whose weights come from what model or base make of the batch; each kind says how."""

    def reweigh(self, stage: ResolvedStage, rows: Sequence[Datum], live: Live) -> Reweigh:
        """What is done to a batch, given all domain rows and the models."""
        raise NotImplementedError

    def objective(self) -> Objective:
        """Plain cross-entropy, unless a kind adds to it."""
        return (Term(loss="ce"),)

    def plan(self, stage: ResolvedStage, inventory: Inventory, *, seed: int) -> Plan:
        """The plan of supervised fine-tuning with its batches reweighed."""
        assert stage.replay_share == 0, "the study reweighs domain rows alone"
        mixed = mixture(stage, inventory, seed=seed)
        rows = [datum for part in inventory.domain for datum in part.datums]

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            reweigh = self.reweigh(stage, rows, live)
            yield from (reweigh(batch) for batch in batches(stage, mixed, start))

        return replace(plan_rows(stage, mixed), feed=feed, objective=self.objective(), on_policy=True)


class Flow(Reweighed):
    """Rows that the base finds unlikely weigh less."""

    def reweigh(self, stage: ResolvedStage, rows: Sequence[Datum], live: Live) -> Reweigh:
        """By the base's mean loss of a row among all rows."""
        logp = _start_logprobs(rows, live)
        losses = [-sum(logp[row.tokens]) / len(logp[row.tokens]) for row in rows]
        by_row = dict(zip((row.tokens for row in rows), weights.flow(losses), strict=True))
        return lambda batch: [_weighted(d, [by_row[d.tokens]] * len(logp[d.tokens])) for d in batch]


class Talr(Reweighed):
    """Tokens that are unlikely now weigh less."""

    def reweigh(self, stage: ResolvedStage, rows: Sequence[Datum], live: Live) -> Reweigh:
        """By the current model, batch by batch."""
        return lambda batch: _all_weighted(batch, weights.talr(live.policy.learner.logprobs(batch)))


class Eaft(Reweighed):
    """Tokens weigh by the current model's entropy."""

    def reweigh(self, stage: ResolvedStage, rows: Sequence[Datum], live: Live) -> Reweigh:
        """By the current model, batch by batch."""
        from experiments.frontier.methods import tensors

        def reweighed(batch: list[Datum]) -> list[Datum]:
            found = tensors.entropies(live.policy.learner, batch)  # pyright: ignore[reportArgumentType]
            return _all_weighted(batch, [weights.eaft(values) for values in found])

        return reweighed


class MaskedKL(Reweighed):
    """Holds the base's distribution over all tokens but the right one, on the task's own tokens."""

    scale: float = 1.0
    """Of the divergence beside cross-entropy."""

    def objective(self) -> Objective:
        """Cross-entropy and divergence on the same tokens."""
        return (Term(loss="ce"), Term(loss="kl", scale=self.scale))

    def reweigh(self, stage: ResolvedStage, rows: Sequence[Datum], live: Live) -> Reweigh:
        """By the current model and the start."""
        start = _start_logprobs(rows, live)

        def reweighed(batch: list[Datum]) -> list[Datum]:
            now = live.policy.learner.logprobs(batch)
            values = [weights.masked_kl(p, start[d.tokens], scale=self.scale) for d, p in zip(batch, now, strict=True)]
            held = [tuple(float(w != 0) for w in d.weights["ce"]) for d in batch]
            return [
                replace(d, weights={**d.weights, "kl": k})
                for d, k in zip(_all_weighted(batch, values), held, strict=True)
            ]

        return reweighed


class Follows(Stage):
    """Supervised fine-tuning that holds the general rows the more, the further they have moved from the start."""

    strength: float = 1.0
    """Times the hold that is usual."""

    def plan(self, stage: ResolvedStage, inventory: Inventory, *, seed: int) -> Plan:
        """Batches of supervised fine-tuning, the held rows weighed by how far the steps before had moved."""
        mixed = mixture(stage, inventory, seed=seed)

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            for batch in batches(stage, mixed, start):
                steps = (e for e in live.past if isinstance(e, Step) and e.stage == stage.id)
                moved = [e.figures["held_kl"] for e in steps if "held_kl" in e.figures]
                yield [_held(d, self.strength * weights.following(moved)) for d in batch]

        return replace(plan_rows(stage, mixed), feed=feed, on_policy=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPull(ResolvedStage):
    """A stage whose weights are moved between the steps."""

    pull: float
    momentum: float


class Moved(Stage):
    """Plain supervised fine-tuning with all weights, which are moved between two steps.

    The last step before a checkpoint is not moved any more when it is saved.
    """

    kind: ClassVar[Literal["pull", "momentum"]]
    pull: float = 0.0
    """L2-SP: part of the way back to the start per step, as a multiple of the learning rate."""
    momentum: float = 1.0
    """MoFO: part of each tensor's entries, those with the largest momentum, that a step changes."""

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedPull:
        """Takes the strength as it was written."""
        del facts
        sheet.put(self.kind, f"{getattr(self, self.kind):g}", "recipe")
        return extend(common, ResolvedPull, pull=self.pull, momentum=self.momentum)

    def plan(self, stage: ResolvedPull, inventory: Inventory, *, seed: int) -> Plan:
        """The plan of supervised fine-tuning, with the weights moved before each batch but the first."""
        mixed, rate = mixture(stage, inventory, seed=seed), schedule_of(stage)

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            from experiments.frontier.methods import tensors

            learner = live.policy.learner
            now = tensors.trainable(learner)  # pyright: ignore[reportArgumentType]
            origin = {}
            if self.kind == "pull":
                from temper.model.torch_backend import TorchBackend

                exact = TorchBackend().open(live.start)  # a policy of the run may hold rounded weights
                origin = dict(exact.learner.model.named_parameters())  # pyright: ignore[reportAttributeAccessIssue]
            for step, batch in enumerate(batches(stage, mixed, start), start=start):
                before = {name: weight.detach().clone() for name, weight in now.items()} if not origin else {}
                yield batch
                if origin:
                    tensors.pull(now, origin, min(1.0, rate(step) * stage.pull))
                else:
                    found = tensors.moments(learner)  # pyright: ignore[reportArgumentType]
                    tensors.keep_largest(now, before, found, stage.momentum)

        return replace(plan_rows(stage, mixed), feed=feed, on_policy=True)


class L2SP(Moved):
    """Weights are pulled back to the start."""

    kind = "pull"


class MoFO(Moved):
    """Only the entries with the largest momentum change."""

    kind = "momentum"


def _start_logprobs(rows: Sequence[Datum], live: Live) -> dict[tuple[int, ...], tuple[float, ...]]:
    """Tokens of a row -> log-probabilities of its targets under the stage's start."""
    policy = live.open(live.start)
    found: dict[tuple[int, ...], tuple[float, ...]] = {}
    for first in range(0, len(rows), SAVED):
        part = rows[first : first + SAVED]
        found |= dict(zip((row.tokens for row in part), policy.learner.logprobs(part), strict=True))
        live.progress("the base reads the rows", min(first + SAVED, len(rows)), len(rows))
    return found


def _held(datum: Datum, factor: float) -> Datum:
    """The row with its hold scaled; one that is learnt stays as it is."""
    if "kl" not in datum.weights:
        return datum
    return replace(datum, weights={**datum.weights, "kl": tuple(factor * w for w in datum.weights["kl"])})


def _all_weighted(batch: Sequence[Datum], values: Values) -> list[Datum]:
    return [_weighted(datum, row) for datum, row in zip(batch, values, strict=True)]


def _weighted(datum: Datum, values: Sequence[float]) -> Datum:
    """The row with its targets weighed by `values`, in order; targets without weight stay without."""
    left = iter(values)
    return replace(datum, weights={"ce": tuple(next(left) * w if w else w for w in datum.weights["ce"])})
