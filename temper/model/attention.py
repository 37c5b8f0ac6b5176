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


@torch.no_grad()
def install(model: PreTrainedModel) -> bool:
    """Routes the model's attention through `packed_attention`; False when that does not give the model's own logits.

    A few tokens are computed both ways, so that what no configuration declares in one place (a bias of the head, scaled
    logits, a bias by distance) is found before anything is trained on wrong numbers.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    first, second = ([(11 * i + k) % vocabulary for i in range(n)] for k, n in ((1, 3), (2, 8)))
    own = model(input_ids=torch.tensor([second], device=model.device), use_cache=False).logits[0]
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
    layout = pack([first, second], model.device)
    out = model.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    packed = out.last_hidden_state[0, len(first) :] @ model.get_output_embeddings().weight.T  # pyright: ignore
    return bool((packed - own).abs().max() <= 1e-3 * own.abs().max())


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether roots and branches can be used: a sliding window would have to be known per layer."""
    return not getattr(model.config.get_text_config(), "sliding_window", None)


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a packed batch; query [1, heads, T, d], key and value [1, kv heads, T, d] -> [1, T, heads, d]."""
    layout: Layout = options["layout"]
    scale: float | None = options.get("scaling")
    window: int | None = options.get("sliding_window")
    if layout.cache is not None and layout.roots.width == 1:
        return _decode(module, query, key, value, layout.cache, scale, window), None
    flat = tuple(x[0].transpose(0, 1) for x in (query, key, value))
    branches = layout.branches
    stop = branches.start if branches else len(flat[0])
    q, k, v = (layout.roots.spread(x[:stop]) for x in flat)
    mask = _window_mask(layout.roots.width, window, q.device) if window and layout.roots.width > window else None
    out = layout.roots.gather(_attend(q, k, v, mask, scale, causal=mask is None))
    if branches is not None:
        q, own_k, own_v = (branches.grid.spread(x[stop:]) for x in flat)
        k = torch.cat([k.index_select(0, branches.root), own_k], dim=2)
        v = torch.cat([v.index_select(0, branches.root), own_v], dim=2)
        tail = branches.grid.gather(_attend(q, k, v, branches.mask, scale, causal=False))
        out = torch.cat([out, tail])
    if layout.cache is not None:
        _remember(layout.cache, int(getattr(module, "layer_idx", 0)), k, v)
    return out[None], None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, *, causal: bool) -> Tensor:
    k, v = _repeat(k, q.shape[1]), _repeat(v, q.shape[1])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


def _repeat(x: Tensor, heads: int) -> Tensor:
    """Every key head as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _window_mask(width: int, window: int, device: torch.device) -> Tensor:
    at = torch.arange(width, device=device)
    distance = at[:, None] - at[None, :]
    return (distance >= 0) & (distance < window)


def _remember(cache: KeyValues, layer: int, k: Tensor, v: Tensor) -> None:
    for held, x in ((cache.keys, k), (cache.values, v)):
        room = x.new_zeros(x.shape[0], x.shape[1], cache.capacity, x.shape[3])
        room[:, :, : x.shape[2]] = x
        held[layer] = room


def _decode(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, cache: KeyValues, scale: float | None,
    window: int | None,
) -> Tensor:  # fmt: skip
    """One new token per row: query [1, heads, B, d]; query heads that share a key head are queries of one attention."""
    layer = int(getattr(module, "layer_idx", 0))
    keys, values = cache.keys[layer], cache.values[layer]
    batch, kv_heads, _, size = keys.shape
    at = torch.arange(batch, device=keys.device)
    keys[at, :, cache.lengths] = key[0].transpose(0, 1)
    values[at, :, cache.lengths] = value[0].transpose(0, 1)
    held = int(cache.lengths.max()) + 1
    slots = torch.arange(held, device=keys.device)[None]
    seen = slots <= cache.lengths[:, None]
    if window:
        seen &= slots > cache.lengths[:, None] - window
    q = query[0].transpose(0, 1).reshape(batch, kv_heads, -1, size)
    out = torch.nn.functional.scaled_dot_product_attention(
        q, keys[:, :, :held], values[:, :, :held], attn_mask=seen[:, None, None], scale=scale
    )
    return out.reshape(1, batch, query.shape[1], -1)
