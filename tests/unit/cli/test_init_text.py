"""Documents alone become a recipe of continued pre-training that passes check as it is, or are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from temper.data.documents import open_tables
from temper.data.split import is_held_out
from temper.probes.domain import document_probe
from temper.recipe.load import load
from tests.unit.cli.world import make_world, temper, write_rows

NOUNS = ("pump", "valve", "tank", "filter", "motor", "gauge", "hose", "seal", "shaft", "panel")
VERBS = ("primes", "opens", "drains", "checks", "cools", "stops", "feeds", "turns")


@pytest.fixture(name="new")
def _new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for a recipe, beside a tiny model and general texts."""
    make_world(tmp_path).unlink()
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


def write_documents(folder: Path, count: int, characters: int, ending: str = ".txt") -> Path:
    """Documents of sentences that are all different."""
    order = random.Random(0)
    folder.mkdir(exist_ok=True)
    for n in range(count):
        said = ""
        while len(said) < characters:
            said += (
                f"The {order.choice(NOUNS)} {order.randrange(10_000)} {order.choice(VERBS)} the {order.choice(NOUNS)}. "
            )
        (folder / f"chapter-{n}{ending}").write_text(said, encoding="utf-8")
    return folder


def checked(recipe: str, stages: int = 1) -> str:
    """What `temper check` says of a recipe as it was written, but for small steps and a suite without downloads."""
    settings = ["probes.general=[../text.jsonl]", "machine={threads: 1, compile: off}"]
    settings += [f"stages.{n}.{setting}" for n in range(stages) for setting in ("replay=null", "batch_tokens=256")]
    ended = temper("check", recipe, *(word for setting in settings for word in ("--set", setting)))
    assert ended.code == 0, ended.out + ended.err
    assert f"ready: temper run {recipe}" in ended.out
    return ended.out


@pytest.mark.slow
def test_a_folder_of_documents_alone_becomes_a_recipe_that_passes_check(new: Path) -> None:
    write_documents(new / "manuals", 60, 8_000)  # 480,000 characters: 112k tokens of 4.3 bytes
    told = temper("init", "new", "--data", "new/manuals", "--base", "../model")
    assert told.code == 0, told.err
    recipe = load(new / "temper.yaml")
    assert [stage.technique for stage in recipe.stages] == ["cpt"]
    (probe,) = recipe.probes.domain
    assert (probe.metric, probe.file) == ("loss", recipe.stages[0].data[0].file)
    assert "manuals is held out: its loss tells how well such text is known" in told.out
    assert "manuals" in checked("new/temper.yaml")


def test_of_one_book_enough_is_held_out_to_judge_by(new: Path) -> None:
    """A twentieth of a book may be a single section of it, which is too few passages."""
    write_documents(new, 1, 480_000, ending=".md")
    told = temper("init", "new", "--base", "../model")
    assert told.code == 0, told.err
    (probe,) = load(new / "temper.yaml").probes.domain
    assert probe.split is not None and 0.05 <= probe.split <= 0.2
    (book,) = open_tables(probe.file)
    held = [row for row in book.rows() if is_held_out(row, share=probe.split, group=None)]
    assert len(document_probe("book", held).items) >= 16


@pytest.mark.slow
def test_documents_and_pairs_become_a_chain_that_passes_check(new: Path) -> None:
    write_documents(new / "manuals", 60, 8_000)
    write_rows(new / "qa.jsonl", ({"prompt": f"Which pump is {n}?", "completion": f"Pump {n}."} for n in range(240)))
    told = temper("init", "new", "--data", "new/manuals", "--data", "new/qa.jsonl", "--base", "../model")
    assert told.code == 0, told.err
    recipe = load(new / "temper.yaml")
    assert [stage.technique for stage in recipe.stages] == ["cpt", "sft"]
    checked("new/temper.yaml", stages=2)


@pytest.mark.parametrize(
    ("count", "characters", "said"),
    [
        (3, 30, "tokens of raw text are too few; put them into the prompts of SFT rows as context"),
        (0, 0, "found no data files; expected a file of rows"),
    ],
    ids=["three sentences", "nothing"],
)
def test_too_little_text_is_refused_and_nothing_is_written(new: Path, count: int, characters: int, said: str) -> None:
    write_documents(new, count, characters)
    ended = temper("init", "new")
    assert ended.code == 2
    assert said in ended.err
    assert not (new / "temper.yaml").exists()
