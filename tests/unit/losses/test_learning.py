"""The new losses under a learner: the same gradient as cross-entropy where theory says so, beside replay rows too."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.data.datum import Datum
from temper.losses import Term
from temper.model.fake import FakeBackend, FakeLearner
from temper.model.protocol import TrainSpec


@pytest.fixture
def learner(tmp_path: Path) -> FakeLearner:
    """Of four tokens; after 0 come 1 and 2 alike."""
    text = '{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": [{"id": 3, "content": "<end>"}]}'
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    backend = FakeBackend(sensitivity=1.0)
    backend.write(tmp_path, [(0, 1, 3), (0, 2, 3)])
    policy = backend.open(backend.locate(str(tmp_path)).checkpoint, TrainSpec(rank=None, clip=1e9))
    assert isinstance(policy.learner, FakeLearner)
    return policy.learner


def rollout(learner: FakeLearner, reply: int, advantage: float) -> Datum:
    """The reply to the prompt 0, as the sampler would have drawn it."""
    bare = Datum(tokens=(0, reply, 3), weights={"pg": (1.0, 1.0)}, group=0)
    (old,) = learner.logprobs([bare])
    side = {"old_logprobs": old, "advantages": (advantage, advantage)}
    return Datum(tokens=bare.tokens, weights=bare.weights, side=side, group=0)


def test_on_policy_pg_has_the_gradient_of_cross_entropy_weighted_by_the_advantage(learner: FakeLearner) -> None:
    rollouts = [rollout(learner, 1, 0.5), rollout(learner, 2, -0.5)]
    learner.forward_backward(rollouts, (Term(loss="pg"),))
    norm = learner.optim_step(0.0)
    weighted = [
        Datum(tokens=r.tokens, weights={"ce": (a, a)}) for r, a in zip(rollouts, (0.5, -0.5), strict=True)
    ]  # fmt: skip
    learner.forward_backward(weighted, (Term(loss="ce"),))
    assert learner.optim_step(0.0) == pytest.approx(norm, rel=1e-5)
    assert norm > 0.1


def test_the_better_reply_becomes_likelier_beside_a_replay_row(learner: FakeLearner) -> None:
    replay = Datum(tokens=(1, 3), weights={"ce": (1.0,)})
    rollouts = [rollout(learner, 1, 0.5), rollout(learner, 2, -0.5)]
    ((before, _),) = learner.logprobs(rollouts[:1])
    learner.forward_backward([*rollouts, replay], (Term(loss="pg"), Term(loss="ce")))
    learner.optim_step(0.1)
    ((after, _),) = learner.logprobs(rollouts[:1])
    assert after > before + 0.05


def test_dpo_prefers_the_chosen_reply(learner: FakeLearner) -> None:
    bare = [
        Datum(tokens=(0, reply, 3), weights={"dpo": (sign, sign)}, group=0) for reply, sign in ((1, 1.0), (2, -1.0))
    ]
    pair = [
        Datum(tokens=d.tokens, weights=d.weights, side={"ref_logprobs": ref}, group=0)
        for d, ref in zip(bare, learner.logprobs(bare), strict=True)
    ]
    objective = (Term(loss="dpo", params={"beta": 1.0}),)
    first = learner.forward_backward(pair, objective).loss
    learner.optim_step(0.1)
    assert first == pytest.approx(0.6931, abs=1e-4)  # log 2 per pair at the start
    assert learner.forward_backward(pair, objective).loss < first - 0.05
