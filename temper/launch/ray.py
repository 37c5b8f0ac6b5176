"""Ray: the same jobs on the nodes of a cluster, which see the folders of this machine (a shared file system)."""

from __future__ import annotations

import contextlib
import importlib
import math
import socket
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from temper.errors import MachineError, MissingExtra
from temper.launch.local import Ended, Job, run_until

CONNECT_SECONDS = 5.0


class RayLauncher:
    """Jobs as Ray tasks; the cluster decides where, `workers` at once."""

    def __init__(self, address: str, workers: int = 0) -> None:
        """Connects.

        Args:
            address: `auto`, `local` (a cluster of this machine alone), `HOST:PORT` or `ray://HOST:PORT`.
            workers: Jobs at once, which share the cores and GPUs; 0 takes as many as there are nodes.

        Raises:
            MachineError: nobody answers there.
        """
        self._ray = _connect(address)
        self.workers = workers or max(1, len(self._ray.nodes()))
        cluster = self._ray.cluster_resources()
        task = self._ray.remote(num_cpus=cores_of(cluster, self.workers), num_gpus=gpus_of(cluster, self.workers),
                                max_retries=0)  # fmt: skip
        self._task = task(run_until)
        self._closing = False

    def submit(self, job: Job) -> Future[Ended]:
        """Starts a job as soon as the cluster has room; one whose node is lost has failed."""
        ended: Future[Ended] = Future()

        def tell(task: Future[Ended]) -> None:
            error = task.exception()
            if error is None:
                ended.set_result(task.result())
                return
            first = (str(error).strip().splitlines() or [""])[0]
            reason = f"the cluster lost it: {type(error).__name__}: {first}"
            status = "interrupted" if self._closing else "failed"
            ended.set_result(Ended(status=status, code=1, seconds=0.0, reason=reason))

        self._task.remote(job).future().add_done_callback(tell)
        return ended

    def close(self) -> None:
        """Leaves the cluster, which ends the tasks of this driver; a run that was ended goes on by the same command."""
        self._closing = True
        self._ray.shutdown()


def cores_of(cluster: Mapping[str, float], workers: int) -> float:
    """Cores of one of so many jobs at once."""
    return max(1.0, cluster.get("CPU", 1.0) // workers)


def gpus_of(cluster: Mapping[str, float], workers: int) -> float:
    """GPUs of one of them: one, or a part of one where there are fewer than jobs. Ray hides those not asked for.

    Parts are counted in ten-thousandths, as Ray does, and rounded down, so that the jobs find room together.
    """
    return min(1.0, math.floor(1e4 * cluster.get("GPU", 0.0) / workers) / 1e4)


def _connect(address: str) -> Any:
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    expected = "expected a running cluster (`ray start --head` prints its address), or local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise MachineError(f"--ray {address}: nobody answers ({error}); {expected}; correct the address") from None
    elif address not in ("auto", "local"):
        do = "write HOST:PORT, ray://HOST:PORT, auto or local"
        raise MachineError(f"--ray {address}: found no port; {expected}; {do}")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=None)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        with contextlib.suppress(RuntimeError):
            ray.shutdown()
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise MachineError(f"--ray {address}: {first}; {expected}; start one, or leave --ray out") from None
    return ray
