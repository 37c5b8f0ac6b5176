"""Preference optimisation: what it compares with, what a step holds, and what a chain hands over."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from temper import registry
from temper.data.datum import Datum
from temper.errors import DataError, RecipeError
from temper.events import Choice, Step
from temper.model.fake import FakeLearner, FakeSampler
from temper.model.protocol import Checkpoint, Policy, TrainSpec
from temper.recipe.load import load
from temper.run.prepare import prepare
from temper.techniques import reference
from temper.techniques.base import Live
from temper.techniques.dpo import DPO, ResolvedDPO, numbered
from temper.techniques.inventory import Inventory
from tests.fakes.world import ASKED, GREEDY, SAFE, World, held, of
from tests.unit.techniques.test_sft import rows

PAIR = {"technique": "dpo", "data": "preferences.jsonl", "steps": 8, "lr": 1e-4, "rpo": 0}


@pytest.fixture
def pairs(world: World) -> World:
    """The world with pairs of which the safe answer is chosen."""
    lines = [{"prompt": q, "chosen": SAFE, "rejected": GREEDY} for q in ASKED[::2]]
    (world.folder / "preferences.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    return world


def settled(world: World, **fields: Any) -> tuple[DPO, ResolvedDPO, Inventory]:
    """A DPO stage as a run would have it."""
    prepared = prepare(world.recipe({**PAIR, **fields}), world.backend, lambda *_: None)
    technique, resolved = prepared.recipe.stages[0], prepared.resolved.stages[0]
    assert isinstance(technique, DPO)
    assert isinstance(resolved, ResolvedDPO)
    return technique, resolved, prepared.inventories[0]


def live(
    world: World, start: Checkpoint, learner: FakeLearner | None = None, *, opened: list[str] | None = None
) -> Live:
    """What a stage that begins at `start` may use."""
    learner = learner or FakeLearner(start, TrainSpec(rank=None))

    def other(checkpoint: Checkpoint) -> Policy:
        if opened is not None:
            opened.append(checkpoint.id)
        return world.backend.open(checkpoint)

    return Live(
        policy=Policy(learner=learner, sampler=FakeSampler(learner)), start=start, open=other, renderer=None,  # pyright: ignore
        folder=world.folder, cache=world.folder / "cache", log=lambda event: event, progress=lambda *_: None,
    )  # fmt: skip


def test_the_first_step_costs_log_two_and_the_pairs_part_from_there(pairs: World) -> None:
    result = pairs.run(pairs.recipe(PAIR))
    steps = of(held(result), Step)
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0].figures == pytest.approx(
        {"right": 0.0, "margin": 0.0, "chosen_gain": 0.0, "rejected_gain": 0.0}, abs=1e-5
    )
    assert steps[-1].loss < 0.6
    assert steps[-1].figures["right"] == 1.0
    assert steps[-1].figures["chosen_gain"] > 0 > steps[-1].figures["rejected_gain"]


@pytest.mark.parametrize("adapter", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_after_sft_the_reference_is_what_sft_made(pairs: World, adapter: str) -> None:
    """Against the base the loss would not begin at log 2; with the adapter on in both it would stay there for ever."""
    sft = {"data": "greedy.jsonl", "adapter": adapter, "choose": "last", "guard": "off", "steps": 4, "checkpoints": 1}
    result = pairs.run(pairs.recipe(sft, {**PAIR, "adapter": adapter, "choose": "last", "guard": "off"}))
    log = held(result)
    steps = [e for e in of(log, Step) if e.stage == "02-dpo"]
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert steps[1].loss < math.log(2) - 1e-3
    (found,) = (pairs.folder / "cache" / "reference").glob("*.npy")
    first = of(log, Choice)[0]
    assert first.stage == "01-sft"
    stage = pairs.folder / "run" / "stages" / "01-sft"
    start = stage / "whole" if adapter == "lora" else pairs.folder / "run" / first.path
    (source,) = settled(pairs)[2].domain
    told = _logprobs(pairs, start, source.datums)
    base = _logprobs(pairs, pairs.folder / "base", source.datums)
    kept = reference.np.load(found).tolist()
    assert kept == pytest.approx(told, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(kept, base, strict=True)) > 0.1


def _logprobs(world: World, folder: Path, rows: Sequence[Datum]) -> list[float]:
    """Of every answer, one after the other."""
    start = Checkpoint(id="start", path=folder, base=folder)
    return [x for row in world.backend.open(start).learner.logprobs(list(rows)) for x in row]


def test_the_reference_is_asked_once_and_read_ever_after(pairs: World) -> None:
    technique, stage, inventory = settled(pairs)
    start = pairs.backend.locate(str(pairs.folder / "base")).checkpoint
    opened: list[str] = []
    plan = technique.plan(stage, inventory, seed=0)
    whole = list(islice(plan.feed(0, live(pairs, start, opened=opened)), 6))
    assert not opened  # the weights that train are those of the start
    moved = FakeLearner(start, TrainSpec(rank=None))
    moved.forward_backward(whole[0], plan.objective)
    moved.optim_step(0.01)
    rest = list(islice(plan.feed(3, live(pairs, start, moved, opened=opened)), 3))
    assert rest == whole[3:]
    assert not opened  # read, not asked again
    for path in (pairs.folder / "cache" / "reference").iterdir():
        path.unlink()
    again = list(islice(plan.feed(3, live(pairs, start, moved, opened=opened)), 3))
    assert opened == ["base"]  # the policy has moved: the start answers for itself
    assert again == whole[3:]


def test_the_reference_belongs_to_the_weights_and_the_rows(pairs: World, tmp_path: Path) -> None:
    (source,) = settled(pairs)[2].domain
    base = pairs.backend.locate(str(pairs.folder / "base")).checkpoint
    key = reference.key(base, source)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    moved = replace(base, id="another name", path=copy, base=copy)
    assert reference.key(moved, source) == key  # content counts, not the place
    assert reference.key(base, replace(source, fingerprint="other")) != key
    assert reference.key(base, source, "bfloat16") != key
    # A stage with `adapter: lora` read what the same start, rounded to 4 bits, had thought of its rows.
    assert reference.key(base, source, four_bit=True) != key
    (copy / "table.npz").write_bytes(b"other weights")
    assert reference.key(moved, source) != key


@pytest.mark.parametrize("keep", ["ce", "kl"])
def test_the_share_of_general_tokens_is_exact_beside_whole_pairs(pairs: World, keep: str) -> None:
    technique, stage, found = settled(pairs)
    stage = replace(
        stage, replay_share=0.3, replay_from={"code": 1.0}, keep=keep, batch_tokens=300, steps=40, rpo=0.5
    )  # fmt: skip
    inventory = replace(found, general=(rows("code", "general", "code", range(5, 40)),))
    start = pairs.backend.locate(str(pairs.folder / "base")).checkpoint
    plan = technique.plan(stage, inventory, seed=0)
    batches = list(islice(plan.feed(0, live(pairs, start)), 40))
    tokens = Counter[str]()
    for batch in batches:
        sizes = Counter(d.group for d in batch if d.group >= 0)
        assert set(sizes.values()) <= {2}
        tokens.update(
            {source: sum(d.supervised for d in batch if d.source == source) for source in ("code", "preferences.jsonl")}
        )
    assert tokens["code"] / tokens.total() == pytest.approx(0.3, abs=0.005)
    general = {name for batch in batches for d in batch if d.source == "code" for name in d.weights}
    assert general == {keep}
    expected = [("dpo", 1.0), ("chosen", 0.5), (keep, stage.keep_scale if keep == "kl" else 1.0)]
    assert [(term.loss, term.scale) for term in plan.objective] == expected


def test_pairs_of_a_step_have_different_numbers_whatever_their_sources_count() -> None:
    def pair(group: int) -> list[Datum]:
        return [Datum(tokens=(1, 2), weights={"dpo": (sign,)}, group=group) for sign in (1.0, -1.0)]

    general = Datum(tokens=(1, 2), weights={"ce": (1.0,)})
    found = numbered([*pair(0), general, *pair(0), *pair(7)])
    assert [d.group for d in found] == [0, 0, -1, 1, 1, 2, 2]


def test_the_chosen_answer_is_learnt_beside_where_rpo_says_so(pairs: World) -> None:
    technique, stage, inventory = settled(pairs, rpo=0.2)
    first, second = islice(technique.plan(stage, inventory, seed=0).rows(), 2)
    learnt = first.weights["chosen"]
    assert first.weights == {"dpo": learnt, "chosen": learnt}
    assert set(second.weights) == {"dpo"}
    assert set(second.weights["dpo"]) == {0.0, -1.0}
    result = pairs.run(pairs.recipe({**PAIR, "rpo": 0.2, "steps": 1, "checkpoints": 1}))
    (step,) = of(held(result), Step)
    # log 2, and a fifth of the cross-entropy of the chosen answers under the start.
    start = pairs.backend.locate(str(pairs.folder / "base")).checkpoint
    batch = next(technique.plan(stage, inventory, seed=0).feed(0, live(pairs, start)))
    chosen = [x for d in batch if "chosen" in d.weights for x in d.side["ref_logprobs"] if x]
    assert step.loss == pytest.approx(math.log(2) - 0.2 * sum(chosen) / len(chosen), rel=1e-6)


def test_simpo_asks_nobody_for_a_reference(pairs: World) -> None:
    technique, stage, inventory = settled(pairs, loss="simpo")
    assert (stage.beta, stage.margin) == (2.0, 1.0)
    start = pairs.backend.locate(str(pairs.folder / "base")).checkpoint
    batch = next(technique.plan(stage, inventory, seed=0).feed(0, live(pairs, start)))
    assert not any(d.side for d in batch)
    assert not (pairs.folder / "cache" / "reference").exists()
    steps = of(held(pairs.run(pairs.recipe({**PAIR, "loss": "simpo"}))), Step)
    assert steps[-1].loss < steps[0].loss


def test_what_is_left_open_comes_from_dpos_own_table(pairs: World) -> None:
    _, stage, _ = settled(pairs, lr="auto", rpo="auto", adapter="lora", warmup="auto")
    assert (stage.loss, stage.beta, stage.margin, stage.rpo) == ("dpo", 0.1, 0.0, 0.2)
    assert stage.lr < 2e-4  # supervised fine-tuning takes 3.8e-4 and more


def test_a_margin_is_simpos_alone(pairs: World) -> None:
    with pytest.raises(RecipeError, match=r"stages\.0\.margin: .*`loss: dpo` asks for no margin; remove it, or write"):
        pairs.recipe({**PAIR, "margin": 1.0})


def test_rows_without_a_rejected_answer_are_no_pairs(pairs: World) -> None:
    with pytest.raises(
        DataError, match=r"safe\.jsonl: found prompts with answers; use `technique: sft`; expected pref"
    ):
        pairs.run(pairs.recipe({**PAIR, "data": "safe.jsonl"}))
    lines = (pairs.folder / "preferences.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[3] = json.dumps({"prompt": "x", "chosen": "yes", "rejected": None}) + "\n"
    (pairs.folder / "preferences.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"preferences\.jsonl:4: "):
        pairs.run(pairs.recipe(PAIR))


def test_pairs_are_refused_by_sft(pairs: World) -> None:
    with pytest.raises(DataError, match=r"preferences\.jsonl: found preference pairs; use `technique: dpo`"):
        pairs.run(pairs.recipe({"data": "preferences.jsonl"}))


def test_dpo_is_one_of_the_techniques(pairs: World) -> None:
    assert registry.load("technique", "dpo") is DPO
    assert load(pairs.folder / "recipe.yaml") if pairs.recipe(PAIR) else None
