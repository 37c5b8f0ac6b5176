"""Data on their way into a run: an exam split off its own file, filters, the trace of every step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from temper.errors import DataError, RecipeError
from temper.model.fake import FakeBackend, FakeLearner
from temper.model.protocol import Base, Shape
from temper.recipe.load import load
from temper.run import trace
from temper.run.prepare import Prepared, _looked_at, prepare
from temper.techniques.inventory import Inventory
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


def test_a_split_that_holds_nothing_back_says_why(world: World) -> None:
    """It was said that the selection half was empty, and to add rows: all of them were one group."""
    path = _recipe(world, probe="split: 5%, group: completion")
    with pytest.raises(DataError, match=r"84 rows in 1 groups by 'completion', of which a split of 0\.05 holds none"):
        _prepared(world, path)
    with pytest.raises(DataError, match=r"all\.jsonl:1.*: \[F002\] found no value of the group column 'client'"):
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
    assert found.code == "M002" and "stages.0.replay.from.knowledge" in found.where
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


class ShortSighted(FakeBackend):
    """Models that read 64 tokens."""

    def shape(self, folder: Path) -> Shape:
        return dataclasses.replace(super().shape(folder), context=64)


class Blind(FakeBackend):
    """Finds no model."""

    def locate(self, name: str) -> Base:
        raise AssertionError(f"{name} was located")


def _of(world: World, rows: list[dict[str, object]], stage: str = "technique: sft") -> Prepared:
    """A recipe whose one stage learns these rows, prepared."""
    (world.folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    path = world.folder / "rows.yaml"
    path.write_text(
        f"base: {world.folder}/base\nprobes: {{domain: [safe-exam.jsonl], general: [suite.toml]}}\ntolerance: 20%\n"
        f"stages: [{{{stage}, data: rows.jsonl, steps: 3, lr: 1e-5, adapter: full}}]\n",
        encoding="utf-8",
    )
    return _prepared(world, path)


def test_a_row_that_is_refused_is_refused_with_the_code_of_the_page_on_the_linter(world: World) -> None:
    """The codes F, C004, R and T006 were declared and documented, and nothing that a user can run gave them."""
    good: list[dict[str, object]] = [{"prompt": q, "completion": SAFE} for q in ASKED[::2]]
    with pytest.raises(DataError, match=r"rows\.jsonl:22: \[F003\] an empty answer in 'completion'; expected text"):
        _of(world, [*good, {"prompt": "Turn", "completion": ""}], "technique: sft, replay: null")
    long: dict[str, object] = {"prompt": "Turn", "completion": "yes no. " * 40}
    with pytest.raises(DataError, match=r"rows\.jsonl:22: \[T006\] \d+ tokens up to the last one"):
        _of(world, [*good, long], "technique: sft, replay: null, max_length: 64")
    deaf: dict[str, object] = {"prompt": "Turn the light on " * 40, "completion": SAFE}
    with pytest.raises(DataError, match=r"rows\.jsonl:22: \[R006\] a prompt of \d+ tokens; expected fewer than 64"):
        _of(world, [*good, deaf], "technique: sft, replay: null, max_length: 64")


def test_what_the_model_cannot_read_is_refused_and_not_only_pointed_out(world: World) -> None:
    """A row longer than the context was trained on with a remark about max_length."""
    context = 64
    world = dataclasses.replace(world, backend=ShortSighted())
    good: list[dict[str, object]] = [{"prompt": q, "completion": SAFE} for q in ASKED[::2]]
    long = f"Turn the light on {'yes no. ' * context}"
    with pytest.raises(DataError, match=rf"rows\.jsonl:22: \[T006\] \d+ tokens .* at most {context}, all the model"):
        _of(world, [*good, {"prompt": "Turn", "completion": long}], "technique: sft, replay: null")
    tasks = [{"prompt": row["prompt"], "reference": "yes"} for row in good]
    with pytest.raises(DataError, match=rf"rows\.jsonl:22: \[R006\] a prompt of \d+ tokens; .* than {context}"):
        _of(world, [*tasks, {"prompt": long, "reference": "no"}], "technique: rft, replay: null, reward: exact")


def test_the_faults_of_all_files_are_told_at_once(world: World) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (world.folder / name).write_text('{"prompt": "Turn", "completion": ""}\n', encoding="utf-8")
    path = _recipe(world)
    path.write_text(path.read_text(encoding="utf-8").replace("data: all.jsonl", "data: [a.jsonl, b.jsonl]"))
    with pytest.raises(DataError) as refused:
        _prepared(world, path)
    assert [line.partition(": ")[0][-9:] for line in str(refused.value).splitlines()] == ["a.jsonl:1", "b.jsonl:1"]


def test_the_rows_of_all_files_are_looked_over_together(world: World) -> None:
    """Each file was linted alone: a row in two of them went unseen, and every small file had too few rows."""
    for name, questions in (("a", ASKED[:30:2]), ("b", ASKED[28:36:2])):  # 15 rows and 4, one of them in both
        rows = [json.dumps({"prompt": q, "completion": SAFE}) + "\n" for q in questions]
        (world.folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    path = _recipe(world, probe="split: 40%")
    path.write_text(path.read_text(encoding="utf-8").replace("data: all.jsonl", "data: [a.jsonl, b.jsonl]"))
    found = {f.code: f for f in _prepared(world, path).inventories[0].findings}
    assert found["T001"].what == "1 of 19 rows stand in the training data already"
    assert found["T001"].where.endswith("b.jsonl:1")
    assert "T005" not in found  # 19 rows are enough
    again = _prepared(world, path).inventories[0].findings
    assert {f.code: f for f in again} == found


def test_tasks_are_linted_as_rows_are(world: World) -> None:
    """An exam row among the tasks of reinforcement was trained on without a word: tasks went past the linter."""
    stage = "technique: rft, replay: null, reward: exact"
    tasks: list[dict[str, object]] = [{"prompt": f"Turn the light {n} on", "reference": "yes"} for n in range(20)]
    found = _of(world, [*tasks, tasks[0]], stage).inventories[0].findings
    assert {"T001", "T005"} <= {f.code for f in found}  # a copy, and fewer than 100
    leaked: list[dict[str, object]] = [{"prompt": ASKED[1], "reference": SAFE}]
    with pytest.raises(DataError, match=r"safe-exam\.jsonl:1: \[T003\] 1 of 21 .*there: .*rows\.jsonl:21"):
        _of(world, [*tasks, *leaked], stage)


def test_tasks_that_a_filter_left_out_are_listed(world: World) -> None:
    """Those of rows were; of tasks only their number was told."""
    stage = "technique: rft, replay: null, reward: exact, filters: [{name: length, max_characters: 30}]"
    tasks: list[dict[str, object]] = [{"prompt": f"Turn the light {n} on", "reference": "yes"} for n in range(20)]
    long: list[dict[str, object]] = [{"prompt": "Turn " * 9, "reference": "yes"}]
    (read,) = _of(world, [*tasks, *long], stage).inventories[0].files
    assert (read.rows, sum(read.dropped["length"].values())) == (20, 1)
    (line,) = Path(str(read.listed)).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["filter"] == "length" and "rows.jsonl:21" in line
    (read,) = _of(world, tasks, stage).inventories[0].files
    assert (read.dropped, read.listed) == ({}, None)


def test_the_tools_of_a_task_are_written_or_the_task_is_refused(world: World) -> None:
    """A task's tools were left out of what the model was asked, without a word."""
    tool = {"type": "function", "function": {"name": "lamp", "parameters": {"type": "object"}}}
    tasks: list[dict[str, object]] = [{"prompt": f"Turn {n}", "reference": "yes", "tools": [tool]} for n in range(3)]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: \[R007\] the row has tools, but the model's chat template"):
        _of(world, tasks, "technique: rft, replay: null, reward: exact")


def test_what_replay_names_and_nobody_has_is_refused_before_a_model_is_there(world: World) -> None:
    """The base model wrote its own replay, for minutes, before a misspelt category was refused."""
    rows: list[dict[str, object]] = [{"prompt": q, "completion": SAFE} for q in ASKED[::2]]
    world = dataclasses.replace(world, backend=Blind())
    for asked, told in (
        ("reasonin: 1", r"stages\.0\.replay\.from\.reasonin: .*did you mean 'reasoning'"),
        ("chat_replay: 1", r"stages\.0\.replay\.from\.chat_replay: .*prompts without answers.*write instruction"),
        ("code: 1, piqa: 1", r"stages\.0\.replay\.from\.piqa: \[M003\].*role is eval-only"),
    ):
        with pytest.raises((RecipeError, DataError), match=told):
            _of(world, rows, f"technique: sft, replay: {{share: 20%, from: {{{asked}}}}}")


def test_a_share_of_nothing_is_refused_with_the_reason_why_there_is_nothing(world: World) -> None:
    """That none of the samples was usable was a notice, which nobody saw once the mix had been refused."""
    path = _recipe(world)
    text = path.read_text(encoding="utf-8").replace("replay: null", "replay: {share: 20%, from: {own-free: 1}}")
    path.write_text(text, encoding="utf-8")
    (stage,) = load(path).stages
    found = Inventory(domain=(), general=(), notices=("all.jsonl: left out 1", "replay.own: none was usable"))
    with pytest.raises(DataError) as refused:
        _looked_at(found, stage, None, where="stages.0")
    mix, why = str(refused.value).splitlines()
    assert mix.startswith("stages.0.replay.from.own-free: [M001]")
    assert why == "replay.own: none was usable"
