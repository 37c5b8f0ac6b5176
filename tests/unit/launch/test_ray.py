"""Trials on a Ray cluster of this machine, and addresses that do not answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class Cluster:
    """Stands for Ray, and keeps what a task asks for."""

    there: dict[str, float]
    asked: dict[str, float] = field(default_factory=dict)

    def init(self, **_: object) -> None:
        """Always answers."""

    def nodes(self) -> list[str]:
        """Two machines."""
        return ["a", "b"]

    def cluster_resources(self) -> dict[str, float]:
        """Of both."""
        return self.there

    def remote(self, **asked: float) -> Callable[[object], None]:
        """A task."""
        self.asked = asked
        return lambda _: None


@pytest.mark.parametrize(
    ("there", "workers", "cores", "gpus"),
    [
        ({"CPU": 8.0}, 0, 4.0, 0.0),
        ({"CPU": 8.0, "GPU": 2.0}, 0, 4.0, 1.0),
        ({"CPU": 8.0, "GPU": 8.0}, 2, 4.0, 1.0),
        ({"CPU": 8.0, "GPU": 2.0}, 3, 2.0, 0.6666),
        ({"CPU": 1.0, "GPU": 1.0}, 2, 1.0, 0.5),
    ],
)
def test_jobs_share_what_the_cluster_has(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, float], workers: int, cores: float, gpus: float
) -> None:
    """They asked for no GPU, and Ray hides the GPUs from such a task: every trial ran on the processor."""
    cluster = Cluster(there=there)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    launcher = RayLauncher("local", workers)
    assert launcher.workers == (workers or 2)
    assert (cluster.asked["num_cpus"], cluster.asked["num_gpus"]) == (cores, gpus)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_job_that_the_cluster_loses_has_failed_and_the_study_goes_on(tmp_path: Path) -> None:
    """Its future raised, which ended the study with a traceback."""
    pytest.importorskip("ray")
    launcher = RayLauncher("local", workers=1)
    try:
        script = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
        lost = launcher.submit(Job(command=(sys.executable, "-c", script), log=str(tmp_path / "a" / "events.jsonl")))
        ended = lost.result(timeout=120)
        assert ended.status == "failed" and "the cluster lost it: WorkerCrashedError" in ended.reason
        next_one = launcher.submit(Job(command=(sys.executable, "-c", ""), log=str(tmp_path / "b" / "events.jsonl")))
        assert next_one.result(timeout=120).status == "ended"
    finally:
        launcher.close()


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
