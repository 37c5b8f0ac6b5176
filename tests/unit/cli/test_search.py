"""`temper search` refuses what cannot be searched before a model is touched; one real study of a tiny model."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from temper import events
from temper.cli.search import kept_settings, tell_winner
from temper.events.search import SearchFinished, TrialSeen
from tests.unit.cli.world import make_world, temper
from tests.unit.search.studies import trial


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "1x"), "--budget 1x: found less than 1.125x, one run and the first rung"),
        (("--budget", "lots"), "found neither runs, trials, tokens nor a time"),
        (("--set", "stages.0.lr=1e-3..1e-5"), "expected one that ends above its beginning"),
        (("--set", "stages.0.lr=[]"), "found 0 values to choose from"),
        ((), "found no value to search, every learning rate and share is fixed"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    recipe = make_world(tmp_path, model=False)
    (tmp_path / "model").mkdir()  # looked for, not looked into
    ended = temper("search", recipe, *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_ray_address_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("optuna")
    recipe = make_world(tmp_path, model=False)
    (tmp_path / "model").mkdir()
    ended = temper("search", recipe, "--set", "stages.0.lr=1e-4..1e-2", "--ray", "127.0.0.1:1")
    assert ended.code == 2
    assert "--ray 127.0.0.1:1: nobody answers" in ended.err


def test_the_command_that_repeats_the_winner_is_ready_for_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It named no recipe, forgot the settings that were given beside the ranges, and quoted nothing."""
    knobs = ("stages.0.lr", "stages.0.replay")
    best = trial(
        1, values={"stages.0.lr": "auto", "stages.0.replay": '{"share": 0.25}'}, settled={"stages.0.lr": "0.0002"}
    )  # fmt: skip
    finished = SearchFinished(winner=1, reason="", trials=2, tokens=1, saved=0, importance={})
    kept = kept_settings(["tolerance=2%", "stages.0.lr=1e-5..1e-3"], knobs)
    tell_winner(tmp_path / "my study", finished, [best], ["temper", "run", "my.yaml", *kept])
    told = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert shlex.split(told["to repeat"]) == [
        "temper", "run", "my.yaml", "--set", "tolerance=2%", "--set", "stages.0.lr=0.0002",
        "--set", 'stages.0.replay={"share": 0.25}',
    ]  # fmt: skip
    assert shlex.split(told["next"])[2] == str(tmp_path / "my study" / "trials" / "001")


@pytest.mark.slow
def test_a_study_of_a_tiny_model_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    recipe = make_world(tmp_path)
    text = recipe.read_text(encoding="utf-8").replace("    checkpoints: 2\n", "").replace("steps: 8", "steps: 16")
    recipe.write_text(text.replace("lr: 5e-3", "lr: [1e-3..1e-2]"), encoding="utf-8")
    out = tmp_path / "study"
    ended = temper("search", recipe, "--out", out, "--budget", "1.3x")
    assert ended.code in (0, 4), ended.err
    log = events.read(out / "events.jsonl")
    assert isinstance(log[-1], SearchFinished)
    trials = {e.number: e for e in log if isinstance(e, TrialSeen)}
    assert len(trials) >= 2
    assert all(t.status in ("paused", "finished", "stopped") for t in trials.values())
    assert "report:" in ended.out
    assert (out / "report.html").read_text(encoding="utf-8").count("<tr>") == 1 + len(trials)
