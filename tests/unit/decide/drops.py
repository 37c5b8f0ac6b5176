"""Drops and points made by hand for the tests of the choice."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from temper import stats
from temper.decide.drop import AxisDrop, Drop
from temper.decide.frontier import Point

NORMALS = np.array([NormalDist().inv_cdf((i + 0.5) / stats.DRAWS) for i in range(stats.DRAWS)])
"""A normal distribution as 2000 draws without chance."""


def moved(value: float, error: float, *, alike: float = 1.0, order: int = 1) -> Drop:
    """A drop with a standard error; any two with the same `alike` and another `order` correlate by alike^2."""
    shared = np.random.default_rng(0).permutation(NORMALS)
    own = np.random.default_rng(order).permutation(NORMALS)
    drawn = stats.Drawn(value=value, draws=value + error * (alike * shared + np.sqrt(1 - alike**2) * own))
    e = drawn.estimate()
    axis = AxisDrop(drop=value, lcb95=e.low, ucb95=e.high, probes=("p",))
    return Drop(
        drop=value, lcb95=e.low, ucb95=e.high, axes={"language": axis}, probes={},
        resolution=1.645 * error, drawn=drawn,
    )  # fmt: skip


def screened(step: int, domain: float, drop: Drop, *, alpha: float = 1.0, wave: int = 0) -> Point:
    """A point that was screened."""
    return Point(
        checkpoint=f"01-sft/step-{step}" + ("" if alpha == 1.0 else f"-alpha-{alpha}"), stage="01-sft", step=step,
        alpha=alpha, path=f"s{step}", domain=domain, drop=drop, split="quick", wave=wave,
    )  # fmt: skip
