"""This machine: the calling process, or a pool of worker processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import torch

from pst_fast.cli.executors.base import Outcome, Throttled, attempt, become_worker, portable
from pst_fast.cli.plan import Plan
from pst_fast.cli.tasks import Task
from pst_fast.cli.terminal import Report
from pst_fast.data.decode import cores
from pst_fast.errors import InputError
from pst_fast.memory import keep_freed_memory

REPORT_INTERVAL = 0.2
PATIENCE = 5.0
"""Seconds that a worker has to leave its files in order when it is told to end."""


class InProcess:
    """One task after another in this process."""

    slots = 1
    in_process = True

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._next: list[tuple[Task, Report]] = []
        keep_freed_memory()
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)

    def start(self, task: Task, report: Report) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        self._next.append((task, report))

    def wait(self) -> Iterator[tuple[Task, Outcome]]:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        task, report = self._next.pop()
        yield task, attempt(self._plan, task, report)

    def close(self) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""


@dataclass
class _Worker:
    """A process of the pool, and the end of the pipe to it."""

    process: SpawnProcess
    connection: Connection


class Pool:
    """A fresh interpreter for each worker; they share the cores, and take one GPU each, in turn."""

    in_process = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.slots = plan.workers or 1
        self._threads = plan.threads or threads_each(self.slots)
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker | None] = [None] * self.slots
        self._busy: dict[int, tuple[Task, Report]] = {}

    def start(self, task: Task, report: Report) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        number = next(i for i in range(self.slots) if i not in self._busy)
        worker = self._workers[number]
        if worker is None:
            worker = self._workers[number] = self._spawn(number)
        self._busy[number] = (task, report)
        with suppress(OSError):  # it has died meanwhile: ``wait`` finds that out
            worker.connection.send(task)

    def wait(self) -> Iterator[tuple[Task, Outcome]]:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        ready = wait([self._at(number).connection for number in self._busy], timeout=1.0)
        for number in [number for number in self._busy if self._at(number).connection in ready]:
            task, report = self._busy[number]
            outcome = self._receive(number, report)
            if outcome is not None:
                del self._busy[number]
                yield task, outcome

    def _receive(self, number: int, report: Report) -> Outcome | None:
        worker = self._at(number)
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._workers[number] = None
            worker.connection.close()
            worker.process.join()
            return Outcome(error=InputError(_death(worker.process.exitcode)))
        if isinstance(message, Outcome):
            return message
        report(*message)
        return None

    def close(self) -> None:
        """See :class:`~pst_fast.cli.executors.base.Executor`."""
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()

    def _spawn(self, number: int) -> _Worker:
        ours, its = self._context.Pipe()
        gpu = None
        if self._plan.device.type == "cuda":
            gpus = visible_gpus()
            gpu = gpus[number % len(gpus)]
        process = self._context.Process(
            target=_serve, args=(its, self._plan, self._threads, gpu), name=f"pst_fast-worker-{number}"
        )
        process.start()
        its.close()
        return _Worker(process, ours)

    def _at(self, number: int) -> _Worker:
        worker = self._workers[number]
        assert worker is not None
        return worker


def threads_each(workers: int) -> int:
    """CPU threads of each of so many processes: OMP_NUM_THREADS where it is set, else its share of cores."""
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return int(os.environ["OMP_NUM_THREADS"])
    return max(1, cores() // workers)


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",") if name.strip()] or [
        str(i) for i in range(torch.cuda.device_count())
    ]


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by signal {-exitcode}; the same command goes on from there"
    return f"its process ended with exit code {exitcode}; the same command goes on from there"


def _serve(connection: Connection, plan: Plan, threads: int, gpu: str | None) -> None:
    """The life of a worker: tasks come, progress and outcomes go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the driver decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    become_worker(threads)
    sending = threading.Lock()

    def send(message: object) -> None:
        with sending:
            connection.send(message)

    while True:
        task = connection.recv()
        report = Throttled(lambda fraction, words: send((fraction, words)), REPORT_INTERVAL)
        send(portable(attempt(plan, task, report)))


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _die_with_the_driver() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
