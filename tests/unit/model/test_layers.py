"""Own decoder layers: where they are used, where they are not, and that compiled kernels compute what plain ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from temper.model import kernels, layers, load
from temper.model.kernels import PLAIN, AddNorm, Gate, Kernels, Norm, Rotate
from temper.model.layout import pack
from tests.tiny import tiny_model
from tests.unit.model import plain


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "gemma"])
def test_every_architecture_keeps_its_own_logits(tmp_path: Path, kind: str) -> None:
    """Llama's relatives get our layers; what is built otherwise keeps its own code. Neither may change a logit."""
    extra: dict[str, Any] = {"head_dim": 16} if kind in ("qwen3", "gemma") else {}
    model = load.open_model(tiny_model(tmp_path / kind, kind=kind, initializer_range=0.2, **extra))
    tokens = torch.tensor([[5, 9, 200, 31, 77, 8, 14]])
    own = model(input_ids=tokens, use_cache=False).logits[0].detach()
    assert layers.install(model)
    replaced = sum("forward" in m.__dict__ for m in model.modules() if "DecoderLayer" in type(m).__name__)
    assert replaced == (2 if kind in ("llama", "mistral", "qwen2", "qwen3") else 0)
    layout = pack([[3, 1], tokens[0].tolist()], model.device)
    out = model.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    found = out.last_hidden_state[0, 2:] @ model.get_output_embeddings().weight.T  # pyright: ignore
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_layers_that_change_the_logits_are_taken_back(tmp_path: Path) -> None:
    """A norm that adds one to its weight, as Gemma's does, under the names that Llama uses."""
    model = load.open_model(plain.write_model(tmp_path / "model"))
    kind = type(model.base_model.layers[0].input_layernorm)  # pyright: ignore
    shifted = type("ShiftedRMSNorm", (kind,), {"forward": lambda self, x: kind.forward(self, x) + x})
    for module in model.modules():
        if type(module) is kind:
            module.__class__ = shifted  # pyright: ignore[reportAttributeAccessIssue]
    assert layers.install(model)
    assert not any("forward" in m.__dict__ for m in model.modules())


def tensors(tokens: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    return {"x": draw(tokens, 24), "y": draw(tokens, 24), "w": draw(24), "heads": draw(tokens, 3, 8),
            "angle": torch.rand(tokens, 4, generator=generator)}  # fmt: skip


def through(table: Kernels, t: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Values and gradients of every function."""
    total, normed = AddNorm.apply(t["x"], t["y"], t["w"], 1e-5, table)  # pyright: ignore
    cos, sin = t["angle"].cos(), t["angle"].sin()
    values = [Norm.apply(t["x"], t["w"], 1e-5, table), total, normed, Gate.apply(t["x"], t["y"], table),
              Rotate.apply(t["heads"], cos, sin, table)]  # fmt: skip
    loss = sum((v * torch.arange(v.numel()).view(v.shape).cos()).sum() for v in values)  # pyright: ignore
    return [*values, *torch.autograd.grad(loss, [t["x"], t["y"], t["w"], t["heads"]])]  # pyright: ignore


def by_autograd(t: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t["w"]

    first, second = t["heads"].chunk(2, -1)
    cos, sin = t["angle"].cos()[:, None], t["angle"].sin()[:, None]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    total = t["x"] + t["y"]
    values = [norm(t["x"]), total, norm(total), torch.nn.functional.silu(t["x"]) * t["y"], turned]
    loss = sum((v * torch.arange(v.numel()).view(v.shape).cos()).sum() for v in values)  # pyright: ignore
    return [*values, *torch.autograd.grad(loss, [t["x"], t["y"], t["w"], t["heads"]])]  # pyright: ignore


def test_values_and_gradients_are_those_of_autograd() -> None:
    for found, expected in zip(through(PLAIN, tensors(70)), by_autograd(tensors(70)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not kernels.can_compile(torch.device("cpu")), reason="no C++ compiler on this machine")
def test_compiled_kernels_compute_what_plain_ones_do() -> None:
    table = kernels.compiled()
    for tokens in (70, 301):
        for found, expected in zip(through(table, tensors(tokens)), by_autograd(tensors(tokens)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_compiler_that_fails_leaves_the_plain_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any, **_options: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("no such compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    table = kernels.compiled()
    x = torch.randn(100, 8)
    with pytest.warns(UserWarning, match="going on without it: no such compiler"):
        first = table.gate(x, x)
    torch.testing.assert_close(first, torch.nn.functional.silu(x) * x)
    torch.testing.assert_close(table.gate(x, x), first)  # and does not try again
