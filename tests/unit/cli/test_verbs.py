"""The verbs one after the other on a tiny model: one run, then everything that can be done with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from temper import __version__
from tests.unit.cli.world import Ended, make_world, temper, write_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A finished run."""

    folder: Path
    recipe: Path
    run: Path
    ended: Ended


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("house")
    recipe = make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield World(folder=folder, recipe=recipe, run=Path("runs") / folder.name, ended=temper("run", recipe))


def test_the_version_is_told() -> None:
    assert temper("--version").out == f"temper {__version__}\n"
    call = [sys.executable, "-m", "temper", "--version"]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == f"temper {__version__}\n"


@pytest.mark.slow
def test_run_ends_with_the_verdict_the_report_and_the_next_commands(world: World) -> None:
    assert world.ended.code == 0, world.ended.err
    assert "Improved: exam exact 0" in world.ended.out
    for told in (
        f"{world.run}/report.html",
        f"temper chat {world.run} --compare",
        f"temper export {world.run} --to",
        "01-sft step 1/8",
        "guard says",
        "chosen 01-sft/step-",
    ):
        assert told in world.ended.out
    assert (world.run / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert not list(world.run.glob(".report*")), "a part of a report was left behind"


def test_a_finished_run_is_not_run_again(world: World) -> None:
    log = (world.run / "events.jsonl").read_bytes()
    (world.run / "report.html").unlink()
    again = temper("run", world.recipe)
    assert again.code == 0
    assert "finished already" in again.out
    assert "step 1/8" not in again.out
    assert (world.run / "events.jsonl").read_bytes() == log
    assert (world.run / "report.html").is_file()


def test_an_out_that_holds_another_run_is_refused(world: World) -> None:
    log = (world.run / "events.jsonl").read_bytes()
    other = temper("run", world.recipe, "--set", "stages.0.steps=5")
    assert other.code == 2
    assert str(world.run) in other.err
    assert "stages" in other.err
    assert "--out" in other.err
    assert (world.run / "events.jsonl").read_bytes() == log


def test_report_json_is_one_document_with_the_promised_keys(world: World) -> None:
    told = temper("report", world.run, "--json")
    summary = json.loads(told.out)
    assert {"base", "verdict", "chosen", "domain", "general", "candidates", "cost"} <= set(summary)
    assert summary["verdict"] == "improved"


def test_report_draws_again_with_another_run_on_the_same_frontier(world: World) -> None:
    alone = temper("report", world.run)
    assert alone.code == 0
    assert f"report: {world.run}/report.html" in alone.out
    other = world.folder / "other-run"
    other.mkdir(exist_ok=True)
    (other / "events.jsonl").write_bytes((world.run / "events.jsonl").read_bytes())
    assert temper("report", world.run, "--with", other).code == 0
    assert "other-run" in (world.run / "report.html").read_text(encoding="utf-8")


def test_report_of_a_step_names_its_rows_by_file_and_line(world: World) -> None:
    document = json.loads(temper("report", world.run, "--step", "01-sft:8", "--json").out)
    assert (document["stage"], document["step"]) == ("01-sft", 8)
    lines = (world.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for row in document["rows"]:
        file, _, line = row["row"].rpartition(":")
        assert file == str(world.folder / "train.jsonl")
        assert "light" in json.loads(lines[int(line) - 1])["prompt"]
        assert row["supervised"] == 3 and row["loss"] > 0
    told = temper("report", world.run, "--step", "8")
    assert f"{world.folder}/train.jsonl:" in told.out


@pytest.mark.parametrize("step", ["9", "0", "02-sft:1", "last", "1.5", "\u00b2"])
def test_a_step_that_was_not_taken_is_refused(world: World, step: str) -> None:
    """A superscript two, a digit to Python and no number, ended in a traceback."""
    told = temper("report", world.run, "--step", step)
    assert told.code == 2
    assert step in told.err
    assert "expected" in told.err


def test_eval_compares_a_run_with_its_base_item_by_item(world: World) -> None:
    told = temper("eval", world.run, "--probes", "text.jsonl", "--probes", "exam.jsonl", "--json")
    document = json.loads(told.out)
    assert document["against"] == str(world.folder / "model")
    probes = {p["probe"]: p for p in document["probes"]}
    # Both halves: all 40 texts and all 24 rows of the exam. The base knows no answer, the run knows them all.
    assert (probes["text"]["items"], probes["exam"]["items"]) == (40, 24)
    assert (probes["exam"]["base"], probes["exam"]["value"], probes["exam"]["won"]) == (0.0, 1.0, 24)
    assert probes["text"]["lcb95"] <= probes["text"]["drop"] <= probes["text"]["ucb95"]
    assert document["general"]["drop"] == pytest.approx(probes["text"]["drop"])  # the only probe of the only axis


def test_eval_of_a_model_against_itself_finds_no_drop(world: World) -> None:
    told = temper("eval", world.folder / "model", "--against", "model", "--probes", "text.jsonl")
    assert told.code == 0, told.err
    assert "every item got the same value" in told.out


def test_eval_without_anything_to_compare_shows_the_values(world: World) -> None:
    told = temper("eval", "model", "--probes", "exam.jsonl", "--json")
    document = json.loads(told.out)
    assert document["against"] is None
    assert document["general"] is None
    assert document["probes"][0]["value"] == 0.0


@pytest.mark.slow
def test_chat_answers_line_by_line_beside_the_base(world: World) -> None:
    told = temper("chat", world.run, "--compare", typed="light hall red\n/reset\nlight attic red\n/exit\nnever asked\n")
    assert told.code == 0, told.err
    assert told.out.count("chosen: yes no") == 2
    assert told.out.count("base: ") == 2
    assert "(begun again)" in told.out


def test_check_json_is_one_document_and_trains_nothing(world: World) -> None:
    before = {p for p in world.folder.rglob("*") if "cache" not in p.parts}
    told = temper("check", world.recipe, "--json", "--show", "2")
    document = json.loads(told.out)
    assert {"settings", "data", "findings", "notices", "estimate", "verdict"} <= set(document)
    assert {s["path"]: s["value"] for s in document["settings"]}["stages.0.steps"] == "8"
    (source,) = document["data"]
    # The same answer in all 40 rows, so 40 times what the first one teaches.
    assert source["rows"] == 40
    assert source["supervised"] == 40 * document["rows"][0]["supervised"]
    assert document["rows"][0]["text"].endswith("<|im_start|>assistant\n[[yes no<|im_end|>]]")
    assert document["estimate"]["tokens"] > 0
    assert document["estimate"]["training_seconds"] > 0
    assert {p for p in world.folder.rglob("*") if "cache" not in p.parts} == before


def test_check_json_shows_the_rows_of_every_stage(world: World, tmp_path: Path) -> None:
    """Those of the first stage alone were shown, without its name."""
    text = world.recipe.read_text(encoding="utf-8").replace("./", f"{world.folder}/")
    for name in ("exam.jsonl", "text.jsonl", "train.jsonl"):
        text = text.replace(name, f"{world.folder}/{name}")
    head, mark, stage = text.partition("  - technique")
    chain = tmp_path / "chain.yaml"
    chain.write_text(head + mark + stage + mark + stage, encoding="utf-8")
    rows = json.loads(temper("check", chain, "--json", "--show", "1").out)["rows"]
    assert [row["stage"] for row in rows] == ["01-sft", "02-sft"]


def test_check_shows_each_value_with_its_rule_and_the_rows_with_their_mask(world: World) -> None:
    told = temper("check", world.recipe, "--show", "1", "--set", "stages.0.rank=4")
    assert told.code == 0, told.err
    for part in (
        "stages.0.rank",
        "recognised as prompt/completion",
        "marked by exact",
        "Estimate",
        "[[yes no<|im_end|>]]",
    ):
        assert part in told.out


@pytest.mark.parametrize("kind", ["hf", "adapter"])
def test_export_is_loaded_and_compared_before_it_says_done(world: World, kind: str) -> None:
    to = world.folder / f"out-{kind}"
    told = temper("export", world.run, "--to", to, "--format", kind)
    assert told.code == 0, told.err
    assert "largest difference of a logit" in told.out
    # The exported folder is a model of its own: it answers the exam as the run's choice does.
    measured = json.loads(temper("eval", to, "--probes", "exam.jsonl", "--json").out)
    assert measured["probes"][0]["value"] == 1.0
    again = temper("export", world.run, "--to", to, "--format", kind)
    assert again.code == 2
    assert "expected a new or empty folder" in again.err


def test_an_adapter_is_not_exported_from_a_run_that_kept_its_base(world: World, tmp_path: Path) -> None:
    lines = (world.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    for event in log:
        if event["kind"] == "choice":
            event |= {"checkpoint": "base", "path": str(world.folder / "model"), "alpha": 0.0, "verdict": "kept-base"}
    kept = tmp_path / "kept"
    kept.mkdir()
    write_rows(kept / "events.jsonl", log)
    refused = temper("export", kept, "--to", tmp_path / "adapter", "--format", "adapter")
    assert refused.code == 2
    assert "--format hf" in refused.err
    assert not (tmp_path / "adapter").exists()
    whole = temper("export", kept, "--to", tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert "kept its base" in whole.out
    measured = temper("eval", kept, "--probes", world.folder / "text.jsonl")  # it showed values and did not say whose
    assert measured.code == 0 and "kept its base" in measured.out, measured.err


@pytest.mark.parametrize("verb", ["eval", "chat"])
def test_a_run_that_is_not_there_is_not_called_a_base(tmp_path: Path, verb: str) -> None:
    """It said `base: ... is no folder; expected a model folder`, though no recipe was named and a run would do."""
    ended = temper(verb, tmp_path / "runs" / "yesterday")
    assert ended.code == 2
    assert "yesterday: found no such folder; expected the folder of a run" in " ".join(ended.err.split())


def test_init_takes_several_files_after_one_data_and_writes_a_recipe_that_loads(tmp_path: Path) -> None:
    rows = [{"prompt": f"light {i}", "completion": "on"} for i in range(60)]
    write_rows(tmp_path / "a.jsonl", rows[:30])
    write_rows(tmp_path / "b.jsonl", rows[30:])
    told = temper("init", tmp_path, "--data", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--base", "some/model")
    assert told.code == 0, told.err
    assert f"next: temper check {tmp_path / 'temper.yaml'}" in told.out
    assert "base: some/model" in (tmp_path / "temper.yaml").read_text(encoding="utf-8")
    # Both files were read: exam and training rows together are the 60.
    written = [tmp_path / name for name in ("exam.jsonl", "train.jsonl")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in written) == 60
