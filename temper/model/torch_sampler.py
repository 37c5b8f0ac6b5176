"""Batched generation: prompts computed packed and once each, then one token per row and pass.

Finished rows leave the batch and waiting ones enter it; every row draws from a random stream of its own, so what it
says does not depend on its company. Where it is known what a reply may be, as of an exam's answers, that is computed
with the prompt in one pass, and as much of it is kept as the model says itself (greedy speculative decoding, Leviathan
et al., arXiv 2211.17192, with what was written before as the draft).
"""

from __future__ import annotations

import itertools
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
WORTH = 0.25
"""Part of the drafted tokens that has to come true, or no more drafts are tried."""
CHECKED = 256
"""Drafted tokens whose logits are there at a time."""
OnToken = Callable[[int, int], None]
_Asked = tuple[Tokens, Tokens]
"""A prompt and what its reply may be."""
_Said = tuple[tuple[int, float], ...]
"""Tokens with their log-probabilities."""


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
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        drafts: Sequence[Tokens] = (),
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order.

        Args:
            prompts: Token ids, at least one each.
            sampling: How to draw.
            drafts: What each reply may be, or nothing. They change how long greedy replies take, and no more of what
                these are than rounding does where two tokens are equally likely.
            on_token: Called with prompt index and token as they come.
        """
        replies = [_Reply() for _ in prompts]
        wanted = range(len(prompts) if sampling.max_new_tokens else 0)
        waiting = sorted(wanted, key=lambda i: (len(prompts[i]), prompts[i]))
        hoped = list(drafts) if drafts and sampling.temperature == 0 else [()] * len(prompts)
        batch: _Batch | None = None
        while waiting or batch is not None:
            places = ROWS - (len(batch.rows) if batch else 0)
            if waiting and places >= min(REFILL, len(waiting)):
                rows, waiting = waiting[:places], waiting[places:]
                asked = [(prompts[row], hoped[row][: sampling.max_new_tokens]) for row in rows]
                entered = self._admit(rows, asked, sampling, replies, on_token)
                drafted, came = sum(len(d) for _, d in asked), sum(len(replies[row].logprobs) for row in rows)
                if came < WORTH * drafted:
                    hoped = [()] * len(prompts)
                batch = _together(batch, entered)
            if batch is not None and not self._step(batch, sampling, replies, on_token):
                batch = None
        return [Completion(tokens=tuple(r.tokens), logprobs=tuple(r.logprobs), finished=r.finished) for r in replies]

    def _admit(
        self, rows: list[int], asked: Sequence[_Asked], sampling: Sampling, replies: list[_Reply],
        on_token: OnToken | None,
    ) -> _Batch | None:  # fmt: skip
        """Lets waiting rows in, with what of their drafts came true; a prompt that several have is computed once."""
        unique = list(dict.fromkeys(asked))
        cache, hidden, said = self._prefill(unique, sampling.max_new_tokens)
        number = {one: n for n, one in enumerate(unique)}
        going: list[int] = []
        for at, (row, one) in enumerate(zip(rows, asked, strict=True)):
            taken = said[number[one]]
            if all(_write(replies, row, token, logp, sampling, on_token) for token, logp in taken):
                going.append(at)
        if not going:
            return None
        copies = torch.tensor([number[asked[at]] for at in going], device=self.model.device)
        if len(going) < len(rows) or len(unique) < len(rows):
            cache.keep(copies)
        return _Batch(
            rows=[rows[at] for at in going],
            streams=[torch.Generator(device="cpu").manual_seed(_seed(sampling.seed, rows[at])) for at in going],
            cache=cache,
            hidden=hidden.index_select(0, copies),
        )

    def _step(self, batch: _Batch, sampling: Sampling, replies: list[_Reply], on_token: OnToken | None) -> bool:
        """One more token for every row; False when no row goes on."""
        tokens, logprobs = _pick(self._logits(batch.hidden), sampling.temperature, batch.streams)
        going = [
            at
            for at, row in enumerate(batch.rows)
            if _write(replies, row, tokens[at], logprobs[at], sampling, on_token)
        ]
        if not going:
            return False
        if len(going) < len(batch.rows):
            batch.keep(going)
        batch.hidden = self._advance([tokens[at] for at in going], batch.cache)
        return True

    def _prefill(self, asked: Sequence[_Asked], new: int) -> tuple[KeyValues, Tensor, list[_Said]]:
        """Keys and values of the prompts and of what came true of their drafts, the hidden state that predicts each
        row's next token, and the tokens that came true with their log-probabilities."""
        device = self.model.device
        parts: list[KeyValues] = []
        last: list[Tensor] = []
        said: list[_Said] = []
        for chunk in _chunks(asked):
            starts = [prompt + draft for prompt, draft in chunk]
            cache = KeyValues(
                capacity=max(len(prompt) for prompt, _ in chunk) + new,
                lengths=torch.tensor([len(prompt) for prompt, _ in chunk], device=device),
                longest=max(map(len, starts)),
            )
            layout = pack(starts, device, clusters=self._clusters(starts), cache=cache)
            places = [
                layout.index(n, len(prompt) - 1 + i)
                for n, (prompt, draft) in enumerate(chunk)
                for i in range(len(draft) + 1)
            ]
            states = self._body(layout).index_select(0, torch.tensor(places, device=device))
            true = self._true(states, [draft for _, draft in chunk])
            firsts = itertools.accumulate((len(draft) + 1 for _, draft in chunk[:-1]), initial=0)
            ends = [first + len(one) for first, one in zip(firsts, true, strict=True)]
            last.append(states.index_select(0, torch.tensor(ends, device=device)))
            cache.lengths += torch.tensor([len(one) for one in true], device=device)
            cache.longest = int(cache.lengths.max())
            parts.append(cache)
            said += true
        return joined(parts), torch.cat(last), said

    def _true(self, states: Tensor, drafts: Sequence[Tokens]) -> list[_Said]:
        """How much of each draft the model says itself, from the hidden states before and behind all its tokens."""
        if not any(drafts):
            return [()] * len(drafts)
        picked: list[tuple[int, float]] = []
        for some in states.split(CHECKED):
            picked += zip(*_pick(self._logits(some), 0.0, ()), strict=True)
        found, first = list[_Said](), 0
        for draft in drafts:
            own = picked[first : first + len(draft)]
            same = itertools.takewhile(lambda pair: pair[0][0] == pair[1], zip(own, draft, strict=True))
            found.append(tuple(said for said, _ in same))
            first += len(draft) + 1
        return found

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


def _together(batch: _Batch | None, entered: _Batch | None) -> _Batch | None:
    """The rows of both."""
    if batch is None or entered is None:
        return batch or entered
    return _Batch(
        rows=batch.rows + entered.rows,
        streams=batch.streams + entered.streams,
        cache=joined([batch.cache, entered.cache]),
        hidden=torch.cat([batch.hidden, entered.hidden]),
    )


def _write(
    replies: list[_Reply], row: int, token: int, logprob: float, sampling: Sampling, on_token: OnToken | None
) -> bool:
    """Adds a token to a reply; False when the reply does not go on."""
    reply = replies[row]
    reply.logprobs.append(logprob)
    reply.finished = token in sampling.stop
    if reply.finished:
        return False
    reply.tokens.append(token)
    if on_token is not None:
        on_token(row, token)
    return len(reply.tokens) < sampling.max_new_tokens


def _chunks(asked: Sequence[_Asked]) -> list[list[_Asked]]:
    """Consecutive prompts with their drafts, at most PREFILL_TOKENS together."""
    chunks: list[list[_Asked]] = [[]]
    held = 0
    for prompt, draft in asked:
        size = len(prompt) + len(draft)
        if chunks[-1] and held + size > PREFILL_TOKENS:
            chunks.append([])
            held = 0
        chunks[-1].append((prompt, draft))
        held += size
    return chunks


def _pick(logits: Tensor, temperature: float, streams: Sequence[torch.Generator]) -> tuple[list[int], list[float]]:
    """Next token per row with its log-probability at temperature 1; every row has its own random stream."""
    total = logits.logsumexp(-1, keepdim=True)  # all log-probabilities at once would be as large as the logits
    if temperature == 0:
        best = logits.max(-1)
        return best.indices.tolist(), (best.values - total[:, 0]).tolist()
    at = torch.tensor([torch.rand((), generator=g, dtype=torch.float64) for g in streams], dtype=torch.float64)
    drawn = _draw((logits / temperature).softmax(-1), at.to(logits.device))
    return drawn[:, 0].tolist(), (logits.gather(1, drawn) - total)[:, 0].tolist()


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
