"""On a GPU: the plain path on the CPU is still the oracle, in float32 exactly and in bfloat16 nearly.

Run by `pytest tests/gpu -m gpu`; skipped where there is no CUDA device.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from temper.data.datum import Datum
from temper.losses import Term
from temper.model import attention, kernels, memory
from temper.model.optim import AdamW
from temper.model.protocol import Policy, Sampling, TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner
from tests.unit.model import plain
from tests.unit.model.plain import CE, SHAPES

pytestmark = pytest.mark.gpu
BATCHES: tuple[Callable[[], list[Datum]], ...] = (plain.ragged, plain.alike, plain.groups, plain.many)
FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {shape: plain.write_model(tmp_path_factory.mktemp("model"), shape) for shape in SHAPES}


def opened(folder: Path, dtype: torch.dtype, rank: int | None = None, *, compile: bool = False, **spec: bool) -> Policy:
    backend = TorchBackend(dtype=dtype)
    policy = backend.open(plain.untouched(folder), TrainSpec(rank=rank, alpha=8.0, **spec), compile=compile)
    if rank is not None:
        plain.stir(learner_of(policy))
    return policy


def learner_of(policy: Policy) -> TorchLearner:
    assert isinstance(policy.learner, TorchLearner)
    assert policy.learner.device.type == "cuda"
    return policy.learner


def gradients(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {n: g.float().cpu() for n, g in plain.gradients_of(learner.model).items()}


def reference(folder: Path, learner: TorchLearner, rank: int | None, scratch: Path) -> torch.nn.Module:
    """The same model on the CPU in float32."""
    model = plain.plain_model(folder)
    if rank is None:
        return model
    learner.save(scratch / "adapter")
    return PeftModel.from_pretrained(model, str(scratch / "adapter"), is_trainable=True)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_equals_the_plain_path(
    models: Mapping[str, Path], shape: str, rank: int | None, batch: Callable[[], list[Datum]], tmp_path: Path
) -> None:
    learner, datums = learner_of(opened(models[shape], FLOAT, rank)), batch()
    oracle = reference(models[shape], learner, rank, tmp_path)
    assert learner.forward_backward(datums, CE).loss == pytest.approx(plain.plain_loss(oracle, datums), rel=1e-4)
    expected = plain.gradients_of(oracle)
    found = gradients(learner)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        allowed = 2e-4 * max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((found[name] - gradient).abs().max()) <= allowed, name


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_near_the_plain_path(
    models: Mapping[str, Path], shape: str, rank: int | None, batch: Callable[[], list[Datum]], tmp_path: Path
) -> None:
    learner, datums = learner_of(opened(models[shape], HALF, rank)), batch()
    assert attention.flat(learner.model), "the variable-length kernel did not give the model's own logits"
    oracle = reference(models[shape], learner, rank, tmp_path)
    assert learner.forward_backward(datums, CE).loss == pytest.approx(plain.plain_loss(oracle, datums), rel=0.02)
    found = gradients(learner)
    for name, gradient in plain.gradients_of(oracle).items():
        assert float(torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)) > 0.98, name
        assert float(found[name].norm() / gradient.norm()) == pytest.approx(1.0, abs=0.1), name


@pytest.mark.parametrize(("dtype", "near"), [(FLOAT, 1e-5), (HALF, 0.05)])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_do_not_see_each_other(models: Mapping[str, Path], shape: str, dtype: torch.dtype, near: float) -> None:
    """All tokens of one row change: it answers otherwise, its neighbours the same but for rounding."""
    learner, datums = learner_of(opened(models[shape], dtype)), plain.ragged()
    before = learner.logprobs(datums)
    tokens = [(t + 1) % plain.VOCABULARY for t in datums[1].tokens]
    after = learner.logprobs(
        [plain.row(tokens, datums[1].weights["ce"]) if i == 1 else d for i, d in enumerate(datums)]
    )
    assert max(abs(a - b) for a, b in zip(after[1], before[1], strict=True)) > 0.5
    assert all(after[i] == pytest.approx(before[i], abs=near) for i in range(len(datums)) if i != 1)


@pytest.mark.parametrize(("dtype", "near"), [(FLOAT, 1e-3), (HALF, 0.1)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_while_sampling_are_those_of_a_fresh_pass(
    models: Mapping[str, Path], dtype: torch.dtype, near: float, temperature: float
) -> None:
    policy, rng = opened(models["llama"], dtype), random.Random(5)
    prompts = [tuple(plain.words(rng, n)) for n in (7, 1, 22, 13, 7)] * 4
    replies = policy.sampler.generate(prompts, Sampling(max_new_tokens=9, temperature=temperature, seed=3))
    blank = [[0.0] * (len(p) - 1) + [1.0] * len(r.tokens) for p, r in zip(prompts, replies, strict=True)]
    rows = [plain.row(p + r.tokens, b) for p, r, b in zip(prompts, replies, blank, strict=True)]
    for reply, fresh in zip(replies, policy.learner.logprobs(rows), strict=True):
        assert reply.logprobs == pytest.approx(fresh, abs=near)


@pytest.mark.parametrize("rank", [None, 4])
def test_layers_computed_twice_give_the_same_gradients(models: Mapping[str, Path], rank: int | None) -> None:
    learner, datums = learner_of(opened(models["llama"], FLOAT, rank)), plain.alike()
    found = []
    for kept in (1 << 30, 0):
        learner._room = memory.Room(tokens=4096, kept=kept, reason="test")
        learner.model.zero_grad()
        learner.forward_backward(datums, CE)
        assert learner._recompute.on == (kept == 0)
        found.append(gradients(learner))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 4])
def test_room_is_measured_and_leaves_nothing_behind(models: Mapping[str, Path], rank: int | None) -> None:
    learner = learner_of(opened(models["llama"], HALF, rank))
    before = plain.weights_of(learner)
    room = learner.room(CE)
    assert memory.LEAST <= room.tokens <= memory.MOST
    assert "GiB for passes" in room.reason
    assert plain.gradients_of(learner.model) == {}
    assert all(torch.equal(x, before[n]) for n, x in plain.weights_of(learner).items())


def test_compiled_kernels_give_the_same_loss(models: Mapping[str, Path]) -> None:
    if not kernels.can_compile(torch.device("cuda")):
        pytest.skip("no triton")
    datums = plain.many()
    one, other = (learner_of(opened(models["llama"], HALF, compile=c)) for c in (False, True))
    assert one.forward_backward(datums, CE).loss == pytest.approx(other.forward_backward(datums, CE).loss, rel=0.01)


@pytest.mark.parametrize("rank", [None, 4])
def test_training_lowers_the_loss_and_continues_from_disk(
    models: Mapping[str, Path], rank: int | None, tmp_path: Path
) -> None:
    learner, datums = learner_of(opened(models["llama"], HALF, rank)), plain.ragged()
    losses = []
    for _ in range(10):
        losses.append(learner.forward_backward(datums, CE).loss)
        assert 0.0 < learner.optim_step(3e-3) < math.inf
    assert losses[-1] < 0.9 * losses[0]
    learner.save(tmp_path / "step")
    again = learner_of(opened(models["llama"], HALF, rank))
    again.load(plain.saved(tmp_path / "step", models["llama"], adapter=rank is not None), resume=True)
    assert again.step == 10
    one, other = (x.forward_backward(datums, CE).loss for x in (learner, again))
    assert one == pytest.approx(other, rel=1e-3)


def test_the_halves_of_a_weight_move_as_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, gradient = (torch.randn(1000, generator=generator).bfloat16() for _ in range(2))
    found = []
    for device in ("cpu", "cuda"):
        parameter = torch.nn.Parameter(weight.clone().to(device))
        optimizer = AdamW({"w": parameter}, TrainSpec(rank=None, weight_decay=0.1))
        for _ in range(20):
            parameter.grad = gradient.to(device)
            optimizer.step(1e-3)
        found.append(parameter.detach().float().cpu())
    torch.testing.assert_close(found[0], found[1], rtol=2**-7, atol=1e-6)


def test_general_rows_are_held_beside_rewarded_ones(models: Mapping[str, Path]) -> None:
    learner = learner_of(opened(models["llama"], HALF, 4))
    held = dataclasses.replace(plain.row([7, 8, 9, 10]), weights={"kl": (1.0,) * 3}, source="general")
    (old,) = learner.logprobs([plain.row([3, 4, 5, 6])])
    side = {"old_logprobs": old, "advantages": (1.0,) * 3}
    learnt = Datum(tokens=(3, 4, 5, 6), weights={"dapo": (1.0,) * 3}, side=side, source="rollout")
    metrics = learner.forward_backward([held, learnt], (Term(loss="dapo"), Term(loss="kl")))
    assert metrics.figures["clipped"] == 0.0
    assert metrics.figures["ratio_drift"] == pytest.approx(0.0, abs=0.05)
    assert learner.optim_step(1e-3) > 0


def test_a_base_in_four_bits_trains_its_adapter(models: Mapping[str, Path]) -> None:
    pytest.importorskip("bitsandbytes")
    learner, datums = learner_of(opened(models["llama"], HALF, 4, four_bit=True)), plain.alike()
    losses = []
    for _ in range(8):
        losses.append(learner.forward_backward(datums, CE).loss)
        learner.optim_step(1e-2)
    assert losses[-1] < losses[0]
