"""A frozen base in 4 bits (QLoRA, 2305.14314), through bitsandbytes: a quarter of the memory of half precision.

Weights of the decoder's linear layers are packed as NF4 with packed scales; every product unpacks its weight anew, in
forward and in backward. Adapters, embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from temper.errors import MissingExtra


class FourBit(nn.Linear):
    """A linear layer whose weight is packed and does not train."""

    def __init__(self, plain: nn.Linear, device: torch.device) -> None:
        from bitsandbytes import functional  # pyright: ignore[reportMissingImports] - lives in the extra `qlora`

        with torch.device("meta"):
            super().__init__(plain.in_features, plain.out_features, bias=False)
        packed, self._state = functional.quantize_4bit(
            plain.weight.detach().to(device), quant_type="nf4", compress_statistics=True
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if plain.bias is None else nn.Parameter(plain.bias.detach().to(device), requires_grad=False)

    def dense(self) -> Tensor:
        """[outputs, inputs] in the type that was packed."""
        from bitsandbytes import functional  # pyright: ignore[reportMissingImports]

        return functional.dequantize_4bit(self.weight, self._state)

    def forward(self, input: Tensor) -> Tensor:
        """The product with the unpacked weight."""
        return nn.functional.linear(input, self.dense(), self.bias)


def dense(layer: nn.Module) -> Tensor:
    """The weight of a linear layer, unpacked where it is packed."""
    weight: Any = layer.dense() if isinstance(layer, FourBit) else layer.weight
    return weight


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Packs the linear layers of the decoder one by one on a device, then takes the rest there."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "qlora")
    body = model.base_model
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.Linear):
            body.set_submodule(name, FourBit(module, device))
    model.to(device)  # pyright: ignore[reportArgumentType] - the stub says dtype
