"""Ray: one Ray task for each task of the run, with a GPU of its own where the run is on CUDA."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from pst_fast.cli.executors.base import Outcome
from pst_fast.cli.executors.shared import ProgressFiles, work
from pst_fast.cli.plan import Plan
from pst_fast.cli.tasks import Task
from pst_fast.cli.terminal import Report
from pst_fast.errors import InputError

RETRIES = 2
"""How often Ray takes up a task whose worker has died; it goes on from its last epoch or round."""
UNLIMITED = 1 << 20


class RayExecutor:
    """Tasks on the cluster that RAY_ADDRESS names or that runs here, else on one that is started here."""

    in_process = False

    def __init__(self, plan: Plan) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        self._plan = plan
        self.slots = plan.workers or UNLIMITED
        gpus = 1 if plan.device.type == "cuda" else 0
        try:
            self._threads = _threads(plan, gpus)
        except InputError:
            ray.shutdown()
            raise
        self._work = ray.remote(num_cpus=self._threads, num_gpus=gpus, max_retries=RETRIES)(work)
        self._progress = ProgressFiles(plan.out)
        self._running: dict[Any, tuple[Task, Report]] = {}

    def start(self, task: Task, report: Report) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        reference = self._work.remote(
            self._plan, task, self._threads, str(Path.cwd()), self._progress.path(task).absolute()
        )
        self._running[reference] = (task, report)

    def wait(self) -> Iterator[tuple[Task, Outcome]]:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        ended, _ = ray.wait(list(self._running), timeout=1.0)
        for task, report in self._running.values():
            self._progress.hand_on(task, report)
        for reference in ended:
            task, _ = self._running.pop(reference)
            yield task, _outcome(reference)

    def close(self) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        ray.shutdown()
        self._progress.close()


def _outcome(reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Outcome(
            error=InputError(f"Ray lost its worker {RETRIES + 1} times ({type(error).__name__}: {words})")
        )


def _threads(plan: Plan, gpus: int) -> int:
    """CPU threads of a task: as asked for, or OMP_NUM_THREADS, or the cluster's share of one of the workers.

    With no number of workers it is the share of a GPU, or, where there is none, that of a machine.

    Raises:
        InputError: The cluster has no machine that could do such a task: Ray would wait for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(resources.get("CPU", 0)) for resources in nodes]
    cards = sum(int(resources.get("GPU", 0)) for resources in nodes)
    if gpus and not cards:
        raise InputError("--device cuda: expected GPUs in Ray's cluster, which has none")
    named = os.environ.get("OMP_NUM_THREADS", "")
    share = sum(cpus) // (plan.workers or (cards if gpus else len(nodes)))
    threads = plan.threads or (int(named) if named.isdigit() else max(1, min(max(cpus), share)))
    if threads > max(cpus):
        raise InputError(
            f"--threads {threads}: expected at most {max(cpus)}, the cores of the largest machine of Ray's"
        )
    return threads
