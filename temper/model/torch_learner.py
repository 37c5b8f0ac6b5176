"""The learner on torch: lays datums out in packed micro-batches, runs them, accumulates one normalised gradient.

Denominators are counted over the whole batch before the first backward pass, so the result does not depend on how
the batch was cut. The only file with a backward pass.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from temper.data.datum import Datum
from temper.losses import LOSSES, Objective, Term
from temper.losses.average import denominator
from temper.model import attention, head, likely, lora, memory, passes, store
from temper.model.kernels import PLAIN, Kernels
from temper.model.layout import alike, pack
from temper.model.optim import AdamW, clip
from temper.model.protocol import PASS_TOKENS, Checkpoint, Floats, StepMetrics, Tokens, TrainSpec
from temper.model.start import Start, needs_start
from temper.model.views import Scored, figures, targets, view


class TorchLearner:
    """Trains what requires a gradient in a model that is already on its device: all weights, or an attached adapter."""

    def __init__(self, model: PreTrainedModel, base: Path, spec: TrainSpec, *, kernels: Kernels = PLAIN) -> None:
        self.model = model
        self.step = 0
        self._base = base
        self._spec = spec
        self._trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._fresh = {n: p.detach().clone() for n, p in self._trainable.items()} if spec.rank else {}
        self._start = Start(model, base, spec, kernels=kernels)
        self._recompute = memory.Switch()
        if model.device.type == "cuda":
            memory.install(model, self._recompute)
        self._room: memory.Room | None = None
        self._optimizer = self._new_optimizer()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def forward_backward(self, datums: Sequence[Datum], objective: Objective) -> StepMetrics:
        """Adds the gradient of the objective, averaged over the whole batch."""
        counts = {term.loss: denominator(datums, term.loss) for term in objective}
        loss, nll, seen = 0.0, defaultdict[str, float](float), defaultdict[str, int](int)
        shown = defaultdict[str, float](float)
        by_row = [0.0] * len(datums)
        room = self.room(objective)
        cut = self._cut(datums, room.tokens)
        for numbers, size in zip(cut.numbers, cut.sizes, strict=True):
            part = [datums[n] for n in numbers]
            self._recompute.on = size > room.kept
            scored, total = self._objective(part, objective, counts)
            total.backward()
            loss += float(total.detach())
            for term in objective:
                for name, value in figures(part, scored, term, counts[term.loss]).items():
                    shown[name] += value
            values = scored.logp.detach().tolist()
            offset = 0
            for number, at in zip(numbers, scored.picked, strict=True):
                source, found = datums[number].source, -math.fsum(values[offset : offset + len(at)])
                by_row[number] = found / len(at)
                nll[source] += found
                seen[source] += len(at)
                offset += len(at)
        return StepMetrics(
            loss=loss,
            losses={s: nll[s] / seen[s] for s in seen},
            supervised=sum(seen.values()),
            supervised_by_source=dict(seen),
            by_row=tuple(by_row),
            figures=dict(shown),
        )

    def optim_step(self, lr: float) -> float:
        """One update; returns the gradient norm before clipping and clears the gradient."""
        norm = clip(list(self._trainable.values()), self._spec.clip)
        self._moments.step(lr)
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return norm

    @torch.inference_mode()
    def logprobs(self, datums: Sequence[Datum]) -> list[Floats]:
        """Log-probability in nats of every target with a weight, in order, per datum; no gradient."""
        found: list[Floats] = [()] * len(datums)
        for numbers in self._cut(datums, 2 * (self._room.tokens if self._room else PASS_TOKENS)).numbers:
            scored = self._score([datums[n] for n in numbers])
            values = iter(scored.logp.tolist())
            for number, at in zip(numbers, scored.picked, strict=True):
                found[number] = tuple(itertools.islice(values, len(at)))
        return found

    @torch.inference_mode()
    def likely(self, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
        """The k likeliest tokens at every target with a weight, and their log-probabilities in nats, per datum."""
        found: list[list[tuple[Tokens, Floats]]] = [[] for _ in datums]
        for numbers in self._cut(datums, PASS_TOKENS).numbers:
            part = [datums[n] for n in numbers]
            picked = [targets(d) for d in part]
            ids, logp = likely.likeliest(self._hidden(part, picked), _head(self.model), k)
            rows = zip(map(tuple, ids.tolist()), map(tuple, logp.tolist()), strict=True)
            for number, at in zip(numbers, picked, strict=True):
                found[number] = list(itertools.islice(rows, len(at)))
        return found

    @torch.inference_mode()
    def logprobs_of(self, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        """Log-probabilities in nats of the tokens named for every target with a weight, in order, per datum."""
        found: list[list[Floats]] = [[] for _ in datums]
        for numbers in self._cut(datums, PASS_TOKENS).numbers:
            part = [datums[n] for n in numbers]
            picked = [targets(d) for d in part]
            named = torch.tensor([row for n in numbers for row in tokens[n]], device=self.device)
            logp = likely.named(self._hidden(part, picked), _head(self.model), named)
            rows = map(tuple, logp.tolist())
            for number, at in zip(numbers, picked, strict=True):
                found[number] = list(itertools.islice(rows, len(at)))
        return found

    def save(self, to: Path) -> None:
        """Weights and optimiser state into the folder `to`, atomically."""
        with store.new_folder(to) as folder:
            if self._spec.rank is not None:
                lora.save(self.model, str(self._base), folder)
            else:
                self.model.save_pretrained(folder)
            store.write_optimizer(folder, self.step, self._moments.state())

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
            self._moments.restore(state)

    def room(self, objective: Objective) -> memory.Room:
        """How many tokens a pass gets: measured on a GPU when first asked for, fixed on a CPU."""
        if self._room is None:
            if self.device.type == "cuda" and self._trainable:
                if self._start.apart and any(LOSSES[term.loss].needs_start for term in objective):
                    self._start.model()
                self._room = memory.measure(self._peak, self._free)
                self.model.zero_grad(set_to_none=True)
            else:
                self._room = memory.Room(tokens=PASS_TOKENS, kept=sys.maxsize, reason=f"{self.device.type}: fixed")
        return self._room

    def _peak(self, tokens: int, recompute: bool) -> int:
        """Bytes that a pass over rows of `ROW` tokens holds at its peak beyond those held before it."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        rows = [Datum(tokens=tuple((31 * i + k) % vocabulary for i in range(memory.ROW + 1)),
                      weights={"ce": (1.0,) * memory.ROW}) for k in range(tokens // memory.ROW)]  # fmt: skip
        self._recompute.on = recompute
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self._objective(rows, (Term(loss="ce"),), {"ce": tokens})[1].backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _free(self) -> int:
        """Bytes of the GPU that passes may use, what the optimiser will allocate taken off."""
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + unused - self._moments.bytes_to_come

    def _new_optimizer(self) -> AdamW | None:
        """None where nothing trains: a policy that only answers."""
        return AdamW(self._trainable, self._spec) if self._trainable else None

    @property
    def _moments(self) -> AdamW:
        assert self._optimizer is not None, "this policy was opened to answer, not to learn"
        return self._optimizer

    def _cut(self, datums: Sequence[Datum], limit: int) -> passes.Passes:
        sharing, flat = attention.shares_prefixes(self.model), attention.flat(self.model)
        return passes.cut(datums, limit, sharing=sharing, any_length=flat)

    def _objective(
        self, part: Sequence[Datum], objective: Objective, counts: Mapping[str, int]
    ) -> tuple[Scored, Tensor]:
        """One forward pass and the sum of all terms over it."""

        def total(scored: Scored) -> Tensor:
            summed = scored.logp.new_zeros(())
            for term in objective:
                if counts[term.loss]:
                    value = LOSSES[term.loss].function(view(part, scored, term.loss), **term.params)
                    summed = summed + term.scale * value / counts[term.loss]
            return summed

        if not all(LOSSES[term.loss].linear for term in objective):
            scored = self._score(part)
            return scored, total(scored)
        picked = [targets(d) for d in part]
        logp = torch.zeros(sum(map(len, picked)), device=self.device, requires_grad=True)
        kl = torch.zeros_like(logp, requires_grad=True)
        slopes = torch.autograd.grad(
            total(Scored(picked=picked, logp=logp, divergence=kl)), (logp, kl), allow_unused=True
        )
        by_logp, by_kl = (torch.zeros_like(logp) if slope is None else slope for slope in slopes)
        hidden, wanted = self._hidden(part, picked), self._wanted(part, picked)
        held = self._held(part, picked)
        if held is not None:
            held = replace(held, scale=by_kl[held.at])
        summed, found, divergences = head.summed(hidden, _head(self.model), wanted, by_logp, held)
        return Scored(picked=picked, logp=found, divergence=divergences), summed

    def _score(self, datums: Sequence[Datum]) -> Scored:
        """One forward pass: log-probabilities at the supervised targets, the divergence from the start where asked."""
        picked = [targets(d) for d in datums]
        hidden, wanted = self._hidden(datums, picked), self._wanted(datums, picked)
        weight = _head(self.model)
        held = self._held(datums, picked) if torch.is_grad_enabled() else None
        logp = head.target_logprobs(hidden, weight, wanted)
        if held is None:
            return Scored(picked=picked, logp=logp, divergence=None)
        kl = head.divergence(hidden[held.at], weight, held.hidden, held.head)
        return Scored(picked=picked, logp=logp, divergence=torch.zeros_like(logp).index_copy(0, held.at, kl))

    def _wanted(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]]) -> Tensor:
        wanted = [d.tokens[t + 1] for d, at in zip(datums, picked, strict=True) for t in at]
        return torch.tensor(wanted, device=self.device)

    def _held(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]]) -> head.Held | None:
        """What the stage's start or teacher makes of the datums that a term compares with it; None without any."""
        numbers = [n for n, d in enumerate(datums) if needs_start(d)]
        if not numbers:
            return None
        hidden = self._start.hidden([datums[n] for n in numbers], [picked[n] for n in numbers], self._hidden)
        among = set(numbers)
        flags = torch.tensor([n in among for n, at in enumerate(picked) for _ in at], device=self.device)
        at = flags.nonzero()[:, 0]
        return head.Held(at=at, hidden=hidden, head=self._start.head, scale=torch.ones_like(at, dtype=torch.float32))

    def _hidden(
        self, datums: Sequence[Datum], picked: Sequence[Sequence[int]], model: PreTrainedModel | None = None
    ) -> Tensor:
        """[targets, H] final hidden states at the supervised positions."""
        inputs, found = [d.tokens[:-1] for d in datums], model or self.model
        flat, rung = attention.flat(found), passes.rung(self._room.tokens if self._room else PASS_TOKENS)
        layout = pack(inputs, self.device, clusters=_clusters(found, datums, inputs), flat=flat, rung=rung)
        at = [layout.index(n, t) for n, row in enumerate(picked) for t in row]
        out = found.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
        return out.last_hidden_state[0].index_select(0, torch.tensor(at, device=self.device))


def _head(model: PreTrainedModel) -> Tensor:
    found = model.get_output_embeddings()
    assert found is not None, "a causal language model has a head"
    return found.weight  # pyright: ignore[reportReturnType]


def _clusters(model: PreTrainedModel, datums: Sequence[Datum], inputs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which sequences are computed from a common root: groups with a like beginning, else whatever begins alike."""
    if not attention.shares_prefixes(model):
        return []
    grouped = _grouped(datums)
    if not grouped:
        return alike(inputs)
    return [c for c in grouped if all(len(inputs[n]) > 1 for n in c) and len({inputs[n][0] for n in c}) == 1]


def _grouped(datums: Sequence[Datum]) -> list[list[int]]:
    """Numbers of the datums of each group with more than one of them in the batch."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, datum in enumerate(datums):
        if datum.group >= 0:
            groups[datum.group].append(number)
    return [numbers for numbers in groups.values() if len(numbers) > 1]
