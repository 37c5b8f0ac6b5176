"""A choice probe beside lm-eval: the log-likelihoods of both options of PIQA items, seconds for all.

The peer is lm-eval's own model class, given the requests its task would make; the best of its batch sizes counts. Both
sides get the same contexts and options as text, and their log-likelihoods are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import PRECISIONS, Figure, Side, alternate, fastest, figure, values
from benchmarks.peers import peak_mib, report

ITEMS, TRIAL_ITEMS = 200, 16
VARIANTS: Sequence[Sequence[str]] = tuple(("--batch", size, *kind) for size in ("1", "8", "32") for kind in PRECISIONS)
NEAR = 1e-3
"""Part by which the mean log-likelihoods of the two sides may differ: bfloat16 moves them by half of that."""


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Seconds and peak memory of both sides."""
    from temper.data import catalog

    with tempfile.TemporaryDirectory() as scratch:
        file, few = Path(scratch) / "items.json", Path(scratch) / "few.json"
        chosen: list[Any] = [dict(item) for item in catalog.load("piqa")[: min(ITEMS, 4 * options.rows)]]
        items = [{key: item[key] for key in ("context", "options", "gold")} for item in chosen]
        file.write_text(json.dumps(items), encoding="utf-8")
        few.write_text(json.dumps(items[:TRIAL_ITEMS]), encoding="utf-8")

        def side(which: str, python: str, items: Path, *more: str) -> Side:
            arguments = [which, str(folder), str(items), "--threads", str(options.threads), *more]
            return Side(python=python, module="benchmarks.choice", arguments=arguments)

        batch = fastest(side("peer", options.peer_python, few), VARIANTS, key="items_per_second")
        ours, peer = alternate(
            name, side("ours", sys.executable, file), side("peer", options.peer_python, file, *batch),
            rounds=options.rounds, shows="items_per_second",
        )  # fmt: skip
    if abs(ours[-1]["mean"] - peer[-1]["mean"]) > NEAR * abs(peer[-1]["mean"]):
        raise SystemExit(
            f"benchmarks: {name}: mean log-likelihood {ours[-1]['mean']:.3f} here, {peer[-1]['mean']:.3f} of the peer"
        )
    tool = peer[0]["tool"]
    speeds, peaks = ([values(ours, key), values(peer, key)] for key in ("items_per_second", "peak_mib"))
    return [
        figure(f"{name} speed", "items/s", *speeds, better="more", peer_name=tool),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=tool),
    ]


def own(options: argparse.Namespace) -> dict[str, Any]:
    """Scores with temper."""
    from temper import __version__
    from temper.data.render import Renderer
    from temper.model.protocol import Checkpoint
    from temper.model.torch_backend import TorchBackend
    from temper.probes.base import score_targets, target
    from temper.probes.loss import encode_pair

    backend = TorchBackend()
    tuning = backend.tune(options.threads)
    folder, items = options.folder, json.loads(options.items.read_text(encoding="utf-8"))
    policy, renderer = backend.open(Checkpoint(id="base", path=folder, base=folder)), Renderer.load(folder)

    def score(items: Sequence[Any]) -> list[float]:
        datums = [target(*encode_pair(renderer, i["context"], option), group=number)
                  for number, i in enumerate(items) for option in i["options"]]  # fmt: skip
        return [sum(row) for row in score_targets(policy, datums)]

    score(items[:2])
    started = time.perf_counter()
    found = score(items)
    return _result(found, len(items), time.perf_counter() - started, f"temper {__version__} ({tuning.precision})")


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """Scores with lm-eval's model for transformers."""
    from importlib.metadata import version

    import torch
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports] - lives in the extra `bench`
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(options.threads)
    items = json.loads(options.items.read_text(encoding="utf-8"))
    model = HFLM(pretrained=str(options.folder), device="cpu", dtype=options.precision, batch_size=options.batch)

    def score(items: Sequence[Any]) -> list[float]:
        pairs = [(i["context"], option) for i in items for option in i["options"]]
        requests = [Instance(request_type="loglikelihood", doc={}, arguments=p, idx=n) for n, p in enumerate(pairs)]
        return [found for found, _ in model.loglikelihood(requests, disable_tqdm=True)]

    score(items[:2])
    started = time.perf_counter()
    found = score(items)
    seconds = time.perf_counter() - started
    return _result(
        found, len(items), seconds, f"lm-eval {version('lm_eval')} HFLM (batch {options.batch}, {options.precision})"
    )


def _result(found: Sequence[float], items: int, seconds: float, tool: str) -> dict[str, Any]:
    mean = sum(found) / len(found)
    return {"items_per_second": items / seconds, "peak_mib": peak_mib(), "mean": mean, "tool": tool}


def main() -> None:
    """Measures one side once and reports."""
    parser = argparse.ArgumentParser(description="A choice probe of one side.")
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the peer")
    options = parser.parse_args()
    report({"ours": own, "peer": theirs}[options.side](options))


if __name__ == "__main__":
    main()
