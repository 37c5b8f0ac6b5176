from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from temper.cli.init import spread
from tests.unit.cli.world import COLOURS, ROOMS, make_world, temper, write_rows

if TYPE_CHECKING:
    import pytest


def test_what_init_writes_passes_check_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_world(tmp_path).unlink()  # a model and general texts are needed, the recipe is not
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"light {r} {c} {n}", "completion": "yes no"} for r in ROOMS for c in COLOURS for n in range(4)]
    (tmp_path / "new").mkdir()
    write_rows(tmp_path / "new" / "rows.jsonl", rows)
    told = temper("init", "new", "--base", "../model")
    assert told.code == 0, told.err
    for part in ("rows.jsonl: 256 rows, prompts with answers", "sft", "yes", "wrote new/temper.yaml"):
        assert part in told.out
    small = ("--set", "probes.general=[../text.jsonl]", "--set", "stages.0.replay=null")
    checked = temper("check", "new/temper.yaml", *small)
    assert checked.code == 0, checked.err
    assert "ready: temper run new/temper.yaml" in checked.out


def test_a_file_in_place_of_the_folder_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": f"light {n}", "completion": "on"} for n in range(60)])
    told = temper("init", "rows.jsonl")
    assert told.code == 0, told.err
    assert (tmp_path / "temper.yaml").is_file()


def test_two_folders_are_refused(tmp_path: Path) -> None:
    told = temper("init", tmp_path / "a", tmp_path / "b")
    assert told.code == 2
    assert "expected one DIR" in told.err


def test_one_data_takes_all_names_up_to_the_next_option() -> None:
    words = ["init", "new", "--data", "a.jsonl", "papers/", "--base", "acme/m"]
    assert spread(words) == ["init", "new", "--data", "a.jsonl", "--data", "papers/", "--base", "acme/m"]
    assert spread(["init", "--data"]) == ["init", "--data"]  # nothing follows, and click says so
    assert spread(["run", "--data", "a", "b"]) == ["run", "--data", "a", "b"]
    assert spread([]) == []


def test_a_folder_of_documents_is_data(tmp_path: Path) -> None:
    rows = ({"prompt": f"light {n}", "completion": "on"} for n in range(60))
    write_rows(tmp_path / "a.jsonl", rows)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.txt").write_text("A short text.", encoding="utf-8")
    told = temper(*spread(["init", str(tmp_path), "--data", f"{tmp_path}/a.jsonl", f"{tmp_path}/papers"]))
    assert told.code == 0, told.err
    assert "papers: 1 rows, raw text" in told.out
