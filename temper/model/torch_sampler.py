"""Batched generation: prompts computed packed, then one token per row and pass, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from temper.model import attention
from temper.model.protocol import Completion, Sampling, Tokens

PREFILL_TOKENS = 2048
"""Prompt tokens per forward pass."""
ROWS = 64
"""Rows that are generated together."""
OnToken = Callable[[int, int], None]


@dataclass(slots=True, kw_only=True)
class _Reply:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


class TorchSampler:
    """Samples from the model that a learner trains, so its weights are always the newest."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: OnToken | None = None
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token(prompt index, token)` streams."""
        replies = [_Reply() for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), ROWS):
            self._generate_rows(order[start : start + ROWS], prompts, sampling, replies, on_token)
        return [Completion(tokens=tuple(r.tokens), logprobs=tuple(r.logprobs), finished=r.finished) for r in replies]

    def _generate_rows(
        self,
        rows: list[int],
        prompts: Sequence[Tokens],
        sampling: Sampling,
        replies: list[_Reply],
        on_token: OnToken | None,
    ) -> None:
        device = self.model.device
        cache, hidden = self._prefill([prompts[i] for i in rows], sampling.max_new_tokens)
        streams = [torch.Generator(device="cpu").manual_seed(_seed(sampling.seed, i)) for i in rows]
        for _ in range(sampling.max_new_tokens):
            tokens, logprobs = _pick(self._logits(hidden), sampling.temperature, streams)
            going: list[int] = []
            for at, row in enumerate(rows):
                reply = replies[row]
                reply.logprobs.append(logprobs[at])
                if tokens[at] in sampling.stop:
                    reply.finished = True
                    continue
                reply.tokens.append(tokens[at])
                if on_token is not None:
                    on_token(row, tokens[at])
                if len(reply.tokens) < sampling.max_new_tokens:
                    going.append(at)
            if not going:
                return
            if len(going) < len(rows):
                cache.keep(torch.tensor(going, device=device))
                rows, tokens = [rows[at] for at in going], [tokens[at] for at in going]
                streams = [streams[at] for at in going]
            hidden = self._advance(tokens, cache)

    def _prefill(self, prompts: Sequence[Tokens], new: int) -> tuple[attention.KeyValues, Tensor]:
        """Keys and values of the prompts, and the hidden state that predicts each row's first new token."""
        device = self.model.device
        capacity = max(len(p) for p in prompts) + new
        parts: list[attention.KeyValues] = []
        last: list[Tensor] = []
        for chunk in _chunks(prompts):
            cache = attention.KeyValues(capacity=capacity, lengths=torch.tensor([len(p) for p in chunk], device=device))
            layout = attention.pack(chunk, device, clusters=self._clusters(chunk), cache=cache)
            ends = [layout.index(n, len(p) - 1) for n, p in enumerate(chunk)]
            last.append(self._body(layout).index_select(0, torch.tensor(ends, device=device)))
            parts.append(cache)
        joined = attention.KeyValues(capacity=capacity, lengths=torch.cat([c.lengths for c in parts]))
        for layer in parts[0].keys:
            joined.keys[layer] = torch.cat([c.keys[layer] for c in parts])
            joined.values[layer] = torch.cat([c.values[layer] for c in parts])
        return joined, torch.cat(last)

    def _clusters(self, prompts: Sequence[Tokens]) -> list[list[int]]:
        """All prompts from one root where they begin alike: a row of the cache must be contiguous."""
        clusters = attention.alike(prompts) if attention.shares_prefixes(self.model) else []
        return clusters if clusters and len(clusters[0]) == len(prompts) else []

    def _advance(self, tokens: Sequence[int], cache: attention.KeyValues) -> Tensor:
        device = self.model.device
        layout = attention.Layout(
            tokens=torch.tensor(tokens, device=device)[None],
            positions=cache.lengths[None],
            roots=attention.Grid(rows=len(tokens), width=1, place=None),
            cache=cache,
        )
        hidden = self._body(layout)
        cache.lengths = cache.lengths + 1
        return hidden

    def _body(self, layout: attention.Layout) -> Tensor:
        out = self.model.base_model(
            input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout
        )
        return out.last_hidden_state[0]

    def _logits(self, hidden: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        assert head is not None, "a causal language model has a head"
        return head(hidden).float()


def _chunks(prompts: Sequence[Tokens]) -> list[list[Tokens]]:
    """Consecutive prompts, at most PREFILL_TOKENS together."""
    chunks: list[list[Tokens]] = [[]]
    for prompt in prompts:
        if chunks[-1] and sum(map(len, chunks[-1])) + len(prompt) > PREFILL_TOKENS:
            chunks.append([])
        chunks[-1].append(prompt)
    return chunks


def _pick(logits: Tensor, temperature: float, streams: Sequence[torch.Generator]) -> tuple[list[int], list[float]]:
    """Next token per row with its log-probability at temperature 1; every row has its own random stream."""
    logp = logits.log_softmax(-1)
    if temperature == 0:
        best = logp.max(-1)
        return best.indices.tolist(), best.values.tolist()
    mass = (logits / temperature).softmax(-1).double().cumsum(-1)
    at = torch.tensor([torch.rand((), generator=g, dtype=torch.float64) for g in streams], dtype=torch.float64)
    drawn = torch.searchsorted(mass, (at.to(mass.device) * mass[:, -1])[:, None], right=True)
    drawn = drawn.clamp_(max=logits.shape[-1] - 1)
    return drawn[:, 0].tolist(), logp.gather(1, drawn)[:, 0].tolist()


def _seed(seed: int, row: int) -> int:
    return (seed * 1_000_003 + row * 7_919 + 1) % (1 << 63)
