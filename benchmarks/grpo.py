"""A GRPO step beside TRL: 8 replies to each of a few prompts of about 100 tokens, generated and learnt from.

Both sides sample at temperature 1, write exactly as many tokens per reply, give the number of characters as reward, and
take one step of the clipped policy gradient with LoRA of rank 16, without a reference model. What is timed is a whole
step: generation, reward, forward, backward, update.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import PRECISIONS, Figure, Side, alternate, fastest, figure, values
from benchmarks.peers import peak_mib, report, stopwatch
from benchmarks.rows import passages

PROMPTS, GROUP, NEW, STEPS = 2, 8, 64, 4
"""Prompts per step, replies per prompt, tokens per reply, steps of which the first is not timed."""
RATE = 1e-5


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Steps per second and peak memory of both sides."""
    arguments = [str(folder), "--threads", str(options.threads)]
    trial = Side(python=options.peer_python, module="benchmarks.grpo", arguments=["peer", *arguments, "--steps", "2"])
    precision = fastest(trial, PRECISIONS, key="steps_per_second")
    ours, peer = alternate(
        name,
        Side(python=sys.executable, module="benchmarks.grpo", arguments=["ours", *arguments]),
        Side(python=options.peer_python, module="benchmarks.grpo", arguments=["peer", *arguments, *precision]),
        rounds=options.rounds, shows="steps_per_second",
    )  # fmt: skip
    tool = peer[0]["tool"]
    speeds, peaks = ([values(ours, key), values(peer, key)] for key in ("steps_per_second", "peak_mib"))
    return [
        figure(f"{name} speed", "steps/s", *speeds, better="more", peer_name=tool),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=tool),
    ]


def own(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with temper."""
    from transformers import AutoTokenizer

    from temper import __version__
    from temper.data.datum import Datum
    from temper.losses import Term
    from temper.model.protocol import Checkpoint, Completion, Sampling, TrainSpec
    from temper.model.torch_backend import TorchBackend
    from temper.rollout.advantage import grpo

    backend = TorchBackend()
    tuning = backend.tune(options.threads)
    folder, tokenizer = options.folder, AutoTokenizer.from_pretrained(options.folder)
    policy = backend.open(
        Checkpoint(id="base", path=folder, base=folder), TrainSpec(rank=16, alpha=32.0)
    )  # fmt: skip

    def datum(prompt: tuple[int, ...], reply: Completion, advantage: float, group: int) -> Datum:
        before = len(prompt) - 1
        flags, blank = (1.0,) * len(reply.tokens), (0.0,) * before
        side = {"old_logprobs": blank + reply.logprobs, "advantages": blank + (advantage,) * len(reply.tokens)}
        return Datum(tokens=prompt + reply.tokens, weights={"grpo": blank + flags}, side=side, group=group)

    stamps = []
    texts = passages(PROMPTS * options.steps)
    for step in range(options.steps):
        asked = [tuple(tokenizer.encode(t)) for t in texts[step * PROMPTS : (step + 1) * PROMPTS]]
        prompts = [p for p in asked for _ in range(GROUP)]
        replies = policy.sampler.generate(
            prompts, Sampling(max_new_tokens=options.new, temperature=1.0, seed=step)
        )  # fmt: skip
        rewards = [float(len(text)) for text in tokenizer.batch_decode([list(r.tokens) for r in replies])]
        batch = []
        for group in range(PROMPTS):
            at = range(group * GROUP, (group + 1) * GROUP)
            for n, advantage in zip(at, grpo([rewards[n] for n in at]), strict=True):
                batch.append(datum(prompts[n], replies[n], advantage, group))
        policy.learner.forward_backward(batch, (Term(loss="grpo"),))
        policy.learner.optim_step(RATE)
        stamps.append(time.perf_counter())
    return _result(stamps, f"temper {__version__} ({tuning.precision})")


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """Steps with TRL's GRPOTrainer."""
    from importlib.metadata import version

    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports] - lives in the extra `bench`
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")

    def length(completions: Sequence[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=length,
            args=GRPOConfig(
                output_dir=scratch, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
                max_completion_length=options.new, generation_kwargs={"min_new_tokens": options.new}, temperature=1.0,
                beta=0.0, loss_type="grpo", learning_rate=RATE, lr_scheduler_type="constant", max_steps=options.steps,
                use_cpu=not torch.cuda.is_available(), bf16=options.precision == "bfloat16",
                gradient_checkpointing=False, shuffle_dataset=False,
                logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list([{"prompt": t} for t in passages(PROMPTS * options.steps)]),
            processing_class=tokenizer,
            peft_config=lora,
        )  # fmt: skip
        stamps: list[float] = []
        trainer.add_callback(stopwatch(stamps))
        trainer.train()
    lengths = [e["completions/mean_length"] for e in trainer.state.log_history if "completions/mean_length" in e]
    if set(lengths) != {float(options.new)}:
        raise SystemExit(f"benchmarks: TRL wrote {lengths} tokens per reply, not {options.new}; nothing to compare")
    return _result(stamps, f"TRL {version('trl')} GRPOTrainer ({options.precision})")


def _result(stamps: Sequence[float], tool: str) -> dict[str, Any]:
    speed = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    return {"steps_per_second": speed, "peak_mib": peak_mib(), "tool": tool}


def main() -> None:
    """Measures one side once and reports."""
    parser = argparse.ArgumentParser(description="GRPO steps of one side.")
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the peer")
    options = parser.parse_args()
    report({"ours": own, "peer": theirs}[options.side](options))


if __name__ == "__main__":
    main()
