"""Packed rows: linear layers see every token once and no padding, attention sees one row per sequence.

All sequences of a batch lie end to end in one row of T tokens (`layout`). On a CPU, attention alone sees them as a
right-padded grid of rows with a causal mask. On a GPU in half precision, the variable-length kernel that torch brings
takes them as they lie: no padding there either, and no mask. Both leave the rows exactly isolated.

Sequences that begin with the same tokens (a system prompt, the question of a choice item) are computed as one root with
branches: the root's tokens pass through the network once, every branch attends to the root's keys and to its own. The
gradient through the root is the sum over its branches, so training is exact as well.

While generating, the same function keeps the keys and values of each layer.

Reached through transformers' attention interface, so any model that routes its attention through it works; what the
interface cannot express here (soft-capped logits, attention sinks, linear attention) is refused by `supports`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from temper.model import kernels, tuning
from temper.model.layout import KeyValues, Layout, Spans, pack

NAME = "temper_packed"
SMALL_SCORES = 4_000_000
"""Scores per layer (rows x heads x queries x keys) up to which they are kept for backward: 16 MB a layer."""
CHUNK_SCORES = 500_000
"""Scores per chunk of rows where nothing is kept: 2 MB stay in the caches of a core."""
HALF = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256
"""Of the variable-length kernel."""
GRIDS_ALONE = "_temper_grids_alone"
"""Set on a model whose logits the variable-length kernel did not reproduce."""


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


def flat(model: PreTrainedModel) -> bool:
    """Whether the variable-length kernel takes the packed rows: a GPU, half precision, heads it was made for."""
    text: Any = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return (
        model.device.type == "cuda"
        and model.dtype in HALF
        and head % 8 == 0
        and head <= LARGEST_HEAD
        and importlib.util.find_spec("torch.nn.attention.varlen") is not None
        and not hasattr(model, GRIDS_ALONE)
    )


@torch.no_grad()
def agrees(model: PreTrainedModel, logits: Tensor, before: Sequence[int], tokens: Sequence[int]) -> bool:
    """Whether the packed pass over `tokens`, behind another sequence and as a branch, gives these [tokens, V] logits.

    In half precision the two ways round differently; a wrong mask or a scaled logit shows far above that.
    """
    rows = [before, tokens, (*tokens, 0), (*tokens[:-1], 0)]
    clusters = [[1, 2, 3]] if shares_prefixes(model) else []
    layout = pack(rows, model.device, clusters=clusters, flat=flat(model), rung=8)
    out = model.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    at = [layout.index(1, i) for i in range(len(tokens))]
    packed = (out.last_hidden_state[0, at] @ model.get_output_embeddings().weight.T).float()  # pyright: ignore
    own = logits.float()
    if model.dtype in HALF:
        return bool((packed - own).norm() <= 0.05 * own.norm())
    return bool((packed - own).abs().max() <= 1e-3 * own.abs().max())


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether roots and branches can be used: in a grid, a sliding window would have to be known per layer."""
    return flat(model) or not getattr(model.config.get_text_config(), "sliding_window", None)


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
    if layout.cache is not None and layer in layout.cache.keys:  # filled by the prompts, of one token at least
        return _decode(query, key, value, layout.cache, layer, factor, window)
    if layout.spans is not None:
        return _over_spans(query, key, value, layout.spans, factor, window)
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


def _over_spans(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, window: int | None) -> Tensor:
    """Sequences of any length as they lie, in half precision on a GPU."""
    from torch.nn.attention import varlen

    if spans.gather is not None:
        key, value = key.index_select(0, spans.gather), value.index_select(0, spans.gather)
    back = -1 if window is None else window - 1  # the kernel counts what lies before a token, temper the token too
    out = varlen.varlen_attn(
        query, key, value, spans.queries, spans.keys, spans.longest_query, spans.longest_key, scale=scale,
        window_size=(back, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, seen: Tensor, scale: float) -> Tensor:
    """[rows, heads, width, d]; `seen` says what `mask` says, also where `mask` is None for plain causal."""
    scores = q.shape[1] * q.shape[2] * k.shape[2]
    kept = torch.is_grad_enabled()
    if q.device.type == "cpu" and q.shape[0] * scores <= (SMALL_SCORES if kept else CHUNK_SCORES):
        return kernels.call(_Grouped, q, k, v, seen, scale)
    if q.device.type == "cpu" and scores <= CHUNK_SCORES and not kept:
        return _in_chunks(q, k, v, seen, scale, size=CHUNK_SCORES // scores)
    k, v = _repeat(k, q.shape[1]), _repeat(v, q.shape[1])
    attention = torch.nn.functional.scaled_dot_product_attention
    with tuning.by_blas():  # its small products took oneDNN nearly twice as long
        return attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, *, size: int) -> Tensor:
    """Many short rows of which nothing is kept, `size` at a time."""
    out = torch.empty_like(q)
    for first in range(0, len(q), size):
        rows = slice(first, first + size)
        out[rows] = kernels.call(_Grouped, q[rows], k[rows], v[rows], seen if seen.dim() == 2 else seen[rows], scale)
    return out


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
    held = cache.longest + 1
    slots = torch.arange(held, device=keys.device)[None]
    seen = slots <= cache.lengths[:, None]
    if window:
        seen &= slots > cache.lengths[:, None] - window
    keys, values, seen = keys[:, :, :held], values[:, :, :held], seen[:, None, None]
    with tuning.exact():  # products of three rows: oneDNN took nearly three times as long
        if keys.device.type == "cpu":
            return kernels.call(_Grouped, query[:, :, None], keys, values, seen, scale)[:, :, 0]
        grouped = query.reshape(batch, kv_heads, -1, size)
        out = torch.nn.functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=scale)
    return out.reshape(batch, -1, size)
