"""The real path on the real model, small: check, a run that is killed and continued, report, chat, export, eval."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.network]
ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
base: smollm2-135m-instruct
probes:
  domain: [data/exam.jsonl]
  general: [quick]
tolerance: 10%
stages:
  - technique: sft
    data: data/train.jsonl
    steps: 8
    batch_tokens: 128
    checkpoints: 2
"""
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
"""As a user has it: the tests of tiny models keep to one thread, a real one gets all cores."""
KEYS = {"base", "verdict", "chosen", "domain", "general", "candidates", "cost"}


def temper(*arguments: str, folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "temper", *arguments]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, input=given, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hassil", reason="the demo's packages are missing: pip install 'temper-llm[demo]'")
    path = tmp_path_factory.mktemp("home")
    script = ROOT / "examples" / "smart-home" / "make_data.py"
    command = [sys.executable, str(script), "--out", str(path / "data"), "--train", "96", "--exam", "48"]
    subprocess.run(command, check=True, capture_output=True)
    (path / "temper.yaml").write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A run that was killed with SIGKILL in the middle of training, then continued by the same command."""
    log = folder / "runs" / "home" / "events.jsonl"
    command = [sys.executable, "-m", "temper", "run", "temper.yaml", "--out", "runs/home"]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        give_up = time.monotonic() + 400
        while not (log.is_file() and '"step": 5,' in log.read_text(encoding="utf-8")):
            assert first.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < give_up, "no fifth step within 400 seconds"
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
    second = temper("run", "temper.yaml", "--out", "runs/home", folder=folder)
    assert second.returncode in (0, 4), second.stderr
    assert (second.returncode == 0) == (summary(folder)["verdict"] == "improved")
    return folder


def summary(folder: Path) -> dict[str, object]:
    return json.loads(temper("report", "runs/home", "--json", folder=folder).stdout)


def test_check_explains_every_value_and_trains_nothing(folder: Path) -> None:
    result = temper("check", "temper.yaml", "--json", folder=folder)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {s["path"] for s in document["settings"]} >= {"stages.0.lr", "stages.0.replay.share", "stages.0.rank"}
    assert not (folder / "runs").exists()


def test_a_killed_run_takes_every_step_once(finished: Path) -> None:
    from temper.events import Resumed, Step, read

    events = read(finished / "runs" / "home" / "events.jsonl")
    assert [e.step for e in events if isinstance(e, Step)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert any(isinstance(e, Resumed) for e in events)


def test_the_summary_has_the_promised_keys_and_measured_a_real_base(finished: Path) -> None:
    found = summary(finished)
    assert set(found) >= KEYS
    general = found["general"]
    assert isinstance(general, dict)
    by_name = {p["probe"]: p for p in general["probes"]}
    assert 0.5 < by_name["piqa"]["base"] < 1.0  # soft accuracy of a model that knows something
    assert 0.3 < by_name["wiki"]["base"] < 2.0  # bits per byte of English prose
    page = (finished / "runs" / "home" / "report.html").read_text(encoding="utf-8")
    assert "own-answers" in page and "smollm2-135m-instruct" in page


def test_a_finished_run_is_not_run_twice(finished: Path) -> None:
    before = (finished / "runs" / "home" / "events.jsonl").read_bytes()
    again = temper("run", "temper.yaml", "--out", "runs/home", folder=finished)
    assert again.returncode in (0, 4)
    assert (finished / "runs" / "home" / "events.jsonl").read_bytes() == before


def test_the_model_talks(finished: Path) -> None:
    said = temper("chat", "runs/home", folder=finished, given="What is the capital of France?\n")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()


def test_the_export_is_read_by_plain_transformers(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = temper("export", "runs/home", "--to", "out", "--format", "hf", folder=finished)
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(finished / "out")
    assert model.config.num_hidden_layers == 30
    assert AutoTokenizer.from_pretrained(finished / "out").chat_template
