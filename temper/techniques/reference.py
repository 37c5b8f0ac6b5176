"""Reference: what the start of a stage thinks of its rows, asked once and kept for every run that starts there.

Preference losses compare the model with what it was when the stage began. In a chain of SFT and DPO that is the result
of SFT. Where the reference is the base, or the model itself with its adapter on, the gain on it is wrong from the first
step, or zero for ever. The file in the cache is named by the weights and the rows, so resuming, trying another learning
rate and running again read it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from temper.data import fetch
from temper.data.datum import supervised_lengths
from temper.data.digests import remembered_digests
from temper.model.protocol import Checkpoint, Policy, Precision
from temper.techniques.base import Live
from temper.techniques.general import Rows

Array = np.ndarray[Any, Any]
VERSION = 1
"""Of what the file holds; another one is another name."""
AT_ONCE = 512
"""Datums scored between two words of progress."""


def reference(rows: Rows, live: Live, *, fresh: bool, four_bit: bool = False) -> Array:
    """Log-probabilities in nats of all supervised targets under the stage's start, row after row: float32 [targets].

    Args:
        rows: What is asked about.
        live: Of the stage.
        fresh: Whether `live.policy` still has the weights of the start; otherwise the start is opened beside it.
        four_bit: Whether `live.policy` holds them in 4 bits, which are other weights.
    """
    path = live.cache / "reference" / f"{key(live.start, rows, live.precision, four_bit=four_bit)}.npy"
    targets = int(supervised_lengths(rows.datums).sum())
    if path.is_file():
        found = np.load(path, mmap_mode="r")
        if found.shape == (targets,):
            return found
    scored = _score(live.policy if fresh else live.open(live.start), rows, live)
    assert scored.shape == (targets,), f"{rows.name}: {scored.shape} log-probabilities for {targets} targets"
    with fetch.replacing(path) as file:
        np.save(file, scored)
    return np.load(path, mmap_mode="r")


def key(start: Checkpoint, rows: Rows, precision: Precision = "float32", *, four_bit: bool = False) -> str:
    """Name of what these weights think of these rows: changes with a byte of either, and with how it was computed."""
    folders = (start.path, start.base) if start.adapter else (start.path,)
    weights = [_digests(folder) for folder in folders]
    parts = [VERSION, weights, rows.fingerprint, precision, *(["4 bits"] if four_bit else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _digests(folder: Path) -> list[list[str]]:
    """Every file of a model folder by name and content; what lies deeper is the training state."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [[path.name, digest] for path, digest in zip(files, remembered_digests(files), strict=True)]


def _score(start: Policy, rows: Rows, live: Live) -> Array:
    parts: list[Array] = []
    for begin in range(0, len(rows.datums), AT_ONCE):
        live.progress(f"what the start of the stage thinks of {rows.name}", begin, len(rows.datums))
        found = start.learner.logprobs(rows.datums[begin : begin + AT_ONCE])
        parts += [np.asarray(row, np.float32) for row in found]
    return np.concatenate(parts)
