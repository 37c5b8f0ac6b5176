"""Arithmetic on checkpoints: means, the line back to the start, cuts; adapters merged into full weights.

What is made is an ordinary checkpoint in the same format as the trained ones, so everything that reads checkpoints
reads it. Full weights are streamed tensor by tensor.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from temper.errors import CheckpointError
from temper.model import lora, store
from temper.model.protocol import Blend, Checkpoint

LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
EMBEDDING = re.compile(r"embed|wte|wpe")
Change = Callable[[str, Tensor], Tensor]


def derive(blend: Blend, to: Path) -> None:
    """Writes the weights that a blend stands for, into the new folder `to`."""
    first = blend.parts[0]
    scale = _Scale(blend, _layers(first.path))
    with store.new_folder(to) as folder:
        if first.adapter:
            factors = _Factors(blend)
            _rewrite(first.path, folder, lambda name, x: factors.changed(name, x, scale(name)))
            return
        start, others = _Tensors(first.base), [_Tensors(part.path) for part in blend.parts[1:]]

        def change(name: str, x: Tensor) -> Tensor:
            mean = torch.stack([x, *(other.like(name, x) for other in others)]).float().mean(dim=0)
            before = start.like(name, x).float()
            return (before + scale(name) * strongest(mean - before, blend.energy)).to(x.dtype)

        _rewrite(first.path, folder, change)


def strongest(change: Tensor, energy: float) -> Tensor:
    """A matrix cut down to its strongest singular directions, the fewest that hold this share of its squared norm.

    From the eigenvectors of the smaller Gram matrix, which is a fifth of the work of all singular vectors. What is no
    matrix stays as it is.
    """
    if energy >= 1.0 or change.dim() != 2 or not change.any():
        return change
    wide = change if change.shape[0] <= change.shape[1] else change.T
    values, directions = torch.linalg.eigh(wide.double() @ wide.double().T)
    kept = directions[:, -_count(values.flip(0).clamp(min=0.0), energy) :].to(change.dtype)
    cut = kept @ (kept.T @ wide)
    return cut if wide is change else cut.T


def joined(factors: Sequence[tuple[Tensor, Tensor]], energy: float) -> tuple[Tensor, Tensor]:
    """The mean of several products B A of one rank as one product of that rank, the closest there is.

    Args:
        factors: (B [out, rank], A [rank, in]) of each.
        energy: Share of the squared norm to keep, see `strongest`; directions beyond it become zero.
    """
    rank = factors[0][0].shape[1]
    tall = torch.cat([b.double() for b, _ in factors], dim=1) / len(factors)
    flat = torch.cat([a.double() for _, a in factors], dim=0)
    left, core_left = torch.linalg.qr(tall)
    right, core_right = torch.linalg.qr(flat.T)
    inner, strength, outer = torch.linalg.svd(core_left @ core_right.T)
    count = min(rank, _count(strength**2, energy))
    root = strength[:count].sqrt()
    b = torch.zeros_like(factors[0][0])
    a = torch.zeros_like(factors[0][1])
    b[:, :count] = (left @ inner[:, :count] * root).to(b.dtype)
    a[:count] = ((root[:, None] * outer[:count]) @ right.T).to(a.dtype)
    return b, a


def whole(checkpoint: Checkpoint, to: Path) -> None:
    """Writes full weights with tokenizer: a copy, or the adapter added to its base."""
    with store.new_folder(to) as folder:
        if checkpoint.adapter:
            adapter = _Adapter(checkpoint.path)
            _rewrite(checkpoint.base, folder, adapter.add)
            adapter.require_used(checkpoint.base)
        else:
            _rewrite(checkpoint.path, folder, lambda _name, x: x)
        store.copy_tokenizer(checkpoint.base, folder)


def _count(squares: Tensor, energy: float) -> int:
    """How many of the squared singular values, the largest first, hold this share of their sum."""
    reached = squares.cumsum(0) >= energy * squares.sum() * (1.0 - 1e-12)
    return 1 + int(reached.to(torch.int8).argmax()) if energy < 1.0 else len(squares)


def _layers(folder: Path) -> int:
    """How many layers the tensors of a folder belong to."""
    numbers = [0]
    for path in store.weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            numbers += [int(found[1]) for name in tensors.keys() if (found := LAYER.search(name))]  # noqa: SIM118
    return 1 + max(numbers)


class _Scale:
    """How much of its change each tensor keeps."""

    def __init__(self, blend: Blend, layers: int) -> None:
        self._blend = blend
        self._last = max(1, layers - 1)

    def __call__(self, name: str) -> float:
        found, first = LAYER.search(name), self._blend.first_layer
        depth = int(found[1]) / self._last if found else float(not EMBEDDING.search(name))
        return self._blend.alpha * (first + (1.0 - first) * depth)


class _Factors:
    """The factors of an adapter made from others."""

    def __init__(self, blend: Blend) -> None:
        self._parts = [_Adapter(part.path) for part in blend.parts]
        self._energy = blend.energy
        self._made: dict[str, tuple[Tensor, Tensor]] = {}

    def changed(self, name: str, own: Tensor, scale: float) -> Tensor:
        """The tensor called `name` of the new adapter; its own one where there is nothing to average or to cut."""
        module, factor = _place(name)
        if len(self._parts) > 1 or self._energy < 1.0:
            if module not in self._made:
                self._made[module] = joined([part.factors(module) for part in self._parts], self._energy)
            own = self._made[module][factor == "lora_A"]
        return own * scale if factor == "lora_B" else own


class _Tensors:
    """Random access to the tensors of a model folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        for path in store.weight_files(folder):
            with safe_open(path, framework="pt") as tensors:
                self._files |= dict.fromkeys(tensors.keys(), path)

    def like(self, name: str, other: Tensor) -> Tensor:
        """The tensor called `name`, in the number format of another of the same shape."""
        if name in self._files:
            with safe_open(self._files[name], framework="pt") as tensors:
                found = tensors.get_tensor(name)
            if found.shape == other.shape:
                return found.to(other.dtype)
        raise CheckpointError(
            f"{self._folder}: has no tensor {name} of shape {tuple(other.shape)} as the checkpoint has; expected the "
            "model that training started from; name that base"
        )


class _Adapter:
    """The weight change that an adapter stands for, by name of the base tensor."""

    def __init__(self, folder: Path) -> None:
        config = lora.read_config(folder)
        self._scale = config.lora_alpha / config.r
        self._factors: dict[str, dict[str, Tensor]] = {}
        self._used: set[str] = set()
        with safe_open(folder / lora.WEIGHTS, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                module, factor = _place(name)
                self._factors.setdefault(module, {})[factor] = tensors.get_tensor(name)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """B and A of the change of a base tensor."""
        return self._factors[name]["lora_B"], self._factors[name]["lora_A"]

    def add(self, name: str, weight: Tensor) -> Tensor:
        """The base tensor with its change added."""
        if name not in self._factors:
            return weight
        factors = self._factors[name]
        change = factors["lora_B"].float() @ factors["lora_A"].float() * self._scale
        if change.shape != weight.shape:
            return weight  # stays unused, and `require_used` says so
        self._used.add(name)
        return (weight.float() + change).to(weight.dtype)

    def require_used(self, base: Path) -> None:
        """Refuses an adapter with tensors for layers that the base does not have."""
        left = sorted(set(self._factors) - self._used)
        if left:
            raise CheckpointError(
                f"{base}: has no layer {left[0]} of the shape that the adapter changes; expected the model it was "
                "trained on; use the base named in adapter_config.json"
            )


def _place(name: str) -> tuple[str, str]:
    """The base tensor that a tensor of an adapter belongs to, and which factor it is."""
    module, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
    return f"{module}.weight", factor


def _rewrite(source: Path, to: Path, change: Change) -> None:
    """Copies a model or adapter folder with every tensor changed; the trainer's state stays behind."""
    for path in store.weight_files(source):
        with safe_open(path, framework="pt") as tensors:
            changed = {name: change(name, tensors.get_tensor(name)).contiguous() for name in tensors.keys()}  # noqa: SIM118
        save_file(changed, to / path.name, metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"):
        if (source / name).is_file():
            shutil.copy(source / name, to / name)
