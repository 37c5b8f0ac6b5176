"""Linear layers in bfloat16 between activations in float32: near float32, and nothing small is lost on the way."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from temper.losses import Term
from temper.model import products
from temper.model.protocol import Precision, TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner
from temper.model.torch_sampler import TorchSampler
from tests.unit.model import plain
from tests.unit.model.plain import CE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("model"))


def learner_in(precision: Precision, folder: Path, rank: int | None) -> TorchLearner:
    learner = TorchBackend(precision=precision).open(plain.untouched(folder), TrainSpec(rank=rank, alpha=8.0)).learner
    assert isinstance(learner, TorchLearner)
    if rank is not None:
        plain.stir(learner)
    return learner


def types(learner: TorchLearner) -> Mapping[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in learner.model.named_parameters()}


def test_a_product_is_rounded_on_the_way_in_and_float32_after() -> None:
    x = torch.tensor([[1.0 + 2.0**-12, 3.0]])  # eight bits of a number are left
    found = products.product(x, torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16))
    assert (found.dtype, found.tolist()) == (torch.float32, [[5.0]])


@pytest.mark.parametrize("rank", [None, 4])
def test_loss_and_gradients_are_near_those_of_float32(folder: Path, rank: int | None) -> None:
    half, wide = learner_in("bfloat16", folder, rank), learner_in("float32", folder, rank)
    assert products.rounds(half.model) and not products.rounds(wide.model)
    found, expected = (x.forward_backward(plain.alike(), CE).loss for x in (half, wide))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.01)
    gradients = plain.gradients_of(half.model)
    for name, exact in plain.gradients_of(wide.model).items():
        near = float(torch.cosine_similarity(gradients[name].flatten(), exact.flatten(), dim=0))
        assert near > 0.99, name
        assert gradients[name].dtype == torch.float32


def test_frozen_layers_are_half_as_large_and_all_else_is_float32(folder: Path) -> None:
    frozen = {n for n, kind in types(learner_in("bfloat16", folder, 4)).items() if kind == torch.bfloat16}
    assert len(frozen) == 14  # seven linear layers in two decoder layers
    assert all("base_layer" in name for name in frozen)
    assert set(types(learner_in("bfloat16", folder, None)).values()) == {torch.float32}


def test_a_rounded_model_lets_go_of_the_file_its_weights_were_mapped_from(tmp_path: Path) -> None:
    """What was not rounded, the embedding, kept the whole file in memory."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("what is mapped is seen on Linux alone")
    folder = plain.write_model(tmp_path / "mapped")
    wide = learner_in("float32", folder, 4)
    held = str(folder / "model.safetensors") in maps.read_text(encoding="utf-8")
    del wide
    gc.collect()
    half = learner_in("bfloat16", folder, 4)
    assert str(folder / "model.safetensors") not in maps.read_text(encoding="utf-8")
    assert held and products.rounds(half.model)


def test_an_update_far_below_a_rounded_result_is_not_lost(folder: Path) -> None:
    """bfloat16 shows steps of 0.4 % of a result; this update is far below."""
    layer = learner_in("bfloat16", folder, 4).model.base_model.layers[0].mlp.up_proj  # pyright: ignore
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, b = layer(x), layer.lora_B["default"].weight
        update = 1e-4 * torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
        b.add_(update)
        expected = (x @ layer.lora_A["default"].weight.T) @ update.T * layer.scaling["default"]
        torch.testing.assert_close(layer(x) - before, expected, rtol=0.02, atol=2e-6)


@pytest.mark.parametrize("rank", [None, 4])
def test_nothing_has_drifted_where_nothing_was_learnt(folder: Path, rank: int | None) -> None:
    """The start is rounded as the model is: a fresh adapter, or untouched weights, are at distance zero from it."""
    learner = TorchBackend(precision="bfloat16").open(plain.untouched(folder), TrainSpec(rank=rank, alpha=8.0)).learner
    held = plain.row([7, 8, 9, 10, 11])
    held = type(held)(tokens=held.tokens, weights={"kl": held.weights["ce"]})
    assert learner.forward_backward([held], (Term(loss="kl"),)).loss == pytest.approx(0.0, abs=1e-6)


def test_an_answering_model_is_rounded_too(folder: Path) -> None:
    policy, exact = (TorchBackend(precision=p).open(plain.untouched(folder)) for p in ("bfloat16", "float32"))
    (near,), (true,) = (x.learner.logprobs([plain.row([3, 4, 5, 6])]) for x in (policy, exact))
    assert near != true
    assert near == pytest.approx(true, abs=0.1)


def test_the_few_rows_of_an_answer_are_exact_where_all_weights_train(folder: Path) -> None:
    layer = learner_in("bfloat16", folder, None).model.base_model.layers[0].mlp.up_proj  # pyright: ignore
    x = torch.randn(products.FEW_ROWS, layer.in_features, generator=torch.Generator().manual_seed(0))
    exact = x @ layer.weight.T
    with torch.no_grad():
        torch.testing.assert_close(layer(x[:-1]), exact[:-1])
        assert not torch.allclose(layer(x), exact)
    assert not torch.allclose(layer(x[:-1]), exact[:-1]), "a step is rounded, whatever its size"


def test_what_was_found_out_about_the_machine_holds_for_every_policy(folder: Path) -> None:
    backend = TorchBackend()
    before = torch.get_float32_matmul_precision()
    try:
        for asked in ("bfloat16", "float32"):
            backend.tune(1, asked)
            sampler = backend.open(plain.untouched(folder)).sampler
            assert isinstance(sampler, TorchSampler)
            assert products.rounds(sampler.model) == (asked == "bfloat16")
    finally:
        torch.set_float32_matmul_precision(before)
