"""Bad input through the real command line: exit code 2, one clear message, nothing half-written.

A message names the place, what was found, what was expected and what to do. Where a model is not needed to see the
fault, a fresh interpreter shows that none was loaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fresh import Answer, commands
from tests.unit.cli.world import Ended, make_world, temper, write_rows

GOOD = '{"prompt": "light hall red", "completion": "on"}\n'
SECONDS = 20.0
"""Far above the second it takes on an idle machine; a busy one has to pass too."""


class Case(NamedTuple):
    """A way to spoil the world and what the message must say."""

    spoil: Callable[[Path], object]
    told: tuple[str, ...]
    settings: tuple[str, ...] = ()


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Rewrites a part of a file."""

    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def write(name: str, text: str) -> Callable[[Path], object]:
    """Writes a file anew."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


WITHOUT_A_MODEL = {
    "missing file": Case(
        lambda folder: (folder / "train.jsonl").unlink(), ("temper.yaml", "stages.0.data", "train.jsonl", "exists")
    ),
    "empty file": Case(write("train.jsonl", ""), ("train.jsonl", "empty", "expected", "write rows")),
    "malformed JSON at line 17": Case(
        write("train.jsonl", GOOD * 16 + '{"prompt": "light' + "\n" + GOOD * 8), ("train.jsonl:17", "JSON")
    ),
    "a row without an answer": Case(
        write("train.jsonl", GOOD * 4 + '{"prompt": "light", "completion": ""}\n' + GOOD),
        ("train.jsonl:5", "completion"),
    ),
    "a row whose answer is missing": Case(
        write("train.jsonl", GOOD * 2 + '{"prompt": "light"}\n' + GOOD), ("train.jsonl:3", "completion")
    ),
    "an exam row without an answer": Case(
        write("exam.jsonl", GOOD * 6 + '{"prompt": "light", "completion": null}\n'), ("exam.jsonl:7", "completion")
    ),
    "a model folder that is not there": Case(
        lambda folder: None, ("base", "./nowhere", "model folder"), ("--set", "base=./nowhere")
    ),
    "tolerance of 150 %": Case(
        replace("temper.yaml", "tolerance: 50%", "tolerance: 150%"), ("tolerance", "150%", "at most 50%", "1%")
    ),
    "misspelt key": Case(
        replace("temper.yaml", "    steps: 8", "    stepz: 8"), ("stages.0.stepz", "did you mean 'steps'")
    ),
    "lr of 5e-2": Case(
        replace("temper.yaml", "lr: 5e-3", "lr: 5e-2"), ("stages.0.lr", "5e-2", "expected", "temper chooses")
    ),
    "lr of 5e-2 by --set": Case(lambda folder: None, ("stages.0.lr", "5e-2"), ("--set", "stages.0.lr=5e-2")),
    "a recipe that is not there": Case(
        lambda folder: (folder / "temper.yaml").unlink(), ("temper.yaml", "no such file", "temper init")
    ),
    "a suite that is not there": Case(
        replace("temper.yaml", "[text.jsonl]", "[cora]"), ("cora", "core", "did you mean")
    ),
}


class Refusal(NamedTuple):
    """What a command said, and the files of its folder before and after it."""

    answer: Answer
    before: set[Path]
    after: set[Path]


@pytest.fixture(name="refusals", scope="module")
def _refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Refusal]:
    """Every case in a folder of its own, all of them in one interpreter, so that none of them may load a model."""
    folders = {name: tmp_path_factory.mktemp("case") for name in WITHOUT_A_MODEL}
    before: dict[str, set[Path]] = {}
    for name, case in WITHOUT_A_MODEL.items():
        make_world(folders[name], model=False)
        (folders[name] / "model").mkdir()
        case.spoil(folders[name])
        before[name] = files(folders[name])
    calls = [(folders[n], ["run", folders[n] / "temper.yaml", "--out", folders[n] / "out", *case.settings])
             for n, case in WITHOUT_A_MODEL.items()]  # fmt: skip
    answers = zip(WITHOUT_A_MODEL, commands(calls), strict=True)
    return {n: Refusal(answer=answer, before=before[n], after=files(folders[n])) for n, answer in answers}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_A_MODEL)
def test_it_is_refused_before_a_model_is_loaded(refusals: dict[str, Refusal], name: str) -> None:
    answer, before, after = refusals[name]
    refused(answer, *WITHOUT_A_MODEL[name].told)
    assert answer.loaded == []
    assert answer.seconds < SECONDS
    assert after == before


@pytest.fixture(name="recipe")
def _recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return make_world(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda model: (model / "config.json").unlink(), ("no config.json", "save_pretrained")),
        (lambda model: (model / "model.safetensors").unlink(), ("no .safetensors file",)),
        (lambda model: (model / "tokenizer.json").unlink(), ("tokenizer", "expected")),
        (
            lambda model: (model / "model.safetensors").write_bytes(b"version https://git-lfs"),
            ("model.safetensors: not a safetensors file", "download it again"),
        ),
        (lambda model: (model / "config.json").write_text('{"model_type": "no-such"}'), ("config.json", "expected")),
        (lambda model: (model / "config.json").write_text("{"), ("config.json", "expected")),
    ],
    ids=["no config", "no weights", "no tokenizer", "a pointer for weights", "an unknown kind", "a cut config"],
)
def test_a_wrong_model_folder_is_named(recipe: Path, spoil: Callable[[Path], object], told: tuple[str, ...]) -> None:
    spoil(recipe.parent / "model")
    ended = temper("run", recipe, "--out", "out")
    refused(ended, str(recipe.parent / "model"), *told)
    assert not (recipe.parent / "out").exists()


def test_a_disk_that_is_full_is_noticed_before_anything_is_written(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(recipe.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    ended = temper("run", recipe, "--out", "out")
    refused(ended, "out", "1 MB free", "needed", "--out")
    assert not (recipe.parent / "out").exists()


@pytest.mark.slow
def test_a_folder_that_another_run_holds_is_refused_at_once(recipe: Path, busy: Path) -> None:
    before = files(recipe.parent)
    (answer,) = commands([(recipe.parent, ["run", recipe, "--out", busy])])
    assert answer.seconds < SECONDS
    refused(answer, str(busy), f"process {os.getpid()}", "--out")
    assert answer.loaded == []
    assert files(recipe.parent) == before


@pytest.fixture(name="busy")
def _busy(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose lock is held, as a run does it."""
    folder = tmp_path / "busy"
    folder.mkdir()
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        yield folder


def test_an_out_folder_that_holds_something_else_is_left_alone(recipe: Path) -> None:
    home = recipe.parent / "thesis"
    home.mkdir()
    (home / "chapter-1.txt").write_text("mine", encoding="utf-8")
    ended = temper("run", recipe, "--out", home)
    refused(ended, str(home), "holds no run", "--out")
    assert (home / "chapter-1.txt").read_text(encoding="utf-8") == "mine"
    assert not (home / "resolved.json").exists()


def test_exam_rows_in_the_training_data_are_refused_with_their_places(recipe: Path) -> None:
    rows = [{"prompt": f"light hall {i}", "completion": "yes no"} for i in range(20)]
    write_rows(recipe.parent / "exam.jsonl", rows)
    write_rows(recipe.parent / "train.jsonl", rows)
    ended = temper("check", recipe)
    refused(ended, "exam.jsonl:1", "T003", "delete")


def test_check_json_is_one_document_for_data_that_are_refused_as_well(recipe: Path) -> None:
    """Whoever read stdout alone got nothing from a check that found errors."""
    train = recipe.parent / "train.jsonl"
    train.write_text(GOOD * 4 + '{"prompt": "light", "completion": ""}\n', encoding="utf-8")
    ended = temper("check", recipe, "--json")
    refused(ended, "train.jsonl:5: [F003]")
    document = json.loads(ended.out)
    (finding,) = document["findings"]
    assert set(finding) == {"code", "level", "where", "what", "why", "fix"}
    assert (document["verdict"], finding["code"], finding["level"]) == ("refused", "F003", "error")
    assert finding["where"] == f"{train}:5"
    typo = temper("check", recipe, "--json", "--set", "stages.0.lrr=1")
    document = json.loads(typo.out)
    assert (typo.code, document["findings"]) == (2, [])
    assert "lrr" in document["error"]


def refused(ended: Ended | Answer, *told: str) -> None:
    """Exit code 2, one message that says these things, no traceback."""
    assert ended.code == 2, ended.out + ended.err
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err
    for part in told:
        assert part in ended.err, f"{part!r} is not in {ended.err!r}"


def files(folder: Path) -> set[Path]:
    """Everything below a folder."""
    return set(folder.rglob("*"))
