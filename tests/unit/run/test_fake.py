"""The fake model: its gradient is exact, its folders hold what it is, and it needs no torch."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from temper import losses
from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.losses import Loss, Objective, Term, TokenView
from temper.model.fake import FakeBackend, FakeLearner
from temper.model.protocol import Blend, Checkpoint, Sampling, TrainSpec

if TYPE_CHECKING:
    from tests.fakes.world import World

FULL = TrainSpec(rank=None, clip=1e9)
LORA = TrainSpec(rank=4, clip=1e9)
CE: Objective = (Term(loss="ce"),)


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """Of four tokens. After 0 come 1 and 2 alike, as often as it was read; what was never read is very unlikely."""
    folder = tmp_path / "base"
    folder.mkdir()
    text = '{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": [{"id": 3, "content": "<end>"}]}'
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    backend = FakeBackend()
    backend.write(folder, [(0, 1, 3), (0, 2, 3)])
    return backend.locate(str(folder)).checkpoint


def datum(
    tokens: tuple[int, ...],
    weights: Mapping[str, tuple[float, ...]] | None = None,
    *,
    source: str = "s",
    group: int = -1,
) -> Datum:
    weights = weights or {"ce": (1.0,) * (len(tokens) - 1)}
    return Datum(tokens=tokens, weights=weights, source=source, group=group)


def test_it_knows_what_it_has_read_by_pairs_of_tokens(base: Checkpoint) -> None:
    learner = FakeBackend().open(base).learner
    # After 0: (1 + 0.01) of 2 + 4 x 0.01 occurrences for 1 and for 2; after 1: 1.01 of 1.04 for 3.
    (found,) = learner.logprobs([datum((0, 1, 3))])
    assert found == pytest.approx((math.log(1.01 / 2.04), math.log(1.01 / 1.04)))
    # Targets without a weight are passed over, and every datum has its own answer, in order.
    rows = [datum((0, 1, 3), {"ce": w}) for w in ((0.0, 1.0), (0.0, 0.0))] + [datum((0, 2), {"ce": (2.0,)})]
    assert learner.logprobs(rows) == [
        pytest.approx((math.log(1.01 / 1.04),)), (), pytest.approx((math.log(1.01 / 2.04),)),
    ]  # fmt: skip
    assert learner.logprobs([]) == []


def square(x: TokenView, *, at: float) -> object:
    """A loss that is not linear and has a hyperparameter."""
    return (x.weight * (x.logp - at) ** 2 + x.divergence**2).sum()


@pytest.mark.parametrize("spec", [FULL, LORA])
@pytest.mark.parametrize(
    "objective", [CE, (Term(loss="square", params={"at": -1.5}),), (Term(loss="kl", scale=0.3), *CE)]
)
def test_the_gradient_is_that_of_the_loss(
    base: Checkpoint, spec: TrainSpec, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ce and kl by hand, of any other loss by differences; all logits of a row are compared with moving them."""
    known = losses.LOSSES
    assert isinstance(known, dict)
    monkeypatch.setitem(known, "square", Loss(function=square, per="sequence", needs_start=True))
    term = "square" if objective[0].loss == "square" else "ce"
    weights = (1.0, 0.5, 2.0)
    rows = [datum((0, 1, 0, 2), {term: weights, "kl": weights}), datum((1, 0, 1, 3), {term: (0.0, 1.0, 1.0)})]
    learner = FakeLearner(base, spec)
    learner.forward_backward(rows, CE)
    learner.optim_step(0.1)  # away from the start, where the divergence has no slope
    learner.save(base.path.parent / "moved")
    moved = Checkpoint(id="m", path=base.path.parent / "moved", base=base.path, adapter=spec.rank is not None)

    def at(change: tuple[int, int] | None, by: float) -> FakeLearner:
        trained = FakeLearner(base, spec)
        trained.load(moved)
        if change:
            trained._weights[change] += by
        return trained

    learner = at(None, 0.0)
    learner.forward_backward(rows, objective)
    for place in ((0, 0), (0, 1), (0, 2), (1, 3), (1, 0), (2, 3)):
        above, below = (at(place, by).forward_backward(rows, objective).loss for by in (1e-5, -1e-5))
        assert learner._gradient[place] == pytest.approx((above - below) / 2e-5, abs=1e-7)


def test_the_loss_is_a_mean_over_tokens_sequences_or_groups(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    known = losses.LOSSES
    assert isinstance(known, dict)
    for per in ("token", "sequence", "group"):
        monkeypatch.setitem(known, per, Loss(function=lambda x: x.weight.sum(), per=per))
    ones = {"token": (1.0, 1.0), "sequence": (1.0, 1.0), "group": (1.0, 1.0)}
    rows = [datum((0, 1, 3), ones, group=g) for g in (5, 5, -1)]
    learner = FakeLearner(base, FULL)
    # Six weights of one: over 6 tokens, over 3 sequences, over one group and a row that stands alone.
    found = [learner.forward_backward(rows, (Term(loss=per),)).loss for per in ("token", "sequence", "group")]
    assert found == pytest.approx([1.0, 2.0, 3.0])


def test_the_metrics_are_told_by_source(base: Checkpoint) -> None:
    metrics = FakeLearner(base, FULL).forward_backward([datum((0, 1), source="x"), datum((1, 3, 0), source="y")], CE)
    assert metrics.supervised_by_source == {"x": 1, "y": 2}
    # 3 was never followed by anything: all four tokens are alike there.
    y = -(math.log(1.01 / 1.04) + math.log(1 / 4)) / 2
    assert metrics.losses == {"x": pytest.approx(-math.log(1.01 / 2.04)), "y": pytest.approx(y)}
    assert metrics.loss == pytest.approx((metrics.losses["x"] + 2 * y) / 3)


def test_one_update_is_adams(base: Checkpoint) -> None:
    """The first step of Adam moves every logit by the rate, against the sign of its gradient."""
    learner = FakeLearner(base, TrainSpec(rank=None, clip=0.1), sensitivity=2.0)
    before = learner.table
    learner.forward_backward([datum((0, 1))], CE)
    norm = learner.optim_step(0.05)
    moved = learner.table - before
    assert moved[0] == pytest.approx([-0.1, 0.1, -0.1, -0.1], abs=1e-5)  # but for Adam's epsilon of 1e-8
    assert np.abs(moved[1:]).max() == 0.0
    # The gradient is p - onehot: 0.01 / 2.04 for 0 and 3, 1.01 / 2.04 for 2, and 1 - 1.01 / 2.04 for 1.
    assert norm == pytest.approx(math.sqrt(2 * 0.01**2 + 1.01**2 + 1.03**2) / 2.04)
    assert learner.step == 1


@pytest.mark.parametrize("spec", [FULL, LORA])
def test_training_that_was_saved_and_loaded_goes_on_bit_equal(
    base: Checkpoint, spec: TrainSpec, tmp_path: Path
) -> None:
    rows = [datum((0, 2, 3)), datum((1, 0, 3))]
    adapter = spec.rank is not None

    def train(learner: FakeLearner, steps: int) -> FakeLearner:
        for _ in range(steps):
            learner.forward_backward(rows, CE)
            learner.optim_step(0.1)
        return learner

    whole = train(FakeLearner(base, spec), 5)
    train(FakeLearner(base, spec), 2).save(tmp_path / "two")
    again = FakeLearner(base, spec)
    saved = Checkpoint(id="two", path=tmp_path / "two", base=base.path, adapter=adapter)
    again.load(saved, resume=True)
    assert again.step == 2
    assert np.array_equal(train(again, 3).table, whole.table)
    again.load(base)
    assert again.step == 0 and np.array_equal(again.table, FakeLearner(base, spec).table)
    assert not list(tmp_path.glob(".*"))  # nothing half-written stays


@pytest.mark.parametrize("spec", [FULL, LORA])
def test_points_on_the_line_and_merged_weights_are_what_they_say(
    base: Checkpoint, spec: TrainSpec, tmp_path: Path
) -> None:
    backend = FakeBackend()
    learner = FakeLearner(base, spec, backend.sensitivity)
    learner.forward_backward([datum((0, 2, 3))], CE)
    learner.optim_step(1e-3)
    learner.save(tmp_path / "end")
    end = Checkpoint(id="end", path=tmp_path / "end", base=base.path, adapter=spec.rank is not None)
    backend.derive(Blend(parts=(end,), alpha=0.25), tmp_path / "quarter")
    quarter = Checkpoint(id="q", path=tmp_path / "quarter", base=base.path, adapter=end.adapter)
    backend.whole(quarter, tmp_path / "whole")
    whole = Checkpoint(id="w", path=tmp_path / "whole", base=tmp_path / "whole")
    start, expected = (FakeLearner(c, TrainSpec(rank=None)).table for c in (base, end))
    for found in (quarter, whole):
        table = FakeLearner(found, TrainSpec(rank=None)).table
        assert np.allclose(table, start + 0.25 * (expected - start), rtol=0, atol=1e-12)
    assert (tmp_path / "whole" / "tokenizer.json").is_file()
    assert not (tmp_path / "quarter" / "trainer").exists()


@pytest.mark.parametrize("spec", [FULL, LORA])
def test_a_mean_and_a_cut_are_what_they_say(base: Checkpoint, spec: TrainSpec, tmp_path: Path) -> None:
    backend, learner = FakeBackend(), FakeLearner(base, spec)
    ends: list[Checkpoint] = []
    for number in range(2):
        learner.forward_backward([datum((0, 2, 3), source=f"{number}")], CE)
        learner.optim_step(1e-3)
        learner.save(tmp_path / f"end-{number}")
        ends.append(Checkpoint(id="e", path=tmp_path / f"end-{number}", base=base.path, adapter=spec.rank is not None))
    backend.derive(Blend(parts=tuple(ends)), tmp_path / "mean")
    backend.derive(Blend(parts=(ends[1],), energy=0.5), tmp_path / "cut")
    start, first, second, mean, cut = (
        FakeLearner(c, TrainSpec(rank=None)).table
        for c in (base, *ends, *(replace(ends[0], path=tmp_path / name) for name in ("mean", "cut")))
    )
    assert np.allclose(mean, (first + second) / 2, rtol=0, atol=1e-12)
    # Two rows have moved, so the change has two singular values; half of their squared sum is in the first.
    assert np.linalg.matrix_rank(second - start, tol=1e-9) == 2
    assert np.linalg.matrix_rank(cut - start, tol=1e-9) == 1


def test_it_answers_greedily_and_streams(base: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    sampler = FakeBackend().open(base).sampler
    sampling = Sampling(max_new_tokens=4, stop=(3,))
    first, second = sampler.generate([(2, 0), (3, 1)], sampling, on_token=lambda i, t: seen.append((i, t)))
    # 0 is followed by 1 (the first of two equals), 1 by the end.
    assert (first.tokens, first.finished) == ((1,), True)
    assert first.logprobs == pytest.approx((math.log(1.01 / 2.04), math.log(1.01 / 1.04)))
    assert (second.tokens, second.finished, len(second.logprobs)) == ((), True, 1)
    assert seen == [(0, 1)]
    (cut,) = sampler.generate([(0,)], Sampling(max_new_tokens=1, stop=(3,)))
    assert (cut.tokens, cut.finished) == ((1,), False)


def test_it_samples_by_the_probabilities_and_the_seed(base: Checkpoint) -> None:
    sampler = FakeBackend().open(base).sampler

    def firsts(temperature: float, seed: int = 0) -> list[int]:
        sampling = Sampling(max_new_tokens=1, temperature=temperature, seed=seed)
        return [c.tokens[0] for c in sampler.generate([(0,)] * 400, sampling)]

    tokens = firsts(1.0)
    # 1 and 2 come 198 times of 400 in the mean; four standard deviations are 40.
    assert 158 < tokens.count(1) < 238 and 158 < tokens.count(2) < 238
    assert firsts(1.0) == tokens != firsts(1.0, seed=1)
    # At temperature 100 the four tokens are nearly alike.
    assert firsts(100.0).count(0) > 50


def test_a_base_is_told_by_its_weights(world: World) -> None:
    base = world.backend.locate(str(world.folder / "base"))
    renderer = Renderer.load(base.folder)
    shape = world.backend.shape(base.folder)
    assert (shape.architecture, shape.hidden, shape.params) == ("bigram", len(renderer.tokenizer), shape.hidden**2)
    before: Mapping[str, str] = base.lineage
    world.backend.write(base.folder, [renderer.text("something else")])
    assert world.backend.locate(str(base.folder)).sha256 != before["sha256"] == base.sha256


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import temper.model.fake; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
