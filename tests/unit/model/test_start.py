"""What the start makes of general rows: kept on disk, read from there, and the same either way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from temper.data.datum import Datum
from temper.errors import CheckpointError
from temper.losses import Term
from temper.model.protocol import TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner
from temper.model.views import targets
from tests.tiny import tiny_model
from tests.unit.model import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KL = (Term(loss="ce"), Term(loss="kl", scale=2.0))
HIDDEN = 64
"""Of the tiny models."""


@pytest.fixture(autouse=True)
def cache(no_cache_of_starts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TEMPER_CACHE_GB", raising=False)
    return tmp_path / "cache" / "starts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("model"))


def vocabulary(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]


def held(datum: Datum, term: str = "kl") -> Datum:
    return dataclasses.replace(datum, weights={term: datum.weights["ce"]}, source="general")


def batch() -> list[Datum]:
    """Four general rows among the others; two begin alike."""
    general = [held(d) for d in (*plain.alike()[:2], plain.row([7, 8, 9, 10, 11], [0, 0, 1, 1]), plain.row([3, 4, 5]))]
    return [*plain.ragged()[:3], *general]


def moved(learner: TorchLearner) -> TorchLearner:
    """Away from the start, where the divergence and its gradient are zero."""
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.mul_(1.01)
    return learner


def learnt(learner: TorchLearner, datums: Sequence[Datum]) -> tuple[float, Mapping[str, Tensor]]:
    """Loss and gradients of a batch."""
    loss = learner.forward_backward(datums, KL).loss
    found = plain.gradients_of(learner.model)
    learner.model.zero_grad(set_to_none=True)
    return loss, found


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Norm of the difference, relative to the norm."""
    difference = sum(float((one[n] - other[n]).square().sum()) for n in other)
    return (difference / sum(float(x.square().sum()) for x in other.values())) ** 0.5


class Counting:
    """Runs the learner's model and notes how many rows went through it."""

    def __init__(self, learner: TorchLearner) -> None:
        self.rows: list[int] = []
        self._learner = learner

    def __call__(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]], model: PreTrainedModel) -> Tensor:
        self.rows.append(len(datums))
        return self._learner._hidden(datums, picked, model)


def asked(learner: TorchLearner, datums: Sequence[Datum]) -> tuple[Tensor, list[int]]:
    """Hidden states of the start, and how many rows went through the model in each of its passes."""
    run = Counting(learner)
    return learner._start.hidden(datums, [targets(d) for d in datums], run), run.rows


@pytest.mark.parametrize("rank", [4, None])
def test_loss_and_gradients_are_those_of_the_whole_distribution(
    folder: Path, rank: int | None, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Half precision has 11 bits, so a hidden state is off by 1/4096 of itself at most."""
    learner = moved(plain.learner_of(folder, rank))
    first = learnt(learner, batch())
    again = learnt(learner, batch())
    assert list(cache.glob("*/*.states"))
    monkeypatch.setenv("TEMPER_CACHE_GB", "0")
    loss, gradients = learnt(moved(plain.learner_of(folder, rank)), batch())
    assert first[0] == again[0] == pytest.approx(loss, rel=1e-3)
    assert apart(again[1], first[1]) == 0.0
    assert 0.0 < apart(first[1], gradients) < 2e-3


@pytest.mark.parametrize("rank", [4, None])
def test_another_learner_with_the_same_start_reads_what_this_one_computed(folder: Path, rank: int | None) -> None:
    rows = batch()[3:]
    computed, passes = asked(plain.learner_of(folder, rank), rows)
    assert passes == [4]
    trained = moved(plain.learner_of(folder, rank))
    trained.forward_backward(plain.ragged(), plain.CE)
    trained.optim_step(1e-2)
    found, passes = asked(trained, rows)
    assert passes == []
    assert torch.equal(found, computed)


def test_an_adapter_and_full_weights_share_one_start(folder: Path) -> None:
    computed, _ = asked(plain.learner_of(folder, 4), batch()[3:])
    found, passes = asked(moved(plain.learner_of(folder)), batch()[3:])
    assert passes == []
    assert torch.equal(found, computed)


def test_what_was_computed_in_another_precision_is_not_read(folder: Path) -> None:
    """Factors of products may be rounded to bfloat16 where that is faster: another machine, another start."""
    asked(plain.learner_of(folder, 4), batch()[3:])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        _, passes = asked(plain.learner_of(folder, 4), batch()[3:])
    finally:
        torch.set_float32_matmul_precision(before)
    assert passes == [4]


def test_only_the_rows_that_are_missing_are_computed(folder: Path) -> None:
    rows = batch()[3:]
    learner = plain.learner_of(folder, 4)
    asked(learner, rows[:3])
    found, passes = asked(learner, [rows[3], rows[0], rows[3]])
    assert passes == [2]  # the new one stands there twice
    expected, _ = asked(learner, [rows[3], rows[0], rows[3]])
    assert torch.allclose(found, expected, atol=1e-3)
    other = held(plain.row(rows[2].tokens, [0, 1, 1, 1]))  # the same tokens, another target more
    assert asked(learner, [other])[1] == [1]


def test_a_later_stage_asks_its_own_start(folder: Path, tmp_path: Path) -> None:
    """The start of a stage may be a checkpoint of the one before it: other weights, other rows on the disk."""
    rows = batch()[3:]
    first = plain.learner_of(folder)
    of_base, _ = asked(first, rows)
    first.forward_backward(plain.ragged(), plain.CE)
    first.optim_step(1e-2)
    first.save(tmp_path / "01-sft")
    second = plain.learner_of(tmp_path / "01-sft", 4)
    found, passes = asked(second, rows)
    assert passes == [4]
    with torch.no_grad():
        expected = second._hidden(rows, [targets(d) for d in rows], plain.learner_of(tmp_path / "01-sft").model)
    assert torch.allclose(found, expected, atol=5e-3)
    assert not torch.allclose(found, of_base, atol=5e-2)


def test_rows_that_do_not_come_again_are_computed_exactly_and_not_kept(folder: Path, cache: Path) -> None:
    """A rollout is compared with the start as well, and never seen a second time."""
    learner = plain.learner_of(folder, 4)
    rollout, replay = held(plain.row([3, 4, 5, 6]), "start_kl"), batch()[5]
    for passes in ([2], [1]):
        found, ran = asked(learner, [rollout, replay])
        assert ran == passes
        alone, _ = asked(learner, [rollout])
        torch.testing.assert_close(found[:3], alone, atol=1e-5, rtol=1e-5)
    (segment,) = cache.glob("*/*.states")
    # one row of two targets: head of the record, entry, numbers of two bytes
    assert segment.stat().st_size == 16 + 24 + 2 * HIDDEN * 2


def test_a_run_that_was_killed_while_it_wrote_learns_the_same(folder: Path, cache: Path) -> None:
    """What lay on the disk before is read, the rest is computed in the same company: equal to the last bit."""
    earlier, now = batch()[3:4], batch()

    def steps(learner: TorchLearner) -> list[Tensor]:
        learner.forward_backward(earlier, KL)
        learner.optim_step(1e-2)
        learner.forward_backward(now, KL)
        learner.optim_step(1e-2)
        return list(plain.weights_of(learner).values())

    whole = steps(plain.learner_of(folder, 4))
    (segment,) = cache.glob("*/*.states")
    data = segment.read_bytes()
    segment.write_bytes(data[:-3])  # the record of the second step is not whole
    again = steps(plain.learner_of(folder, 4))
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))


def test_a_number_too_large_for_half_precision_is_not_kept(folder: Path, tmp_path: Path, cache: Path) -> None:
    large = plain.learner_of(folder)
    with torch.no_grad():
        large.model.get_parameter("model.norm.weight").mul_(1e6)
    large.save(tmp_path / "large")
    learner = plain.learner_of(tmp_path / "large", 4)
    for _ in range(2):
        found, passes = asked(learner, batch()[5:6])
        assert passes == [1]
        assert bool(found.isfinite().all()) and float(found.abs().max()) > 65504
    assert not list(cache.glob("*/*.states"))


def test_weights_in_bfloat16_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TrainSpec(rank=4, alpha=8.0)
    learner = TorchBackend(dtype=torch.bfloat16).open(plain.untouched(folder), spec).learner
    assert isinstance(learner, TorchLearner)
    kept = [asked(learner, batch()[3:])[0] for _ in range(2)]
    monkeypatch.setenv("TEMPER_CACHE_GB", "0")
    other = TorchBackend(dtype=torch.bfloat16).open(plain.untouched(folder), spec).learner
    assert isinstance(other, TorchLearner)
    exact, _ = asked(other, batch()[3:])
    assert all(x.dtype == torch.bfloat16 and torch.equal(x, exact) for x in kept)


@pytest.mark.parametrize("rank", [None, 4])
def test_a_teacher_takes_the_place_of_the_start(folder: Path, tmp_path: Path, rank: int | None) -> None:
    """Wider than the student and with more tokens: what it gives those that the student has not got is left out."""
    known = vocabulary(folder)
    teacher = tiny_model(tmp_path / "teacher", seed=1, initializer_range=0.2, hidden_size=128, vocab_size=known + 8)
    learner = plain.learner_of(folder, rank, reference=teacher)
    rows = [held(row, "teacher_kl") for row in plain.ragged()[:3]]
    loss = learner.forward_backward(rows, (Term(loss="teacher_kl"),)).loss
    assert any(p.grad is not None and bool(p.grad.any()) for p in learner.model.parameters())
    found = []
    theirs = AutoModelForCausalLM.from_pretrained(teacher)
    for row in rows:
        tokens, at = torch.tensor([row.tokens[:-1]]), targets(row)
        with torch.no_grad():
            asked = theirs(tokens).logits[0, at][:, :known].log_softmax(1)
            own = learner.model.get_output_embeddings()(learner._hidden([row], [at])).log_softmax(1)
        counts = torch.tensor([row.weights["teacher_kl"][t] for t in at])
        found.append((asked.exp() * (asked - own)).sum(1) * counts)
    assert loss == pytest.approx(float(torch.cat(found).mean()), rel=1e-4)


def test_a_teacher_with_fewer_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    teacher = tiny_model(tmp_path / "teacher", vocab_size=vocabulary(folder) - 8)
    learner = plain.learner_of(folder, reference=teacher)
    with pytest.raises(CheckpointError, match=r"found a head of \d+ tokens; expected the \d+ of the model"):
        learner.forward_backward([held(plain.row([3, 4, 5]), "teacher_kl")], (Term(loss="teacher_kl"),))
