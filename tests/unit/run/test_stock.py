"""What there is to learn from and what the base can do, as the advice is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from temper import registry
from temper.data import fetch
from temper.events import Measurement
from temper.probes import suites
from temper.recipe.resolve import step_tokens
from temper.run.estimate import estimate
from temper.run.prepare import Prepared, prepare
from temper.run.stock import advice, measure_base, score, stock
from temper.run.timing import Answering, probing_seconds, to_come

if TYPE_CHECKING:
    from tests.fakes.world import World


def _ignore(*_: object) -> None:
    """Nobody listens."""


def _prepared(world: World, *stages: Mapping[str, Any]) -> Prepared:
    return prepare(world.recipe(*stages), world.backend, _ignore)


def _answers(*items: float, method: str = "generate") -> Measurement:
    return Measurement(
        checkpoint="base", probe="exam", axis="domain", role="domain",
        method=method,  # pyright: ignore[reportArgumentType]
        metric="exact", split="selection", ids=tuple(map(str, range(len(items)))), items=items,
        sizes=(1.0,) * len(items), hard=items,
    )  # fmt: skip


def test_rows_of_all_stages_are_counted_once_per_file(world: World) -> None:
    prepared = _prepared(world, {}, {}, {"data": "greedy.jsonl"})
    found = stock(prepared)
    # safe.jsonl twice and greedy.jsonl: every second of the 42 questions each.
    assert (found.pairs.rows, found.text.rows, found.tasks.rows) == (42, 0, 0)
    assert found.pairs.tokens == sum(len(d.tokens) for i in (0, 2) for d in prepared.inventories[i].domain[0].datums)
    assert (found.model, found.origin, found.score) == ("base", "base", None)


def test_what_a_stage_learns_from_says_what_its_files_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    techniques = {**registry.BUILT_IN["technique"], "cpt": "temper.techniques.cpt:CPT"}
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "technique": techniques})
    pages = (" ".join(f"The lazy lamp {n} of {k} jumps over the kitchen." for k in range(60)) for n in range(40))
    lines = (f'{{"text": "{page}"}}\n' for page in pages)
    (world.folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    cpt = {"technique": "cpt", "data": "texts.jsonl"}
    found = stock(_prepared(world, cpt, {}))
    assert 0 < found.text.rows <= 40  # a part may be held out to judge by
    assert found.pairs.rows == 21


def test_the_base_takes_the_exam_once_and_the_run_finds_the_answers(world: World) -> None:
    prepared = _prepared(world)
    told: list[str] = []
    first = measure_base(prepared, world.backend, seconds=2.4, progress=lambda what, *_: told.append(what))
    assert told == ["the base takes the exam, about 2 s: probe safe-exam"]
    # What is kept is read however long asking would take.
    again = measure_base(prepared, world.backend, seconds=6000, progress=_ignore)
    assert [m.items for m in again] == [m.items for m in first]
    assert again[0].seconds == 0.0  # nothing was asked twice
    assert list((fetch.cache_dir() / "probes" / prepared.base.sha256[:16]).glob("safe-exam*"))
    found = advice(prepared, first).step("sft")
    # The base answers none of the exam's questions; 21 rows are few.
    assert found.verdict == "run"
    assert "21 prompts with answers; that is few" in found.reason
    assert "base scores 0 % (0 to" in found.reason


def test_an_exam_that_takes_too_long_is_left_to_the_run(world: World) -> None:
    assert measure_base(_prepared(world), world.backend, seconds=601, progress=_ignore) == ()


def test_the_estimate_says_how_long_the_exam_takes(world: World) -> None:
    expected = estimate(_prepared(world), world.backend, progress=_ignore)
    assert 0 < expected.exam_seconds < expected.probing_seconds


def test_time_is_kept_for_one_closer_look_a_stage(world: World) -> None:
    prepared = _prepared(world)
    (prose, _) = suites.load_suite(world.folder / "suite.toml")
    stages, speed = prepared.resolved.stages * 2, Answering(scored=100.0, written=100.0)
    suite = [(replace(prose, items=4, quick=0, reserve=n),) for n in (0, 8)]
    plain, more = (probing_seconds(replace(prepared.questions, suite=one), stages, speed) for one in suite)
    # The base, two looks of each stage and the test split, twice: 4 items seven times, none of them during training.
    exams = probing_seconds(replace(prepared.questions, suite=()), stages, speed)
    assert more - plain == pytest.approx(2 * 2 * (plain - exams) / 7)


def test_the_score_is_the_mean_over_probes_with_its_interval() -> None:
    found = score([_answers(1.0, 0.0, 1.0, 0.0), _answers(*[0.0] * 12)])
    assert found is not None
    assert (found.value, found.items) == (0.25, 16)  # (1/2 + 0) / 2
    # Wilson at 95 %: 2 of 4 is 0.150 to 0.850, 0 of 12 is 0 to 0.243.
    assert found.low == pytest.approx(0.075, abs=5e-4)
    assert found.high == pytest.approx(0.546, abs=5e-4)


def test_bits_per_byte_are_no_score() -> None:
    assert score([_answers(3.0, 4.0, method="loss")]) is None
    assert score([]) is None


def test_what_follows_a_stage_takes_its_training_its_looks_and_the_test_split(world: World) -> None:
    prepared = _prepared(world, {"steps": 10}, {"steps": 4})
    stages = prepared.resolved.stages[1:]
    facts = [replace(fact, tokens_per_second=50.0) for fact in prepared.facts[1:]]
    training = 4 * step_tokens(stages[0], facts[0]) / 50.0
    assert to_come((), (), 30.0) == 60.0  # the base and the result on the test split
    assert to_come(stages, facts, 30.0) == pytest.approx(training + 90.0)
    assert training > 0
