"""How a stage judges its candidates: exams of both kinds, floors, collapsed replies, what is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.decide.drop import percent
from temper.decide.frontier import Point
from temper.events import Candidate, Measurement, Noticed
from temper.losses import Objective, Term
from temper.model.protocol import BASE, Checkpoint, TrainSpec
from temper.probes import suites
from temper.probes.base import Probe, ProbeSpec, Where
from temper.run.context import Context, Start
from temper.run.folder import RunFolder
from temper.run.selection import Judge, select
from tests.fakes.world import ASKED, GREEDY, PROSE, World, held, of

STAGE = "01-sft"
TEXTS = Probe(
    spec=ProbeSpec(name="texts", axis="domain", kind="text", source="texts", role="domain"),
    items=tuple({"id": f"{n}", "text": f"{text} {GREEDY}"} for n, text in enumerate(PROSE)),
)
"""A text exam: half of it the base knows, half it does not."""
OBJECTIVE: Objective = (Term(loss="ce"),)
LEARNT = f"The quick brown fox jumps over the lazy dog. {GREEDY}"


def judge_of(world: World, *, suite: str = "suite.toml", **changes: Any) -> Judge:
    """A judge of full training from the base of the world, by the text exam."""
    base = world.backend.locate(str(world.folder / "base"))
    renderer = Renderer.load(base.folder)
    policy = world.backend.open(base.checkpoint, TrainSpec(rank=None, clip=1e9))
    general = suites.prepare(policy, renderer, suites.load_suite(world.folder / suite), cache=None)
    context = Context(
        folder=RunFolder(root=world.folder / "judged"), backend=world.backend, renderer=renderer, general=general,
        domain=(TEXTS,), base_cache=world.folder / "base-cache", listen=lambda _: None, progress=lambda *_: None,
        **{"tolerance": 0.1, **changes},
    )  # fmt: skip
    context.folder.root.mkdir()
    at_base = Where(checkpoint="base")
    return Judge(
        context=context, stage=STAGE, start=Start(checkpoint=base.checkpoint, domain=0.0), policy=policy, adapter=False,
        base_quick=context.measure(policy, general, split="quick", where=at_base),
        base_full=context.measure(policy, general, split="selection", where=at_base),
        base_closer=context.closer_look(base.checkpoint, now=None), domain=(TEXTS,),
        base_domain=context.measure(policy, (TEXTS,), split="selection", where=at_base),
    )  # fmt: skip


def train(judge: Judge, *, steps: int, every: int, lr: float = 1e-3) -> list[Point]:
    """Trains on one text and screens a checkpoint now and then."""
    tokens = judge.context.renderer.text(LEARNT)
    row = Datum(tokens=tokens, weights={"ce": (1.0,) * (len(tokens) - 1)}, source="texts")
    learner = judge.policy.learner
    points = []
    for step in range(1, steps + 1):
        learner.forward_backward([row], OBJECTIVE)
        learner.optim_step(lr)
        if step % every == 0:
            path = judge.context.folder.checkpoint(STAGE, step)
            learner.save(path)
            at = Checkpoint(id=f"{STAGE}/step-{step:06d}", path=path, base=judge.start.checkpoint.path, step=step)
            points.append(judge.screen(at))
    return points


def test_a_text_exam_is_scored_by_the_bits_that_it_saves(world: World) -> None:
    judge = judge_of(world)
    (point,) = train(judge, steps=2, every=2)
    log = judge.context.folder.events()
    bits = {m.checkpoint: m.value for m in of(log, Measurement) if m.probe == "texts"}
    assert 0 < bits[point.checkpoint] < bits["base"]
    assert point.domain == pytest.approx(1 - bits[point.checkpoint] / bits["base"])
    assert point.domain_drawn is not None and point.domain_drawn.value == pytest.approx(point.domain)
    assert [c.domain for c in of(log, Candidate)] == [point.domain]


def test_what_was_screened_before_is_computed_again_without_a_question(world: World) -> None:
    judge = judge_of(world)
    (point,) = train(judge, steps=2, every=2)
    judge.policy.learner.load(judge.start.checkpoint)  # other weights than those that were asked
    asked = [m for m in of(judge.context.folder.events(), Measurement) if m.checkpoint == point.checkpoint]
    again = judge.look(judge.checkpoint(point))
    assert (again.domain, again.drop, again.key) == (point.domain, point.drop, point.key)
    new = [m for m in of(judge.context.folder.events(), Measurement) if m.checkpoint == point.checkpoint]
    assert len(new) == 2 * len(asked) and all(m.seconds == 0.0 for m in new[len(asked) :])


def test_the_mean_of_the_last_half_is_a_candidate_of_every_stage(world: World) -> None:
    judge = judge_of(world, tolerance=0.9)
    points = train(judge, steps=8, every=2)
    selection = select(judge, points, stopped=False)
    log = judge.context.folder.events()
    mean = next(c for c in of(log, Candidate) if c.checkpoint == f"{STAGE}/step-000008-mean-2")
    # The exam's bits are convex in the logits, so the mean of two tables is no worse than the worse one of them.
    assert mean.domain >= min(p.domain for p in points[2:])
    assert mean.reason.startswith("mean of the last 2; general drop ")
    assert selection.verdict == "improved"


def test_a_floor_stands_in_the_way_of_what_keeps_the_tolerance(world: World) -> None:
    free = judge_of(world, tolerance=0.9)
    chosen = select(free, train(free, steps=6, every=3), stopped=False)
    assert chosen.point is not None and chosen.point.drop is not None
    assert chosen.point.drop.axes["language"].ucb95 > 0.05
    held_to = Judge(
        **{name: getattr(free, name) for name in ("stage", "start", "policy", "adapter", "base_quick", "base_full")},
        context=Context(**{**fields(free.context), "floors": {"language": 0.001}}),
        domain=free.domain, base_domain=free.base_domain,
    )  # fmt: skip
    bound = select(held_to, [held_to.look(free.checkpoint(p)) for p in trained(free)], stopped=False)
    if bound.point is not None:
        assert bound.point.drop is not None and bound.point.drop.axes["language"].ucb95 <= 0.001 + 1e-9
    assert any("(floor 0.1 %" in other.reason for other in bound.not_taken)


def test_the_choice_ends_when_there_is_no_time_for_another_look(world: World) -> None:
    """Two are worth a full look where time does not count; one is looked at in any case."""
    judge = judge_of(world, prefer="general", tolerance=0.9)
    points = train(judge, steps=6, every=3)
    whole = select(judge, points, stopped=False)
    assert sum(other.point.confirmed for other in whole.not_taken) + 1 == 2
    asked: list[float] = []

    def seconds_left(look: float) -> float:
        asked.append(look)
        return look / 2

    one = select(judge, points, stopped=False, seconds_left=seconds_left)
    assert sum(other.point.confirmed for other in one.not_taken) + (one.point is not None) == 1
    assert asked and asked[0] > 0
    (told,) = [e for e in of(judge.context.folder.events(), Noticed) if e.where == "budget"]
    assert told.text == "there is no time for another full look; the choice is made from 1"


def fields(context: Context) -> Mapping[str, Any]:
    return {name: getattr(context, name) for name in Context.__slots__}  # pyright: ignore[reportAttributeAccessIssue]


def trained(judge: Judge) -> list[Point]:
    """The trained checkpoints that a judge has screened."""
    found = [c for c in of(judge.context.folder.events(), Candidate) if c.checkpoint.count("-") == 2]
    return [
        Point(checkpoint=c.checkpoint, stage=STAGE, step=c.step, alpha=1.0, path=c.path, domain=c.domain, drop=None,
              split="quick")
        for c in found if c.split == "quick"
    ]  # fmt: skip


def test_replies_that_take_the_domains_form_are_noticed_and_named_in_the_reason(world: World) -> None:
    """The general probe asks what the domain asks; its own check is one the base fails, so nothing else sees it."""
    rows = [{"prompt": f"{q}?", "checks": [{"kind": "keyword", "word": "yes"}]} for q in ASKED]
    (world.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    probes = {"domain": ["safe-exam.jsonl"], "general": ["suite.toml", "talk.jsonl"]}
    result = world.run(world.recipe(probes=probes))
    log = held(result)
    (notice,) = [e for e in of(log, Noticed) if e.where == result.choice.checkpoint]
    assert notice.text.startswith("Format collapse: 100 % of the replies to talk ")
    assert 'it now replies "yes no yes."' in notice.text and "where the base replied" in notice.text
    assert result.verdict == "improved"
    assert "; but format collapse: 100 % of the replies to talk " in result.choice.reason
    (confirmed,) = [e for e in of(log, Candidate) if e.split == "selection"]
    assert "format collapse" in confirmed.reason


def test_a_confirmed_candidate_that_is_passed_over_says_why(world: World) -> None:
    judge = judge_of(world, prefer="general", tolerance=0.9)
    points = train(judge, steps=6, every=3)
    selection = select(judge, points, stopped=False)
    last = {c.checkpoint: c for c in of(judge.context.folder.events(), Candidate) if c.split == "selection"}
    passed = [other for other in selection.not_taken if other.point.confirmed]
    assert [other.point.step for other in passed] == [6]  # beyond the tolerance; the mean with step 3 is taken
    for other in passed:
        assert last[other.point.checkpoint].reason == other.reason
        assert last[other.point.checkpoint].eligible == other.able
    told = [(c.checkpoint, c.split, c.reason) for c in of(judge.context.folder.events(), Candidate)]
    assert len(told) == len(set(told)), "nothing is said twice"


def with_reserve(world: World) -> str:
    """A suite of few items that holds more in reserve; its name."""
    kinds = [("prose", "language", "text"), ("pairs", "reasoning", "choice")]
    probes = [
        f'[[probe]]\nname = "{n}"\naxis = "{a}"\nkind = "{k}"\nsource = "{n}.jsonl"\n'
        "items = 8\nquick = 4\nreserve = 12\n"
        for n, a, k in kinds
    ]  # fmt: skip
    (world.folder / "few.toml").write_text("\n".join(probes), encoding="utf-8")
    return "few.toml"


def test_a_candidate_that_few_items_refuse_is_looked_at_closer_and_taken(world: World) -> None:
    judge = judge_of(world, suite=with_reserve(world), tolerance=0.05)
    selection = select(judge, train(judge, steps=2, every=2, lr=3e-4), stopped=False)
    log = judge.context.folder.events()
    looks = [c for c in of(log, Candidate) if c.split == "selection"]
    assert [c.eligible for c in looks] == [False, True] and looks[0].ucb95 > 0.05 > looks[1].ucb95
    asked = [len(m.ids) for m in of(log, Measurement) if (m.probe, m.split) == ("prose", "selection")]
    assert asked == [8, 8, 19, 19]  # the base and the candidate; then both again with the 11 that the half has beside
    assert looks[0].reason.startswith("general drop") and looks[1].reason.startswith("looked at closer; general drop")
    assert selection.point is not None and selection.point.closer
    assert f"general drop {percent(looks[1].drop)}, at most {percent(looks[1].ucb95)}" in selection.reason


@pytest.mark.parametrize(("looks", "closer"), [(math.inf, True), (3.9, False)])
def test_without_time_for_a_closer_look_a_full_one_may_err_as_often_as_if_there_were_none(
    world: World, looks: float, closer: bool
) -> None:
    """It takes two full looks, and two at the base. With four tenths of the error rate the candidate is refused."""
    judge = judge_of(world, suite=with_reserve(world), tolerance=0.058)
    points = train(judge, steps=2, every=2, lr=3e-4)
    point = select(judge, points, stopped=False, seconds_left=lambda look: looks * look).point
    assert point is not None and point.closer == closer
    assert not [e for e in of(judge.context.folder.events(), Noticed) if e.where == "budget"]


def test_where_the_base_is_asked_at_once_no_second_model_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(world, suite=with_reserve(world))
    monkeypatch.setattr(type(world.backend), "open", lambda *_args, **_more: pytest.fail("a model was opened"))
    closer = judge.context.closer_look(judge.start.checkpoint, now=judge.policy)
    assert closer is not None and [len(m.ids) for m in closer() if m.probe == "prose"] == [19]
    assert closer() is closer(), "asked once"


def test_a_run_asks_the_base_for_the_items_in_reserve_only_when_a_candidate_needs_them(world: World) -> None:
    """By itself the last step loses at most 2.7 %, with the part of the error rate that a full look may spend 2.9 %."""
    probes = {"domain": ["soft-exam.jsonl"], "general": [with_reserve(world)]}
    learns = {"data": "greedy.jsonl", "steps": 8, "checkpoints": 1}
    asked = {}
    for tolerance in ("3%", "2.8%"):
        result = world.run(world.recipe(learns, tolerance=tolerance, probes=probes), out=tolerance)
        assert (result.verdict, result.choice.step) == ("improved", 8)
        found = [m for m in of(held(result), Measurement) if (m.probe, m.split) == ("prose", "selection")]
        asked[tolerance] = [(m.checkpoint == BASE, len(m.ids)) for m in found]
    assert asked == {
        "3%": [(True, 8), (False, 8)], "2.8%": [(True, 8), (False, 8), (True, 19), (False, 19)],
    }  # fmt: skip
