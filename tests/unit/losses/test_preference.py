"""Preference losses by hand, in numpy and torch alike."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest

from tests.unit.losses.views import Batch, figures, gradient, value

# One pair: the chosen reply has two tokens, the rejected one; the last target is a replay row of another group.
PAIR = Batch(
    logp=(-1.0, -2.0, -1.5, -0.3),
    weight=(1.0, 1.0, -1.0, 0.0),
    side={"ref_logprobs": (-1.5, -3.0, -1.0, 0.0)},
    sequence=(0, 0, 1, 2),
    group=(0, 0, 0, 1),
)


def sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z))


def test_dpo_is_the_logistic_loss_of_the_gain_on_the_reference() -> None:
    # Chosen gained 0.5 + 1 = 1.5, rejected lost 0.5: margin 2 nats. The replay row's group adds nothing.
    assert value("dpo", PAIR, beta=0.1) == pytest.approx(-log(sigmoid(0.2)))
    slope = 0.1 * (1 - sigmoid(0.2))
    assert gradient("dpo", PAIR, beta=0.1) == pytest.approx([-slope, -slope, slope, 0.0])


def test_dpo_at_the_start_is_log_two_per_pair() -> None:
    start = replace(PAIR, side={"ref_logprobs": PAIR.logp})
    assert value("dpo", start) == pytest.approx(log(2))
    # At a margin of zero the slope is beta / 2 each way.
    assert gradient("dpo", start) == pytest.approx([-0.05, -0.05, 0.05, 0.0])


def test_the_order_of_the_two_rows_does_not_matter() -> None:
    turned = Batch(
        logp=(-1.5, -1.0, -2.0), weight=(-1.0, 1.0, 1.0), side={"ref_logprobs": (-1.0, -1.5, -3.0)},
        sequence=(0, 1, 1), group=(0, 0, 0),
    )  # fmt: skip
    assert value("dpo", turned) == pytest.approx(value("dpo", PAIR))
    assert value("simpo", turned) == pytest.approx(value("simpo", PAIR))


def test_simpo_compares_means_and_wants_a_lead() -> None:
    # Means -1.5 and -1.5: a lead of 0, less gamma 1: -log sigmoid(-1).
    assert value("simpo", PAIR, beta=2.0, gamma=1.0) == pytest.approx(-log(sigmoid(-1.0)))
    slope = 2.0 * (1 - sigmoid(-1.0))
    assert gradient("simpo", PAIR, beta=2.0, gamma=1.0) == pytest.approx([-slope / 2, -slope / 2, slope, 0.0])


def test_a_hopelessly_wrong_pair_neither_overflows_nor_vanishes() -> None:
    wrong = replace(PAIR, logp=(-9000.0, -9000.0, 0.0, 0.0))
    # Margin -(9000 x 2 - 4.5) - 1 = -17996.5 nats, with beta 1.
    assert value("dpo", wrong, beta=1.0) == pytest.approx(17996.5)
    assert gradient("dpo", wrong, beta=1.0) == pytest.approx([-1.0, -1.0, 1.0, 0.0])


def test_rows_without_a_pair_add_nothing() -> None:
    alone = replace(PAIR, weight=(0.0,) * 4, side={})
    assert value("dpo", alone) == value("simpo", alone) == 0.0


def test_the_figures_tell_how_many_pairs_are_in_order_and_by_how_much() -> None:
    # Chosen gained 0.5 + 1, rejected -0.5: the margin of 2 nats is 0.2 after beta.
    shown = {"right": 1.0, "margin": 0.2, "chosen_gain": 1.5, "rejected_gain": -0.5}
    assert figures("dpo", PAIR, beta=0.1) == pytest.approx(shown)
    assert figures("simpo", PAIR, beta=2.0) == pytest.approx({"right": 0.0, "margin": 0.0})
