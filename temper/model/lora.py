"""LoRA through peft, with one fused pass per layer.

peft owns the configuration, where adapters go, how they start, and the file format. Only the arithmetic of its linear
layer is replaced: base product and adapter are accumulated into one buffer, and backward forms exactly the four
products that are needed (none for frozen weights, none for an input that does not train).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora.layer import Linear as PeftLinear
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from temper.errors import CheckpointError
from temper.model import kernels, products
from temper.model.fourbit import dense

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"
_ASIDE = "temper_set_aside"
_FOREIGN: Mapping[str, str] = {
    "use_dora": "with magnitudes", "bias": "with biases", "lora_bias": "with biases",
    "modules_to_save": "with whole layers", "trainable_token_indices": "with token embeddings",
    "alora_invocation_tokens": "that begins at a token",
}  # fmt: skip
"""What peft can put beside the two factors, and `_forward` would leave out without a word; by its configuration."""


def attach(model: PreTrainedModel, config: LoraConfig, *, seed: int = 0) -> None:
    """Adds a fresh adapter to every linear layer of the decoder and freezes all else; `seed` draws its A matrices."""
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise CheckpointError(
            f"{model.config.model_type}: its layers hold transposed weights (Conv1D), which adapters do not fit; "
            "expected torch.nn.Linear layers; write `adapter: full` in the stage or choose another base"
        )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()  # peft gives it the base's type, too coarse for small updates
    for module in model.modules():
        if isinstance(module, PeftLinear):
            module.forward = functools.partial(_forward, module)


def config_for(rank: int, alpha: float) -> LoraConfig:
    """peft's configuration of an adapter on all linear layers; the update is alpha / rank x B A."""
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - peft says int, and takes floats
        target_modules="all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def save(model: PreTrainedModel, base: str, to: Path) -> None:
    """Writes the adapter in peft's format."""
    config: LoraConfig = model.peft_config[ADAPTER]  # pyright: ignore[reportIndexIssue, reportAssignmentType]
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # a set has another order in every process
    config.save_pretrained(str(to))
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    save_file(
        {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in state.items()},
        to / WEIGHTS,
        metadata={"format": "pt"},
    )


def read_config(folder: Path) -> LoraConfig:
    """The adapter's configuration; refuses what is not a LoRA adapter."""
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, OSError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: not a LoRA adapter ({error}); expected adapter_config.json and {WEIGHTS} in peft's format; "
            "check the folder or train again"
        ) from None
    config.inference_mode = False
    for field, kind in _FOREIGN.items():
        if getattr(config, field, None) not in (None, False, "none", [], {}):
            raise CheckpointError(
                f"{folder}: an adapter {kind} ({field}), which is computed in another way than B A x; expected a plain"
                " LoRA adapter; merge it into its base with peft (merge_and_unload) and name that folder"
            )
    return config  # pyright: ignore[reportReturnType]


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Reads adapter weights into the attached adapter; every tensor must find its place."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected the weights of an adapter; train again or name another folder"
        )
    state = {k.removeprefix("base_model.model."): v for k, v in load_file(path).items()}
    own = {n.replace(f".{ADAPTER}.", "."): p.shape for n, p in model.named_parameters() if "lora_" in n}
    unlike = [f"{n} {tuple(x.shape)}, here {tuple(own[n])}" for n, x in state.items() if n in own and x.shape != own[n]]
    if unlike:
        raise CheckpointError(
            f"{path}: does not fit this base and rank ({len(unlike)} tensors of another shape, e.g. {unlike[0]}); "
            "use the base named in adapter_config.json and its rank"
        )
    result: Any = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    missing = [k for k in result.missing_keys if "lora_" in k]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{path}: does not fit this base ({len(missing)} tensors missing, {len(result.unexpected_keys)} too many, "
            f"e.g. {(missing or result.unexpected_keys)[0]}); use the base named in adapter_config.json"
        )


@contextmanager
def set_aside(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model answers as if it had no adapter."""
    layers = [module for module in model.modules() if isinstance(module, PeftLinear)]
    try:
        for layer in layers:
            setattr(layer, _ASIDE, True)
        yield
    finally:
        for layer in layers:
            delattr(layer, _ASIDE)


def _forward(layer: PeftLinear, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if hasattr(layer, _ASIDE):
        return base(x)  # pyright: ignore[reportCallIssue]
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    flat = x.reshape(-1, x.shape[-1])
    out = kernels.call(_LoraLinear, flat, base, a, b, layer.scaling[ADAPTER])
    return out.reshape(*x.shape[:-1], -1)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + s (x A') B'; W and bias are frozen, and W may lie packed in its layer, or in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any, a: Tensor, b: Tensor, s: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = x @ a.T
        weight = dense(base)
        kept = x.to(weight.dtype)
        ctx.save_for_backward(kept, inner, a, b)
        ctx.s, ctx.base = s, base
        out = products.product(kept, weight).to(x.dtype)
        return (out if base.bias is None else out.add_(base.bias)).addmm_(inner, b.T, alpha=s)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, inner, a, b = ctx.saved_tensors
        to_inner = grad @ b
        to_b = (grad.T @ inner).mul_(ctx.s)
        to_a = products.product(to_inner.T.to(x.dtype), x.T).to(grad.dtype).mul_(ctx.s)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = products.product(grad, dense(ctx.base).T).addmm_(to_inner, a, alpha=ctx.s)
        return to_x, None, to_a, to_b, None
