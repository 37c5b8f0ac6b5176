"""Supervised fine-tuning beside TRL, on the same rows: temper's side in `ours`, TRL's in `peers`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import PRECISIONS, Figure, Side, alternate, fastest, figure, values

if TYPE_CHECKING:
    import argparse

SETTINGS: Mapping[str, Sequence[str]] = {
    "sft-lora-r16": ("--adapter", "lora"),
    "sft-full": ("--adapter", "full"),
    "sft-lora-r16-system": ("--adapter", "lora", "--system"),
}
"""Name of the measurement -> what trains, and whether all rows begin with one system prompt of 150 tokens."""
VARIANTS: Sequence[Sequence[str]] = tuple(
    ("--layout", layout, "--loss", loss) for layout in ("padded", "padding-free") for loss in ("nll", "chunked_nll")
)
TRIAL_ROWS = 16
LOSS_MARGIN = 0.05
"""The first losses of both sides agree this closely, relatively: TRL also learns the line break after the answer."""


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Speed and peak memory of both sides."""
    common = [str(folder), *SETTINGS[name], "--threads", str(options.threads)]
    rows = ["--rows", str(options.rows)]
    trial = Side(
        python=options.peer_python, module="benchmarks.peers",
        arguments=[*common, "--rows", str(min(TRIAL_ROWS, options.rows))],
    )  # fmt: skip
    layout = fastest(trial, VARIANTS, key="tokens_per_second")
    variant = fastest(trial, [(*layout, *kind) for kind in PRECISIONS], key="tokens_per_second")
    ours, peer = alternate(
        name,
        Side(python=sys.executable, module="benchmarks.ours", arguments=[*common, *rows]),
        Side(python=options.peer_python, module="benchmarks.peers", arguments=[*common, *variant, *rows]),
        rounds=options.rounds, shows="tokens_per_second",
    )  # fmt: skip
    check_same_work(name, ours[-1]["losses"], peer[-1]["losses"])
    tool = peer[0]["tool"]
    speeds, peaks = ([values(ours, key), values(peer, key)] for key in ("tokens_per_second", "peak_mib"))
    return [
        figure(f"{name} speed", "tokens/s", *speeds, better="more", peer_name=tool),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=tool),
    ]


def check_same_work(name: str, ours: Sequence[float], peer: Sequence[float]) -> None:
    """Refuses a comparison in which the two sides did not learn the same tokens of the same rows."""
    if len(ours) != len(peer):
        raise SystemExit(
            f"benchmarks: {name}: {len(ours)} steps here, {len(peer)} steps of the peer; nothing to compare"
        )
    if abs(ours[0] - peer[0]) > LOSS_MARGIN * peer[0]:
        raise SystemExit(
            f"benchmarks: {name}: the first step's loss is {ours[0]:.4f} here and {peer[0]:.4f} of the peer, so the two"
            " do not learn the same tokens; nothing to compare"
        )
