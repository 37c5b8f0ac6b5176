"""Generation beside transformers: greedy replies of one length to the same prompts, tokens per second.

Both sides write exactly as many tokens per prompt; nothing ends earlier. The peer gets the prompts as one padded batch
or as several, in float32 or bfloat16, whichever is fastest here. That both say the same is checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import PRECISIONS, Figure, Side, alternate, fastest, figure, values
from benchmarks.peers import peak_mib, report
from benchmarks.rows import chats

PROMPTS, NEW = 32, 64
VARIANTS: Sequence[Sequence[str]] = tuple(("--batch", str(size), *kind) for size in (32, 8) for kind in PRECISIONS)
FIRST, SAME = 8, 0.8
"""Tokens of a reply that are compared, and the share of them on which both sides agree at least: a tie broken otherwise
changes all that follows, and in bfloat16 there are many."""


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Speed and peak memory of both sides."""
    count = min(PROMPTS, options.rows)
    common = [str(folder), "--threads", str(options.threads), "--prompts", str(count)]
    trial = Side(python=options.peer_python, module="benchmarks.generation", arguments=["peer", *common, "--new", "8"])
    batch = fastest(trial, VARIANTS, key="tokens_per_second")
    ours, peer = alternate(
        name,
        Side(python=sys.executable, module="benchmarks.generation", arguments=["ours", *common]),
        Side(python=options.peer_python, module="benchmarks.generation", arguments=["peer", *common, *batch]),
        rounds=options.rounds, shows="tokens_per_second",
    )  # fmt: skip
    pairs = [
        (a, b)
        for x, y in zip(ours[-1]["replies"], peer[-1]["replies"], strict=True)
        for a, b in zip(x[:FIRST], y[:FIRST], strict=True)
    ]
    if sum(a == b for a, b in pairs) < SAME * len(pairs):
        raise SystemExit(f"benchmarks: {name}: the two sides do not say the same; nothing to compare")
    tool = peer[0]["tool"]
    speeds, peaks = ([values(ours, key), values(peer, key)] for key in ("tokens_per_second", "peak_mib"))
    return [
        figure(f"{name} speed", "tokens/s", *speeds, better="more", peer_name=tool),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=tool),
    ]


def prompts_of(folder: Path, count: int) -> list[list[int]]:
    """Token ids of questions of 20 to 50 tokens, ready for a reply."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [[{"role": "user", "content": row.prompt}] for row in chats(count)]
    return [
        list(tokenizer.apply_chat_template(a, add_generation_prompt=True, tokenize=True, return_dict=False))
        for a in asked
    ]


def own(options: argparse.Namespace) -> dict[str, Any]:
    """Generates with temper."""
    from temper import __version__
    from temper.model.protocol import Checkpoint, Sampling
    from temper.model.torch_backend import TorchBackend

    backend = TorchBackend()
    tuning = backend.tune(options.threads)
    folder, prompts = options.folder, [tuple(p) for p in prompts_of(options.folder, options.prompts)]
    sampler = backend.open(Checkpoint(id="base", path=folder, base=folder)).sampler
    sampler.generate(prompts[:2], Sampling(max_new_tokens=4))
    started = time.perf_counter()
    replies = sampler.generate(prompts, Sampling(max_new_tokens=options.new))
    seconds = time.perf_counter() - started
    return _result([list(r.tokens) for r in replies], seconds, f"temper {__version__} ({tuning.precision})")


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """Generates with transformers."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    prompts = prompts_of(options.folder, options.prompts)
    model: Any = AutoModelForCausalLM.from_pretrained(options.folder, dtype=getattr(torch, options.precision)).eval()
    model.generation_config.eos_token_id = None

    def generate(batch: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in batch])
        seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        out = model.generate(ids, attention_mask=seen, max_new_tokens=new, do_sample=False, pad_token_id=0)
        return out[:, width:].tolist()

    generate(prompts[:2], 4)
    started = time.perf_counter()
    replies = []
    for at in range(0, len(prompts), options.batch):
        replies += generate(prompts[at : at + options.batch], options.new)
    seconds = time.perf_counter() - started
    return _result(
        replies,
        seconds,
        f"transformers {transformers.__version__} generate (batch {options.batch}, {options.precision})",
    )


def _result(replies: list[list[int]], seconds: float, tool: str) -> dict[str, Any]:
    tokens = sum(map(len, replies))
    return {"tokens_per_second": tokens / seconds, "peak_mib": peak_mib(), "replies": replies, "tool": tool}


def main() -> None:
    """Measures one side once and reports."""
    parser = argparse.ArgumentParser(description="Generation of one side.")
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--batch", type=int, default=PROMPTS)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the peer's weights")
    options = parser.parse_args()
    report({"ours": own, "peer": theirs}[options.side](options))


if __name__ == "__main__":
    main()
