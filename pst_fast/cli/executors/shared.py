"""Workers on other machines, which share the file system with the driver and tell their progress there."""

import json
import os
import shutil
from pathlib import Path

from pst_fast.cli.executors.base import Outcome, Throttled, attempt, become_worker, portable
from pst_fast.cli.plan import Plan
from pst_fast.cli.tasks import Task
from pst_fast.cli.terminal import Report
from pst_fast.files import write_text

REPORT_INTERVAL = 1.0


class ProgressFiles:
    """A file for each task that is under way, in a folder that goes with the run.

    Args:
        out: The run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / ".progress"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._seen: dict[Task, str] = {}

    def path(self, task: Task) -> Path:
        """Where the progress of ``task`` is told."""
        return self._folder / f"{task.label.replace('/', '-')}.json"

    def hand_on(self, task: Task, report: Report) -> None:
        """Call ``report`` if there is news."""
        try:
            text = self.path(task).read_text(encoding="utf-8")
        except OSError:
            return
        if text != self._seen.get(task):
            self._seen[task] = text
            report(*json.loads(text))

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)


def work(plan: Plan, task: Task, threads: int, folder: str, progress: Path) -> Outcome:
    """Do a task in a process that somebody else has started.

    Args:
        plan: The run.
        task: Its needs are there.
        threads: CPU threads to use.
        folder: The driver's working folder, which relative paths in the plan are meant from.
        progress: File to tell the progress in.
    """
    os.chdir(folder)
    become_worker(threads)

    def report(fraction: float, words: str) -> None:
        if progress.parent.is_dir():  # gone with the driver
            write_text(progress, json.dumps([fraction, words]))

    return portable(attempt(plan, task, Throttled(report, REPORT_INTERVAL)))
