"""The packed path computes what the plain path computes: loss, every gradient, every log-probability."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor

from temper.data.datum import Datum
from temper.losses import Term
from temper.model.layout import alike, pack
from temper.model.protocol import PASS_TOKENS
from temper.model.torch_learner import TorchLearner
from tests.unit.model import plain
from tests.unit.model.plain import CE, SHAPES, learner_of, plain_logprobs, plain_loss, plain_model, row

Batch = Callable[[], list[Datum]]
BATCHES: tuple[Batch, ...] = (plain.ragged, plain.alike, plain.groups)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {shape: plain.write_model(tmp_path_factory.mktemp("model"), shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def pair(models: Mapping[str, Path]) -> tuple[TorchLearner, torch.nn.Module]:
    """A learner and the plain model, opened once for all examples of the property test."""
    return learner_of(models["llama"]), plain_model(models["llama"])


def assert_same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Within 1e-4 of the tensor's largest value, and of a thousandth of the model's largest for those that are zero."""
    assert set(found) == set(expected)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        allowed = 1e-4 * max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((found[name] - gradient).abs().max()) <= allowed, name


def check(learner: TorchLearner, reference: torch.nn.Module, datums: Sequence[Datum]) -> None:
    metrics = learner.forward_backward(datums, CE)
    assert metrics.loss == pytest.approx(plain_loss(reference, datums), rel=1e-4)
    assert metrics.supervised == sum(d.supervised for d in datums)
    assert_same_gradients(plain.gradients_of(learner.model), plain.gradients_of(reference))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
def test_full_gradients_equal_the_plain_path(models: Mapping[str, Path], shape: str, batch: Batch) -> None:
    check(learner_of(models[shape]), plain_model(models[shape]), batch())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
def test_lora_gradients_equal_the_plain_path(
    models: Mapping[str, Path], shape: str, batch: Batch, tmp_path: Path
) -> None:
    learner = learner_of(models[shape], rank=4)
    learner.save(tmp_path / "adapter")
    reference = PeftModel.from_pretrained(plain_model(models[shape]), str(tmp_path / "adapter"), is_trainable=True)
    check(learner, reference, batch())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 4])
def test_a_batch_of_several_passes_has_one_denominator(
    models: Mapping[str, Path], rank: int | None, tmp_path: Path
) -> None:
    datums = plain.many()
    assert sum(len(d.tokens) for d in datums) > 2 * PASS_TOKENS
    learner, reference = learner_of(models["llama"], rank), plain_model(models["llama"])
    if rank is not None:
        learner.save(tmp_path / "adapter")
        reference = PeftModel.from_pretrained(reference, str(tmp_path / "adapter"), is_trainable=True)
    check(learner, reference, datums)


def test_gradients_add_up_and_the_scale_of_a_term_counts(models: Mapping[str, Path]) -> None:
    # 0.5 x ce twice over is ce once
    learner, datums = learner_of(models["llama"]), plain.ragged()
    half = (Term(loss="ce", scale=0.5),)
    losses = [learner.forward_backward(datums, half).loss for _ in range(2)]
    twice = plain.gradients_of(learner.model)
    learner.model.zero_grad()
    assert learner.forward_backward(datums, CE).loss == pytest.approx(sum(losses), rel=1e-5)
    assert_same_gradients(twice, plain.gradients_of(learner.model))


def test_losses_by_source_are_means_over_their_own_targets(models: Mapping[str, Path]) -> None:
    learner, datums, reference = learner_of(models["llama"]), plain.ragged(), plain_model(models["llama"])
    metrics = learner.forward_backward(datums, CE)
    for source in "ab":
        with torch.no_grad():
            own = [
                plain_logprobs(reference, d)[torch.tensor(d.weights["ce"]) != 0] for d in datums if d.source == source
            ]
        expected = -torch.cat(own)
        assert metrics.losses[source] == pytest.approx(float(expected.mean()), rel=1e-4)
        assert metrics.supervised_by_source[source] == len(expected)


@pytest.mark.parametrize("rank", [4, None])
def test_general_rows_are_held_to_the_start_by_the_divergence_over_the_whole_vocabulary(
    models: Mapping[str, Path], rank: int | None
) -> None:
    learner = learner_of(models["llama"], rank=rank)
    if rank is None:
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter.mul_(1.01)  # away from the start, where the divergence and its gradient are zero
    rows = [row([7, 8, 9, 10, 11], [0, 0, 1, 1]), row([7, 8, 9, 12], [0, 0, 1])]
    rows.append(row([30, 31, 32, 33, 34], source="own"))
    held = [dataclasses.replace(d, weights={"kl": d.weights["ce"]}, source="general") for d in rows[:2]]
    metrics = learner.forward_backward([*held, rows[2]], (Term(loss="ce"), Term(loss="kl", scale=2.0)))
    found = plain.gradients_of(learner.model)
    for parameter in learner.model.parameters():
        parameter.grad = None
    start, kl = plain_model(models["llama"]), torch.zeros(())
    for datum in held:
        at = [t for t, w in enumerate(datum.weights["kl"]) if w]
        model = _logits(learner, datum)[at].log_softmax(-1)
        base = plain.plain_logits(start, datum.tokens[:-1])[at].log_softmax(-1).detach()
        kl = kl + (base.exp() * (base - model)).sum()
    learnt = _logits(learner, rows[2]).log_softmax(-1)
    # every term is averaged over its own targets: 3 held ones, 4 learnt ones
    loss = -learnt.gather(1, torch.tensor(rows[2].tokens[1:])[:, None]).sum() / 4 + 2.0 * kl / 3
    loss.backward()
    assert metrics.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert metrics.figures == {"held_kl": pytest.approx(float(kl.detach()) / 3, rel=1e-4, abs=1e-6)}
    assert metrics.supervised_by_source == {"general": 3, "own": 4}
    assert_same_gradients(found, plain.gradients_of(learner.model))


def _logits(learner: TorchLearner, datum: Datum) -> Tensor:
    layout = pack([datum.tokens[:-1]], learner.device)
    return learner.model(input_ids=layout.tokens, position_ids=layout.positions, layout=layout).logits[0]


@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
@pytest.mark.parametrize("batch", [*BATCHES, plain.many])
def test_logprobs_are_those_of_the_plain_path_in_order(models: Mapping[str, Path], shape: str, batch: Batch) -> None:
    datums, reference = batch(), plain_model(models[shape])
    with torch.no_grad():
        expected = [plain_logprobs(reference, d)[torch.tensor(d.weights["ce"]) != 0] for d in datums]
    found = learner_of(models[shape]).logprobs(datums)
    assert [len(f) for f in found] == [len(e) for e in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other.tolist(), abs=1e-4)


def test_the_same_row_twice_is_answered_twice(models: Mapping[str, Path]) -> None:
    """Rows used to be told apart by their identity, so a batch that held one row object twice ended in a KeyError."""
    learner, datum = learner_of(models["llama"]), row((5, 6, 7, 2))
    first, second, third = learner.logprobs([datum, row((5, 6)), datum])
    assert len(first) == 3
    assert len(second) == 1
    assert third == pytest.approx(first, abs=1e-6)


def test_rows_without_a_target_add_nothing(models: Mapping[str, Path]) -> None:
    """A pass without any target used to end in an index of floats."""
    learner, datums = learner_of(models["llama"]), [row((5, 6, 7, 2)), row((9, 8, 7))]
    learner.forward_backward(datums, CE)
    alone = plain.gradients_of(learner.model)
    learner.model.zero_grad()
    idle = [row((3, 4, 5, 6), (0.0, 0.0, 0.0)), row([4] * PASS_TOKENS, [0.0] * (PASS_TOKENS - 1)), row((3,))]
    metrics = learner.forward_backward([*idle, *datums], CE)
    assert metrics.supervised == 5
    assert_same_gradients(plain.gradients_of(learner.model), alone)
    assert [len(f) for f in learner.logprobs([*idle, *datums])] == [0, 0, 0, 3, 2]
    assert learner.logprobs(idle[:1]) == [()]


@pytest.mark.parametrize("shape", plain.EVERY_SHAPE)
@pytest.mark.parametrize("batch", [plain.ragged, plain.alike])
def test_rows_do_not_see_each_other(models: Mapping[str, Path], shape: str, batch: Batch) -> None:
    learner, datums = learner_of(models[shape]), batch()
    before = learner.logprobs(datums)
    for number in (1, 4):
        # Other tokens where the row is its own: the last one, and with it nothing that it shares.
        changed = list(datums)
        tokens = datums[number].tokens
        changed[number] = row((*tokens[:-1], (tokens[-1] + 1) % plain.VOCABULARY), datums[number].weights["ce"])
        after = learner.logprobs(changed)
        assert after[number] != before[number]
        assert after[number][:-1] == pytest.approx(before[number][:-1], abs=1e-6)
        for i in set(range(len(datums))) - {number}:
            assert after[i] == pytest.approx(before[i], abs=1e-6)


def test_a_row_of_other_tokens_throughout_changes_nothing_for_its_neighbours(models: Mapping[str, Path]) -> None:
    learner, datums = learner_of(models["llama"]), plain.ragged()
    before = learner.logprobs(datums)
    changed = [
        row([(t + 1) % plain.VOCABULARY for t in datums[1].tokens]) if i == 1 else d for i, d in enumerate(datums)
    ]
    after = learner.logprobs(changed)
    assert all(after[i] == pytest.approx(before[i], abs=1e-6) for i in range(len(datums)) if i != 1)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    loners=st.lists(st.integers(2, 40), max_size=4),
    clusters=st.lists(st.tuples(st.integers(1, 24), st.lists(st.integers(1, 12), min_size=2, max_size=4)), max_size=3),
    grouped=st.booleans(),
)
def test_any_lengths_and_clusters_are_laid_out_exactly(
    pair: tuple[TorchLearner, torch.nn.Module],
    seed: int,
    loners: list[int],
    clusters: list[tuple[int, list[int]]],
    grouped: bool,
) -> None:
    rng = random.Random(seed)
    datums = [row(plain.words(rng, n)) for n in loners]
    for number, (shared, rests) in enumerate(clusters):
        beginning = plain.words(rng, shared)
        datums += [row(beginning + plain.words(rng, n), group=number if grouped else -1) for n in rests]
    rng.shuffle(datums)
    learner, reference = pair
    with torch.no_grad():
        expected = [plain_logprobs(reference, d).tolist() for d in datums]
    for one, other in zip(learner.logprobs(datums), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_what_is_shared_is_computed_once() -> None:
    # two rows of 20 + 3 and 20 + 5 tokens and one of 7: 20 + 7 for the roots, 3 + 5 for the branches
    rng = random.Random(5)
    beginning = plain.words(rng, 20)
    rows = [[*beginning, 1, 9, 9], plain.words(rng, 7), [*beginning, 2, 8, 8, 8, 8]]
    layout = pack(rows, torch.device("cpu"), clusters=alike(rows))
    assert layout.tokens.shape == (1, 35)
    for number, tokens in enumerate(rows):
        at = [layout.index(number, i) for i in range(len(tokens))]
        assert layout.tokens[0, at].tolist() == tokens
        assert layout.positions[0, at].tolist() == list(range(len(tokens)))


def test_only_rows_with_sixteen_like_tokens_and_more_cluster() -> None:
    rng = random.Random(6)
    sixteen = plain.words(rng, 16)
    rows = [[*sixteen, 1], sixteen, [*sixteen[:15], 255, 1], [*sixteen, 2], plain.words(rng, 30)]
    assert alike(rows) == [[0, 3]]


def test_training_lowers_the_loss_and_returns_the_norm_before_clipping(models: Mapping[str, Path]) -> None:
    learner, datums = learner_of(models["llama"], clip=0.01), plain.ragged()
    losses = []
    for step in range(8):
        losses.append(learner.forward_backward(datums, CE).loss)
        squares = sum(float(g.square().sum()) for g in plain.gradients_of(learner.model).values())
        norm = learner.optim_step(3e-3)
        assert norm == pytest.approx(squares**0.5, rel=1e-4)
        assert norm > 0.01
        assert plain.gradients_of(learner.model) == {}
        assert learner.step == step + 1
    assert losses[-1] < 0.8 * losses[0]


def test_a_policy_that_only_answers_has_nothing_to_train(models: Mapping[str, Path]) -> None:
    from temper.model.torch_backend import TorchBackend

    learner = TorchBackend().open(plain.untouched(models["llama"])).learner
    assert len(learner.logprobs([row((5, 6, 7))])[0]) == 2
    with pytest.raises(AssertionError, match="to answer, not to learn"):
        learner.optim_step(1e-3)
