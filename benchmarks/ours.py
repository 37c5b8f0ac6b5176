"""temper's side of the measurements: the same rows and steps through the learner, one JSON line on standard output.

Run as `python -m benchmarks.ours FOLDER --adapter lora`.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from benchmarks.peers import conversation, options_of, peak_mib, report, token_counts
from benchmarks.rows import SYSTEM, chats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.rows import Chat


def datums(folder: Path, rows: Sequence[Chat]) -> list[Any]:
    """The rows as the learner takes them, with the chat template of the folder's tokenizer."""
    from temper.data.render import Renderer
    from temper.data.rows import Message, Row

    renderer = Renderer.load(folder)
    found = []
    for number, row in enumerate(rows, start=1):
        form = conversation(row)
        messages = tuple(Message(**turn) for turn in form["prompt"] + form["completion"])
        found.append(renderer.datum(Row(id=str(number), messages=messages, origin=f"chats:{number}"), source="chats"))
    return found


def sft(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains over the rows in order, `batch` rows per step, and times every step but the first."""
    from temper import __version__
    from temper.data.render import Renderer
    from temper.losses import Term
    from temper.model.protocol import Checkpoint, TrainSpec
    from temper.model.torch_backend import TorchBackend

    rows = chats(options.rows, system=SYSTEM if options.system else "")
    batches = datums(folder, rows)
    spec = TrainSpec(rank=16 if options.adapter == "lora" else None, alpha=32.0)
    backend = TorchBackend()
    tuning = backend.tune(options.threads, options.precision)
    compile = options.compile and tuning.can_compile
    learner = backend.open(Checkpoint(id="base", path=folder, base=folder), spec, compile=compile).learner
    losses, stamps = [], []
    for start in range(0, len(batches), options.batch):
        metrics = learner.forward_backward(batches[start : start + options.batch], (Term(loss="ce"),))
        learner.optim_step(options.lr)
        losses.append(metrics.loss)
        stamps.append(time.perf_counter())
    tokens = token_counts(Renderer.load(folder).tokenizer, rows)
    return {
        "tokens_per_second": sum(tokens[options.batch :]) / (stamps[-1] - stamps[0]),
        "peak_mib": peak_mib(),
        "losses": losses,
        "tool": f"temper {__version__} ({tuning.precision})",
    }


def main() -> None:
    """Measures once and reports."""
    parser = options_of("One SFT run with temper.")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of products; by default what is faster")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="elementwise kernels")
    options = parser.parse_args()
    report(sft(options.folder, options))


if __name__ == "__main__":
    main()
