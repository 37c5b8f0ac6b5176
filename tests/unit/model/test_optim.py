"""Weights in bfloat16 move as float32 weights do: nothing below their resolution is lost, also not over a restart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from temper.model.optim import AdamW, clip
from temper.model.protocol import TrainSpec

SPEC = TrainSpec(rank=None, weight_decay=0.1)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Exact in bfloat16, of very unlike sizes, zero and negative ones among them."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(37, 5, generator=generator) * 10.0 ** torch.randint(-6, 3, (37, 5), generator=generator)
    return {"a": a.bfloat16(), "b": torch.tensor([0.0, -1.0, 1.0]).bfloat16()}


def pair() -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """The same weights in bfloat16 and in float32."""
    return ({n: Parameter(w.clone()) for n, w in weights().items()},
            {n: Parameter(w.float()) for n, w in weights().items()})  # fmt: skip


def gradients(*models: dict[str, Parameter], step: int) -> None:
    for name in models[0]:
        drawn = torch.randn(models[0][name].shape, generator=torch.Generator().manual_seed(step)).bfloat16()
        for model in models:
            model[name].grad = drawn.to(model[name].dtype)


def test_a_half_weight_is_the_rounded_float32_weight_after_every_step() -> None:
    half, wide = pair()
    ours, reference = AdamW(half, SPEC), AdamW(wide, SPEC)
    for step in range(25):
        gradients(half, wide, step=step)
        ours.step(1e-3)
        reference.step(1e-3)
        for name in half:
            master = wide[name].detach()
            # one step of bfloat16 is 2^-7 of a number between 1 and 2; rounding is half of it
            apart = (half[name].float() - master).abs()
            assert bool((apart <= 2**-8 * master.abs() * 1.01 + 1e-7).all())


def test_updates_below_the_resolution_add_up() -> None:
    # With a constant gradient, Adam moves by the rate: 100 x 1e-4 from 1.0 is 0.99, in bfloat16 0.98828125 or
    # 0.9921875. One such update alone is far below half a step (2^-9), so bfloat16 alone would stay at 1.
    parameter = Parameter(torch.ones(4).bfloat16())
    optimizer = AdamW({"w": parameter}, TrainSpec(rank=None))
    for _ in range(100):
        parameter.grad = torch.ones(4).bfloat16()
        optimizer.step(1e-4)
    assert (
        parameter.detach().float().tolist() == [0.98828125] * 4
        or parameter.detach().float().tolist() == [0.9921875] * 4
    )


def test_a_restart_continues_bit_by_bit() -> None:
    whole, _ = pair()
    optimizer = AdamW(whole, SPEC)
    for step in range(6):
        if step == 3:
            kept = {n: Parameter(p.detach().clone()) for n, p in whole.items()}
            state = {n: {k: v.clone() for k, v in s.items()} for n, s in optimizer.state().items()}
        gradients(whole, step=step)
        optimizer.step(1e-2)
    again = AdamW(kept, SPEC)
    again.restore(state)
    for step in range(3, 6):
        gradients(kept, step=step)
        again.step(1e-2)
    for name in whole:
        assert torch.equal(whole[name], kept[name])
        assert all(torch.equal(v, again.state()[name][k]) for k, v in optimizer.state()[name].items())


def test_float32_and_bfloat16_train_side_by_side() -> None:
    mixed = {"half": Parameter(torch.ones(3).bfloat16()), "wide": Parameter(torch.ones(3))}
    optimizer = AdamW(mixed, TrainSpec(rank=None))
    for parameter in mixed.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.25)
    # The first step of Adam is the rate, whatever the gradient.
    assert [p.detach().float().tolist() for p in mixed.values()] == [pytest.approx([0.75] * 3)] * 2
    assert set(optimizer.state()) == {"half", "wide"}


def test_a_norm_of_half_gradients_is_found_in_float32() -> None:
    # 3, 4 and 12 in two tensors: norm 13; clipped to 6.5, each is halved
    first, second = Parameter(torch.zeros(2).bfloat16()), Parameter(torch.zeros(1).bfloat16())
    first.grad, second.grad = torch.tensor([3.0, 4.0]).bfloat16(), torch.tensor([12.0]).bfloat16()
    assert clip([first, second], 6.5) == pytest.approx(13.0)
    assert first.grad.tolist() == [1.5, 2.0]
    assert second.grad.tolist() == [6.0]
