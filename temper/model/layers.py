"""Own forward passes for decoder layers that are built as Llama's are: norm, attention, norm, gated MLP.

Only the path of the data is ours; weights, linear layers (and adapters on them) stay the model's own modules. Whether a
module has the expected parts is looked at here; whether the result is the model's own is measured by
`install`, which takes everything back when the logits differ.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from temper.model import attention, tuning
from temper.model.kernels import FEWEST_TOKENS, PLAIN, AddNorm, Gate, Kernels, Norm, Rotate, call

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
LAYER = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
SILU = ("SiLU", "SiLUActivation")
"""torch's and transformers' name of the same function."""


@torch.no_grad()
def install(model: PreTrainedModel, kernels: Kernels = PLAIN) -> bool:
    """Routes attention and decoder layers through our own passes; False when the logits are no longer the model's own.

    A few tokens are computed both ways, so that what no configuration declares in one place (a bias of the head, scaled
    logits, a norm of another kind, a bias by distance) is found before anything is trained on wrong numbers.
    """
    with tuning.exact():
        return _installed(model, kernels)


def _installed(model: PreTrainedModel, kernels: Kernels) -> bool:
    vocabulary = int(model.config.get_text_config().vocab_size)
    first, second = ([(11 * i + k) % vocabulary for i in range(n)] for k, n in ((1, 3), (2, 8)))
    own = model(input_ids=torch.tensor([second], device=model.device), use_cache=False).logits[0]
    attention.route(model)
    if replace(model, kernels):
        if attention.agrees(model, own, first, second):
            return True
        remove(model)
    if attention.agrees(model, own, first, second):
        return True
    if not attention.flat(model):
        return False
    setattr(model, attention.GRIDS_ALONE, True)
    replace(model, kernels)
    return attention.agrees(model, own, first, second)


def replace(model: PreTrainedModel, kernels: Kernels = PLAIN) -> int:
    """Gives every decoder layer with the expected parts its own forward pass; returns how many were given one."""
    found = [module for module in model.modules() if _is_layer(module)]
    if not rotates_whole_heads(model):
        return 0
    for layer in found:
        layer.forward = functools.partial(_layer, layer, kernels)
    final = getattr(model.base_model, "norm", None)
    if found and isinstance(final, nn.Module) and _is_norm(final):
        final.forward = functools.partial(_norm, final, kernels)
    return len(found)


def remove(model: PreTrainedModel) -> None:
    """Gives every module its own class's forward pass back."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), functools.partial) and module.forward.func in (_layer, _norm):
            del module.__dict__["forward"]


def rotates_whole_heads(model: PreTrainedModel) -> bool:
    """Whether positions rotate all of a head; where only a part is rotated, the model's own code does it."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    return part in (None, 1, 1.0)


def _is_layer(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    return (
        set(parts) == LAYER
        and set(dict(parts["mlp"].named_children())) - {"act_fn"} == MLP
        and type(getattr(parts["mlp"], "act_fn", None)).__name__ in SILU
        and ATTENTION <= set(dict(parts["self_attn"].named_children())) <= ATTENTION | HEAD_NORMS
        and _is_norm(parts["input_layernorm"])
        and _is_norm(parts["post_attention_layernorm"])
    )


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("RMSNorm") and weight is not None and hasattr(module, "variance_epsilon")


def _layer(
    layer: Any, kernels: Kernels, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **options: Any
) -> Tensor:
    """[1, T, H] -> [1, T, H]; everything in between without the first axis."""
    x = hidden_states[0]
    normed = _norm(layer.input_layernorm, kernels, x)
    attended = _attention(layer.self_attn, kernels, normed, position_embeddings, options)
    after = layer.post_attention_layernorm
    x, normed = _apply(AddNorm, kernels, x, attended, after.weight, after.variance_epsilon)
    gated = _apply(Gate, kernels, layer.mlp.gate_proj(normed), layer.mlp.up_proj(normed))
    return (x + layer.mlp.down_proj(gated))[None]


def _attention(
    module: Any, kernels: Kernels, x: Tensor, angles: tuple[Tensor, Tensor], options: dict[str, Any]
) -> Tensor:
    size: int = module.head_dim
    query, key, value = (p(x).unflatten(-1, (-1, size)) for p in (module.q_proj, module.k_proj, module.v_proj))
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = (a[0, :, : size // 2] for a in angles)
    query, key = (_apply(Rotate, kernels, h, cos, sin) for h in (query, key))
    out = attention.attend(
        query, key, value, options["layout"], layer=int(module.layer_idx), scale=module.scaling,
        window=attention.window_of(module),
    )  # fmt: skip
    return module.o_proj(out.flatten(1))


def _norm(module: Any, kernels: Kernels, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    return _apply(Norm, kernels, flat, module.weight, module.variance_epsilon).reshape(x.shape)


def _apply(function: Any, kernels: Kernels, *arguments: Any) -> Any:
    return call(function, *arguments, kernels if len(arguments[0]) >= FEWEST_TOKENS else PLAIN)
