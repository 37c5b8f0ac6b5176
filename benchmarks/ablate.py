"""What each optimisation of the training step is worth: the step with all of them, and with each one taken out.

The variants take turns on one model in one process, so that a machine that slows down slows all of them; the figure is
the median over the rounds of (seconds without it) / (seconds with all). Run as `python -m benchmarks.ablate`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import conversation
from benchmarks.rows import chats

Variant = Callable[[Any], Any]


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute, for a while."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def datums(folder: Path, rows: int) -> list[Any]:
    """The rows of the other measurements."""
    from temper.data.render import Renderer
    from temper.data.rows import Message, Row

    renderer = Renderer.load(folder)
    found = []
    for number, row in enumerate(chats(rows), start=1):
        form = conversation(row)
        messages = tuple(Message(**turn) for turn in form["prompt"] + form["completion"])
        found.append(renderer.datum(Row(id=str(number), messages=messages, origin=f"chats:{number}"), source="chats"))
    return found


def variants() -> Mapping[str, Variant]:
    """Name of what is taken out -> a context manager that takes it out of a learner."""
    from temper import losses
    from temper.losses import Loss
    from temper.model import attention, kernels, layers

    compiled = kernels.compiled()

    @contextmanager
    def nothing(_learner: Any) -> Iterator[None]:
        yield

    @contextmanager
    def with_compiled(learner: Any) -> Iterator[None]:
        layers.replace(learner.model, compiled)
        try:
            yield
        finally:
            layers.replace(learner.model)

    @contextmanager
    def own_layers(learner: Any) -> Iterator[None]:
        layers.remove(learner.model)
        try:
            yield
        finally:
            layers.replace(learner.model)

    @contextmanager
    def grouped_attention(_learner: Any) -> Iterator[None]:
        with replaced(attention, "SMALL_SCORES", 0):
            yield

    @contextmanager
    def shared_prefixes(learner: Any) -> Iterator[None]:
        with replaced(learner, "_clusters", lambda *_: []):
            yield

    @contextmanager
    def one_look_at_the_head(_learner: Any) -> Iterator[None]:
        twice = {**losses.LOSSES, "ce": Loss(function=losses.ce, per="token")}
        from temper.model import torch_learner

        with replaced(torch_learner, "LOSSES", twice):
            yield

    return {
        "all": nothing, "all, and compiled kernels": with_compiled, "without own layers": own_layers,
        "without grouped attention": grouped_attention, "without shared prefixes": shared_prefixes,
        "without the one-look head": one_look_at_the_head,
    }  # fmt: skip


def gemm_rate(threads: int) -> float:
    """Floating-point operations per second of the model's largest products alone, the best of some tries."""
    import torch

    torch.set_num_threads(threads)
    best = 0.0
    for _ in range(5):
        x, weight = torch.randn(1024, 576), torch.randn(1536, 576)
        started = time.perf_counter()
        for _ in range(8):
            x @ weight.T
        best = max(best, 8 * 2.0 * 1024 * 576 * 1536 / (time.perf_counter() - started))
    return best


def measure(folder: Path, adapter: str, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds per step of every variant, round by round."""
    import torch

    from temper.losses import Term
    from temper.model.protocol import Checkpoint, TrainSpec
    from temper.model.torch_backend import TorchBackend

    torch.set_num_threads(threads)
    spec = TrainSpec(rank=16 if adapter == "lora" else None, alpha=32.0)
    learner = TorchBackend().open(Checkpoint(id="base", path=folder, base=folder), spec).learner
    batch, objective = datums(folder, 8), (Term(loss="ce"),)
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    rates: list[float] = []
    table = variants()
    for turn in range(rounds + 1):
        for name, variant in table.items():
            with variant(learner):
                started = time.perf_counter()
                learner.forward_backward(batch, objective)
                learner.optim_step(0.0)
                if turn:
                    taken[name].append(time.perf_counter() - started)
        rates.append(gemm_rate(threads))
    whole = taken["all"]
    return {
        "adapter": adapter, "threads": threads, "tokens": sum(len(d.tokens) for d in batch),
        "seconds": {name: statistics.median(found) for name, found in taken.items()},
        "ratio": {n: statistics.median(a / b for a, b in zip(found, whole, strict=True)) for n, found in taken.items()},
        "gemm_gflops": max(rates) / 1e9,
        "reached": arithmetic(learner, batch) / statistics.median(whole) / statistics.median(rates),
    }  # fmt: skip


def arithmetic(learner: Any, batch: list[Any]) -> float:
    """Operations that one step needs: two per weight and token forward, as many for the gradient of the input, and of
    the weights where they train; shared prefixes once, the head at supervised positions, attention left out."""
    from temper.model import attention

    inputs = [d.tokens[:-1] for d in batch]
    layout = attention.pack(inputs, learner.device, clusters=attention.alike(inputs))
    model = learner.model
    body = sum(m.weight.numel() for n, m in model.named_modules() if _is_product(n, m))
    adapters = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    head = model.get_output_embeddings().weight.numel()
    tokens, supervised = layout.tokens.shape[1], sum(d.supervised for d in batch)
    if adapters:
        return tokens * (4.0 * body + 6.0 * adapters) + supervised * 4.0 * head
    return tokens * 6.0 * body + supervised * 6.0 * head


def _is_product(name: str, module: Any) -> bool:
    """A linear layer of the decoder, or the one below an adapter."""
    layer = name.endswith("_proj") and not hasattr(module, "base_layer")
    return (layer or name.endswith("base_layer")) and hasattr(module, "weight")


def main() -> None:
    """Measures both adapters and prints one JSON document."""
    import os

    from temper.model.load import locate

    parser = argparse.ArgumentParser(description="What each optimisation of a training step is worth.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    folder = locate(options.model).folder
    found = [measure(folder, adapter, options.rounds, options.threads) for adapter in ("lora", "full")]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
