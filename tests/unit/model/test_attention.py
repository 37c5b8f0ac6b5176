"""Attention on a CPU: however the rows are cut up, it is that of torch's own function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from temper.model.attention import CHUNK_SCORES, SMALL_SCORES, attend
from temper.model.layout import pack


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence by itself: [tokens, heads, size] -> the same."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(0, 1)


@pytest.mark.parametrize("shared", [False, True], ids=["unlike", "shared"])
@pytest.mark.parametrize("rows", [2, 1300])
def test_rows_of_any_number_are_attended_to_one_by_one(rows: int, shared: bool) -> None:
    """1,300 rows of 20 tokens that see 40, with 4 heads, are 4.2 million scores: in chunks, where nothing is kept."""
    heads, size = 4, 8
    begin = list(range(5, 25))
    sequences = [
        (*begin, *range(30, 50 - n % 7)) if shared else tuple(range(n + 1, n + 41 - n % 7)) for n in range(rows)
    ]
    layout = pack(sequences, torch.device("cpu"), clusters=[list(range(rows))] if shared else [])
    tokens = layout.tokens.shape[1]
    assert (layout.branches is not None) == shared
    assert rows == 2 or rows * heads * 20 * 40 > SMALL_SCORES > CHUNK_SCORES
    q, k, v = drawn(tokens, heads, size), drawn(tokens, 2, size), drawn(tokens, 2, size)
    with torch.no_grad():
        found = attend(q, k, v, layout, layer=0, scale=None, window=None)
    kept = attend(q.requires_grad_(), k, v, layout, layer=0, scale=None, window=None)
    torch.testing.assert_close(found, kept.detach(), rtol=1e-4, atol=1e-5)
    for n in (0, rows // 2, rows - 1):
        at = [layout.index(n, i) for i in range(len(sequences[n]))]
        torch.testing.assert_close(found[at], plain(q.detach()[at], k[at], v[at]), rtol=1e-4, atol=1e-5)
