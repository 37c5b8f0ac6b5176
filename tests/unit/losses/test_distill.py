"""The divergence from a teacher at sampled tokens, by hand, in numpy and torch alike."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from tests.unit.losses.views import Batch, figures, gradient, value

# Three sampled tokens; the teacher gives them 1/2, 1/8 and 1/2 where the student gave 1/4, 1/2 and 1/2.
BATCH = Batch(
    logp=(log(1 / 4), log(1 / 2), log(1 / 2), log(0.9)),
    weight=(1.0, 1.0, 1.0, 0.0),
    side={
        "old_logprobs": (log(1 / 4), log(1 / 2), log(1 / 2), 0.0),
        "teacher_logprobs": (log(1 / 2), log(1 / 8), log(1 / 2), 0.0),
    },
    sequence=(0, 0, 1, 2),
    group=(0, 0, 1, 2),
)


def test_on_fresh_samples_the_value_is_the_log_ratio_and_the_slope_is_it_too() -> None:
    # -log 2 where the teacher likes the token twice as much, log 4 where four times less, 0 where as much.
    assert value("reverse_kl", BATCH) == pytest.approx(-log(2) + log(4))
    assert gradient("reverse_kl", BATCH) == pytest.approx([-log(2), log(4), 0.0, 0.0])


def test_a_token_that_has_become_likelier_since_counts_for_more() -> None:
    moved = replace(BATCH, logp=(log(1 / 2), log(1 / 2), log(1 / 2), 0.0))
    # The ratio of the first is 2.
    assert value("reverse_kl", moved) == pytest.approx(-2 * log(2) + log(4))


def test_its_mean_gradient_is_that_of_the_divergence() -> None:
    """Over all tokens with the student's own probabilities: d KL / d logit(c) = p(c) (log p(c) / q(c) - KL)."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    kl = float((p * np.log(p / q)).sum())
    by_logp = np.array([
        gradient("reverse_kl", Batch(
            logp=(log(p[c]),), weight=(1.0,), side={"old_logprobs": (log(p[c]),), "teacher_logprobs": (log(q[c]),)},
            sequence=(0,), group=(0,),
        ))[0]
        for c in range(3)
    ])  # fmt: skip
    # d log p(b) / d logit(c) = [b = c] - p(c), each token b drawn with probability p(b).
    mean = p * by_logp - p * (p * by_logp).sum()
    assert mean == pytest.approx(p * (np.log(p / q) - kl))


def test_the_figures_tell_the_surprise_and_what_the_teacher_likes_less() -> None:
    # Of three tokens the second is liked less.
    assert figures("reverse_kl", BATCH) == pytest.approx({"entropy": log(4) + 2 * log(2), "disliked": 1.0})


def test_rows_of_another_kind_add_nothing() -> None:
    assert value("reverse_kl", replace(BATCH, weight=(0.0,) * 4, side={})) == 0.0
