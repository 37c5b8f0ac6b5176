"""What share of the machine's rate of plain float32 products a training step reaches.

The products are the model's own: every linear layer's shape at the number of tokens that a step computes, timed alone,
in turns with the step, in one process. Attention, norms, the loss and the optimiser count as time, not as work.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Figure, child, figure
from benchmarks.ours import datums
from benchmarks.peers import options_of, report
from benchmarks.rows import chats

if TYPE_CHECKING:
    import argparse

ADAPTERS: Mapping[str, str] = {"reached-lora-r16": "lora", "reached-full": "full"}
STEPS = 4
Shape = tuple[int, int]
"""Outputs and inputs of a linear layer."""


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """The rate of the step beside the rate of the products; the ratio is the share reached."""
    arguments = [str(folder), "--adapter", ADAPTERS[name], "--threads", str(options.threads)]
    found = [child(sys.executable, "benchmarks.reached", arguments) for _ in range(options.rounds)]
    rates = ([one[key] for one in found] for key in ("gflops", "gemm_gflops"))
    return [figure(name, "GFLOP/s", *rates, better="more", peer_name="float32 products of the model's shapes")]


def products(model: Any) -> Sequence[Shape]:
    """The linear layers of the decoder."""
    return [tuple(m.weight.shape) for n, m in model.named_modules() if _is_product(n, m)]


def gemm_rate(shapes: Sequence[Shape], tokens: int) -> float:
    """Operations per second of a forward pass that is nothing but float32 products."""
    from temper.model import tuning

    with tuning.exact():
        seconds = body_seconds(shapes, tokens)
    return sum(2.0 * tokens * outputs * inputs for outputs, inputs in shapes) / seconds


def body_seconds(shapes: Sequence[Shape], rows: int, *, half: bool = False) -> float:
    """Of a forward pass that is nothing but products."""
    return sum(shapes.count(shape) * product_seconds(shape, rows, half=half) for shape in sorted(set(shapes)))


def product_seconds(shape: Shape, rows: int, *, half: bool = False) -> float:
    """The best of four products of `rows` inputs with a weight, in bfloat16 where `half`."""
    import torch

    kind = torch.bfloat16 if half else torch.float32
    x, weight = torch.randn(rows, shape[1], dtype=kind), torch.randn(shape, dtype=kind)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(x, weight.T)
        best = min(best, time.perf_counter() - started)
    return best


def tokens_computed(learner: Any, batch: Sequence[Any]) -> int:
    """Tokens of a batch that go through the layers, common beginnings once."""
    from temper.model.layout import alike, pack

    inputs = [d.tokens[:-1] for d in batch]
    return pack(inputs, learner.device, clusters=alike(inputs)).tokens.shape[1]


def arithmetic(learner: Any, batch: Sequence[Any]) -> float:
    """Operations that one step needs: two per weight and token forward, as many for the gradient of the input, and of
    the weights where they train; shared prefixes once, the head at supervised positions, attention left out."""
    model = learner.model
    body = sum(outputs * inputs for outputs, inputs in products(model))
    adapters = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    head = model.get_output_embeddings().weight.numel()
    tokens, supervised = tokens_computed(learner, batch), sum(d.supervised for d in batch)
    if adapters:
        return tokens * (4.0 * body + 6.0 * adapters) + supervised * 4.0 * head
    return tokens * 6.0 * body + supervised * 6.0 * head


def _is_product(name: str, module: Any) -> bool:
    """A linear layer of the decoder, or the one below an adapter."""
    layer = name.endswith("_proj") and not hasattr(module, "base_layer")
    return (layer or name.endswith("base_layer")) and hasattr(module, "weight")


def steps(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Takes steps and timed products in turns."""
    from temper.losses import Term
    from temper.model.protocol import Checkpoint, TrainSpec
    from temper.model.torch_backend import TorchBackend

    backend = TorchBackend()
    backend.tune(options.threads)
    spec = TrainSpec(rank=16 if options.adapter == "lora" else None, alpha=32.0)
    learner: Any = backend.open(Checkpoint(id="base", path=folder, base=folder), spec).learner
    batch = datums(folder, chats(options.batch))
    shapes, width = products(learner.model), tokens_computed(learner, batch)
    seconds, rates = [], []
    for number in range(STEPS + 1):
        started = time.perf_counter()
        learner.forward_backward(batch, (Term(loss="ce"),))
        learner.optim_step(0.0)
        if number:  # the first allocates
            seconds.append(time.perf_counter() - started)
            rates.append(gemm_rate(shapes, width))
    return {
        "gflops": arithmetic(learner, batch) / statistics.median(seconds) / 1e9,
        "gemm_gflops": statistics.median(rates) / 1e9,
        "tokens": width,
    }


def main() -> None:
    """Measures once and reports."""
    options = options_of("One training step beside plain products.").parse_args()
    report(steps(options.folder, options))


if __name__ == "__main__":
    main()
