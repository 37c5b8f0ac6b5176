"""Processes that are paused at a look, given up, fail, or end by themselves; they write the log of a run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from temper import events
from temper.events import Event, Measurement, Resumed, RunStarted, Setting, StageStarted, Step, Verdict
from temper.launch import local
from temper.launch.local import Job, LocalLauncher, run_until
from temper.launch.progress import Tail, done, looked, place, stage_lengths
from temper.run.folder import locked

WRITE = """
import pathlib, sys, time
log, part = pathlib.Path(sys.argv[1]), float(sys.argv[2])
for line in pathlib.Path(sys.argv[3]).read_text().splitlines():
    with log.open("a") as file:
        file.write(line + "\\n")
    time.sleep(part)
sys.stderr.write("error: " + sys.argv[5] + "\\n")
sys.exit(int(sys.argv[4]))
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)


def a_run(*, steps: int = 8, drop: float = 0.0) -> list[Event]:
    """A stage that is looked at after every second step, its general score falling by `drop` a look."""
    settings = [("technique", "sft"), ("steps", str(steps)), ("schedule", "constant")]
    log: list[Event] = [
        RunStarted(
            base="b", lineage={}, recipe="", tolerance=0.01, version="", seed=0, machine="",
            settings=tuple(Setting(path=f"stages.0.{k}", value=v, origin="rule") for k, v in settings),
        ),
        _measured(0, 1.0),
        StageStarted(stage="01-sft", technique="sft", parent="base", key="", steps=steps),
    ]  # fmt: skip
    for step in range(1, steps + 1):
        log.append(
            Step(stage="01-sft", step=step, steps=steps, lr=1e-3, tokens=10, supervised=5, loss=4.0 - 0.3 * step,
                 losses={"mine": 4.0 - 0.3 * step}, shares={"mine": 1.0}, grad_norm=1.0, seconds=0.0)
        )  # fmt: skip
        if step % 2 == 0:
            log.append(_measured(step, 1.0 - drop * step))
            log.append(
                Verdict(stage="01-sft", step=step, level="ok", drop=0, lcb95=0, ucb95=0, axes={}, reason="")
            )  # fmt: skip
    return log


def _measured(step: int, score: float) -> Measurement:
    return Measurement(
        stage="01-sft" if step else "", step=step, checkpoint=f"s{step}" if step else "base", probe="p",
        axis="reasoning", role="general", method="generate", metric="", split="quick",
        ids=tuple(str(i) for i in range(20)), items=(score,) * 20,
    )  # fmt: skip


def job(
    folder: Path, log: Sequence[Event], *, until: float = 1.0, pause: float = 0.01, code: int = 0, said: str = ""
) -> Job:
    """A process that writes the log line by line, `pause` seconds between two."""
    source = folder / "script.jsonl"
    source.write_text("".join(events.encode(e) + "\n" for e in log), encoding="utf-8")
    path = folder / "events.jsonl"
    command = (sys.executable, "-c", WRITE, str(path), str(pause), str(source), str(code), said)
    return Job(command=command, log=str(path), until=until)


@pytest.mark.slow
def test_a_process_is_paused_after_the_look_it_was_to_reach(tmp_path: Path) -> None:
    ended = run_until(job(tmp_path, a_run(), until=0.5, pause=0.1))
    assert ended.status == "paused"
    log = events.read(tmp_path / "events.jsonl")
    assert looked(log) >= 0.5
    assert done(log) < 1.0


def test_a_process_that_may_go_to_its_end_is_left_alone(tmp_path: Path) -> None:
    ended = run_until(job(tmp_path, a_run()))
    assert (ended.status, ended.code) == ("ended", 0)
    assert done(events.read(tmp_path / "events.jsonl")) == 1.0
    other = tmp_path / "other"
    other.mkdir()
    assert run_until(job(other, a_run(), code=4)).status == "ended"  # the base was kept: a result like any other


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    ended = run_until(job(tmp_path, [], code=1, said="no memory left"))
    assert (ended.status, ended.code, ended.reason) == ("failed", 1, "ended with code 1: no memory left")


@pytest.mark.slow
def test_a_run_that_will_surely_break_the_tolerance_is_given_up(tmp_path: Path) -> None:
    """A look falls by 2 % a step under a constant rate: 16 % of 1 % after 8 of 40 steps, and it grows."""
    log = a_run(steps=40, drop=0.02)
    hopeless = replace(job(tmp_path, log, until=0.9, pause=0.03), tolerance=0.01)
    ended = run_until(hopeless)
    assert ended.status == "stopped"
    assert "is expected at the end" in ended.reason
    assert done(events.read(tmp_path / "events.jsonl")) < 0.9


def test_a_launcher_that_closes_pauses_what_is_at_work(tmp_path: Path) -> None:
    launcher = LocalLauncher(workers=2)
    future = launcher.submit(job(tmp_path, a_run(), pause=5.0))
    while not (tmp_path / "events.jsonl").is_file():
        pass
    launcher.close()
    assert future.result().status == "interrupted"


TRIAL = """
import pathlib, sys, time
from temper.cli.faults import clearly
def command():
    seen = pathlib.Path(sys.argv[1])
    seen.write_text("up")
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        seen.write_text("ended")
        raise
clearly(command)()
"""
STUDY = """
import sys
from temper.launch.local import Job, run_until
run_until(Job(command=(sys.executable, "-c", sys.argv[1], sys.argv[2]), log=sys.argv[3]))
"""


@pytest.mark.slow
def test_a_run_ends_with_the_study_that_waits_for_it(tmp_path: Path) -> None:
    """After a kill -9 of the study its trial went on, and its folder was in use when the study continued."""
    seen = tmp_path / "seen"
    study = subprocess.Popen([sys.executable, "-c", STUDY, TRIAL, str(seen), str(tmp_path / "run" / "events.jsonl")])
    _wait_for(seen, "up")
    study.kill()
    study.wait()
    _wait_for(seen, "ended")


@pytest.mark.slow
def test_a_run_does_not_outlive_a_fault_of_ours(tmp_path: Path) -> None:
    """What watched it had failed, and the run went on with nobody to pause it."""
    seen = tmp_path / "seen"

    def fault() -> bool:
        if not (seen.is_file() and seen.read_text() == "up"):
            return False
        time.sleep(0.2)
        raise AssertionError("a fault")

    command = (sys.executable, "-c", TRIAL, str(seen))
    with pytest.raises(AssertionError, match="a fault"):
        run_until(Job(command=command, log=str(tmp_path / "run" / "events.jsonl")), fault)
    assert seen.read_text() == "ended"


def test_what_a_run_that_continues_takes_again_does_not_count(tmp_path: Path) -> None:
    """A look of the sitting before, later than where the run went on from, paused it before its rung."""
    first, again = a_run(), a_run()
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    path.write_text("".join(events.encode(e) + "\n" for e in first), encoding="utf-8")
    tail.new()
    assert looked(tail.events) == 1.0
    events.append(path, Resumed(stage="01-sft", step=2))
    tail.new()
    assert looked(tail.events) == done(tail.events) == 0.25
    for event in again[8:12]:
        events.append(path, event)
    tail.new()
    assert looked(tail.events) == looked(events.read(path))


@pytest.mark.slow
def test_a_folder_where_a_run_is_still_ending_is_waited_for(tmp_path: Path) -> None:
    run, order = tmp_path / "run", []
    with locked(run):
        launcher = LocalLauncher()
        future = launcher.submit(replace(job(tmp_path, a_run()), log=str(run / "events.jsonl")))
        future.add_done_callback(lambda _: order.append("ran"))
        time.sleep(0.3)
        order.append("left")
    assert future.result().status == "ended" and order == ["left", "ran"]
    launcher.close()


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not (path.is_file() and path.read_text() == text):
        assert time.monotonic() < deadline, f"not {text}"
        time.sleep(0.05)


def test_progress_is_counted_over_all_stages() -> None:
    lengths = {"01-cpt": 30, "02-sft": 10}
    assert place("01-cpt", 15, lengths) == 15 / 40
    assert place("02-sft", 5, lengths) == 35 / 40
    assert stage_lengths(a_run()) == {"01-sft": 8}
    assert stage_lengths([]) == {}
    assert (done([]), looked([])) == (0.0, 0.0)


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first, second = (events.encode(e) for e in a_run()[:2])
    tail = Tail(path)
    assert tail.new() == []
    path.write_text(first + "\n" + second[:20])
    assert len(tail.new()) == 1
    path.write_text(first + "\n" + second + "\n")
    assert [type(e) for e in tail.new()] == [Measurement]
    assert len(tail.events) == 2
