"""Training speed on a GPU beside TRL with packing: random weights at real shapes, rows of realistic lengths.

`python -m benchmarks.gpu` runs unattended: every run is a process of its own, what fails (memory, a missing package) is
written down as such and the rest goes on; results are written after every pair. Both sides compute in bfloat16, learn
every token of like rows (lengths log-normal, median 180, 95 % below 900) and take whole optimiser steps. Utilisation
counts the arithmetic of real tokens alone: two operations per weight and token forward, as many for the gradient of the
input, and as many for the gradient of weights where they train, plus causal attention; nothing for padding or for
layers computed twice.

TRL gets bfloat16 weights and bfloat16 moments, which is less work than temper's float32 moments and exact weights, and
the fastest of its attention kernels that runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT, Figure, figure, show, values, write
from benchmarks.peers import report, stopwatch

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "vocab_size": 512, "tie_word_embeddings": True},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
"""SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B; `tiny` tries the script out anywhere."""
BATCH: Mapping[str, int] = {"tiny": 2048, "135m": 131072, "1b": 65536, "8b": 32768}
"""Tokens per step."""
LONGEST = 4096
WARM, TIMED = 2, 5
PEAK: Mapping[str, float] = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bfloat16 operations per second by the maker's figures."""
ATTENTION = ("flash_attention_3", "flash_attention_2", "sdpa")
SLOWEST_S = 1200


def lengths(tokens: int, step: int) -> list[int]:
    """Row lengths of one step, at least `tokens` together; a function of the step alone."""
    import numpy as np

    rng = np.random.default_rng(step)
    found: list[int] = []
    while sum(found) < tokens:
        found.append(int(np.clip(rng.lognormal(np.log(180), 0.978), 8, LONGEST)))
    return found


def rows(size: str, step: int) -> list[list[int]]:
    """Token ids of one step."""
    vocabulary = SHAPES[size]["vocab_size"]
    return [
        [(7919 * i + 31 * k + step) % vocabulary for k in range(n)] for i, n in enumerate(lengths(BATCH[size], step))
    ]


def operations(size: str, adapter: str, batch: Sequence[Sequence[int]]) -> float:
    """What one step has to compute, padding and repeated layers left out."""
    s = SHAPES[size]
    hidden, layers, inner = s["hidden_size"], s["num_hidden_layers"], s["intermediate_size"]
    keys = hidden // s["num_attention_heads"] * s["num_key_value_heads"]
    weights = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner) + hidden * s["vocab_size"]
    tokens = sum(map(len, batch))
    scores = sum(len(row) ** 2 for row in batch)
    return (4.0 if adapter == "lora" else 6.0) * weights * tokens + 6.0 * layers * hidden * scores


def empty_model(size: str) -> Any:
    """Random weights in bfloat16, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[size], max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with temper."""
    from temper import __version__
    from temper.data.datum import Datum
    from temper.losses import Term
    from temper.model import attention, kernels, layers, lora
    from temper.model.protocol import TrainSpec
    from temper.model.torch_learner import TorchLearner

    spec = TrainSpec(rank=16 if options.adapter == "lora" else None, alpha=32.0)
    model = empty_model(options.size).eval()
    compiles = options.compile and kernels.can_compile(model.device)
    table = kernels.compiled() if compiles else kernels.PLAIN
    assert layers.install(model, table), "own layers or attention changed the logits"
    if spec.rank is not None:
        lora.attach(model, lora.config_for(spec.rank, spec.alpha))
    learner, stamps, losses = TorchLearner(model, Path(), spec, kernels=table), [], []
    for step in range(WARM + TIMED):
        batch = [Datum(tokens=tuple(r), weights={"ce": (1.0,) * (len(r) - 1)}) for r in rows(options.size, step)]
        losses.append(learner.forward_backward(batch, (Term(loss="ce"),)).loss)
        learner.optim_step(1e-5)
        stamps.append(_now())
    room = learner.room((Term(loss="ce"),))
    kernel = "varlen" if attention.flat(model) else "sdpa"
    details = {"pass_tokens": room.tokens, "kept_tokens": min(room.kept, 1 << 40), "why": room.reason, "kernel": kernel}
    tokens = statistics.fmean(sum(lengths(BATCH[options.size], step)) for step in range(WARM, WARM + TIMED))
    tool = f"temper {__version__}{' compiled' if compiles else ''}"
    return _result(options, stamps, losses, tokens, tool) | details


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with TRL's SFTTrainer, packed."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports] - lives in the extra `bench`
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    model = empty_model(options.size)
    model.set_attn_implementation(options.attention)
    words = {f"w{i}": i for i in range(8)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")), pad_token="w0", bos_token="w1",
        eos_token="w2",
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    data = [{"input_ids": r} for step in range(WARM + TIMED) for r in rows(options.size, step)]
    longest = LONGEST if options.size != "tiny" else 1024
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch, per_device_train_batch_size=options.micro, num_train_epochs=1, learning_rate=1e-5,
                gradient_accumulation_steps=max(BATCH[options.size] // longest // options.micro, 1), packing=True,
                packing_strategy="bfd", max_length=longest, bf16=torch.cuda.is_available(),
                use_cpu=not torch.cuda.is_available(), gradient_checkpointing=options.recompute,
                max_steps=WARM + TIMED, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(data), processing_class=tokenizer,
            peft_config=lora if options.adapter == "lora" else None,
        )  # fmt: skip
        stamps: list[float] = []
        trainer.add_callback(stopwatch(stamps))
        trainer.train()
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        seen = [float(entry["num_tokens"]) for entry in trainer.state.log_history if "num_tokens" in entry]
    how = f"{options.attention}{', layers twice' if options.recompute else ''}, {options.micro} rows of {longest}"
    tokens = (seen[WARM + TIMED - 1] - seen[WARM - 1]) / TIMED  # a packed row is not filled to its end
    return _result(options, stamps, losses, tokens, f"TRL {version('trl')} packed ({how})")


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _result(
    options: argparse.Namespace, stamps: Sequence[float], losses: Sequence[float], tokens: float, tool: str
) -> dict[str, Any]:
    """`tokens` of a timed step; the first `WARM` steps are not timed."""
    import torch

    seconds = (stamps[WARM + TIMED - 1] - stamps[WARM - 1]) / TIMED
    batch = [row for step in range(WARM, WARM + TIMED) for row in rows(options.size, step)]
    work = operations(options.size, options.adapter, batch) / sum(map(len, batch)) * tokens
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    known = next((rate for name, rate in PEAK.items() if name in device), None)
    return {
        "tokens_per_second": tokens / seconds, "tflops": work / seconds / 1e12,
        "mfu": work / seconds / known if known else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        "losses": list(losses), "device": device, "tool": tool,
    }  # fmt: skip


def attempt(python: str, arguments: Sequence[str]) -> dict[str, Any]:
    """One run in its own process; what went wrong is a result too."""
    command = [python, "-m", "benchmarks.gpu", *arguments]
    env = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    asked = {"arguments": list(arguments)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SLOWEST_S, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return asked | {"error": f"not done after {SLOWEST_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = [line for line in done.stderr.strip().splitlines() if "Error" in line] or ["no output"]
        return asked | {"error": told[-1][:500], "exit": done.returncode}
    return asked | json.loads(lines[-1])


def best_of_peer(python: str, base: Sequence[str]) -> list[str] | None:
    """The peer's settings that run and are fastest; layers are computed twice only where nothing else fits."""
    tried: dict[tuple[str, ...], float] = {}
    for extra in ((), ("--recompute",)):
        for kernel in ATTENTION:
            for micro in ("4", "1"):
                variant = ("--attention", kernel, "--micro", micro, *extra)
                result = attempt(python, ["peer", *base, *variant])
                told = result.get("error") or f"{result['tokens_per_second']:.0f} tokens/s"
                print(f"  trial {' '.join(variant)}: {told}", file=sys.stderr)
                if "error" not in result:
                    tried[variant] = result["tokens_per_second"]
        if tried:
            return list(max(tried, key=lambda v: tried[v]))
    return None


def compare(size: str, adapter: str, options: argparse.Namespace, runs: list[dict[str, Any]]) -> list[Figure]:
    """One shape and adapter on both sides, in turns; every run is added to `runs`."""
    base = ["--size", size, "--adapter", adapter]
    variant = best_of_peer(options.peer_python, base)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    sides = {"ours": (sys.executable, ["ours", *base])}
    if variant is not None:
        sides["peer"] = (options.peer_python, ["peer", *base, *variant])
    runs.append(attempt(sys.executable, ["ours", *base, "--no-compile"]))
    for _ in range(options.rounds):
        for side, (python, arguments) in sides.items():
            result = attempt(python, arguments)
            runs.append(result)
            told = result.get("error") or f"{result['tokens_per_second']:.0f} tokens/s, MFU {result['mfu'] or 0:.2f}"
            print(f"  {size} {adapter} {side}: {told}", file=sys.stderr)
            if "error" not in result:
                found[side].append(result)
    if not found["ours"] or len(found["ours"]) != len(found["peer"]):
        return []
    tool, name = found["peer"][0]["tool"], f"gpu-{size}-{adapter}"
    speeds, peaks = (
        [values(found[side], key) for side in ("ours", "peer")] for key in ("tokens_per_second", "peak_gib")
    )
    speed = figure(f"{name} speed", "tokens/s", *speeds, better="more", peer_name=tool)
    if not all(peaks[1]):  # on a CPU, where the script is only tried out
        return [speed]
    return [speed, figure(f"{name} peak memory", "GiB", *peaks, better="less", peer_name=tool)]


def main() -> None:
    """Measures one side (`ours` or `peer`, for the other way to call this), or all shapes on both."""
    parser = argparse.ArgumentParser(description="Training on a GPU beside TRL with packing.")
    parser.add_argument("side", nargs="?", choices=("ours", "peer"), help="measure one side in this process")
    parser.add_argument("--size", action="append", choices=list(SHAPES), help="may be repeated")
    parser.add_argument("--adapter", action="append", choices=("lora", "full"), help="may be repeated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa")
    parser.add_argument("--micro", type=int, default=1, help="packed rows per forward pass of the peer")
    parser.add_argument("--recompute", action="store_true", help="the peer computes layers twice")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="temper's kernels")
    parser.add_argument("--peer-python", default=sys.executable, help="python of an environment with trl in it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.side:
        options.size, options.adapter = options.size[0], options.adapter[0]
        report({"ours": ours, "peer": peer}[options.side](options))
        return
    runs: list[dict[str, Any]] = []
    figures: list[Figure] = []
    path = options.out / "gpu" / f"{datetime.date.today().isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for size in options.size or ("135m", "1b", "8b"):
        for adapter in options.adapter or ("lora", "full"):
            figures += compare(size, adapter, options, runs)
            path.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
            if figures:
                write(figures, options.out)
    if figures:
        show(figures)
    print(path)


if __name__ == "__main__":
    main()
