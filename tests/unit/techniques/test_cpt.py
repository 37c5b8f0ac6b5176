"""Continued pre-training: documents in windows, judged by held-out text, refused where it would teach nothing."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from temper.data.documents import open_tables
from temper.data.split import is_held_out
from temper.errors import CheckpointError, DataError, RecipeError
from temper.model.fake import FakeBackend
from temper.recipe.inputs import DomainProbe
from temper.recipe.load import load
from temper.recipe.schema import Recipe
from temper.run.prepare import Prepared, prepare
from temper.techniques.cpt import ResolvedCPT, trained_instead
from temper.techniques.judging import with_held_out
from tests.fakes.world import OBJECTS, SUBJECTS, VERBS
from tests.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from tests.fakes.world import World

STAGE: Mapping[str, Any] = {"technique": "cpt", "data": "manual", "replay": None}


def write_manual(folder: Path, pages: int = 120, seed: int = 0) -> Path:
    """Pages of about 1,600 characters, one line per sentence."""
    order = random.Random(seed)
    folder.mkdir()
    for page in range(pages):
        said = (f"{order.choice(SUBJECTS)} {order.choice(VERBS)} {order.choice(OBJECTS)}" for _ in range(40))
        (folder / f"{page:02d}.txt").write_text("\n".join(said) + "\n", encoding="utf-8")
    return folder


def recipe(world: World, *stages: Mapping[str, Any], probe: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe of CPT stages with nothing settled but what is given; `probe` replaces the exam."""
    document = {
        "base": "base", "tolerance": "10%", "stages": [{**STAGE, **stage} for stage in stages or ({},)],
        "probes": {"domain": [probe or "safe-exam.jsonl"], "general": ["suite.toml"]},
    }  # fmt: skip
    path = world.folder / "cpt.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return load(path)


def prepared(world: World, *stages: Mapping[str, Any], probe: Mapping[str, Any] | None = None) -> Prepared:
    return prepare(recipe(world, *stages, probe=probe), world.backend, lambda *_: None)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def settled(found: Prepared) -> ResolvedCPT:
    stage = found.resolved.stages[0]
    assert isinstance(stage, ResolvedCPT)
    return stage


def test_an_epoch_learns_every_token_of_every_document_once(world: World) -> None:
    write_manual(world.folder / "manual")
    found = prepared(world, {"max_length": 128, "batch_tokens": 1024})
    stage, (rows,) = settled(found), found.inventories[0].domain
    total = sum(datum.supervised for datum in rows.datums)
    drawn = list(islice(found.plan(0).rows(), 4 * sum(-(-len(d.tokens) // 64) for d in rows.datums)))
    assert max(len(datum.tokens) for datum in drawn) <= 128
    assert all(set(datum.weights["ce"]) <= {0.0, 1.0} for datum in drawn)
    # One pass in the mixture's order: windows until as many tokens are learnt as there are, each of them another one.
    seen: list[tuple[str, tuple[int, ...]]] = []
    learnt = 0
    for datum in drawn:
        if learnt == total:
            break
        learnt += datum.supervised
        seen.append((datum.row, datum.tokens))
    assert learnt == total
    by_page = {datum.row: datum.tokens for datum in rows.datums}
    for page, tokens in by_page.items():
        parts = [part for row, part in seen if row == page]
        assert sum(len(part) - 1 for part in parts) == len(tokens) - 1
    assert stage.steps == pytest.approx(total / 1024, abs=1)
    assert any("learnt in windows" in notice and "no token is left out" in notice for notice in found.notices())


def test_what_is_left_out_follows_from_the_table(world: World) -> None:
    write_manual(world.folder / "manual")
    found = prepared(world)
    stage = settled(found)
    assert (stage.technique, stage.id, stage.schedule, stage.adapter, stage.rank) == (
        "cpt",
        "01-cpt",
        "cosine",
        "lora",
        64,
    )
    assert stage.epochs == pytest.approx(1.0, abs=0.1)
    assert stage.max_length <= stage.batch_tokens
    printed = {s.path: s for s in found.resolved.settings}
    assert printed["stages.0.max_length"].rule.startswith("windows: ")
    assert any("teach a language rather than facts" in notice for notice in found.resolved.notices)
    rates = [found.plan(0).schedule(step) for step in range(stage.steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(stage.lr, rel=0.05) and rates[-1] < 0.05 * stage.lr


def test_without_a_loss_probe_a_part_of_the_documents_is_held_out_and_not_learnt(world: World) -> None:
    manual = write_manual(world.folder / "manual")
    found = prepared(world)
    exam, probe = found.domain
    assert (exam.spec.name, probe.spec.name, probe.spec.kind, probe.spec.role) == (
        "safe-exam", "manual-text", "text", "domain",
    )  # fmt: skip
    assert 16 <= len(probe.items) <= 64
    learnt = {datum.row for datum in found.inventories[0].domain[0].datums}
    (stream,) = open_tables(manual)
    asked = {row.origin for row in stream.rows() if any(item["text"] in row.text for item in probe.items)}
    assert asked and learnt and asked.isdisjoint(learnt)
    (own,) = (p for p in with_held_out(found.recipe).probes.domain if p.metric == "loss")
    assert own.split is not None
    held = {row.origin for row in stream.rows() if is_held_out(row, share=own.split, group=None)}
    assert asked <= held and learnt == {row.origin for row in stream.rows()} - held


def test_corpora_of_one_name_are_judged_by_probes_of_different_names(world: World) -> None:
    """Both were called `*-text`, so that the figures of one stood for the other's."""
    for seed, part in enumerate(("old", "new")):
        (world.folder / part).mkdir()
        write_manual(world.folder / part / "pages", seed=seed)
    asked = with_held_out(recipe(world, {"data": ["old/pages/*.txt", "new/pages/*.txt"]})).probes.domain
    assert [probe.label for probe in asked] == ["safe-exam", "pages-text", "pages-text-2"]


@pytest.mark.slow
def test_a_loss_probe_of_the_recipe_is_the_only_one(world: World) -> None:
    write_manual(world.folder / "manual")
    write_manual(world.folder / "other", pages=25, seed=1)
    for probe in ({"file": "other", "metric": "loss"}, {"file": "manual", "metric": "loss", "split": "40%"}):
        found = prepared(world, probe=probe)
        assert [p.spec.kind for p in found.domain] == ["text"]
        assert with_held_out(found.recipe) is found.recipe
        pages = len(found.inventories[0].domain[0].datums)
        assert pages == 120 if probe["file"] == "other" else pages < 100


def test_three_sentences_are_refused_before_a_model_is_looked_for(world: World) -> None:
    (world.folder / "manual").mkdir()
    (world.folder / "manual" / "a.txt").write_text("One. Two. Three.\n")
    with pytest.raises(
        DataError, match=r"manual: 17 characters of text.*add documents.*probes\.domain.*technique: sft"
    ):
        prepared(world)
    write_manual(world.folder / "other", pages=25, seed=1)
    with pytest.raises(RecipeError, match=r"stages\.0\.data: found \d+ tokens of text; expected at least 4,096.*sft"):
        prepared(world, probe={"file": "other", "metric": "loss"})


def test_a_document_without_text_is_named(world: World) -> None:
    (write_manual(world.folder / "manual") / "07.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"07\.txt:1: \[F005\] no text in the document; expected some; delete the file"):
        prepared(world)


def test_conversations_are_no_text(world: World) -> None:
    with pytest.raises(DataError, match=r"safe\.jsonl: found .*technique: sft.*expected documents or rows of text"):
        prepared(world, {"data": "safe.jsonl"}, probe={"file": str(write_manual(world.folder / "m")), "metric": "loss"})


def test_a_folder_is_no_exam_unless_it_is_read_for_its_loss(world: World) -> None:
    write_manual(world.folder / "manual")
    with pytest.raises(RecipeError, match=r"probes\.domain\.0\.file.*expected a file of rows.*metric: loss"):
        recipe(world, probe={"file": "manual"})
    asked = {"file": "manual", "metric": "loss", "split": "20%"}
    assert recipe(world, probe=asked).probes.domain[0].file == world.folder / "manual"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"add_tokens": ["fox"]}, "nothing without `adapter: full`.*add `adapter: full`"),
        ({"add_tokens": ["fox", "fox"], "adapter": "full"}, "different words.*write each once"),
        ({"add_tokens": [" fox"], "adapter": "full"}, "without blanks around them"),
        ({"add_tokens": "fox", "adapter": "full", "residual": {"instruct": "a", "base": "b"}}, "one vocabulary"),
        ({"residual": {"instruct": "base"}}, "residual.base"),
        ({"residual": {"instruct": "./nowhere", "base": "base"}}, "residual.instruct.*there is no folder"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    world: World, stage: Mapping[str, Any], said: str
) -> None:
    (world.folder / "manual").mkdir()
    (world.folder / "manual" / "a.txt").write_text("One.")
    with pytest.raises(RecipeError, match=rf"(?s){said}"):
        recipe(world, stage)


@pytest.mark.slow
def test_a_residual_names_the_chat_model_of_the_run_and_a_base_that_is_there(world: World) -> None:
    write_manual(world.folder / "manual")
    base, plain = str(world.folder / "base"), str(copied(world.folder / "base", world.folder / "plain"))
    found = prepared(world, {"residual": {"instruct": "base", "base": "plain"}})
    assert settled(found).residual == (base, plain)
    below = trained_instead(settled(found), 0, found.base, world.backend)
    assert below is not None and below.folder == world.folder / "plain"
    with pytest.raises(CheckpointError, match="nowhere"):
        prepared(world, {"residual": {"instruct": "base", "base": "acme/nowhere"}})
    with pytest.raises(RecipeError, match=r"stages\.1\.residual: .*expected in the first stage.*move the stage"):
        prepared(world, {}, {"residual": {"instruct": "base", "base": "plain"}})
    (world.folder / "other").mkdir()
    other = FakeBackend().write(tiny_tokenizer(world.folder / "other"), [(5, 6, 7)])
    with pytest.raises(RecipeError, match=r"stages\.0\.residual\.instruct: .*expected the model that the run starts"):
        prepared(world, {"residual": {"instruct": str(other), "base": "plain"}})


def test_a_probe_made_by_hand_takes_a_folder(tmp_path: Path) -> None:
    assert DomainProbe(file=tmp_path, metric="loss").label == tmp_path.name
