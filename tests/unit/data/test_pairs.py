"""Preference pairs on disk: two datums side by side, one group, whatever filters and workers do to them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from temper.data import filters, tokenise
from temper.data.lint.faults import code_of
from temper.data.mixture import MixSource, Mixture
from temper.data.render import Renderer
from temper.data.rows import open_table
from temper.data.tokenise import Job
from tests.tiny import GEMMA, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("cache")

PAIRS = (
    {"prompt": "kitchen light on", "chosen": "yes", "rejected": "no no no"},
    {"prompt": "What is the capital of France?", "chosen": "Paris is the capital.", "rejected": "yes"},
    {"prompt": "kitchen light on", "chosen": "yes", "rejected": "no no no"},
    {"prompt": "Answer in one word", "chosen": "no", "rejected": "The quick brown fox"},
)


def job(tmp_path: Path, folder: Path, rows: Sequence[object] = PAIRS, **settings: object) -> Job:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = open_table(path)
    return Job(source=table, name="home", folder=folder, pairs=True, **settings)  # pyright: ignore[reportArgumentType]


def test_a_pair_is_stored_as_the_renderer_makes_it(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    found = tokenise.tokenise(job(tmp_path, folder), renderer)
    rows = list(open_table(tmp_path / "pairs.jsonl").rows())
    made = [d for n, row in enumerate(rows) for d in renderer.pair(row, source="home", group=n, term="ce")]
    assert list(found.store) == made
    assert [d.group for d in found.store] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.store.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # pyright: ignore[reportOptionalMemberAccess]
    again = tokenise.tokenise(job(tmp_path, folder), renderer)
    assert again.cached
    assert list(pickle.loads(pickle.dumps(again.store))) == made


def test_the_two_answers_begin_alike_and_only_they_are_learnt(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    chosen, rejected = tokenise.tokenise(job(tmp_path, folder), renderer).store[:2]
    learnt = [[d.tokens[t + 1] for t, w in enumerate(d.weights["ce"]) if w] for d in (chosen, rejected)]
    assert [renderer.decode(tokens) for tokens in learnt] == ["yes", "no no no"]
    assert all(tokens[-1] == renderer.end_tokens[0] for tokens in learnt)
    asked = chosen.weights["ce"].index(1.0)
    assert chosen.tokens[: asked + 1] == rejected.tokens[: asked + 1]


@pytest.mark.slow
def test_workers_and_this_process_store_the_same(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer.load(folder)
    here = list(tokenise.tokenise(job(tmp_path, folder), renderer, workers=1).store)
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(tokenise, "SMALL", 0)
    assert list(tokenise.tokenise(job(tmp_path, folder), renderer, workers=2).store) == here


def test_a_filter_takes_whole_pairs_away(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    """The third pair repeats the first: its two datums go, and what the linter sees goes with them."""
    asked = job(tmp_path, folder, filters=filters.parse("dedup"), inspect=lambda row, datum: (row.origin, datum.tokens))
    found = tokenise.tokenise(asked, renderer)
    assert [d.group for d in found.store] == [0, 0, 1, 1, 3, 3]
    assert found.store.group.tolist() == [0, 0, 1, 1, 3, 3]  # pyright: ignore[reportOptionalMemberAccess]
    path = tmp_path / "pairs.jsonl"
    assert found.facts is not None
    assert list(found.facts) == [(f"{path}:{n + 1}", found.store[2 * at].tokens) for at, n in enumerate((0, 1, 3))]
    (dropped,) = found.store.dropped()
    assert (dropped["origin"], dropped["of"]) == (f"{path}:3", f"{path}:1")


def test_a_mixture_never_divides_a_stored_pair(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    store = tokenise.tokenise(job(tmp_path, folder), renderer).store
    source = MixSource(name="home", role="domain", category="domain", datums=store, share=1.0)
    mixed = Mixture(sources=(source,), seed=0)
    size = int(store.supervised.max()) * 2
    steps = [mixed.step(n, size) for n in range(12)]
    for step in steps:
        assert all(a.group == b.group and a.tokens != b.tokens for a, b in zip(step[::2], step[1::2], strict=True))
    # Over any run of steps the source is off by less than one pair.
    taken = sum(d.supervised for step in steps for d in step)
    assert abs(taken - 12 * size) < 2 * size


def test_pairs_that_cannot_be_used_are_named(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    rows = [PAIRS[0], *({"prompt": "x", "chosen": "yes", "rejected": rejected} for rejected in (None, "yes"))]
    store = tokenise.tokenise(job(tmp_path, folder, rows), renderer).store
    path = tmp_path / "pairs.jsonl"
    assert len(store) == 2
    missing, same = store.faults()
    assert missing.startswith(f"{path}:2: ")
    assert same == f"{path}:3: chosen and rejected are the same; expected two different answers; delete the row"


def test_answers_that_the_template_makes_the_same_are_refused(tmp_path: Path) -> None:
    """Gemma's template strips the blanks around an answer; a pair that differs in them alone teaches nothing."""
    folder = tiny_tokenizer(tmp_path / "gemma", GEMMA)
    rows = [{"prompt": "x", "chosen": "yes", "rejected": "yes "}]
    (fault,) = tokenise.tokenise(job(tmp_path, folder, rows), Renderer.load(folder)).store.faults()
    assert "are the same tokens as the chat template writes them" in fault
    assert code_of(fault.partition("jsonl:1: ")[2]) == "C006"
