"""Checkpoint folders: written whole or not at all, in the formats that transformers and peft read.

A folder holds `model.safetensors` + `config.json` (full weights) or `adapter_model.safetensors` + `adapter_config.json`
(adapter), and, while a run may still need to continue from it, `trainer/` with the optimiser state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from temper.errors import CheckpointError, MachineError

TRAINER = "trainer"


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder that appears under its name only when its content is complete."""
    temporary = to.with_name(f".{to.name}.{os.getpid()}.part")
    replaced = to.with_name(f".{to.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if to.exists():
            to.rename(replaced)
        temporary.rename(to)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"{to}: could not be written ({error}); expected a writable folder with free space; "
            "free some space or choose another --out, then run the same command again"
        ) from None
    finally:
        if replaced.exists() and not to.exists():
            replaced.rename(to)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def write_optimizer(folder: Path, step: int, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """The optimiser's moments by parameter name."""
    (folder / TRAINER).mkdir()
    flat = {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, values in state.items()
        for key, value in values.items()
    }
    save_file(flat, folder / TRAINER / "optimizer.safetensors")
    (folder / TRAINER / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def read_optimizer(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]]]:
    """Step and moments written by `write_optimizer`."""
    step = json.loads((folder / TRAINER / "state.json").read_text(encoding="utf-8"))["step"]
    state: dict[str, dict[str, Tensor]] = {}
    for flat, value in load_file(folder / TRAINER / "optimizer.safetensors").items():
        name, _, key = flat.partition("|")
        state.setdefault(name, {})[key] = value
    return step, state


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model or adapter folder, those that transformers and peft read."""
    files = sorted(folder.glob("*.safetensors"))
    # Some hub repositories hold the same weights a second time under foreign names (`consolidated.safetensors`).
    files = [f for f in files if f.name.startswith(("model", "adapter_model"))] or files
    if not files:
        raise CheckpointError(
            f"{folder}: no .safetensors file found; expected a model folder as transformers writes it; "
            "save the model with safe_serialization or name another folder"
        )
    return files


def require_readable(folder: Path) -> None:
    """Refuses weight files that are cut off or only point to weights, by their headers."""
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file}: not a safetensors file ({error}); expected weights, it may be cut off or a pointer to a "
                "large file; download it again"
            ) from None


def load_full_weights(model: PreTrainedModel, folder: Path) -> None:
    """Copies the weights of a model folder into a model of the same shape, in place."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    left = {name for name, _ in model.named_parameters()}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                if name in own and list(own[name].shape) == tensors.get_slice(name).get_shape():
                    own[name].copy_(tensors.get_tensor(name))
                    left.discard(name)
    if left:
        raise CheckpointError(
            f"{folder}: does not fit this model ({len(left)} tensors missing or of another shape, e.g. {min(left)}); "
            "expected weights saved from the same architecture; name the checkpoint of this run or train again"
        )


def content_hash(folder: Path) -> str:
    """sha256 over the weight files of a folder, in order of their names."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def copy_tokenizer(base: Path, to: Path) -> None:
    """Puts the tokenizer beside the weights, so that the folder can be loaded on its own."""
    for pattern in (
        "tokenizer*",
        "special_tokens_map.json",
        "vocab*",
        "merges.txt",
        "chat_template*",
        "generation_config.json",
    ):
        for file in base.glob(pattern):
            if not (to / file.name).exists():
                shutil.copy(file, to / file.name)
