"""Checkpoints on disk: whole or not at all, read by plain transformers, continued bit for bit."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper.errors import CheckpointError, MachineError
from temper.model import store
from temper.model.torch_learner import TorchLearner
from tests.tiny import tiny_model
from tests.unit.model import plain
from tests.unit.model.plain import CE, learner_of, plain_logits, plain_model, row

TOKENS = (5, 9, 200, 31, 7, 7, 100)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("base"))


def take_steps(learner: TorchLearner, first: int, last: int) -> list[float]:
    """Steps first..last-1 on rows that depend on the step alone."""
    losses = []
    for step in range(first, last):
        datums = [row([(step + 3 * i + j) % 50 for j in range(4 + i)]) for i in range(3)]
        losses.append(learner.forward_backward(datums, CE).loss)
        learner.optim_step(2e-3)
    return losses


@pytest.mark.parametrize("rank", [None, 4])
def test_a_continued_run_is_bit_equal_to_an_uninterrupted_one(base: Path, rank: int | None, tmp_path: Path) -> None:
    whole = learner_of(base, rank, weight_decay=0.01)
    expected = take_steps(whole, 0, 6)
    first = learner_of(base, rank, weight_decay=0.01)
    losses = take_steps(first, 0, 3)
    first.save(tmp_path / "step-3")
    del first
    # Another draw of A: everything that counts has to come from the folder.
    second = learner_of(base, rank, weight_decay=0.01, seed=99)
    second.load(plain.saved(tmp_path / "step-3", base, adapter=rank is not None), resume=True)
    assert second.step == 3
    losses += take_steps(second, 3, 6)
    assert losses == expected
    found = plain.weights_of(second)
    assert found.keys() == plain.weights_of(whole).keys()
    assert all(torch.equal(found[name], x) for name, x in plain.weights_of(whole).items())


@pytest.mark.parametrize("rank", [None, 4])
def test_without_resume_the_optimiser_starts_anew(base: Path, rank: int | None, tmp_path: Path) -> None:
    learner = learner_of(base, rank)
    take_steps(learner, 0, 3)
    learner.save(tmp_path / "step-3")
    weights = plain.weights_of(learner)
    learner.load(plain.saved(tmp_path / "step-3", base, adapter=rank is not None))
    assert learner.step == 0
    assert all(torch.equal(x, weights[name]) for name, x in plain.weights_of(learner).items())
    take_steps(learner, 3, 4)
    # Adam's first step moves every weight with a gradient by the learning rate (2e-3), whatever came before.
    name = max(weights, key=lambda n: weights[n].numel() if "mlp" in n else 0)
    moved = (plain.weights_of(learner)[name] - weights[name]).abs()
    assert float(moved.median()) == pytest.approx(2e-3, rel=1e-2)


@pytest.mark.parametrize("rank", [None, 4])
def test_loading_the_start_undoes_training(base: Path, rank: int | None) -> None:
    learner = learner_of(base, rank, seed=3)
    learner.load(plain.untouched(base))
    start = plain.weights_of(learner)
    before = learner.logprobs([row(TOKENS)])
    take_steps(learner, 0, 2)
    assert learner.logprobs([row(TOKENS)]) != before
    learner.load(plain.untouched(base))
    assert learner.logprobs([row(TOKENS)]) == before
    assert all(torch.equal(x, start[name]) for name, x in plain.weights_of(learner).items())


@pytest.mark.parametrize("shape", ["llama", "tied llama"])
def test_plain_transformers_reads_full_weights(shape: str, tmp_path: Path) -> None:
    learner = learner_of(plain.write_model(tmp_path / "base", shape))
    take_steps(learner, 0, 2)
    learner.save(tmp_path / "trained")
    with torch.no_grad():
        logp = plain_logits(plain_model(tmp_path / "trained"), TOKENS).log_softmax(-1)
    picked = [logp[t, TOKENS[t + 1]].item() for t in range(len(TOKENS) - 1)]
    assert learner.logprobs([row(TOKENS)])[0] == pytest.approx(picked, abs=1e-5)


def test_a_kill_while_saving_leaves_the_earlier_checkpoint(base: Path, tmp_path: Path) -> None:
    learner, to = learner_of(base), tmp_path / "resume"
    take_steps(learner, 0, 1)
    learner.save(to)
    kept = {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()}
    saving = store.new_folder(to)  # entered and never left: the disk as a kill would find it
    (saving.__enter__() / "model.safetensors").write_bytes(b"half")
    assert {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()} == kept
    assert [p.name.endswith(".part") for p in tmp_path.iterdir() if p != to] == [True]
    learner.load(plain.saved(to, base, adapter=False), resume=True)
    assert learner.step == 1
    take_steps(learner, 1, 2)
    learner.save(to)
    assert [p.name for p in tmp_path.iterdir()] == ["resume"]
    learner.load(plain.saved(to, base, adapter=False), resume=True)
    assert learner.step == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_what_fails_while_it_is_written_never_appears(tmp_path: Path, stop: BaseException) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "earlier").touch()
    expected = MachineError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected), store.new_folder(tmp_path / "to") as folder:
        (folder / "later").touch()
        raise stop
    assert [p.name for p in tmp_path.rglob("*")] == ["to", "earlier"]


def test_a_folder_that_cannot_take_its_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier folder used to be deleted before the new one took its name: a failure in between lost both."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "earlier").touch()
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(MachineError, match="Input/output error"), store.new_folder(tmp_path / "to") as folder:
        (folder / "later").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["to", "earlier"]


def test_a_place_that_cannot_be_written_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match=r"file/step-1: could not be written .*; expected a writable folder"):
        learner_of(base, rank=4).save(tmp_path / "file" / "step-1")


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 1}])
def test_full_weights_of_another_model_are_refused(base: Path, tmp_path: Path, changes: dict[str, int]) -> None:
    """Tensors that were missing used to keep the values of the model before, without a word."""
    other = tiny_model(tmp_path / "other", tie_word_embeddings=False, **changes)
    with pytest.raises(CheckpointError, match=r"does not fit this model \(\d+ tensors missing or of another shape"):
        learner_of(base).load(plain.untouched(other))


def test_weights_kept_a_second_time_under_foreign_names_are_not_read(base: Path, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hub")
    before = store.content_hash(folder)
    save_file(load_file(folder / "model.safetensors"), folder / "consolidated.safetensors")
    assert [p.name for p in store.weight_files(folder)] == ["model.safetensors"]
    assert store.content_hash(folder) == before
