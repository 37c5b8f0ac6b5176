"""The torch backend: what `protocol.Backend` promises, on transformers, peft and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from temper.errors import CheckpointError
from temper.model import attention, fourbit, kernels, layers, load, lora, merge, products, residual, tokens, tuning
from temper.model.protocol import Base, Blend, Checkpoint, Policy, Precision, Shape, TrainSpec, Tuning
from temper.model.torch_learner import TorchLearner
from temper.model.torch_sampler import TorchSampler


@dataclass(slots=True, kw_only=True)
class TorchBackend:
    """Remembers how this machine multiplies; every other method works from folders alone."""

    dtype: torch.dtype | None = None
    """What weights are kept in; None is bfloat16 on a GPU that computes with it, else float32."""
    precision: Precision = "float32"
    """Of the products of the policies it opens on a CPU; `tune` finds it out."""

    def locate(self, name: str) -> Base:
        """Finds, fetches or converts the model called `name`."""
        return load.locate(name)

    def extended(self, base: Base, words: Sequence[str]) -> Base:
        """The model with further tokens, each beginning as the mean of its pieces."""
        return tokens.extended(base, words)

    def require_kin(self, instruct: Path, base: Path) -> None:
        """Refuses two folders of which one is no chat model made from the other, with the reason."""
        residual.require_kin(instruct, base)

    def shape(self, folder: Path) -> Shape:
        """Size and kind of the model in a folder, without loading its weights."""
        with load.loading(folder), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder)
            empty = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        return Shape(
            architecture=str(config.model_type),
            params=sum(p.numel() for p in empty.parameters()),
            hidden=int(text.hidden_size),
            layers=int(text.num_hidden_layers),
            context=getattr(text, "max_position_embeddings", None),
            device=load.best_device().type,
        )

    def tune(self, threads: int | None = None, precision: Precision | None = None) -> Tuning:
        """Finds out how to use this machine, and does from then on."""
        found = tuning.tune(threads, precision)
        self.precision = found.precision
        return found

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given."""
        if spec is not None and spec.below is not None:
            alone = replace(spec, below=None)
            return residual.open_pair(lambda c, s: self.open(c, s, compile=compile), checkpoint, spec.below, alone)
        folder = checkpoint.base if checkpoint.adapter else checkpoint.path
        device, packed = load.best_device(), spec is not None and spec.four_bit
        dtype = self.dtype or load.best_dtype(device)
        model = load.open_model(folder, torch.device("cpu") if packed else device, dtype=dtype)
        if packed:
            assert spec is not None and spec.rank is not None, "packed weights do not train; an adapter above them does"
            fourbit.quantise(model, device)
        table = kernels.compiled() if compile else kernels.PLAIN
        if not (attention.supports(model) and layers.install(model, table)):
            raise CheckpointError(
                f"{folder}: {model.config.model_type} computes attention or logits in a way temper cannot lay out yet "
                "(soft-capped, scaled or biased logits, attention sinks, linear attention); expected a decoder with "
                "plain or sliding-window attention, such as Llama, Qwen, Mistral, SmolLM or OLMo; choose such a base"
            )
        if checkpoint.adapter:
            assert spec is None, "training starts from full weights; merge the adapter first"
            lora.attach(model, lora.read_config(checkpoint.path))
            lora.load_weights(model, checkpoint.path)
        elif spec is not None and spec.rank is not None:
            lora.attach(model, lora.config_for(spec.rank, spec.alpha), seed=spec.seed)
        if spec is None:
            model.requires_grad_(False)
        if self.precision == "bfloat16" and device.type == "cpu" and not packed:
            products.install(model)
        learner = TorchLearner(model, folder, spec or TrainSpec(rank=None), kernels=table)
        return Policy(learner=learner, sampler=TorchSampler(model))

    def derive(self, blend: Blend, to: Path) -> None:
        """Writes the weights that a blend stands for, in the format of its parts."""
        merge.derive(blend, to)

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        merge.whole(checkpoint, to)
