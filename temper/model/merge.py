"""Arithmetic on checkpoints: the line back to the start, adapters merged into full weights; streams tensor by tensor.

A point on the line is an ordinary checkpoint in the same format as the trained one, so everything that reads
checkpoints reads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from temper.errors import CheckpointError
from temper.model import lora, store
from temper.model.protocol import Checkpoint

Change = Callable[[str, Tensor], Tensor]


def blend(checkpoint: Checkpoint, alpha: float, to: Path) -> None:
    """Writes start + alpha x (checkpoint - start); for an adapter that scales B.

    Args:
        checkpoint: The trained end of the line; its `base` is the start.
        alpha: 0 gives the start, 1 the checkpoint.
        to: New folder.
    """
    with store.new_folder(to) as folder:
        if checkpoint.adapter:
            _rewrite(checkpoint.path, folder, lambda name, x: x * alpha if "lora_B" in name else x)
            return
        start = _Tensors(checkpoint.base)
        _rewrite(checkpoint.path, folder, lambda name, x: torch.lerp(start.like(name, x), x, alpha))


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
                module, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
                self._factors.setdefault(f"{module}.weight", {})[factor] = tensors.get_tensor(name)

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


def _rewrite(source: Path, to: Path, change: Change) -> None:
    """Copies a model or adapter folder with every tensor changed; the trainer's state stays behind."""
    for path in store.weight_files(source):
        with safe_open(path, framework="pt") as tensors:
            changed = {name: change(name, tensors.get_tensor(name)).contiguous() for name in tensors.keys()}  # noqa: SIM118
        save_file(changed, to / path.name, metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"):
        if (source / name).is_file():
            shutil.copy(source / name, to / name)
