"""Batched generation: prompts computed packed and once each, then one token per row and pass.

Finished rows leave the batch and waiting ones enter it; every row draws from a random stream of its own, so what it
says does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from temper.model import attention, tuning
from temper.model.layout import Grid, KeyValues, Layout, alike, joined, pack
from temper.model.protocol import Completion, Sampling, Tokens

PREFILL_TOKENS = 2048
"""Prompt tokens per forward pass."""
ROWS = 64
"""Rows that are generated together."""
REFILL = 16
"""Free places before waiting rows are let in: each time all keys and values are copied once."""
BLOCK = 256
"""Tokens of the vocabulary whose probabilities are summed before one of them is drawn."""
OnToken = Callable[[int, int], None]


@dataclass(slots=True, kw_only=True)
class _Reply:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Rows that are being generated."""

    rows: list[int]
    """Which prompts."""
    streams: list[torch.Generator]
    cache: KeyValues
    hidden: Tensor
    """[rows, H] state that predicts each row's next token."""

    def keep(self, places: Sequence[int]) -> None:
        """Drops all rows but those at these places."""
        self.rows = [self.rows[at] for at in places]
        self.streams = [self.streams[at] for at in places]
        self.cache.keep(torch.tensor(places, device=self.hidden.device))


class TorchSampler:
    """Samples from the model that a learner trains, so its weights are always the newest."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: OnToken | None = None
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token(prompt index, token)` streams."""
        replies = [_Reply() for _ in prompts]
        wanted = range(len(prompts) if sampling.max_new_tokens else 0)
        waiting = sorted(wanted, key=lambda i: (len(prompts[i]), prompts[i]))
        batch: _Batch | None = None
        while waiting or batch is not None:
            places = ROWS - (len(batch.rows) if batch else 0)
            if waiting and places >= min(REFILL, len(waiting)):
                batch = self._admit(batch, waiting[:places], prompts, sampling)
                waiting = waiting[places:]
            assert batch is not None
            if not self._step(batch, sampling, replies, on_token):
                batch = None
        return [Completion(tokens=tuple(r.tokens), logprobs=tuple(r.logprobs), finished=r.finished) for r in replies]

    def _admit(self, batch: _Batch | None, rows: list[int], prompts: Sequence[Tokens], sampling: Sampling) -> _Batch:
        """Lets waiting rows in; a prompt that several of them have is computed once."""
        unique = list(dict.fromkeys(prompts[row] for row in rows))
        cache, hidden = self._prefill(unique, sampling.max_new_tokens)
        number = {prompt: n for n, prompt in enumerate(unique)}
        copies = torch.tensor([number[prompts[row]] for row in rows], device=self.model.device)
        if len(unique) < len(rows):
            cache.keep(copies)
        entered = _Batch(
            rows=rows,
            streams=[torch.Generator(device="cpu").manual_seed(_seed(sampling.seed, row)) for row in rows],
            cache=cache,
            hidden=hidden.index_select(0, copies),
        )
        if batch is None:
            return entered
        return _Batch(
            rows=batch.rows + rows,
            streams=batch.streams + entered.streams,
            cache=joined([batch.cache, cache]),
            hidden=torch.cat([batch.hidden, entered.hidden]),
        )

    def _step(self, batch: _Batch, sampling: Sampling, replies: list[_Reply], on_token: OnToken | None) -> bool:
        """One more token for every row; False when no row goes on."""
        tokens, logprobs = _pick(self._logits(batch.hidden), sampling.temperature, batch.streams)
        going: list[int] = []
        for at, row in enumerate(batch.rows):
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
            return False
        if len(going) < len(batch.rows):
            batch.keep(going)
        batch.hidden = self._advance([tokens[at] for at in going], batch.cache)
        return True

    def _prefill(self, prompts: Sequence[Tokens], new: int) -> tuple[KeyValues, Tensor]:
        """Keys and values of the prompts, and the hidden state that predicts each row's first new token."""
        device = self.model.device
        parts: list[KeyValues] = []
        last: list[Tensor] = []
        for chunk in _chunks(prompts):
            capacity = max(len(p) for p in chunk) + new
            cache = KeyValues(
                capacity=capacity,
                lengths=torch.tensor([len(p) for p in chunk], device=device),
                longest=max(map(len, chunk)),
            )
            layout = pack(chunk, device, clusters=self._clusters(chunk), cache=cache)
            ends = [layout.index(n, len(p) - 1) for n, p in enumerate(chunk)]
            last.append(self._body(layout).index_select(0, torch.tensor(ends, device=device)))
            parts.append(cache)
        return joined(parts), torch.cat(last)

    def _clusters(self, prompts: Sequence[Tokens]) -> list[list[int]]:
        """All prompts from one root where they begin alike: a row of the cache must be contiguous."""
        clusters = alike(prompts) if attention.shares_prefixes(self.model) else []
        return clusters if clusters and len(clusters[0]) == len(prompts) else []

    def _advance(self, tokens: Sequence[int], cache: KeyValues) -> Tensor:
        device = self.model.device
        layout = Layout(
            tokens=torch.tensor(tokens, device=device)[None],
            positions=cache.lengths[None],
            roots=Grid(rows=len(tokens), width=1, place=None),
            cache=cache,
        )
        with tuning.for_rows(len(tokens)):
            hidden = self._body(layout)
        cache.lengths, cache.longest = cache.lengths + 1, cache.longest + 1
        return hidden

    def _body(self, layout: Layout) -> Tensor:
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
    at = torch.tensor([torch.rand((), generator=g, dtype=torch.float64) for g in streams], dtype=torch.float64)
    drawn = _draw((logits / temperature).softmax(-1) if temperature != 1 else logp.exp(), at.to(logits.device))
    return drawn[:, 0].tolist(), logp.gather(1, drawn)[:, 0].tolist()


def _draw(probabilities: Tensor, at: Tensor) -> Tensor:
    """[rows, 1] the token at which the summed probability passes `at` in [0, 1): first its block, then within it."""
    rows, vocabulary = probabilities.shape
    padded = torch.nn.functional.pad(probabilities, (0, -vocabulary % BLOCK)).view(rows, -1, BLOCK)
    blocks = padded.sum(-1, dtype=torch.float64).cumsum(-1)
    target = (at * blocks[:, -1])[:, None]
    block = torch.searchsorted(blocks, target, right=True).clamp_(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inside = padded[torch.arange(rows, device=block.device), block[:, 0]].double().cumsum(-1)
    place = torch.searchsorted(inside, target - before, right=True)
    # Rounding may put the target behind the block's last token of any probability; that token is then meant.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return block * BLOCK + torch.minimum(place, last)


def _seed(seed: int, row: int) -> int:
    return (seed * 1_000_003 + row * 7_919 + 1) % (1 << 63)
