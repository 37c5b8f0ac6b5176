"""Weights in bfloat16, on a CPU: the same path that a GPU takes, but for attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from temper.losses import Term
from temper.model import lora
from temper.model.protocol import TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner
from tests.unit.model import plain
from tests.unit.model.plain import CE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("model"))


def learner_in(dtype: torch.dtype, folder: Path, rank: int | None, **spec: bool) -> TorchLearner:
    learner = TorchBackend(dtype=dtype).open(plain.untouched(folder), TrainSpec(rank=rank, alpha=8.0, **spec)).learner
    assert isinstance(learner, TorchLearner)
    if rank is not None:
        plain.stir(learner)
    return learner


def assert_near(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Directions agree: a cosine above 0.99 for every tensor, and norms within 5 %."""
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        one, other = found[name].float().flatten(), gradient.float().flatten()
        assert float(torch.cosine_similarity(one, other, dim=0)) > 0.99, name
        assert float(one.norm() / other.norm()) == pytest.approx(1.0, abs=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 4])
def test_loss_and_gradients_are_near_those_of_float32(folder: Path, rank: int | None) -> None:
    half, wide, datums = (
        learner_in(torch.bfloat16, folder, rank),
        learner_in(torch.float32, folder, rank),
        plain.alike(),
    )
    assert half.model.dtype == torch.bfloat16
    assert half.forward_backward(datums, CE).loss == pytest.approx(wide.forward_backward(datums, CE).loss, rel=0.02)
    assert_near(plain.gradients_of(half.model), plain.gradients_of(wide.model))


def test_an_adapter_above_half_weights_is_kept_in_float32(folder: Path) -> None:
    learner = learner_in(torch.bfloat16, folder, 4)
    assert {p.dtype for n, p in learner.model.named_parameters() if "lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in learner.model.named_parameters() if "lora_" not in n} == {torch.bfloat16}


@pytest.mark.parametrize("rank", [None, 4])
def test_general_rows_are_held_and_preferences_learnt(folder: Path, rank: int | None) -> None:
    """Losses that look at the head twice, and the comparison with the start, in half precision."""
    learner = learner_in(torch.bfloat16, folder, rank)
    if rank is None:
        with torch.no_grad():
            learner.model.base_model.layers[0].mlp.up_proj.weight.mul_(1.1)  # pyright: ignore
    held = plain.row([7, 8, 9, 10, 11])
    held = type(held)(tokens=held.tokens, weights={"kl": held.weights["ce"]})
    metrics = learner.forward_backward([held, plain.row([3, 4, 5])], (Term(loss="ce"), Term(loss="kl")))
    assert metrics.loss > metrics.losses[""] * 0.5
    learner.forward_backward(plain.alike(), (Term(loss="ce"), Term(loss="pg")))
    norm = learner.optim_step(1e-3)
    assert 0.0 < norm < float("inf")


def test_a_restart_continues_bit_by_bit(folder: Path, tmp_path: Path) -> None:
    datums = plain.ragged()

    def steps(learner: TorchLearner, count: int) -> None:
        for _ in range(count):
            learner.forward_backward(datums, CE)
            learner.optim_step(1e-3)

    whole = learner_in(torch.bfloat16, folder, None)
    steps(whole, 2)
    whole.save(tmp_path / "step-2")
    again = learner_in(torch.bfloat16, folder, None)
    again.load(plain.saved(tmp_path / "step-2", folder, adapter=False), resume=True)
    steps(whole, 2)
    steps(again, 2)
    assert again.step == 4
    assert all(torch.equal(x, plain.weights_of(again)[n]) for n, x in plain.weights_of(whole).items())


def test_a_base_in_four_bits_trains_its_adapter(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    learner = learner_in(torch.bfloat16, folder, 4, four_bit=True)
    packed = {n: p for n, p in learner.model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 14  # seven linear layers in two decoder layers
    # NF4 rounds weights to 16 levels, so that the loss is that of another model nearby.
    wide, datums = learner_in(torch.float32, folder, 4), plain.alike()
    first = learner.forward_backward(datums, CE).loss
    assert first == pytest.approx(wide.forward_backward(datums, CE).loss, rel=0.2)
    learner.optim_step(1e-2)
    for _ in range(5):
        last = learner.forward_backward(datums, CE).loss
        learner.optim_step(1e-2)
    assert last < first
    with lora.set_aside(learner.model):
        aside = learner.logprobs(datums[:1])
    assert aside != learner.logprobs(datums[:1])
    learner.save(tmp_path / "adapter")
    other = TorchBackend().open(plain.saved(tmp_path / "adapter", folder, adapter=True)).learner
    assert len(other.logprobs(datums[:1])[0]) == datums[0].supervised
