"""Trials on a Ray cluster of this machine, and addresses that do not answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from temper.errors import MachineError, MissingExtra
from temper.launch.local import Job
from temper.launch.ray import RayLauncher, cores_of, gpus_of


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[ray\]'"):
        RayLauncher("local")


def test_jobs_share_the_cores_and_gpus_of_the_cluster() -> None:
    """Jobs asked for no GPU, and Ray hides from a task what it did not ask for."""
    assert (cores_of({"CPU": 16.0}, 3), gpus_of({"CPU": 16.0}, 3)) == (5.0, 0.0)
    assert (cores_of({"CPU": 2.0, "GPU": 8.0}, 4), gpus_of({"CPU": 2.0, "GPU": 8.0}, 4)) == (1.0, 1.0)
    assert gpus_of({"GPU": 1.0}, 2) == 0.5


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "nobody answers"), ("ray://127.0.0.1:1", "nobody answers"), ("somewhere", "found no port")],
)
def test_an_address_that_does_not_answer_is_refused(address: str, said: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(MachineError, match=said):
        RayLauncher(address)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_job_runs_on_a_local_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    launcher = RayLauncher("local", workers=1)
    try:
        script = f"import pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text('done')"
        job = Job(command=(sys.executable, "-c", script), log=str(tmp_path / "events.jsonl"))
        ended = launcher.submit(job).result(timeout=120)
        assert (ended.status, ended.code) == ("ended", 0)
        assert (tmp_path / "seen").read_text() == "done"
    finally:
        launcher.close()
