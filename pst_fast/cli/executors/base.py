"""What all executors share: their interface, and what a worker does with a task."""

import fcntl
import os
import pickle
import time
import traceback
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from pst_fast.cli.plan import Plan
from pst_fast.cli.stages import perform
from pst_fast.cli.tasks import Task
from pst_fast.cli.terminal import Report
from pst_fast.distributed import world_size
from pst_fast.errors import InputError
from pst_fast.memory import keep_freed_memory


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        lines: What a person is told about each stage of it.
        error: What it failed of, or None.
    """

    lines: Sequence[str] = ()
    error: Exception | None = None


class Executor(Protocol):
    """Does tasks somewhere.

    Attributes:
        slots: How many tasks it takes at a time.
        in_process: Whether it does them in the calling process, one at a time.
    """

    slots: int
    in_process: bool

    def start(self, task: Task, report: Report) -> None:
        """Take a task whose needs are there; ``report`` is called in :meth:`wait` with its progress."""

    def wait(self) -> Iterable[tuple[Task, Outcome]]:
        """The tasks that have ended since; none, if none has for about a second."""

    def close(self) -> None:
        """End what is still under way, and give back what the executor holds."""


def attempt(plan: Plan, task: Task, report: Report) -> Outcome:
    """Do a task; whatever it raises is in the outcome, but for defects where several processes do it."""
    try:
        with _alone(plan, task, report):
            return Outcome(perform(plan, task, report))
    except Exception as error:
        if world_size() > 1 and not isinstance(error, InputError):
            raise  # the others wait for this process where it failed: the run has to end
        return Outcome(error=error)


def portable(outcome: Outcome) -> Outcome:
    """The outcome as it can be sent to another process: a defect has its traceback as a note."""
    error = outcome.error
    if error is None or isinstance(error, InputError):
        return outcome
    note = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return Outcome(outcome.lines, error)


def become_worker(threads: int) -> None:
    """Set up this process for computing, with so many CPU threads."""
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


class Throttled:
    """Hands on a report at most once in so many seconds, so that a fast loop does not wait for it."""

    def __init__(self, report: Report, seconds: float) -> None:
        self._report = report
        self._seconds = seconds
        self._due = time.monotonic()

    def __call__(self, fraction: float, words: str) -> None:
        """Report (fraction done in [0,1], a few words)."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._seconds
            self._report(fraction, words)


@contextmanager
def _alone(plan: Plan, task: Task, report: Report) -> Iterator[None]:
    """Hold a task: a worker whose driver was killed may still be at it, on this machine or another.

    A byte of one file is locked for each task, which network file systems know how to do. Of the ranks that
    torchrun has started for one run, the first holds it for all.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with (plan.out / ".tasks").open("a+b") as stream:
        byte = zlib.crc32(task.label.encode())
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            report(0.0, "waiting for another process that is at it")
            fcntl.lockf(stream, fcntl.LOCK_EX, 1, byte)
        yield
