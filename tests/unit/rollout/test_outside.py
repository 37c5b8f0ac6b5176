"""Samplers with weights of their own: what they are asked, and how the feed hands weights over."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from temper.data.datum import Datum
from temper.errors import MissingExtra, RecipeError
from temper.events import RolloutStep, Step
from temper.model.fake import FakeBackend
from temper.model.protocol import Checkpoint, Completion, Sampling, Tokens
from temper.rollout.outside import asked, completion, load_outside, room_for, spec_of
from tests.tiny import tiny_model
from tests.unit.rollout.test_feed import DRILL, of, run

if TYPE_CHECKING:
    from tests.unit.rollout.conftest import Bench


@dataclass(kw_only=True)
class Follower:
    """Answers with the fake model of the folder it was last given."""

    folder: Path
    followed: list[str] = field(default_factory=list)
    held: list[list[str]] = field(default_factory=list)
    """Folders that were there at each hand-over."""

    def generate(self, prompts: Sequence[Tokens], sampling: Sampling, *, on_token: Any = None) -> list[Completion]:
        return self._policy().sampler.generate(prompts, sampling, on_token=on_token)

    def follow(self, folder: Path) -> None:
        self.held.append(sorted(p.name for p in folder.parent.iterdir()))
        self.folder = folder
        self.followed.append(folder.name)

    def logprobs(self, batch: Sequence[Datum]) -> list[tuple[float, ...]]:
        return self._policy().learner.logprobs(batch)

    def _policy(self) -> Any:
        return FakeBackend().open(Checkpoint(id="x", path=self.folder, base=self.folder))


def sampled(batch: Sequence[Datum]) -> list[tuple[float, ...]]:
    """What the sampler gave every token that it wrote."""
    return [tuple(v for v, w in zip(d.side["old_logprobs"], d.weights["cispo"], strict=True) if w) for d in batch]


def test_the_weights_are_handed_over_before_every_batch(bench: Bench):
    sampler = Follower(folder=bench.base.folder)
    run(bench, replace(DRILL, updates=2, sampler=lambda start: sampler), 6)
    # Nothing at the start, whose weights the sampler has; then after every second update.
    assert sampler.followed == ["step-000002", "step-000004"]
    assert sampler.held == [["step-000002"], ["step-000002", "step-000004"]]
    assert not (bench.folder / "stage" / "sampler").exists(), "nothing is left when the stage ends"
    drifts = [round(s.figures["ratio_drift"], 9) for s in of(bench.log, Step)]
    assert [d == 0.0 for d in drifts] == [True, False] * 3, "fresh, then one update old"


@pytest.mark.slow
def test_a_run_with_such_a_sampler_learns_what_a_run_without_learns(bench: Bench):
    whole = run(bench, DRILL, 4)
    other = bench.again()
    other.folder = bench.folder / "other"
    assert run(other, replace(DRILL, sampler=lambda start: Follower(folder=start)), 4) == whole


def test_rollouts_sampled_ahead_are_one_batch_old_and_say_so(bench: Bench):
    """The log-probabilities beside a token are those of the weights that drew it, so the ratio is exact."""
    sampler = Follower(folder=bench.base.folder)
    drill = replace(DRILL, sampler=lambda start: sampler, prefetch=True, steps=4)
    batches = run(bench, drill, 4, lr=1e-3)
    assert [e.step for e in of(bench.log, RolloutStep)] == [1, 2, 3, 4]
    assert sampler.followed == ["step-000001", "step-000002", "step-000003"]
    # Batches 1 and 2 were drawn by the start, 2 while 1 was learnt; so the second is an update old, like all after it.
    start = Follower(folder=bench.base.folder)
    for batch in batches[:2]:
        assert sampled(batch) == [pytest.approx(found) for found in start.logprobs(batch)]
    assert sampled(batches[2]) != [pytest.approx(found) for found in start.logprobs(batches[2])]
    drifts = [s.figures["ratio_drift"] for s in of(bench.log, Step)]
    assert drifts[0] == pytest.approx(0.0, abs=1e-9) and all(drift > 1e-3 for drift in drifts[1:])


def test_with_several_updates_what_was_sampled_ahead_waits_for_its_batch(bench: Bench):
    sampler = Follower(folder=bench.base.folder)
    batches = run(bench, replace(DRILL, sampler=lambda start: sampler, prefetch=True, updates=2, steps=5), 5)
    assert [e.step for e in of(bench.log, RolloutStep)] == [1, 3, 5]
    assert batches[0] == batches[1] != batches[2] == batches[3] != batches[4]
    assert sampler.followed == ["step-000002", "step-000004"]


def test_every_row_has_a_stream_of_its_own_and_ends_where_the_model_ends():
    sampling = Sampling(max_new_tokens=5, temperature=0.7, seed=3, stop=(9,))
    first, second = asked(sampling, 0), asked(sampling, 1)
    assert first["seed"] != second["seed"] and asked(sampling, 0) == first
    assert (first["max_tokens"], first["temperature"], first["stop_token_ids"]) == (5, 0.7, [9])
    assert first["ignore_eos"] is True
    assert completion([1, 2, 9], [-1.0, -2.0, -3.0], sampling) == Completion(
        tokens=(1, 2), logprobs=(-1.0, -2.0, -3.0), finished=True
    )
    assert completion([1, 2], [-1.0, -2.0], sampling) == Completion(
        tokens=(1, 2), logprobs=(-1.0, -2.0), finished=False
    )


def test_an_adapter_takes_the_next_larger_room():
    assert [room_for(rank) for rank in (1, 4, 16, 17, 512)] == [1, 8, 16, 32, 512]


@pytest.mark.parametrize(
    "spec", ["http://[::1", "vlm", {"vllm": 3}, {"own": {"a": 1}}, {"vllm": {}, "own": {}}, 3, "localhost:8000"]
)
def test_what_is_no_sampler_is_refused(spec: Any):
    with pytest.raises(RecipeError, match=r"stages.0.sampler: found .* expected own, vllm"):
        spec_of(spec, "stages.0.sampler")


def test_a_server_takes_adapters_alone(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"stages.0.sampler: found the server http://h:1 beside `adapter: full`"):
        load_outside("http://h:1", tmp_path, rank=None, where="stages.0.sampler")


def test_full_weights_of_a_tied_model_are_not_for_vllm(tmp_path: Path):
    folder = tiny_model(tmp_path)
    with pytest.raises(RecipeError, match=r"stages.0.sampler: found vllm beside `adapter: full` .*write `adapter: lo"):
        load_outside("vllm", folder, rank=None, where="stages.0.sampler")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_package_that_is_not_there_is_named_with_its_extra(tmp_path: Path):
    with pytest.raises(MissingExtra, match=r"vllm is not installed; run: pip install 'temper-llm\[vllm\]'"):
        load_outside("vllm", tmp_path, rank=8, where="stages.0.sampler")
