"""`temper search` refuses what cannot be searched before a model is touched; one real study of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper import events
from temper.events.search import SearchFinished, TrialSeen
from tests.unit.cli.world import make_world, temper


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
