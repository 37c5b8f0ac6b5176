"""On-policy distillation: the student's own replies, judged by a teacher that knows the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.data.rows import read_rows
from temper.errors import CheckpointError, DataError, RecipeError
from temper.events import DataUsed, Event, Step, Verdict
from temper.losses import Term
from temper.model.fake import FakeLearner, FakeSampler
from temper.model.protocol import Checkpoint, Policy, TrainSpec
from temper.report import render_report
from temper.run.prepare import prepare
from temper.techniques.base import Live
from temper.techniques.distill import LOSS, Distill, ResolvedDistill, check_tokens
from temper.techniques.inventory import Inventory
from temper.train import train
from tests.fakes.world import ASKED, World, held, of
from tests.tiny import SPECIAL, tiny_tokenizer

REPAIR = {
    "technique": "distill", "data": "questions.jsonl", "batch_tokens": "auto", "steps": 6, "prompts": 5,
    "max_new_tokens": 12,
}  # fmt: skip
BENT = {"data": "greedy.jsonl", "choose": "last", "guard": "off", "steps": 6, "checkpoints": 1}


@pytest.fixture
def asked(world: World) -> World:
    """The world with general questions, whose answers nobody reads."""
    lines = [{"prompt": q, "completion": "unread"} for q in ASKED[1::2]]
    (world.folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    return world


def settled(world: World, **fields: Any) -> tuple[Distill, ResolvedDistill, Inventory]:
    prepared = prepare(world.recipe({**REPAIR, **fields}), world.backend, lambda *_: None)
    technique, resolved = prepared.recipe.stages[0], prepared.resolved.stages[0]
    assert isinstance(technique, Distill)
    assert isinstance(resolved, ResolvedDistill)
    return technique, resolved, prepared.inventories[0]


def live(world: World, learner: FakeLearner, name: str = "base") -> Live:
    base = world.backend.locate(str(world.folder / name)).checkpoint
    return Live(
        policy=Policy(learner=learner, sampler=FakeSampler(learner)), start=base, open=world.backend.open,
        renderer=Renderer.load(world.folder / "base"), folder=world.folder, cache=world.folder / "cache",
        log=lambda event: event, progress=lambda *_: None,
    )  # fmt: skip


def bent(world: World) -> FakeLearner:
    """A student that has learnt to answer everything in one way, and whose teacher is its base."""
    base = world.backend.locate(str(world.folder / "base")).checkpoint
    learner = FakeLearner(base, TrainSpec(rank=None, reference=base.path), 500.0)
    renderer = Renderer.load(world.folder / "base")
    rows = [renderer.datum(row, source="") for row in read_rows(world.folder / "greedy.jsonl")]
    for _ in range(12):
        learner.forward_backward(rows, (Term(loss="ce"),))
        learner.optim_step(1e-3)
    learner.load(_saved(learner, world.folder / "bent"))
    return learner


def _saved(learner: FakeLearner, folder: Path) -> Checkpoint:
    learner.save(folder)
    return Checkpoint(id="bent", path=folder, base=folder)


def said_after(batch: Sequence[Datum]) -> list[int]:
    """The tokens after which the student said something."""
    return [d.tokens[t] for d in batch for t, w in enumerate(d.weights[LOSS]) if w]


def divergence(world: World, learner: FakeLearner, rows: Sequence[int]) -> float:
    """Mean KL(base || student) after these tokens, over the whole vocabulary."""
    base = FakeLearner(world.backend.locate(str(world.folder / "base")).checkpoint, TrainSpec(rank=None))

    def log_softmax(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return table - np.log(np.exp(table).sum(axis=1, keepdims=True))

    ours, theirs = log_softmax(learner.table[rows]), log_softmax(base.table[rows])
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())


def test_a_teacher_that_is_the_student_has_nothing_to_say(asked: World) -> None:
    steps = of(held(asked.run(asked.recipe(REPAIR))), Step)
    assert [step.loss for step in steps[:1]] == pytest.approx([0.0], abs=1e-6)
    assert [step.figures["teacher_kl"] for step in steps] == pytest.approx([step.loss for step in steps])
    assert steps[0].grad_norm == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_a_bent_student_comes_back_to_its_base(asked: World) -> None:
    technique, stage, inventory = settled(asked, steps=80, prompts=16, lr=2e-4, max_new_tokens=8)
    learner = bent(asked)
    plan, start = technique.plan(stage, inventory, seed=0), live(asked, learner)
    places = said_after(next(plan.feed(0, start)))
    before = divergence(asked, learner, places)
    steps = [taken.step for taken in train(plan, start)]
    assert divergence(asked, learner, places) < 0.3 * before
    assert steps[0].loss == pytest.approx(before)  # what a step reports
    assert sum(step.loss for step in steps[-10:]) < 0.5 * sum(step.loss for step in steps[:10])


def test_what_is_learnt_from_is_what_the_student_says_now(asked: World) -> None:
    technique, stage, inventory = settled(asked)
    learner = bent(asked)
    plan = technique.plan(stage, inventory, seed=0)
    at = live(asked, learner)
    feed = plan.feed(0, at)
    batch = next(feed)
    assert len(batch) == 5
    for datum in batch:
        reply = [t for t, w in enumerate(datum.weights[LOSS]) if w]
        assert reply == list(range(reply[0], len(datum.tokens) - 1))  # the end of the turn is judged too
    same = next(plan.feed(1, at))
    learner.forward_backward(batch, plan.objective)
    learner.optim_step(0.01)
    changed = next(feed)
    assert [d.row for d in changed] == [d.row for d in same]
    assert changed != same  # by the new weights: no batch was made ahead
    assert changed == next(plan.feed(1, at))


def test_prompts_come_in_an_order_that_the_step_alone_decides(asked: World) -> None:
    technique, stage, inventory = settled(asked)
    plan = technique.plan(stage, inventory, seed=0)
    student = live(asked, bent(asked))
    feed = plan.feed(0, student)
    whole = [next(feed) for _ in range(4)]
    assert next(plan.feed(3, student)) == whole[3]
    # 21 questions, 5 per step: none comes twice in the first four steps.
    rows = [d.row for batch in whole for d in batch]
    assert len(set(rows)) == len(rows) == 20
    shown = list(islice(plan.rows(), 5))
    assert [d.row for d in shown] == rows[:5]
    assert not any(d.supervised for d in shown)


@pytest.mark.slow
def test_a_repair_that_was_stopped_goes_on_with_the_same_replies(asked: World) -> None:
    """The draws of a step follow from seed and step, and the weights are those of the step."""
    _other(asked)
    recipe = asked.recipe({**REPAIR, "teacher": "other", "checkpoints": 3, "guard": "off"})

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked.run(recipe, "again", listen=stop)
    once, twice = (of(held(asked.run(recipe, out)), Step) for out in ("whole", "again"))
    assert [(e.step, e.loss, e.tokens) for e in once] == [(e.step, e.loss, e.tokens) for e in twice]
    assert len(once) == 6


@pytest.mark.slow
def test_after_a_stage_the_teacher_is_the_base_of_the_run(asked: World) -> None:
    """Not the start of the stage, which has nothing to repair in itself."""
    result = asked.run(asked.recipe(BENT, {**REPAIR, "prompts": 16}))
    steps = [e for e in of(held(result), Step) if e.stage == "02-distill"]
    assert steps[0].loss > 0.001  # beside its own start it would be zero


@pytest.mark.slow
def test_a_repair_that_begins_beyond_the_tolerance_is_not_stopped(asked: World) -> None:
    log = held(asked.run(asked.recipe({**BENT, "steps": 24}, {**REPAIR, "checkpoints": 3, "lr": 1e-5})))
    verdicts = [v for v in of(log, Verdict) if v.stage == "02-distill"]
    assert verdicts[0].lcb95 > 0.1 and verdicts[-1].step == 6
    assert {v.level for v in verdicts} == {"warn"}


def test_another_model_may_be_the_teacher(asked: World) -> None:
    other = _other(asked)
    recipe = asked.recipe({**REPAIR, "teacher": "other"})
    assert recipe.stages[0].teacher == str(other)  # pyright: ignore[reportAttributeAccessIssue]
    assert of(held(asked.run(recipe)), Step)[0].loss > 0.5


def _other(world: World) -> Path:
    """A model that has read one sentence, with the tokens of the base."""
    folder = tiny_tokenizer(world.folder / "other")
    return world.backend.write(folder, [Renderer.load(folder).text("yes no yes")])


def test_a_teacher_with_other_tokens_is_refused_with_the_reason(asked: World, tmp_path: Path) -> None:
    ours = Renderer.load(asked.folder / "base")
    check_tokens(ours, Renderer.load(tiny_tokenizer(tmp_path / "same")), where="same")
    other = tiny_tokenizer(asked.folder / "foreign")
    told = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    names = {word: number for number, word in enumerate(sorted(told["model"]["vocab"], reverse=True))}
    told["model"]["vocab"] = {**names, **{s: told["model"]["vocab"][s] for s in SPECIAL}}
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    asked.backend.write(other, [])
    wanted = r"teacher .*foreign.*: found a tokenizer in which \d+ of the \d+ tokens .* expected the same tokens"
    with pytest.raises(CheckpointError, match=wanted):
        asked.run(asked.recipe({**REPAIR, "teacher": "foreign"}))


def test_rows_without_prompts_are_refused(asked: World) -> None:
    (asked.folder / "texts.jsonl").write_text('{"text": "the lazy dog"}\n' * 20, encoding="utf-8")
    with pytest.raises(DataError, match=r"texts\.jsonl: found plain text, which asks and answers nothing"):
        asked.run(asked.recipe({**REPAIR, "data": "texts.jsonl"}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"replay": {"share": "20%"}}, r"stages\.0\.replay: .*expected none, the prompts of this technique are its"),
        ({"epochs": 2, "steps": None}, r"stages\.0\.epochs: .*distill learns from what the model says"),
        ({"prompts": 0}, r"stages\.0\.prompts: "),
        ({"teacher": "./nowhere"}, r"stages\.0\.teacher: .*there is no folder"),
    ],
)
def test_fields_that_make_no_sense_are_refused(asked: World, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        asked.recipe({**REPAIR, **fields})


def test_a_reply_must_fit_after_the_longest_prompt(asked: World) -> None:
    with pytest.raises(
        RecipeError, match=r"stages\.0\.max_length: found \d+ tokens of the longest prompt and 12 of a r"
    ):
        settled(asked, max_length=16)


def test_rows_that_are_held_stand_beside_the_replies(asked: World) -> None:
    technique, stage, inventory = settled(asked, hold="greedy.jsonl")
    plan, student = technique.plan(stage, inventory, seed=0), live(asked, bent(asked))
    feed = plan.feed(0, student)
    first, second = next(feed), next(feed)
    kinds = [sorted(d.weights) for d in first]
    assert kinds[:5] == [[LOSS]] * 5  # the replies, one to a prompt
    assert set(map(tuple, kinds[5:])) == {("ce",)}
    assert len(kinds) - 5 == pytest.approx(5, abs=2)  # as many rows, counted by their tokens
    assert next(plan.feed(1, student))[5:] == second[5:] != first[5:]
    assert [term.loss for term in plan.objective] == [LOSS, "ce"]
    assert [d.weights.keys() for d in islice(plan.rows(), len(first))] == [d.weights.keys() for d in first]


@pytest.mark.slow
def test_what_is_held_stays_learnt(asked: World) -> None:
    """The same repair with and without the rows that the student was bent by: what they teach is lost or kept."""
    lost, bending = {}, read_rows(asked.folder / "greedy.jsonl")
    for hold in (None, "greedy.jsonl"):
        technique, stage, inventory = settled(asked, steps=40, prompts=16, lr=2e-4, max_new_tokens=8, hold=hold)
        learner = bent(asked)
        rows = [Renderer.load(asked.folder / "base").datum(row, source="") for row in bending]
        before = learner.forward_backward(rows, (Term(loss="ce"),)).loss
        learner.optim_step(0.0)
        for _ in train(technique.plan(stage, inventory, seed=0), live(asked, learner)):
            pass
        lost[hold] = learner.forward_backward(rows, (Term(loss="ce"),)).loss - before
    assert lost["greedy.jsonl"] < 0.5 * lost[None]
    assert lost[None] > 0.1


def test_the_report_shows_how_far_the_teacher_is(asked: World) -> None:
    page = render_report(held(asked.run(asked.recipe({**REPAIR, "hold": "greedy.jsonl"}))))
    assert "Divergence from the teacher" in page
    assert "Divergence from the teacher" not in render_report(held(asked.run(asked.recipe(BENT), "other")))


def test_rows_that_are_held_are_read_and_told_like_any_other(asked: World) -> None:
    log = held(asked.run(asked.recipe({**REPAIR, "hold": ["greedy.jsonl"]})))
    (used,) = of(log, DataUsed)
    rows = len(read_rows(asked.folder / "greedy.jsonl"))
    assert (used.source, used.role, used.rows) == ("greedy.jsonl", "domain", rows)
    (asked.folder / "bad.jsonl").write_text('{"prompt": "what"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:1"):
        asked.run(asked.recipe({**REPAIR, "hold": "bad.jsonl"}), "bad")
    with pytest.raises(RecipeError, match=r"stages\.0\.hold.*nowhere\.jsonl"):
        asked.recipe({**REPAIR, "hold": "nowhere.jsonl"})


def test_what_a_step_says_is_foretold(asked: World) -> None:
    technique, stage, inventory = settled(asked)
    mean = sum(map(len, inventory.prompts)) / len(inventory.prompts)
    assert stage.sampled_tokens == round(5 * (mean + 12))
    assert (stage.teacher, stage.batch_tokens) == ("", 0)
    most = max(sum(len(d.tokens) for d in b) for b in islice(technique.plan(stage, inventory, seed=0).feed(0, live(asked, bent(asked))), 4))  # fmt: skip  # noqa: E501
    assert most <= 5 * (max(map(len, inventory.prompts)) + 12)
