"""Where the tokens of a packed batch belong: which rows, which shared beginnings, which keys each query may look at.

All sequences lie end to end in one row of T tokens. Sequences that begin with the same tokens are one root with
branches: the root's tokens are there once, every branch looks at the root's keys and at its own.

Two ways to say so. `Grid`: rows of unequal length as a right-padded grid, for kernels that take a batch; padding comes
after every real token of its row, so that no real token looks at it. `Spans`: where each sequence's queries and keys
begin in one long row, for kernels that take sequences of any length.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class KeyValues:
    """Keys and values of every layer for a batch that is being generated."""

    capacity: int
    """Longest prompt plus the new tokens."""
    lengths: Tensor
    """[B] tokens held per row."""
    longest: int
    """The largest of the lengths; asking the device for it in every layer would make each layer wait."""
    keys: dict[int, Tensor] = field(default_factory=dict)
    """layer -> [B, heads, capacity, head size]"""
    values: dict[int, Tensor] = field(default_factory=dict)

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these."""
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())
        for held in (self.keys, self.values):
            for layer, tensor in held.items():
                held[layer] = tensor[rows]


def joined(caches: Sequence[KeyValues]) -> KeyValues:
    """One cache over the rows of all, in order, with room for the largest."""
    if len(caches) == 1:
        return caches[0]
    capacity = max(c.capacity for c in caches)
    lengths, longest = torch.cat([c.lengths for c in caches]), max(c.longest for c in caches)
    whole = KeyValues(capacity=capacity, lengths=lengths, longest=longest)
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
class Spans:
    """Where each root and each branch begins, as kernels for sequences of any length take it.

    The last query of a span looks at its last key, the one before at all keys but that one, and so on. So a branch with
    the keys of its root in front of its own looks at the whole root and at what it has said itself.
    """

    queries: Tensor
    """[N + 1] int32, cumulative."""
    keys: Tensor
    """[N + 1] int32, cumulative."""
    longest_query: int
    longest_key: int
    gather: Tensor | None
    """[keys] where in the packed row each key is; None when keys lie as queries do."""


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
    spans: Spans | None = None
    """Taken in place of grids when given."""

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
    flat: bool = False,
    rung: int = 1,
) -> Layout:
    """Lays sequences end to end, what the sequences of a cluster share only once.

    Args:
        sequences: Token ids.
        device: Of the model.
        clusters: Sequence numbers that begin alike; the others stand alone.
        cache: Filled with keys and values by the pass; with clusters, there must be one over all sequences.
        flat: Spans instead of grids.
        rung: The number of tokens is filled up to a multiple of it (spans alone), so that few shapes occur.
    """
    parts = _parts(sequences, clusters)
    begins = list(itertools.accumulate((len(r) for r in parts.roots), initial=0))
    tails = list(itertools.accumulate((len(t) for _, _, t in parts.branches), initial=begins[-1]))
    tail_of = {number: tails[i] for i, (number, _, _) in enumerate(parts.branches)}
    offsets = [len(parts.roots[root]) for _, root, _ in parts.branches]
    filler = -tails[-1] % rung if flat else 0
    positions = [torch.arange(len(r)) for r in parts.roots]
    positions += [torch.arange(n, n + len(t)) for n, (_, _, t) in zip(offsets, parts.branches, strict=True)]
    tokens = [t for r in parts.roots for t in r] + [t for _, _, tail in parts.branches for t in tail] + [0] * filler
    grid = _grid([len(r) for r in parts.roots], device)
    branches = (
        _branches(parts.branches, begins[-1], offsets, grid.width, device) if parts.branches and not flat else None
    )
    return Layout(
        tokens=torch.tensor(tokens, device=device)[None],
        positions=torch.cat([*positions, torch.arange(filler)])[None].to(device),
        roots=grid,
        branches=branches,
        places=tuple((begins[parts.root_of[n]], parts.shared[n], tail_of.get(n, 0)) for n in range(len(sequences))),
        cache=cache,
        spans=_spans(parts, begins, tails, filler, device) if flat else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Sequences cut into roots and branches."""

    roots: list[Sequence[int]]
    branches: list[tuple[int, int, Sequence[int]]]
    """Sequence, its root, its own tokens."""
    root_of: dict[int, int]
    shared: dict[int, int]
    """Sequence -> how many of its tokens its root holds."""


def _parts(sequences: Sequence[Sequence[int]], clusters: Sequence[Sequence[int]]) -> _Parts:
    parts = _Parts(roots=[], branches=[], root_of={}, shared={})
    for cluster in clusters:
        shared = common([sequences[n] for n in cluster])
        parts.roots.append(sequences[cluster[0]][:shared])
        for number in cluster:
            parts.root_of[number], parts.shared[number] = len(parts.roots) - 1, shared
            parts.branches.append((number, len(parts.roots) - 1, sequences[number][shared:]))
    for number, sequence in enumerate(sequences):
        if number not in parts.root_of:
            parts.root_of[number], parts.shared[number] = len(parts.roots), len(sequence)
            parts.roots.append(sequence)
    return parts


def _spans(parts: _Parts, begins: Sequence[int], tails: Sequence[int], filler: int, device: torch.device) -> Spans:
    """Roots, branches and what fills up, in the order in which they lie."""
    lengths = [len(r) for r in parts.roots] + [len(t) for _, _, t in parts.branches] + [filler] * bool(filler)
    held = [len(r) for r in parts.roots]
    held += [len(parts.roots[root]) + len(t) for _, root, t in parts.branches] + [filler] * bool(filler)
    gather = None
    if parts.branches:
        places = [torch.arange(begins[-1])]
        for at, (_, root, own) in zip(tails, parts.branches, strict=False):
            places += [torch.arange(begins[root], begins[root + 1]), torch.arange(at, at + len(own))]
        places.append(torch.arange(tails[-1], tails[-1] + filler))
        gather = torch.cat(places).to(device)

    def ends(counts: Sequence[int]) -> Tensor:
        return torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32, device=device)

    return Spans(
        queries=ends(lengths), keys=ends(held), longest_query=max(lengths), longest_key=max(held), gather=gather,
    )  # fmt: skip


def alike(sequences: Sequence[Sequence[int]], *, least: int = 16) -> list[list[int]]:
    """Clusters of two or more sequences whose first `least` tokens agree and which each go on after what they share."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, sequence in enumerate(sequences):
        if len(sequence) > least:
            found.setdefault(tuple(sequence[:least]), []).append(number)
    return [cluster for cluster in found.values() if len(cluster) > 1]


def common(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences begin with, leaving each at least one of its own."""
    first = sequences[0]
    length = min(map(len, sequences)) - 1
    for other in sequences[1:]:
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
