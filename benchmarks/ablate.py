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

from benchmarks.ours import datums
from benchmarks.reached import arithmetic, gemm_rate, products, tokens_computed
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


def variants() -> Mapping[str, Variant]:
    """Name of what is taken out -> a context manager that takes it out of a learner."""
    from temper import losses
    from temper.losses import Loss
    from temper.model import attention, kernels, layers, tuning

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
        from temper.model import torch_learner, views

        with replaced(torch_learner, "LOSSES", twice), replaced(views, "LOSSES", twice):
            yield

    def rounded_factors(_learner: Any) -> Any:
        return tuning.exact()

    return {
        "all": nothing, "all, and compiled kernels": with_compiled, "without own layers": own_layers,
        "without grouped attention": grouped_attention, "without shared prefixes": shared_prefixes,
        "without the one-look head": one_look_at_the_head, "without rounded factors": rounded_factors,
    }  # fmt: skip


def measure(folder: Path, adapter: str, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds per step of every variant, round by round."""
    from temper.losses import Term
    from temper.model.protocol import Checkpoint, TrainSpec
    from temper.model.torch_backend import TorchBackend

    backend = TorchBackend()
    tuning = backend.tune(threads)
    spec = TrainSpec(rank=16 if adapter == "lora" else None, alpha=32.0)
    learner: Any = backend.open(Checkpoint(id="base", path=folder, base=folder), spec).learner
    batch, objective = datums(folder, chats(8)), (Term(loss="ce"),)
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    rates: list[float] = []
    table, shapes, width = variants(), products(learner.model), tokens_computed(learner, batch)
    for turn in range(rounds + 1):
        for name, variant in table.items():
            with variant(learner):
                started = time.perf_counter()
                learner.forward_backward(batch, objective)
                learner.optim_step(0.0)
                if turn:
                    taken[name].append(time.perf_counter() - started)
        rates.append(gemm_rate(shapes, width))
    whole = taken["all"]
    return {
        "adapter": adapter, "threads": threads, "precision": tuning.precision,
        "tokens": sum(len(d.tokens) for d in batch),
        "seconds": {name: statistics.median(found) for name, found in taken.items()},
        "ratio": {n: statistics.median(a / b for a, b in zip(found, whole, strict=True)) for n, found in taken.items()},
        "gemm_gflops": max(rates) / 1e9,
        "reached": arithmetic(learner, batch) / statistics.median(whole) / statistics.median(rates),
    }  # fmt: skip


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
