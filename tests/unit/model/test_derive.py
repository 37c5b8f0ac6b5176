"""Weights made from trained ones: means, depth scaling and cuts, on matrices by hand and on checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from temper.model import merge
from temper.model.merge import joined, strongest
from temper.model.protocol import Blend, Checkpoint
from tests.unit.model import plain
from tests.unit.model.plain import CE, learner_of, row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Three checkpoints of one short training."""

    base: Path
    parts: tuple[Checkpoint, ...]

    def changes(self, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        """What training added to every matrix of a layer."""
        return changes(checkpoint, self.base)


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("derive")
    base = plain.write_model(folder / "base", "llama")
    adapter = request.param == "lora"
    learner = learner_of(base, 4 if adapter else None)
    parts = []
    for number in range(3):
        for tokens in ((5, 9, 200, 31, 7), (8, 100, 3, 17, 40)):
            learner.forward_backward([row(tokens)], CE)
            learner.optim_step(5e-3)
        learner.save(folder / f"step-{number}")
        parts.append(plain.saved(folder / f"step-{number}", base, adapter=adapter))
    return Trained(base=base, parts=tuple(parts))


def changes(checkpoint: Checkpoint, base: Path) -> Mapping[str, Tensor]:
    """By name, in float64; of an adapter 8 / 4 B A or whatever its configuration says, left as B A here."""
    if not checkpoint.adapter:
        start, end = load_file(base / "model.safetensors"), load_file(checkpoint.path / "model.safetensors")
        return {n: (x - start[n]).double() for n, x in end.items() if ".layers." in n and x.dim() == 2}
    factors = load_file(checkpoint.path / "adapter_model.safetensors")
    return {
        n.replace(".lora_A", ""): factors[n.replace("lora_A", "lora_B")].double() @ a.double()
        for n, a in factors.items()
        if "lora_A" in n
    }


def made(trained: Trained, blend: Blend, to: Path) -> Mapping[str, Tensor]:
    """The changes of what a blend stands for."""
    merge.derive(blend, to)
    return trained.changes(plain.saved(to, trained.base, adapter=trained.parts[0].adapter))


def test_the_mean_of_checkpoints_has_the_mean_change(trained: Trained, tmp_path: Path) -> None:
    found = made(trained, Blend(parts=trained.parts), tmp_path / "mean")
    parts = [trained.changes(part) for part in trained.parts]
    for name, change in found.items():
        mean = torch.stack([part[name] for part in parts]).mean(dim=0)
        if trained.parts[0].adapter:
            # A mean of products of rank 4 may have rank 12: the nearest of rank 4 is what Eckart and Young say it is.
            left, strength, right = torch.linalg.svd(mean, full_matrices=False)
            nearest = (left[:, :4] * strength[:4]) @ right[:4]
            assert float((nearest - mean).norm()) < 0.5 * float(mean.norm())
            mean = nearest
        torch.testing.assert_close(change, mean, rtol=0, atol=1e-6)
    # It answers: a learner of the same rank reads it back.
    learner = learner_of(trained.base, 4 if trained.parts[0].adapter else None)
    learner.load(plain.saved(tmp_path / "mean", trained.base, adapter=trained.parts[0].adapter))


def test_early_layers_change_less(trained: Trained, tmp_path: Path) -> None:
    # Two layers: the first is scaled to 0.8 x 0.25, the last to 0.8.
    found = made(trained, Blend(parts=trained.parts[-1:], alpha=0.8, first_layer=0.25), tmp_path / "depth")
    whole = trained.changes(trained.parts[-1])
    for name, change in found.items():
        scale = 0.2 if ".layers.0." in name else 0.8
        torch.testing.assert_close(change, scale * whole[name], rtol=1e-4, atol=1e-7)


def test_embeddings_are_scaled_like_the_first_layer_and_the_head_like_the_last(tmp_path: Path) -> None:
    base = plain.write_model(tmp_path / "base", "llama")
    learner = learner_of(base)
    learner.forward_backward([row((5, 9, 200, 31, 7))], CE)
    learner.optim_step(5e-3)
    learner.save(tmp_path / "end")
    merge.derive(
        Blend(parts=(plain.saved(tmp_path / "end", base, adapter=False),), first_layer=0.0), tmp_path / "depth"
    )
    start, end, found = (load_file(f / "model.safetensors") for f in (base, tmp_path / "end", tmp_path / "depth"))
    for name, expected in (("model.embed_tokens.weight", start), ("lm_head.weight", end), ("model.norm.weight", end)):
        torch.testing.assert_close(found[name], expected[name])
    assert not torch.equal(start["lm_head.weight"], end["lm_head.weight"])


def test_a_cut_keeps_the_share_asked_for_in_as_few_directions_as_can_hold_it(trained: Trained, tmp_path: Path) -> None:
    found = made(trained, Blend(parts=trained.parts[-1:], energy=0.7), tmp_path / "cut")
    for name, change in trained.changes(trained.parts[-1]).items():
        left, strength, right = torch.linalg.svd(change, full_matrices=False)
        shares = (strength**2).cumsum(0) / (strength**2).sum()
        count = int((shares < 0.7).sum()) + 1
        torch.testing.assert_close(found[name], (left[:, :count] * strength[:count]) @ right[:count], rtol=0, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_the_strongest_directions_by_hand(turned: bool) -> None:
    # Singular values 3, 2 and 1: squares 9, 4, 1 of 14. 9 / 14 = 64 %, 13 / 14 = 93 %.
    matrix = torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, 0]])
    matrix = matrix.T if turned else matrix
    for energy, kept in ((0.5, 1), (0.64, 1), (0.65, 2), (0.92, 2), (0.95, 3), (1.0, 3)):
        found = strongest(matrix, energy)
        expected = matrix * (matrix >= 4 - kept)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(strongest(torch.zeros(2, 3), 0.5), torch.zeros(2, 3))
    assert torch.equal(strongest(torch.ones(3), 0.5), torch.ones(3))


def test_a_joined_product_is_the_nearest_of_its_rank() -> None:
    # Means of diag(4, 0) and diag(0, 2): diag(2, 1), of which rank 1 keeps the 2.
    one = (torch.tensor([[4.0], [0.0]]), torch.tensor([[1.0, 0.0]]))
    other = (torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0, 1.0]]))
    b, a = joined([one, other], 1.0)
    assert (b.shape, a.shape) == ((2, 1), (1, 2))
    torch.testing.assert_close(b @ a, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), rtol=0, atol=1e-6)
    b, a = joined([one], 1.0)
    torch.testing.assert_close(b @ a, one[0] @ one[1], rtol=0, atol=1e-6)
