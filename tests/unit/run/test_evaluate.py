"""Two fake models on the same probes: what is paired, what is joined, and what a collapse looks like."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from temper.data.render import Renderer
from temper.data.rows import Message
from temper.errors import DataError
from temper.model.fake import FakeBackend
from temper.run.evaluate import Evaluation, evaluate, questions
from temper.run.subject import find
from tests.fakes.world import ASKED, PROSE, World

BRIEF = "yes no."


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    made = World.make(tmp_path)
    rows = [{"prompt": f"{q}?", "checks": [{"kind": "keyword", "word": "fox"}]} for q in ASKED]
    write(tmp_path / "talk.jsonl", rows)
    write(tmp_path / "brief.jsonl", [{"prompt": q, "completion": BRIEF} for q in ASKED])
    speaking(made, "talker", PROSE[0])
    return made


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def speaking(world: World, name: str, answer: str) -> Path:
    """A model that gives every question this answer and knows the prose."""
    base, folder = world.folder / "base", world.folder / name
    shutil.copytree(base, folder)
    renderer = Renderer.load(base)
    end = renderer.end_tokens[0]
    last = renderer.prompt([Message(role="user", content=ASKED[0])])[-1]
    replies = [(last, *renderer.text(answer), end)] * 99
    FakeBackend().write(folder, [*replies, *((*renderer.text(p), end) for p in PROSE)])
    return folder


def compare(world: World, model: Path, *names: str) -> Evaluation:
    backend = world.backend
    asked = questions([str(world.folder / n) for n in names])
    base = find(str(world.folder / "talker"), backend)
    return evaluate(find(str(model), backend), base, asked, backend, progress=lambda *_: None)


def test_both_halves_are_asked_and_joined(world: World):
    found = compare(world, speaking(world, "tuned", BRIEF), "suite.toml", "brief.jsonl")
    items = {m.probe: len(m.ids) for m in found.now}
    assert items == {"brief": 42, "prose": 40, "pairs": 20}
    assert {m.probe: m.value for m in found.now}["brief"] == 1.0
    assert found.drop is not None and set(found.drop.axes) <= {"language", "reasoning"}


def test_a_model_that_answers_everything_like_the_domain_has_collapsed_and_is_shown(world: World):
    found = compare(world, speaking(world, "tuned", BRIEF), "prose.jsonl", "talk.jsonl", "brief.jsonl")
    (sign,) = [s for s in found.collapse if s.sign == "shape"]
    assert (sign.probe, sign.before, sign.now, sign.reply) == ("talk", 0.0, 1.0, BRIEF)
    assert "fox" in sign.reply_before
    assert sign.prompt.endswith("?")


def test_a_model_compared_with_itself_has_lost_nothing_and_needs_no_more_items(world: World):
    found = compare(world, world.folder / "talker", "prose.jsonl", "talk.jsonl", "brief.jsonl")
    assert found.drop is not None
    assert (found.drop.drop, found.drop.resolution, found.required, found.collapse) == (0.0, 0.0, 0.0, ())


def test_the_items_needed_follow_from_what_these_items_resolve(world: World):
    found = compare(world, speaking(world, "tuned", BRIEF), "prose.jsonl")
    assert found.drop is not None
    # resolution is 1.645 standard errors; 80 % power at 1 % needs (1.645 + 0.842) of them to fit into it
    standard_error = found.drop.resolution / 1.6449
    assert found.required == pytest.approx(((1.6449 + 0.8416) * standard_error / 0.01) ** 2, rel=1e-3)


def test_two_files_of_one_name_are_refused(world: World):
    other = world.folder / "other"
    other.mkdir()
    write(other / "prose.jsonl", [{"text": "The fox."}])
    with pytest.raises(DataError, match=r"other/prose.jsonl: a probe called 'prose' is there already, from .*prose"):
        questions([str(world.folder / "prose.jsonl"), str(other / "prose.jsonl")])


def test_items_with_a_misspelt_kind_are_not_taken_for_an_exam(world: World):
    rows = [{"kind": "numerc", "prompt": f"{n} + 1?", "completion": str(n)} for n in range(40)]
    with pytest.raises(DataError, match=r"sums.jsonl:1: found kind 'numerc'.*did you mean 'numeric'"):
        questions([str(write(world.folder / "sums.jsonl", rows))])
    tickets = [{"kind": "complaint", "prompt": f"ticket {n}", "completion": "late"} for n in range(40)]
    path = write(world.folder / "tickets.jsonl", tickets)
    assert questions([str(path)]).exams == (path,)
