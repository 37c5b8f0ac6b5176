"""Export: a checkpoint in a format that others load, verified by loading it as they would.

What is written is opened with plain transformers (or peft) and its logits are compared with those of the policy that
the probes measured. A folder appears under its name only after that.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from temper.data import fetch
from temper.data.render import Renderer
from temper.errors import CheckpointError
from temper.model import load, lora, merge, store, tuning
from temper.model.layout import pack
from temper.model.protocol import Base, Checkpoint
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner

LARGEST_DIFFERENCE = 1e-3
"""Between logits in float32; the order of additions explains no more."""
TEXTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Water boils at one hundred degrees, and it freezes at",
)
Write = Callable[[Path], None]
Open = Callable[[Path], torch.nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A verified export."""

    path: Path
    difference: float
    """Largest absolute difference between its logits and the checkpoint's."""
    limit: float
    """What was allowed."""
    prompts: int


def whole(checkpoint: Checkpoint, base: Base, to: Path) -> Exported:
    """Full weights with tokenizer, for plain transformers; an adapter is merged."""
    source = checkpoint.base if checkpoint.adapter else checkpoint.path

    def write(folder: Path) -> None:
        merge.whole(checkpoint, folder)
        store.copy_tokenizer(base.folder, folder)

    return _export(checkpoint, base, to, size=_size(source), write=write, opened=load.open_model)


def adapter(checkpoint: Checkpoint, base: Base, to: Path) -> Exported:
    """The adapter alone, for peft on top of its base."""
    if not checkpoint.adapter:
        found = "the untouched base" if checkpoint.path == base.folder else "full weights"
        raise CheckpointError(
            f"{checkpoint.path}: found {found}; expected an adapter; export with --format hf, or train with "
            "adapter: lora"
        )

    def write(folder: Path) -> None:
        shutil.copytree(checkpoint.path, folder, ignore=shutil.ignore_patterns(store.TRAINER))
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        on_hub = base.lineage.get("origin") == "hub" and checkpoint.base == base.folder
        config["base_model_name_or_path"] = base.name if on_hub else str(checkpoint.base.resolve())
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        store.copy_tokenizer(base.folder, folder)

    def opened(folder: Path) -> torch.nn.Module:
        plain = AutoModelForCausalLM.from_pretrained(checkpoint.base, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a property by its old name
            return PeftModel.from_pretrained(plain, str(folder)).to(load.best_device()).eval()

    return _export(checkpoint, base, to, size=_size(checkpoint.path), write=write, opened=opened)


def _export(checkpoint: Checkpoint, base: Base, to: Path, *, size: int, write: Write, opened: Open) -> Exported:
    """Writes beside the target, compares, and only then gives it its name."""
    fetch.free_space(to, size)
    renderer = Renderer.load(base.folder)
    prompts = [renderer.text(text) for text in TEXTS]
    draft = to.with_name(f".{to.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        with tuning.exact():
            expected = _policy_logits(checkpoint, prompts)
            found = _plain_logits(opened(draft), prompts)
        difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
        limit = max(LARGEST_DIFFERENCE, _rounding(draft, expected))
        if not difference < limit:
            raise CheckpointError(
                f"{to}: the export's logits differ by {difference:.2g} from the checkpoint's; expected less than "
                f"{limit:.2g}; nothing was exported, please report this with the model's name"
            )
        if to.is_dir():
            to.rmdir()  # empty, or this fails: nothing of the user's is overwritten
        draft.rename(to)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(path=to, difference=difference, limit=limit, prompts=len(prompts))


@torch.inference_mode()
def _policy_logits(checkpoint: Checkpoint, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of the model that the probes measured, by the packed forward pass they took."""
    learner = TorchBackend(dtype=torch.float32).open(checkpoint).learner
    assert isinstance(learner, TorchLearner)
    model = learner.model
    layout = pack(prompts, model.device)
    out = model.base_model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout)
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has a head"
    return list(head(out.last_hidden_state[0]).float().cpu().split([len(p) for p in prompts]))


@torch.inference_mode()
def _plain_logits(model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    device = next(model.parameters()).device
    return [model(input_ids=torch.tensor([list(p)], device=device)).logits[0].float().cpu() for p in prompts]


def _rounding(folder: Path, logits: Sequence[Tensor]) -> float:
    """What weights kept in half precision explain: a merged change is rounded to the base's own number format."""
    path = store.weight_files(folder)[0]
    with safe_open(path, framework="pt") as tensors:
        name = next(iter(tensors.keys()))
        kind = tensors.get_tensor(name).dtype
    if kind == torch.float32 or path.name == lora.WEIGHTS:
        return 0.0
    return 4 * torch.finfo(kind).eps * max(float(x.abs().max()) for x in logits)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in store.weight_files(folder))
