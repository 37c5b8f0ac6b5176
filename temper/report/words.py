"""How the report writes figures: percent, steps, durations, counts; one way everywhere. Imports nothing of temper."""

from __future__ import annotations

import math
import re

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
ARROW = "\N{RIGHTWARDS ARROW}"


def percent(value: float) -> str:
    """A share or score: `2 %`, `81.3 %`."""
    if not math.isfinite(value):
        return "not finite"
    return f"{_signed(f'{value * 100:.1f}'.removesuffix('.0'))}{SPACE}%"


def drop_percent(value: float) -> str:
    """A drop, with more digits where it is small, as it is compared with a small tolerance: `0.41 %`, `12 %`."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value) * 100
    digits = 2 if size < 2 else 1 if size < 10 else 0
    return f"{_signed(f'{value * 100:.{digits}f}')}{SPACE}%"


def tolerance_percent(value: float) -> str:
    """A tolerance as the user wrote it: `1 %`, `0.5 %`."""
    return f"{_signed(f'{value * 100:.6g}')}{SPACE}%"


def score(value: float, method: str) -> str:
    """A probe's figure: bits per byte for loss probes, percent for the others."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3f}" if method == "loss" else percent(value)


def interval(low: float, high: float, method: str) -> str:
    """A two-sided interval: `77 - 85 %`."""
    if method == "loss":
        return f"{low:.3f} to {high:.3f}"
    return f"{percent(low).removesuffix(f'{SPACE}%')} to {percent(high)}"


def gain(low: float, high: float, method: str) -> str:
    """Between what a gain lies: `71.8 to 86 points`, of a share; or in bits per byte."""
    if method == "loss":
        return f"{_signed(f'{low:.3f}')} to {_signed(f'{high:.3f}')} bits per byte"
    low_points, high_points = (percent(value).removesuffix(f"{SPACE}%") for value in (low, high))
    return f"{low_points} to {high_points} points"


def duration(seconds: float) -> str:
    """A time span: `4.2 s`, `5 min 11 s`, `2 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s".replace(".0", "")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{SPACE}h {minutes:02d}{SPACE}min"


def count(value: int) -> str:
    """A number with thin groups of three: `61 234`."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def position(stage: str, step: int, alpha: float, checkpoint: str = "") -> str:
    """A checkpoint in words: `01-sft, step 120 at alpha 0.8`.

    The id says what weights are that were not trained: `01-sft/step-000120-mean-3` is `01-sft, step 120 (mean of 3)`.
    """
    made = how_made(checkpoint)
    at = f" ({made})" if made else f" at alpha {alpha:g}" if alpha not in (0.0, 1.0) else ""
    return f"{stage + ', ' if stage else ''}step {step}{at}"


def how_made(checkpoint: str) -> str:
    """How weights that are on no line of training came about, by the checkpoint's id; empty for all others."""
    found = re.search(r"/step-\d+-(mean|depth|cut)-([\d.]+)$", checkpoint)
    if found is None:
        return ""
    return {"mean": f"mean of {found[2]}", "depth": "early layers scaled down", "cut": "strongest directions"}[found[1]]


def is_trained(checkpoint: str) -> bool:
    """Whether a checkpoint is the weights of a step as they were trained, not made of others: `01-sft/step-000120`."""
    return re.fullmatch(r"(step|look)-\d+", checkpoint.rpartition("/")[2]) is not None


def _signed(digits: str) -> str:
    """A typographic minus, and none before a zero."""
    if not digits.startswith("-"):
        return digits
    return digits[1:] if float(digits) == 0 else MINUS + digits[1:]
