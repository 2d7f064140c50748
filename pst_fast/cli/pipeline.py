"""From a data set to a table: every task of the plan, on one worker or on many, and then the report."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pst_fast.cli.cost.room import check_run
from pst_fast.cli.executors.base import Executor, Outcome
from pst_fast.cli.executors.factory import make_executor
from pst_fast.cli.exits import write_failure
from pst_fast.cli.plan import Plan
from pst_fast.cli.results import Row, row_of, write_results
from pst_fast.cli.stages import attack_folder, found, title_of, train_folder
from pst_fast.cli.tasks import Cell, Task, graph
from pst_fast.cli.terminal import Terminal
from pst_fast.distributed import is_main, on_main
from pst_fast.errors import InputError

__all__ = ["Row", "attack_folder", "run", "train_folder"]


def run(plan: Plan, terminal: Terminal) -> list[Row]:
    """Run every task of ``plan`` whose output is not there yet, and write the report.

    ``results.json`` is written anew whenever a cell (attack x defense x seed) is finished or fails. A cell
    that fails is told and left out, and the others go on.

    Returns:
        One row per attack, defense and seed: what ``results.json`` holds (see docs/pipeline.md).

    Raises:
        InputError: Something given cannot be used, another run works in ``plan.out``, the disk or the memory
            will not do, or (once all others are finished) cells failed.
    """
    from pst_fast.report import write_report

    with _only_run_in(plan.out):
        on_main(lambda: check_run(plan))
        with closing(make_executor(plan)) as executor:
            matrix = _Matrix(plan, terminal, executor)
            matrix.work()
        rows = matrix.rows()
        if rows and is_main():
            write_report(plan.out, rows)
    if matrix.defects:
        raise matrix.defects[0]
    if matrix.sentences:
        raise InputError("; ".join(matrix.sentences))
    return rows


class _Matrix:
    """What is done, under way and still to do.

    Attributes:
        sentences: What failed by itself, as it is told.
        defects: The exceptions among it that no sentence to the user can mend.
    """

    def __init__(self, plan: Plan, terminal: Terminal, executor: Executor) -> None:
        self.plan = plan
        self.terminal = terminal
        self.executor = executor
        self.sentences: list[str] = []
        self.defects: list[Exception] = []
        self._waiting, self._cells = graph(plan)
        self._users = {task: [cell for cell in self._cells if task in cell.tasks] for task in self._waiting}
        self._looked_at: set[Task] = set()
        self._running: dict[Task, ExitStack] = {}
        self._done: set[Task] = set()
        self._rows: dict[Cell, Row] = {}
        self._failures: dict[Cell, str] = {}

    def rows(self) -> list[Row]:
        """The rows of the finished cells, in the plan's order."""
        return [self._rows[cell] for cell in self._cells if cell in self._rows]

    def work(self) -> None:
        """Do all that can be done."""
        with ExitStack() as lines:
            self._advance(lines)
            while self._running:
                for task, outcome in self.executor.wait():
                    self._running.pop(task).close()
                    self._end(task, outcome)
                self._advance(lines)

    def _advance(self, lines: ExitStack) -> None:
        """Take note of what is there already, and start what can be started."""
        for task in self._ready():
            if not self.executor.in_process and task not in self._looked_at:
                self._looked_at.add(task)
                self._look(task)
        for task in self._ready():
            if len(self._running) >= self.executor.slots:
                break
            self._waiting.remove(task)
            line = self._running[task] = lines.enter_context(ExitStack())
            self.executor.start(task, line.enter_context(self.terminal.stage(title_of(self.plan, task))))

    def _ready(self) -> Iterator[Task]:
        """The tasks, in the plan's order, that nothing stands in the way of and that somebody needs."""
        for task in list(self._waiting):
            if self._done.issuperset(task.needs) and any(
                cell not in self._failures for cell in self._users[task]
            ):
                yield task

    def _look(self, task: Task) -> None:
        try:
            lines = found(self.plan, task)
        except InputError as error:
            self._waiting.remove(task)
            self._end(task, Outcome(error=error))
        else:
            if lines is not None:
                self._waiting.remove(task)
                self._end(task, Outcome(lines))

    def _end(self, task: Task, outcome: Outcome) -> None:
        for line in outcome.lines:
            self.terminal.say(line)
        if outcome.error is not None:
            self._fail(task, outcome.error)
        else:
            self._done.add(task)
            finished = [cell for cell in self._users[task] if self._done >= cell.tasks]
            self._rows |= {cell: row_of(self.plan, cell) for cell in finished}
            if not finished:
                return
        if is_main():
            write_results(self.plan, self.rows(), self._failures)

    def _fail(self, task: Task, error: Exception) -> None:
        """Take the cells that need ``task`` out of the run; end it where none of them would fare better."""
        if task.kind == "prepare":
            raise error
        if isinstance(error, InputError):
            sentence = f"{task.label} failed: {error}"
        elif isinstance(error, OSError | RuntimeError) and write_failure(error, self.plan.out):
            raise error
        else:
            sentence = f"{task.label} failed: {type(error).__name__}: {error}"
            self.defects.append(error)
        self.sentences.append(sentence)
        self.terminal.say(sentence)
        for cell in self._users[task]:
            if cell in self._failures:
                continue
            self._failures[cell] = sentence
            if cell.trained != task:
                self.terminal.say(f"{cell.trained.label} left out: {task.label}, which it needs, has failed")


@contextmanager
def _only_run_in(out: Path) -> Iterator[None]:
    """Hold ``out`` for this run: two of them in one folder would take each other's working folders away."""
    if not is_main():
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out}: expected a folder, found a file in its place") from None
    except FileNotFoundError:  # /proc and its kind
        raise InputError(f"--out {out}: expected a place where folders can be made") from None
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {out}: another run is at work there; wait for it or name another"
            ) from None
        yield
