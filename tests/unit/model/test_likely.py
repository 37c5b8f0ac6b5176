"""What a model thinks of many tokens at a position, against its whole distribution; and drift on a tiny Llama."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.losses import Term
from temper.model.fake import FakeBackend
from temper.model.likely import likeliest, named
from temper.model.protocol import Checkpoint, Learner, Policy, TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.probes.base import Outcome, ProbeSpec
from temper.probes.drift import drift, weighed
from tests.tiny import tiny_model, tiny_tokenizer

SPEC = ProbeSpec(name="d", axis="behaviour", kind="drift", source="d")
REPLIES = [
    {"id": str(n), "prompt": f"how {word}", "reply": f"the {word} light is on", "finished": n % 2 == 0}
    for n, word in enumerate(("kitchen", "bedroom", "capital"))
]


@dataclass(frozen=True)
class Opened:
    """A backend's model with its tokenizer."""

    policy: Policy
    renderer: Renderer


@pytest.fixture(scope="module", params=["torch", "fake"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "torch":
        tiny_model(folder)
        checkpoint, backend = Checkpoint(id="base", path=folder, base=folder), TorchBackend()
    else:
        tiny_tokenizer(folder)
        backend = FakeBackend()
        renderer = Renderer.load(folder)
        backend.write(folder, [renderer.text("the kitchen light is on"), renderer.text("the capital is Paris")])
        checkpoint = backend.locate(str(folder)).checkpoint
    return Opened(policy=backend.open(checkpoint, TrainSpec(rank=None)), renderer=Renderer.load(folder))


def test_the_likeliest_are_the_top_of_the_distribution_and_named_ones_are_read_from_it() -> None:
    # Logits of one position: hidden (1, 0) x head rows (0, ln 2, ln 5) are 0, ln 2, ln 5: 1/8, 2/8, 5/8.
    head = torch.tensor([[0.0, 0.0], [math.log(2), 0.0], [math.log(5), 0.0]])
    ids, logp = likeliest(torch.tensor([[1.0, 0.0]]), head, 2)
    assert ids.tolist() == [[2, 1]]
    assert logp.exp().tolist() == [pytest.approx([5 / 8, 2 / 8])]
    asked = named(torch.tensor([[1.0, 0.0]]), head, torch.tensor([[0, 2]]))
    assert asked.exp()[0].tolist() == pytest.approx([1 / 8, 5 / 8])
    assert likeliest(torch.tensor([[1.0, 0.0]]), head, 9)[0].shape == (1, 3)


def test_both_agree_with_the_log_probability_of_the_target(opened: Opened) -> None:
    texts = [opened.renderer.text(t) for t in ("The quick brown fox.", "Turn the light on", "yes no hello system")]
    datums = [
        Datum(tokens=t, weights={"ce": tuple(float((i + n) % 3 > 0) for i in range(len(t) - 1))})
        for n, t in enumerate(texts)
    ]
    learner: Learner = opened.policy.learner
    wanted = learner.logprobs(datums)
    asked = [[(d.tokens[t + 1],) for t, w in enumerate(d.weights["ce"]) if w] for d in datums]
    assert [[x for (x,) in row] for row in learner.logprobs_of(datums, asked)] == [
        pytest.approx(list(row), abs=1e-5) for row in wanted
    ]
    for row, values in zip(learner.likely(datums, 10_000), wanted, strict=True):
        assert len(row) == len(values)
        for ids, logp in row:
            assert math.fsum(math.exp(x) for x in logp) == pytest.approx(1.0, abs=1e-4)
            assert list(logp) == sorted(logp, reverse=True) and len(set(ids)) == len(ids)
    best = [[ids[:3] for ids, _ in row] for row in learner.likely(datums, 3)]
    assert best == [[ids[:3] for ids, _ in row] for row in learner.likely(datums, 10_000)]


def total(found: Sequence[Outcome]) -> float:
    return sum(o.value for o in found)


def test_the_drift_of_the_base_is_its_entropy_and_that_of_a_trained_model_more(opened: Opened) -> None:
    policy, renderer = opened.policy, opened.renderer
    items = weighed(policy, renderer, SPEC, REPLIES)
    before = drift(policy, renderer, SPEC, items)
    # Entropy of what was kept, the rest as one token: KL is 0.
    entropy = 0.0
    for item in items:
        for row in item["logprobs"]:
            rest = 1.0 - math.fsum(math.exp(x) for x in row)
            entropy -= math.fsum(math.exp(x) * x for x in row) + (rest * math.log(rest) if rest > 1e-9 else 0.0)
    assert total(before) == pytest.approx(entropy / math.log(2), rel=1e-3)
    row = renderer.text("on the light on the light on the")
    other = Datum(tokens=row, weights={"ce": (1.0,) * (len(row) - 1)})
    for _ in range(3):
        policy.learner.forward_backward([other], (Term(loss="ce"),))
        policy.learner.optim_step(1e-2)
    assert total(drift(policy, renderer, SPEC, items)) > total(before) + 0.05


def test_a_chat_model_with_its_base_trained_answers_both(tmp_path: Path) -> None:
    chat, below = tiny_model(tmp_path / "chat", seed=1), tiny_model(tmp_path / "base", seed=0)
    backend = TorchBackend()
    checkpoint = Checkpoint(id="base", path=chat, base=chat)
    whole, pair = backend.open(checkpoint), backend.open(checkpoint, TrainSpec(rank=None, below=below))
    renderer = Renderer.load(chat)
    items = weighed(whole, renderer, SPEC, REPLIES)
    assert weighed(pair, renderer, SPEC, REPLIES)[0]["likely"] == items[0]["likely"]
    assert total(drift(pair, renderer, SPEC, items)) == pytest.approx(total(drift(whole, renderer, SPEC, items)))
