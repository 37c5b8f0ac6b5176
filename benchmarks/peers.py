"""TRL's side of the measurements: one SFT run in this process, one JSON line on standard output.

Run as `python -m benchmarks.peers FOLDER --adapter lora`. Fixed: float32 weights, no gradient checkpointing, fused
AdamW, attention by sdpa. Tried by `benchmarks.run`, which keeps the fastest: how a step is laid out (`--layout`), how
the loss is computed (`--loss`), and its mixed precision (`--precision`). The prompt-completion form makes TRL apply the
chat template and learn the answers only.
Imports nothing of temper, so that TRL may live in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rows import SYSTEM, Chat, chats


def sft(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains over the rows in order, `batch` rows per step, and times every step but the first."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports] - lives in the extra `bench`
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(options.threads)
    rows = chats(options.rows, system=SYSTEM if options.system else "")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=options.batch,
                num_train_epochs=1,
                learning_rate=options.lr,
                lr_scheduler_type="constant",
                train_sampling_strategy="sequential",
                use_cpu=not torch.cuda.is_available(),
                bf16=options.precision == "bfloat16",
                gradient_checkpointing=False,
                padding_free=options.layout == "padding-free",
                max_length=None if options.layout == "padding-free" else 1024,
                loss_type=options.loss,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list([conversation(row) for row in rows]),
            processing_class=tokenizer,
            peft_config=lora if options.adapter == "lora" else None,
        )
        stamps: list[float] = []
        trainer.add_callback(stopwatch(stamps))
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = token_counts(tokenizer, rows)
    return {
        "tokens_per_second": sum(tokens[options.batch :]) / (stamps[-1] - stamps[0]),
        "peak_mib": peak_mib(),
        "losses": [float(loss) for loss in losses],
        "tool": f"TRL {version('trl')} SFTTrainer ({options.layout}, {options.loss}, {options.precision})",
    }


def conversation(row: Chat) -> dict[str, Any]:
    """TRL's conversational prompt-completion form."""
    system = [{"role": "system", "content": row.system}] if row.system else []
    return {
        "prompt": [*system, {"role": "user", "content": row.prompt}],
        "completion": [{"role": "assistant", "content": row.completion}],
    }


def token_counts(tokenizer: Any, rows: Sequence[Chat]) -> list[int]:
    """Tokens of every row with the chat template, prompt included: the work that both sides are credited with."""
    counts = []
    for row in rows:
        form = conversation(row)
        text = tokenizer.apply_chat_template(form["prompt"] + form["completion"], tokenize=False)
        counts.append(len(tokenizer.encode(text, add_special_tokens=False)))
    return counts


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def options_of(description: str) -> argparse.ArgumentParser:
    """The options that both sides take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("--adapter", choices=("lora", "full"), required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--system", action="store_true", help="all rows behind one system prompt")
    parser.add_argument("--batch", type=int, default=8, help="rows per optimiser step")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def report(result: dict[str, Any]) -> None:
    """One line, the last of standard output, for `benchmarks.run` to read."""
    print(json.dumps(result), flush=True)


def stopwatch(stamps: list[float]) -> Any:
    """A callback of transformers' trainer that notes when each optimiser step ends."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        """Notes when each optimiser step ends."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Called by the trainer."""
            stamps.append(time.perf_counter())

    return Stopwatch()


def main() -> None:
    """Measures once and reports."""
    parser = options_of("One SFT run with TRL.")
    parser.add_argument("--layout", choices=("padded", "padding-free"), default="padded")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of products")
    parser.add_argument("--loss", choices=("nll", "chunked_nll"), default="nll")
    options = parser.parse_args()
    report(sft(options.folder, options))


if __name__ == "__main__":
    main()
