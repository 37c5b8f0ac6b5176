"""The torch backend: what `protocol.Backend` promises, on transformers, peft and torch."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from temper.errors import CheckpointError
from temper.model import attention, kernels, layers, load, lora, merge, tuning
from temper.model.protocol import Base, Checkpoint, Policy, Shape, TrainSpec, Tuning
from temper.model.torch_learner import TorchLearner
from temper.model.torch_sampler import TorchSampler


class TorchBackend:
    """Stateless; every method works from folders."""

    def locate(self, name: str) -> Base:
        """Finds, fetches or converts the model called `name`."""
        return load.locate(name)

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

    def tune(self, threads: int | None = None) -> Tuning:
        """Finds out how to use this machine, and does from then on."""
        return tuning.tune(threads)

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given."""
        folder = checkpoint.base if checkpoint.adapter else checkpoint.path
        model = load.open_model(folder)
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
        learner = TorchLearner(model, folder, spec or TrainSpec(rank=None), kernels=table)
        return Policy(learner=learner, sampler=TorchSampler(model))

    def blend(self, checkpoint: Checkpoint, alpha: float, to: Path) -> None:
        """Writes start + alpha x (checkpoint - start), in the checkpoint's own format."""
        merge.blend(checkpoint, alpha, to)

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        merge.whole(checkpoint, to)
