"""AdamW over what trains, with float32 precision also where the weights are kept in bfloat16.

A bfloat16 number is the upper half of a float32. The lower half is kept beside it, so that both together are the exact
float32 weight that the optimiser moves: updates far below the resolution of bfloat16 add up, nothing is drawn at
random, and it costs two bytes per weight instead of four for a copy. What the model computes with, and what is saved,
is the float32 weight rounded to bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from temper.model.protocol import TrainSpec

EPSILON = 1e-8
GROUP = 1 << 26
"""Weights that are updated at a time: the float32 values in between take 1 GiB."""
State = Mapping[str, Mapping[str, Tensor]]
"""Parameter name -> what the optimiser knows about it."""


@dataclass(slots=True, kw_only=True)
class _Group:
    """Weights in bfloat16, end to end."""

    parameters: Mapping[str, Parameter]
    low: Tensor
    """[n] int16: float32 weight = upper half << 16 + this."""
    mean: Tensor
    square: Tensor

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """[n] -> by name, in the shapes of the weights."""
        parts = flat.split([p.numel() for p in self.parameters.values()])
        return {n: part.view_as(p) for (n, p), part in zip(self.parameters.items(), parts, strict=True)}


class AdamW:
    """Decoupled weight decay (1711.05101); float32 parameters are torch's own fused optimiser's."""

    def __init__(self, parameters: Mapping[str, Parameter], spec: TrainSpec) -> None:
        self._spec = spec
        self._steps = 0
        half = {n: p for n, p in parameters.items() if p.dtype == torch.bfloat16}
        self._wide = {n: p for n, p in parameters.items() if n not in half}
        self._groups = [_group(part) for part in _parts(half)]
        self._torch: torch.optim.AdamW | None = None
        if self._wide:
            betas = (spec.beta1, spec.beta2)
            self._torch = torch.optim.AdamW(
                list(self._wide.values()), lr=0.0, betas=betas, weight_decay=spec.weight_decay, fused=True
            )

    @property
    def bytes_to_come(self) -> int:
        """What the first update will allocate."""
        return sum(8 * p.numel() for p in self._wide.values()) if self._torch and not self._torch.state else 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update of every parameter that has a gradient."""
        self._steps += 1
        if self._torch is not None:
            for group in self._torch.param_groups:
                group["lr"] = lr
            self._torch.step()
        for group in self._groups:
            self._update(group, lr)

    def state(self) -> State:
        """Moments by parameter name, and what is below the resolution of bfloat16."""
        found: dict[str, dict[str, Tensor]] = {}
        if self._torch is not None:
            moments = self._torch.state
            found |= {n: moments[p] for n, p in self._wide.items() if p in moments}
        for group in self._groups:
            low, mean, square = (group.split(flat) for flat in (group.low, group.mean, group.square))
            for name in group.parameters:
                found[name] = {"low": low[name], "exp_avg": mean[name], "exp_avg_sq": square[name]}
                found[name]["step"] = torch.tensor(float(self._steps))
        return found

    def restore(self, state: State) -> None:
        """Takes up what `state` gave."""
        if self._torch is not None:
            for name in self._wide.keys() & state.keys():
                parameter = self._wide[name]
                self._torch.state[parameter] = {k: v.to(parameter.device) for k, v in state[name].items()}
        for group in self._groups:
            for key, flat in (("low", group.low), ("exp_avg", group.mean), ("exp_avg_sq", group.square)):
                for name, part in group.split(flat).items():
                    part.copy_(state[name][key])
            self._steps = int(state[next(iter(group.parameters))]["step"])

    def _update(self, group: _Group, lr: float) -> None:
        spec, parameters = self._spec, list(group.parameters.values())
        gradient = torch.cat([_gradient(p) for p in parameters])
        master = _joined(torch.cat([p.detach().view(-1) for p in parameters]), group.low)
        group.mean.lerp_(gradient, 1 - spec.beta1)
        group.square.mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
        spread = group.square.sqrt().div_(math.sqrt(1 - spec.beta2**self._steps)).add_(EPSILON)
        master.mul_(1 - lr * spec.weight_decay)
        master.addcdiv_(group.mean, spread, value=-lr / (1 - spec.beta1**self._steps))
        high, low = _halves(master)
        group.low.copy_(low)
        for name, part in group.split(high).items():
            group.parameters[name].copy_(part)


def clip(parameters: Sequence[Parameter], limit: float) -> float:
    """Scales all gradients down where their norm is above the limit; returns the norm before, found in float32."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(g.dtype == torch.float32 for g in gradients):
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def _parts(parameters: Mapping[str, Parameter]) -> Iterator[dict[str, Parameter]]:
    """Parameters in order, at most `GROUP` weights at a time; a larger one is alone."""
    part: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        if part and sum(p.numel() for p in part.values()) + parameter.numel() > GROUP:
            yield part
            part = {}
        part[name] = parameter
    if part:
        yield part


def _group(parameters: Mapping[str, Parameter]) -> _Group:
    size, device = sum(p.numel() for p in parameters.values()), next(iter(parameters.values())).device
    return _Group(
        parameters=parameters,
        low=torch.zeros(size, dtype=torch.int16, device=device),
        mean=torch.zeros(size, device=device),
        square=torch.zeros(size, device=device),
    )


def _gradient(parameter: Parameter) -> Tensor:
    """[n] in float32; zero where the batch had none."""
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), device=parameter.device)
    return parameter.grad.reshape(-1).float()


def _joined(high: Tensor, low: Tensor) -> Tensor:
    """[n] float32 of bfloat16 and what is below it."""
    return ((high.view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


def _halves(master: Tensor) -> tuple[Tensor, Tensor]:
    """[n] float32 as the nearest bfloat16 and what is missing: between -32768 and 32767 steps of float32."""
    bits = master.view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)
