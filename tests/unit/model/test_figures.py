"""What losses show beside their value: the same figures from both learners, whatever the cut into passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp, log
from pathlib import Path

import pytest

from temper.data.datum import Datum
from temper.losses import Term
from temper.model.fake import FakeBackend
from temper.model.protocol import PASS_TOKENS, Learner, TrainSpec
from tests.tiny import tiny_tokenizer
from tests.unit.model import plain


@pytest.fixture(params=["torch", "fake"])
def learner(request: pytest.FixtureRequest, tmp_path: Path) -> Learner:
    if request.param == "torch":
        return plain.learner_of(plain.write_model(tmp_path / "model"))
    backend = FakeBackend()
    backend.write(tiny_tokenizer(tmp_path), [(5, 9, 7, 2), (5, 8, 2)])
    return backend.open(backend.locate(str(tmp_path)).checkpoint, TrainSpec(rank=None)).learner


def rollout(learner: Learner, tokens: Sequence[int], term: str, *, ratio: float, advantage: float) -> Datum:
    """A reply after a prompt of one token, at which the learner stands at `ratio` times the sampler's probability."""
    weights = {term: (1.0,) * (len(tokens) - 1)}
    (found,) = learner.logprobs([Datum(tokens=tuple(tokens), weights=weights)])
    side = {"old_logprobs": tuple(x - log(ratio) for x in found), "advantages": (advantage,) * len(found)}
    return Datum(tokens=tuple(tokens), weights=weights, side=side)


def test_clipped_tokens_and_divergence_are_means_over_tokens(learner: Learner) -> None:
    # Three tokens at ratio 1.5 with a gain (beyond 1.28: clipped), one at ratio 1 with a loss (not clipped).
    # KL = mean of ratio - 1 - log ratio = 3/4 x (0.5 - log 1.5); drift = 3/4 x log 1.5.
    rows = [
        rollout(learner, (5, 9, 7, 2), "dapo", ratio=1.5, advantage=1.0),
        rollout(learner, (5, 2), "dapo", ratio=1.0, advantage=-1.0),
    ]
    figures = learner.forward_backward(rows, (Term(loss="dapo"),)).figures
    assert figures["clipped"] == pytest.approx(0.75)
    assert figures["policy_kl"] == pytest.approx(0.75 * (0.5 - log(1.5)), rel=1e-3)
    assert figures["ratio_drift"] == pytest.approx(0.75 * log(1.5), rel=1e-3)
    olds = [old for r in rows for old in r.side["old_logprobs"]]
    assert figures["entropy"] == pytest.approx(-sum(olds) / 4, rel=1e-3)


def test_a_loss_per_reply_shows_means_over_replies_beside_rows_without_figures(learner: Learner) -> None:
    # Reply one is clipped throughout, reply two nowhere: 1/2, although it has 3 of 4 tokens. The replay row is neither.
    rows = [
        rollout(learner, (5, 9, 7, 2), "grpo", ratio=1.5, advantage=1.0),
        rollout(learner, (5, 2), "grpo", ratio=1.5, advantage=-1.0),
        Datum(tokens=(7, 2, 9), weights={"ce": (1.0, 1.0)}),
    ]
    metrics = learner.forward_backward(rows, (Term(loss="grpo"), Term(loss="ce")))
    assert metrics.figures["clipped"] == pytest.approx(0.5)
    assert set(metrics.figures) == {"clipped", "policy_kl", "ratio_drift", "entropy"}


def test_pairs_show_their_order(learner: Learner) -> None:
    # Chosen gained 0.7 nats per token on the reference (2 tokens), rejected lost 0.7: margin 0.1 x (1.4 + 1.4).
    def side(tokens: tuple[int, ...], sign: float) -> Datum:
        weights = {"dpo": (sign,) * (len(tokens) - 1)}
        (found,) = learner.logprobs([Datum(tokens=tokens, weights=weights)])
        return Datum(
            tokens=tokens, weights=weights, side={"ref_logprobs": tuple(x - sign * 0.7 for x in found)}, group=0
        )

    figures = learner.forward_backward([side((5, 9, 2), 1.0), side((5, 7, 2), -1.0)], (Term(loss="dpo"),)).figures
    assert figures["right"] == 1.0
    assert figures["margin"] == pytest.approx(0.28, rel=1e-3)


def test_losses_without_figures_show_none(learner: Learner) -> None:
    row = Datum(tokens=(5, 9, 2), weights={"ce": (1.0, 1.0)})
    assert learner.forward_backward([row], (Term(loss="ce"),)).figures == {}
    # a term that no row of the batch has
    assert learner.forward_backward([row], (Term(loss="ce"), Term(loss="pg"))).figures == {}


def test_figures_of_a_batch_of_several_passes_have_one_denominator(tmp_path: Path) -> None:
    """Forty replies of 60 to 99 tokens: every second one at ratio e^0.5 with a gain, so clipped."""
    learner, rng = plain.learner_of(plain.write_model(tmp_path / "model")), random.Random(3)
    rows = []
    for i in range(40):
        tokens = plain.words(rng, 60 + i)
        rows.append(rollout(learner, tokens, "gspo", ratio=exp(0.5) if i % 2 else 1.0, advantage=1.0))
    assert sum(len(r.tokens) for r in rows) > 2 * PASS_TOKENS
    figures = learner.forward_backward(rows, (Term(loss="gspo"),)).figures
    assert figures["clipped"] == pytest.approx(0.5, abs=1e-5)
    assert figures["ratio_drift"] == pytest.approx(0.25, abs=1e-3)
