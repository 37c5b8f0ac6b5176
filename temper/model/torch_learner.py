"""The learner on torch: lays datums out in packed micro-batches, runs them, accumulates one normalised gradient.

Denominators are counted over the whole batch before the first backward pass, so the result does not depend on how
the batch was cut. The only file with a backward pass.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from temper.data.datum import Datum
from temper.losses import LOSSES, Objective, TokenView
from temper.model import attention, head, layers, load, lora, store
from temper.model.kernels import PLAIN, Kernels
from temper.model.protocol import PASS_TOKENS, Checkpoint, Floats, StepMetrics, TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one forward pass found, flattened over the datums."""

    picked: list[list[int]]
    """Supervised targets per datum."""
    logp: Tensor
    divergence: Tensor | None
    """KL(start || model) at the targets; None where no term asks for it."""


class TorchLearner:
    """Trains what requires a gradient in a model that is already on its device: all weights, or an attached adapter."""

    def __init__(self, model: PreTrainedModel, base: Path, spec: TrainSpec, *, kernels: Kernels = PLAIN) -> None:
        self.model = model
        self._kernels = kernels
        self.step = 0
        self._base = base
        self._spec = spec
        self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._fresh = {n: p.detach().clone() for n, p in self._trainable.items()} if spec.rank else {}
        self._start: PreTrainedModel | None = None
        self._optimizer = self._new_optimizer()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def forward_backward(self, datums: Sequence[Datum], objective: Objective) -> StepMetrics:
        """Adds the gradient of the objective, averaged over the whole batch."""
        counts = {term.loss: _denominator(datums, term.loss) for term in objective}
        loss, nll, seen = 0.0, defaultdict[str, float](float), defaultdict[str, int](int)
        by_row = [0.0] * len(datums)
        for numbers in _micro_batches(datums, PASS_TOKENS):
            part = [datums[n] for n in numbers]
            scored, total = self._objective(part, objective, counts)
            total.backward()
            loss += float(total.detach())
            values = scored.logp.detach().tolist()
            offset = 0
            for number, targets in zip(numbers, scored.picked, strict=True):
                source, found = datums[number].source, -math.fsum(values[offset : offset + len(targets)])
                by_row[number] = found / len(targets)
                nll[source] += found
                seen[source] += len(targets)
                offset += len(targets)
        return StepMetrics(
            loss=loss,
            losses={s: nll[s] / seen[s] for s in seen},
            supervised=sum(seen.values()),
            supervised_by_source=dict(seen),
            by_row=tuple(by_row),
        )

    def optim_step(self, lr: float) -> float:
        """One update; returns the gradient norm before clipping and clears the gradient."""
        norm = torch.nn.utils.clip_grad_norm_(list(self._trainable.values()), self._spec.clip)
        for group in self._moments.param_groups:
            group["lr"] = lr
        self._moments.step()
        self._moments.zero_grad(set_to_none=True)
        self.step += 1
        return float(norm)

    @torch.inference_mode()
    def logprobs(self, datums: Sequence[Datum]) -> list[Floats]:
        """Log-probability in nats of every target with a weight, in order, per datum; no gradient."""
        found: list[Floats] = [()] * len(datums)
        for numbers in _micro_batches(datums, 2 * PASS_TOKENS):
            scored = self._score([datums[n] for n in numbers])
            values = iter(scored.logp.tolist())
            for number, targets in zip(numbers, scored.picked, strict=True):
                found[number] = tuple(itertools.islice(values, len(targets)))
        return found

    def save(self, to: Path) -> None:
        """Weights and optimiser state into the folder `to`, atomically."""
        with store.new_folder(to) as folder:
            if self._spec.rank is not None:
                lora.save(self.model, str(self._base), folder)
            else:
                self.model.save_pretrained(folder)
            moments = self._moments.state
            state = {n: moments[p] for n, p in self._trainable.items() if p in moments}
            store.write_optimizer(folder, self.step, state)

    def load(self, start: Checkpoint, *, resume: bool = False) -> None:
        """Replaces the weights; `resume` restores step and optimiser state as well."""
        with torch.no_grad():
            if start.adapter:
                lora.load_weights(self.model, start.path)
            elif self._spec.rank is not None:
                for name, parameter in self._trainable.items():
                    parameter.copy_(self._fresh[name])
            else:
                store.load_full_weights(self.model, start.path)
        self._optimizer = self._new_optimizer()
        self.step = 0
        if resume:
            self.step, state = store.read_optimizer(start.path)
            for name, values in state.items():
                parameter = self._trainable[name]
                self._moments.state[parameter] = {key: value.to(parameter.device) for key, value in values.items()}

    def _new_optimizer(self) -> torch.optim.AdamW | None:
        """None where nothing trains: a policy that only answers."""
        o = self._spec
        parameters = list(self._trainable.values())
        if not parameters:
            return None
        return torch.optim.AdamW(parameters, lr=0.0, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True)

    @property
    def _moments(self) -> torch.optim.AdamW:
        assert self._optimizer is not None, "this policy was opened to answer, not to learn"
        return self._optimizer

    def _clusters(self, datums: Sequence[Datum], inputs: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which sequences are computed from a common root: groups with a like beginning, else whatever begins alike."""
        if not attention.shares_prefixes(self.model):
            return []
        grouped = _grouped(datums)
        if not grouped:
            return attention.alike(inputs)
        return [c for c in grouped if all(len(inputs[n]) > 1 for n in c) and len({inputs[n][0] for n in c}) == 1]

    def _objective(
        self, part: Sequence[Datum], objective: Objective, counts: Mapping[str, int]
    ) -> tuple[Scored, Tensor]:
        """One forward pass and the sum of all terms over it."""

        def total(scored: Scored) -> Tensor:
            summed = scored.logp.new_zeros(())
            for term in objective:
                if counts[term.loss]:
                    view = _view(part, scored, term.loss, self.device)
                    summed = summed + term.scale * LOSSES[term.loss].function(view, **term.params) / counts[term.loss]
            return summed

        if not all(LOSSES[term.loss].linear for term in objective):
            scored = self._score(part)
            return scored, total(scored)
        picked = [_targets(d) for d in part]
        logp = torch.zeros(sum(map(len, picked)), device=self.device, requires_grad=True)
        kl = torch.zeros_like(logp, requires_grad=True)
        slopes = torch.autograd.grad(
            total(Scored(picked=picked, logp=logp, divergence=kl)), (logp, kl), allow_unused=True
        )
        by_logp, by_kl = (torch.zeros_like(logp) if slope is None else slope for slope in slopes)
        hidden, targets = self._hidden(part, picked), self._wanted(part, picked)
        held = self._held(part, picked)
        if held is not None:
            held = replace(held, scale=by_kl[held.at])
        summed, found, divergences = head.summed(hidden, _head(self.model), targets, by_logp, held)
        return Scored(picked=picked, logp=found, divergence=divergences), summed

    def _score(self, datums: Sequence[Datum]) -> Scored:
        """One forward pass: log-probabilities at the supervised targets, the divergence from the start where asked."""
        picked = [_targets(d) for d in datums]
        hidden, targets = self._hidden(datums, picked), self._wanted(datums, picked)
        weight = _head(self.model)
        held = self._held(datums, picked) if torch.is_grad_enabled() else None
        logp = head.target_logprobs(hidden, weight, targets)
        if held is None:
            return Scored(picked=picked, logp=logp, divergence=None)
        kl = head.divergence(hidden[held.at], weight, held.hidden, held.head)
        return Scored(picked=picked, logp=logp, divergence=torch.zeros_like(logp).index_copy(0, held.at, kl))

    def _wanted(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]]) -> Tensor:
        wanted = [d.tokens[t + 1] for d, targets in zip(datums, picked, strict=True) for t in targets]
        return torch.tensor(wanted, device=self.device)

    def _held(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]]) -> head.Held | None:
        """What the stage's start makes of the datums that a term compares with it; None where there are none."""
        numbers = [n for n, d in enumerate(datums) if _needs_start(d)]
        if not numbers:
            return None
        hidden = self._start_hidden([datums[n] for n in numbers], [picked[n] for n in numbers])
        among = set(numbers)
        flags = torch.tensor([n in among for n, targets in enumerate(picked) for _ in targets], device=self.device)
        at = flags.nonzero()[:, 0]
        return head.Held(at=at, hidden=hidden, head=self._start_head(), scale=torch.ones_like(at, dtype=torch.float32))

    def _hidden(
        self, datums: Sequence[Datum], picked: Sequence[Sequence[int]], model: PreTrainedModel | None = None
    ) -> Tensor:
        """[targets, H] final hidden states at the supervised positions."""
        inputs = [d.tokens[:-1] for d in datums]
        layout = attention.pack(inputs, self.device, clusters=self._clusters(datums, inputs))
        at = [layout.index(n, t) for n, targets in enumerate(picked) for t in targets]
        body = (model or self.model).base_model
        out = body(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
        return out.last_hidden_state[0].index_select(0, torch.tensor(at, device=self.device))

    @torch.no_grad()
    def _start_hidden(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]]) -> Tensor:
        """What the stage's start makes of the same positions: the base below the adapter, or a frozen copy."""
        if self._spec.rank is not None:
            with lora.set_aside(self.model):
                return self._hidden(datums, picked)
        return self._hidden(datums, picked, self._frozen())

    def _start_head(self) -> Tensor:
        return _head(self.model if self._spec.rank is not None else self._frozen())

    def _frozen(self) -> PreTrainedModel:
        """A copy of the start that never trains, made when first asked for; it doubles the weights in memory."""
        if self._start is None:
            self._start = load.open_model(self._base, self.device)
            layers.install(self._start, self._kernels)
            self._start.requires_grad_(False)
        return self._start


def _head(model: PreTrainedModel) -> Tensor:
    found = model.get_output_embeddings()
    assert found is not None, "a causal language model has a head"
    return found.weight  # pyright: ignore[reportReturnType]


def _needs_start(datum: Datum) -> bool:
    return any(LOSSES[term].needs_start and any(weights) for term, weights in datum.weights.items())


def _grouped(datums: Sequence[Datum]) -> list[list[int]]:
    """Numbers of the datums of each group with more than one of them in the batch."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, datum in enumerate(datums):
        if datum.group >= 0:
            groups[datum.group].append(number)
    return [numbers for numbers in groups.values() if len(numbers) > 1]


def _targets(datum: Datum) -> list[int]:
    """Indices of the targets that any term looks at."""
    return [t for t, ws in enumerate(zip(*datum.weights.values(), strict=True)) if any(ws)]


def _denominator(datums: Sequence[Datum], term: str) -> int:
    """What the term's sum is divided by: tokens, sequences or groups with a weight, over the whole batch."""
    weighted = [(i, d) for i, d in enumerate(datums) if any(d.weights.get(term, ()))]
    match LOSSES[term].per:
        case "token":
            return sum(sum(w != 0 for w in d.weights[term]) for _, d in weighted)
        case "sequence":
            return len(weighted)
        case "group":
            return len({d.group if d.group >= 0 else ("alone", i) for i, d in weighted})


def _micro_batches(datums: Sequence[Datum], limit: int) -> Iterator[list[int]]:
    """Numbers of the datums that pass together: like lengths, at most `limit` tokens at a time, groups whole.

    What has no target is left out: nothing is asked about it, and it adds nothing to any gradient.
    """
    units: dict[object, list[int]] = defaultdict(list)
    for number, datum in enumerate(datums):
        if _targets(datum):
            units[datum.group if datum.group >= 0 else ("alone", number)].append(number)

    def length(unit: list[int]) -> int:
        return sum(len(datums[n].tokens) for n in unit)

    ordered = sorted(units.values(), key=lambda unit: max(len(datums[n].tokens) for n in unit), reverse=True)
    part: list[int] = []
    for unit in ordered:
        if part and length(part) + length(unit) > limit:
            yield part
            part = []
        part.extend(unit)
    if part:
        yield part


def _view(datums: Sequence[Datum], scored: Scored, term: str, device: torch.device) -> TokenView:
    """The supervised targets of a micro-batch as a loss sees them."""

    def stream(values: Mapping[str, tuple[float, ...]], name: str, targets: Sequence[int]) -> list[float]:
        found = values.get(name)
        return [found[t] for t in targets] if found else [0.0] * len(targets)

    def flat(rows: list[list[float]]) -> Tensor:
        return torch.tensor([v for row in rows for v in row], device=device, dtype=torch.float32)

    picked, logp = scored.picked, scored.logp
    pairs = list(zip(datums, picked, strict=True))
    names = {name for d in datums for name in d.side}
    counts = torch.tensor([len(t) for t in picked], device=device)
    groups = [d.group if d.group >= 0 else -1 - i for i, d in enumerate(datums)]
    index = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    return TokenView(
        logp=logp,
        weight=flat([stream(d.weights, term, t) for d, t in pairs]),
        side={name: flat([stream(d.side, name, t) for d, t in pairs]) for name in names},
        sequence=torch.repeat_interleave(torch.arange(len(datums), device=device), counts),
        group=torch.repeat_interleave(torch.tensor([index[g] for g in groups], device=device), counts),
        divergence=torch.zeros_like(logp) if scored.divergence is None else scored.divergence,
        segment_sum=_segment_sum,
        xp=torch,
    )


def _segment_sum(values: Tensor, ids: Tensor) -> Tensor:
    return values.new_zeros(int(ids.max()) + 1).index_add(0, ids, values)
