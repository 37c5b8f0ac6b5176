"""Data on their way into a run: an exam split off its own file, filters, the trace of every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from temper.errors import DataError
from temper.model.fake import FakeLearner
from temper.recipe.load import load
from temper.run import trace
from temper.run.prepare import Prepared, prepare
from tests.fakes.world import ASKED, SAFE, World, live

CUSTOMERS = 20


def _recipe(world: World, stage: str = "", probe: str = "split: 40%, group: customer") -> Path:
    rows = [
        {"prompt": f"{question} {n}", "completion": SAFE, "customer": f"c{n % CUSTOMERS}"}
        for n, question in enumerate(ASKED * 2)
    ]
    (world.folder / "all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    path = world.folder / "split.yaml"
    path.write_text(
        f"base: {world.folder}/base\nprobes:\n  domain: [{{file: all.jsonl, {probe}}}]\n  general: [suite.toml]\n"
        f"tolerance: 20%\nstages:\n  - technique: sft\n    data: all.jsonl\n    replay: null\n    steps: 3\n"
        f"    batch_tokens: 60\n    lr: 1e-3\n    adapter: full\n    checkpoints: 1\n{stage}",
        encoding="utf-8",
    )
    return path


def _prepared(world: World, recipe: Path) -> Prepared:
    return prepare(load(recipe), world.backend, lambda *_: None)


def _customers(world: World, places: list[str]) -> set[str]:
    lines = (world.folder / "all.jsonl").read_text(encoding="utf-8").split("\n")
    return {json.loads(lines[int(place.rpartition(":")[2]) - 1])["customer"] for place in places}


def test_rows_held_out_of_their_own_file_are_not_learnt_and_no_group_is_on_two_sides(world: World) -> None:
    prepared = _prepared(world, _recipe(world))
    (learnt,), (exam,) = prepared.inventories[0].domain, prepared.domain
    assert len(learnt.datums) + len(exam.items) == 2 * len(ASKED)
    groups = {item["group"] for item in exam.items}
    assert _customers(world, [d.row for d in learnt.datums]).isdisjoint(groups)
    assert len(_customers(world, [d.row for d in learnt.datums]) | groups) == CUSTOMERS
    (read,) = prepared.inventories[0].files
    assert read.dropped == {"held-out": {"asked in the exam": len(exam.items)}}


def test_a_group_column_that_is_missing_is_refused_with_the_row(world: World) -> None:
    with pytest.raises(DataError, match=r"all\.jsonl:1.*no value of the group column 'client'"):
        _prepared(world, _recipe(world, probe="split: 40%, group: client"))


def test_filters_are_counted_and_what_they_left_out_is_listed(world: World) -> None:
    prepared = _prepared(world, _recipe(world, "    filters: [{name: length, min_characters: 64}]\n", "split: 40%"))
    (read,) = prepared.inventories[0].files
    lost = sum(read.dropped["length"].values())
    listed = [json.loads(line) for line in Path(str(read.listed)).read_text(encoding="utf-8").splitlines()]
    assert lost == sum(entry["filter"] == "length" for entry in listed) > 0
    assert any(f"length left out {lost} of" in notice for notice in prepared.inventories[0].notices)


def test_a_category_that_the_recipe_gives_no_share_is_found(world: World) -> None:
    asked = _recipe(world).read_text(encoding="utf-8")
    path = world.folder / "mixed.yaml"
    path.write_text(asked.replace("replay: null", "replay: {share: 20%, from: {code: 1, safety: 0}}"), encoding="utf-8")
    (found,) = (f for f in _prepared(world, path).findings() if f.code.startswith("M"))
    assert (found.code, found.where) == ("M002", "stages.0.replay.from")
    assert "knowledge (" in found.what and not {"code", "safety"} & set(found.what.split())


def test_the_trace_names_the_rows_of_every_step(world: World) -> None:
    result = world.run(load(_recipe(world)))
    prepared = _prepared(world, _recipe(world))
    feed = prepared.plan(0).feed(0, live(FakeLearner.__new__(FakeLearner), world.folder))
    for step in (1, 2, 3):
        rows = trace.read(result.folder.trace("01-sft"), step)
        assert [row.row for row in rows] == [datum.row for datum in next(feed)]
        assert all(row.source == "all.jsonl" and row.supervised > 0 and row.loss > 0 for row in rows)
    with pytest.raises(DataError, match="found steps 1 to 3; expected step 9"):
        trace.read(result.folder.trace("01-sft"), 9)


def test_what_the_linter_found_is_kept_for_the_next_start(world: World) -> None:
    first = _prepared(world, _recipe(world)).inventories[0]
    again = _prepared(world, _recipe(world)).inventories[0]
    assert first.findings and again.findings == first.findings
    assert (first.files[0].cached, again.files[0].cached) == (False, True)
