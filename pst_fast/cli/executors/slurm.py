"""Slurm, through submitit: one job for each task of the run."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit

from pst_fast.cli.executors.base import Outcome
from pst_fast.cli.executors.names import parse_slurm
from pst_fast.cli.executors.shared import ProgressFiles, work
from pst_fast.cli.plan import Plan
from pst_fast.cli.tasks import Task
from pst_fast.cli.terminal import Report
from pst_fast.errors import InputError

CLUSTER = "slurm"
"""submitit's name of it; ``local`` stands for processes of this machine."""
UNLIMITED = 1 << 20
THREADS = 8
"""CPU threads of a job where neither --threads nor OMP_NUM_THREADS says how many."""


class SlurmExecutor:
    """Jobs whose pickles and logs lie in ``slurm`` in the run's folder."""

    in_process = False

    def __init__(self, plan: Plan) -> None:
        named = os.environ.get("OMP_NUM_THREADS", "")
        self._plan = plan
        self._threads = plan.threads or (int(named) if named.isdigit() else THREADS)
        self.slots = plan.workers or UNLIMITED
        self._folder = plan.out / "slurm"
        self._progress = ProgressFiles(plan.out)
        self._running: dict[Task, tuple[Any, Report]] = {}
        where = parse_slurm(plan.slurm)
        self._executor = submitit.AutoExecutor(folder=self._folder, cluster=CLUSTER)
        self._executor.update_parameters(
            name="pst_fast",
            timeout_min=where.minutes,
            cpus_per_task=self._threads,
            gpus_per_node=1 if plan.device.type == "cuda" else 0,
            **({} if where.partition is None else {"slurm_partition": where.partition}),
        )

    def start(self, task: Task, report: Report) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        progress = self._progress.path(task).absolute()
        job = self._executor.submit(work, self._plan, task, self._threads, str(Path.cwd()), progress)
        self._running[task] = (job, report)

    def wait(self) -> Iterator[tuple[Task, Outcome]]:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        time.sleep(1.0)
        for task, (job, report) in list(self._running.items()):
            self._progress.hand_on(task, report)
            if job.done():
                del self._running[task]
                yield task, self._outcome(job)

    def close(self) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        for job, _ in self._running.values():
            job.cancel(check=False)
        self._progress.close()

    def _outcome(self, job: Any) -> Outcome:
        try:
            return job.result()
        except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError):
            sentence = f"its job {job.job_id} ended as {job.state}, its words are in {job.paths.stderr}"
            return Outcome(error=InputError(f"{sentence}; the same command goes on from there"))
