"""The arithmetic of the general drop that guard, choice and report share: first-order theory against resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from temper.events import Measurement
from temper.stats.drop import axis_names, combine, linearised, pair


def measured(probe: str, items: tuple[float, ...], **fields: Any) -> Measurement:
    defaults: dict[str, Any] = {"axis": "reasoning", "role": "general", "method": "generate", "metric": "pass"}
    defaults |= {"split": "selection", "checkpoint": "x", "ids": tuple(str(i) for i in range(len(items)))}
    return Measurement(probe=probe, items=items, **defaults | fields)


def suite(seed: int) -> list[Any]:
    """A loss, a choice and a pass rate on three axes, one axis with two probes."""
    g = np.random.default_rng(seed)
    bits = g.gamma(4.0, 20.0, 60)
    soft = g.beta(3.0, 1.0, 80)
    pairs = [("wiki", "language", "loss", bits, bits * (1.02 + 0.05 * g.standard_normal(60)))]
    pairs.append(("piqa", "reasoning", "choice", soft, soft - 0.02 + 0.1 * g.standard_normal(80)))
    pairs.append(("arc", "reasoning", "choice", soft, soft + 0.1 * g.standard_normal(80)))
    right = (g.random(100) < 0.7).astype(float)
    pairs.append(("formats", "instruction", "generate", right, np.where(g.random(100) < 0.1, 1 - right, right)))
    made = []
    for name, axis, method, old, new in pairs:
        more: dict[str, Any] = {"axis": axis, "method": method, "chance": 0.25 if method == "choice" else 0.0}
        if method == "loss":
            more["sizes"] = (100.0,) * len(old)
        made.append(pair(measured(name, tuple(old), **more), measured(name, tuple(new), **more)))
    return made


def test_first_order_theory_agrees_with_resampling_in_value_and_standard_error():
    pairs = suite(1)
    found, drawn = linearised(pairs), combine(pairs, draws=8000)
    assert drawn is not None
    assert axis_names(pairs) == ("language", "reasoning", "instruction")
    for column, resampled in enumerate([drawn.overall, *drawn.axes.values()]):
        assert found.values[column] == pytest.approx(resampled.value, abs=1e-12)
        assert found.errors[column] == pytest.approx(resampled.estimate().se, rel=0.05)


def test_influence_adds_up_to_nothing_and_degrees_lie_between_one_probe_and_all():
    found = linearised(suite(2))
    assert found.influence.sum(axis=0) == pytest.approx([0.0] * 4, abs=1e-12)
    assert found.influence.shape == (60 + 80 + 80 + 100, 4)
    assert found.degrees[1] == pytest.approx(59)  # language is one probe of 60 items
    assert 59 < found.degrees[0] < 59 + 79 + 79 + 99


def test_equal_models_have_no_spread_and_no_skewness():
    base = measured("formats", (1.0, 0.0, 1.0))
    found = linearised([pair(base, base)])
    assert (found.values.tolist(), found.errors.tolist(), found.skewness.tolist()) == ([0, 0], [0, 0], [0, 0])


def test_skewness_of_a_mean_is_that_of_its_items_over_the_root_of_their_number():
    # 25 items fall by 0, five by 1: p = 1/6, skewness of one item (1 - 2p) / sqrt(p (1 - p)) = 1.789, of the mean of 30
    # 0.3266; without the bias of a sample the third moment is 30^2 / (29 x 28) and the variance 30 / 29 times as large:
    # 0.3266 x 1.1084 / 1.0522 = 0.3441
    base, now = measured("formats", (1.0,) * 30), measured("formats", (1.0,) * 25 + (0.0,) * 5)
    assert linearised([pair(base, now)]).skewness[0] == pytest.approx(0.3441, abs=1e-3)


def test_passages_are_one_row_each():
    base, now = measured("reading", (1.0,) * 6), measured("reading", (1.0, 1.0, 0.0, 0.0, 0.5, 0.5))
    found = linearised([pair(base, now, clusters={str(i): f"passage {i // 2}" for i in range(6)})])
    assert found.influence.shape == (3, 2)
    # passage means 0, 1, 0.5: sd 0.5, three passages: SE = 0.5 / sqrt(3)
    assert found.errors[0] == pytest.approx(0.5 / math.sqrt(3))
