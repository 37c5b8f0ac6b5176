"""Packed rows: linear layers see every token once and no padding, attention sees one row per sequence.

All sequences of a batch lie end to end in one row of T tokens. Inside attention alone they are laid out as [B, L]
(right-padded) with a causal mask: padding comes after every real token, so no real token can look at it, isolation is
exact and no mask is built.

Sequences that begin with the same tokens (a system prompt, the question of a choice item) are computed as one root with
branches: the root's tokens pass through the network once, every branch attends to the root's keys and to its own. The
gradient through the root is the sum over its branches, so training is exact as well.

While generating, the same function keeps the keys and values of each layer.

Reached through transformers' attention interface, so any model that routes its attention through it works; what the
interface cannot express here (soft-capped logits, attention sinks, linear attention) is refused by `supports`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "temper_packed"
SMALL_SCORES = 1_500_000
"""Scores per layer (rows x heads x queries x keys) up to which they are kept for backward: 6 MB a layer."""


@dataclass(slots=True, kw_only=True)
class KeyValues:
    """Keys and values of every layer for a batch that is being generated."""

    capacity: int
    """Longest prompt plus the new tokens."""
    lengths: Tensor
    """[B] tokens held per row."""
    keys: dict[int, Tensor] = field(default_factory=dict)
    """layer -> [B, heads, capacity, head size]"""
    values: dict[int, Tensor] = field(default_factory=dict)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these."""
        self.lengths = self.lengths[rows]
        for held in (self.keys, self.values):
            for layer, tensor in held.items():
                held[layer] = tensor[rows]


def joined(caches: Sequence[KeyValues]) -> KeyValues:
    """One cache over the rows of all, in order, with room for the largest."""
    if len(caches) == 1:
        return caches[0]
    capacity = max(c.capacity for c in caches)
    whole = KeyValues(capacity=capacity, lengths=torch.cat([c.lengths for c in caches]))
    for name in ("keys", "values"):
        for layer in getattr(caches[0], name):
            parts = [getattr(c, name)[layer] for c in caches]
            rooms = [torch.nn.functional.pad(x, (0, 0, 0, capacity - x.shape[2])) for x in parts]
            getattr(whole, name)[layer] = torch.cat(rooms)
    return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sequences of unequal length as rows of a padded grid."""

    rows: int
    width: int
    """Length of the longest."""
    place: Tensor | None
    """[tokens] index of each token in the flattened grid; None when every row is full."""

    def spread(self, flat: Tensor) -> Tensor:
        """[tokens, heads, d] -> [rows, heads, width, d], zero where a row is shorter than the widest."""
        if self.place is not None:
            flat = flat.new_zeros(self.rows * self.width, *flat.shape[1:]).index_copy(0, self.place, flat)
        return flat.reshape(self.rows, self.width, *flat.shape[1:]).transpose(1, 2)

    def gather(self, grid: Tensor) -> Tensor:
        """[rows, heads, width, d] -> [tokens, heads, d]."""
        flat = grid.transpose(1, 2).reshape(self.rows * self.width, grid.shape[1], grid.shape[3])
        return flat if self.place is None else flat.index_select(0, self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Continuations of roots; their tokens follow those of all roots."""

    start: int
    """Index of their first token in the packed row."""
    grid: Grid
    root: Tensor
    """[rows] the root of each branch."""
    mask: Tensor
    """[rows, 1, width, width of the roots + width] what a branch token may look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the tokens of a packed batch belong."""

    tokens: Tensor
    """[1, T]"""
    positions: Tensor
    """[1, T], restarting at every sequence."""
    roots: Grid
    """Whole sequences, and what branches share."""
    branches: Branches | None = None
    places: tuple[tuple[int, int, int], ...] = ()
    """Per sequence: start of its root, length of it, start of its branch (in the packed row)."""
    cache: KeyValues | None = None
    """Filled when given."""

    def index(self, sequence: int, position: int) -> int:
        """Where in the packed row a position of a sequence is computed."""
        root, shared, branch = self.places[sequence]
        return root + position if position < shared else branch + position - shared


def pack(
    sequences: Sequence[Sequence[int]],
    device: torch.device,
    *,
    clusters: Sequence[Sequence[int]] = (),
    cache: KeyValues | None = None,
) -> Layout:
    """Lays sequences end to end, what the sequences of a cluster share only once.

    Args:
        sequences: Token ids.
        device: Of the model.
        clusters: Sequence numbers that begin alike; the others stand alone.
        cache: Filled with keys and values by the pass; with clusters, there must be one over all sequences.
    """
    shared = {number: _common(cluster, sequences) for cluster in clusters for number in cluster}
    roots: list[Sequence[int]] = []
    branches: list[tuple[int, int, Sequence[int]]] = []  # sequence, root, tokens
    root_of: dict[int, int] = {}
    for cluster in clusters:
        roots.append(sequences[cluster[0]][: shared[cluster[0]]])
        for number in cluster:
            root_of[number] = len(roots) - 1
            branches.append((number, len(roots) - 1, sequences[number][shared[number] :]))
    for number, sequence in enumerate(sequences):
        if number not in root_of:
            root_of[number] = len(roots)
            roots.append(sequence)
            shared[number] = len(sequence)
    begins = list(itertools.accumulate((len(r) for r in roots), initial=0))
    tails = list(itertools.accumulate((len(t) for _, _, t in branches), initial=begins[-1]))
    tail_of = {number: tails[i] for i, (number, _, _) in enumerate(branches)}
    offsets = [len(roots[root]) for _, root, _ in branches]
    positions = [torch.arange(len(r)) for r in roots]
    positions += [torch.arange(n, n + len(t)) for n, (_, _, t) in zip(offsets, branches, strict=True)]
    flat = [t for r in roots for t in r] + [t for _, _, tokens in branches for t in tokens]
    grid = _grid([len(r) for r in roots], device)
    return Layout(
        tokens=torch.tensor(flat, device=device)[None],
        positions=torch.cat(positions)[None].to(device),
        roots=grid,
        branches=_branches(branches, begins[-1], offsets, grid.width, device) if branches else None,
        places=tuple((begins[root_of[n]], shared[n], tail_of.get(n, 0)) for n in range(len(sequences))),
        cache=cache,
    )


def alike(sequences: Sequence[Sequence[int]], *, least: int = 16) -> list[list[int]]:
    """Clusters of two or more sequences whose first `least` tokens agree and which each go on after what they share."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, sequence in enumerate(sequences):
        if len(sequence) > least:
            found.setdefault(tuple(sequence[:least]), []).append(number)
    return [cluster for cluster in found.values() if len(cluster) > 1]


def _common(cluster: Sequence[int], sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences of a cluster begin with, leaving each at least one of its own."""
    first = sequences[cluster[0]]
    length = min(len(sequences[n]) for n in cluster) - 1
    for number in cluster:
        other = sequences[number]
        length = next((i for i in range(length) if first[i] != other[i]), length)
    return length


def _grid(lengths: Sequence[int], device: torch.device) -> Grid:
    width = max(lengths)
    if min(lengths) == width:
        return Grid(rows=len(lengths), width=width, place=None)
    starts = torch.repeat_interleave(torch.arange(len(lengths)) * width, torch.tensor(lengths))
    places = starts + torch.cat([torch.arange(n) for n in lengths])
    return Grid(rows=len(lengths), width=width, place=places.to(device))


def _branches(
    branches: Sequence[tuple[int, int, Sequence[int]]],
    start: int,
    offsets: Sequence[int],
    root_width: int,
    device: torch.device,
) -> Branches:
    grid = _grid([len(tokens) for _, _, tokens in branches], device)
    own = torch.ones(grid.width, grid.width, dtype=torch.bool).tril().expand(grid.rows, -1, -1)
    seen = torch.arange(root_width)[None] < torch.tensor(offsets)[:, None]
    mask = torch.cat([seen[:, None].expand(-1, grid.width, -1), own], dim=2)
    root = torch.tensor([root for _, root, _ in branches], device=device)
    return Branches(start=start, grid=grid, root=root, mask=mask[:, None].to(device))


def supports(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be laid out this way."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    plain = kinds <= {"full_attention", "sliding_attention"}
    capped = getattr(text, "attn_logit_softcapping", None) or getattr(model.config, "attn_logit_softcapping", None)
    sinks = any("sinks" in name for name, _ in model.named_parameters())
    return bool(getattr(model, "_supports_attention_backend", False)) and plain and not capped and not sinks


def route(model: PreTrainedModel) -> None:
    """Sends the model's attention through `packed_attention`."""
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)


@torch.no_grad()
def agrees(model: PreTrainedModel, logits: Tensor, before: Sequence[int], tokens: Sequence[int]) -> bool:
    """Whether the packed pass over `tokens`, behind another sequence, gives these [tokens, V] logits."""
    layout = pack([before, tokens], model.device)
    out = model.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    packed = out.last_hidden_state[0, len(before) :] @ model.get_output_embeddings().weight.T  # pyright: ignore
    return bool((packed - logits).abs().max() <= 1e-3 * logits.abs().max())


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether roots and branches can be used: a sliding window would have to be known per layer."""
    return not getattr(model.config.get_text_config(), "sliding_window", None)


def window_of(module: torch.nn.Module) -> int | None:
    """Tokens back that a layer's attention sees; None for all."""
    if hasattr(module, "sliding_window"):
        return module.sliding_window  # pyright: ignore[reportReturnType]
    config: Any = module.config
    kinds = getattr(config, "layer_types", None)
    slides = kinds[module.layer_idx] == "sliding_attention" if kinds else True  # pyright: ignore
    return getattr(config, "sliding_window", None) if slides else None


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a packed batch; query [1, heads, T, d], key and value [1, kv heads, T, d] -> [1, T, heads, d]."""
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    out = attend(
        query, key, value, options["layout"], layer=int(getattr(module, "layer_idx", 0)),
        scale=options.get("scaling"), window=options.get("sliding_window"),
    )  # fmt: skip
    return out[None], None


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, layer: int, scale: float | None, window: int | None
) -> Tensor:
    """Attention of a packed batch.

    Args:
        query: [T, heads, d]
        key: [T, kv heads, d]
        value: As key.
        layout: What belongs together.
        layer: Whose keys and values the cache keeps.
        scale: Of the scores; 1 / sqrt(d) when None.
        window: Tokens back that are seen.

    Returns:
        [T, heads, d]
    """
    factor = float(query.shape[-1]) ** -0.5 if scale is None else scale
    if layout.cache is not None and layout.roots.width == 1:
        return _decode(query, key, value, layout.cache, layer, factor, window)
    branches = layout.branches
    stop = branches.start if branches else len(query)
    q, k, v = (layout.roots.spread(x[:stop]) for x in (query, key, value))
    mask = _causal(layout.roots.width, window, q.device)
    slides = window is not None and layout.roots.width > window
    out = layout.roots.gather(_attend(q, k, v, mask if slides else None, mask, factor))
    if branches is not None:
        q, own_k, own_v = (branches.grid.spread(x[stop:]) for x in (query, key, value))
        k = torch.cat([k.index_select(0, branches.root), own_k], dim=2)
        v = torch.cat([v.index_select(0, branches.root), own_v], dim=2)
        tail = branches.grid.gather(_attend(q, k, v, branches.mask, branches.mask, factor))
        out = torch.cat([out, tail])
    if layout.cache is not None:
        _remember(layout.cache, layer, k, v)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, seen: Tensor, scale: float) -> Tensor:
    """[rows, heads, width, d]; `seen` says what `mask` says, also where `mask` is None for plain causal."""
    if q.device.type == "cpu" and q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= SMALL_SCORES:
        return _Grouped.apply(q, k, v, seen, scale)  # pyright: ignore[reportReturnType]
    k, v = _repeat(k, q.shape[1]), _repeat(v, q.shape[1])
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)


class _Grouped(torch.autograd.Function):
    """Attention of short rows on a CPU as three batched products; query heads that share a key head are one block.

    torch's fused kernel is made for long rows: on rows of a hundred tokens it took half as long again. The scores are
    kept, so this is for few of them (`SMALL_SCORES`).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        rows, heads, width, size = q.shape
        block, length = heads // k.shape[1], k.shape[2]
        queries = q.reshape(-1, block * width, size)
        keys, values = k.reshape(-1, length, size), v.reshape(-1, length, size)
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)
        shape = (rows, k.shape[1], block, width, length)
        scores.view(shape).masked_fill_(~(seen if seen.dim() == 2 else seen[:, None]), float("-inf"))
        weights = scores.softmax(-1)
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.scale, ctx.heads, ctx.width = scale, heads, width
        return torch.bmm(weights, values).view(rows, heads, width, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        queries, keys, values, weights = ctx.saved_tensors
        g = gradient.reshape(queries.shape)
        to_values = torch.bmm(weights.transpose(1, 2), g)
        to_scores = torch.bmm(g, values.transpose(1, 2))
        to_scores = torch.ops.aten._softmax_backward_data(to_scores, weights, -1, weights.dtype).mul_(ctx.scale)
        to_queries = torch.bmm(to_scores, keys).view(gradient.shape)
        to_keys = torch.bmm(to_scores.transpose(1, 2), queries)
        rows, length, size = gradient.shape[0], keys.shape[1], keys.shape[2]
        return to_queries, to_keys.view(rows, -1, length, size), to_values.view(rows, -1, length, size), None, None


def _repeat(x: Tensor, heads: int) -> Tensor:
    """Every key head as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _causal(width: int, window: int | None, device: torch.device) -> Tensor:
    at = torch.arange(width, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < (window or width))


def _remember(cache: KeyValues, layer: int, k: Tensor, v: Tensor) -> None:
    for held, x in ((cache.keys, k), (cache.values, v)):
        room = x.new_zeros(x.shape[0], x.shape[1], cache.capacity, x.shape[3])
        room[:, :, : x.shape[2]] = x
        held[layer] = room


def _decode(
    query: Tensor, key: Tensor, value: Tensor, cache: KeyValues, layer: int, scale: float, window: int | None
) -> Tensor:
    """One new token per row: query [B, heads, d]; query heads that share a key head are queries of one attention."""
    keys, values = cache.keys[layer], cache.values[layer]
    batch, kv_heads, _, size = keys.shape
    at = torch.arange(batch, device=keys.device)
    keys[at, :, cache.lengths] = key
    values[at, :, cache.lengths] = value
    held = int(cache.lengths.max()) + 1
    slots = torch.arange(held, device=keys.device)[None]
    seen = slots <= cache.lengths[:, None]
    if window:
        seen &= slots > cache.lengths[:, None] - window
    q = query.reshape(batch, kv_heads, -1, size)
    out = torch.nn.functional.scaled_dot_product_attention(
        q, keys[:, :, :held], values[:, :, :held], attn_mask=seen[:, None, None], scale=scale
    )
    return out.reshape(batch, -1, size)
