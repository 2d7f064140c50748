"""The graph of tasks, and how a run drives it, whatever finishes first and whatever fails."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pst_fast.cli import pipeline
from pst_fast.cli.executors.base import Outcome, attempt
from pst_fast.cli.pipeline import run
from pst_fast.cli.tasks import Task, graph
from pst_fast.cli.terminal import Report
from pst_fast.errors import InputError
from tests.cli.stages import Stages, plan_for, quiet

GRID: dict[str, Any] = {"attacks": ("lsp", "em"), "defenses": ("erm", "pst"), "seeds": ("0", "1")}


class Backwards:
    """Does one task at each :meth:`wait`: the one that was started last."""

    in_process = False

    def __init__(self, plan: Any, slots: int = 100, before: Callable[[Task], None] = lambda task: None):
        self.slots = slots
        self.started: list[str] = []
        self.most = 0
        self._plan = plan
        self._before = before
        self._open: list[tuple[Task, Report]] = []

    def start(self, task: Task, report: Report) -> None:
        self.started.append(task.label)
        self._open.append((task, report))
        self.most = max(self.most, len(self._open))

    def wait(self) -> list[tuple[Task, Outcome]]:
        task, report = self._open.pop()
        self._before(task)
        return [(task, attempt(self._plan, task, report))]

    def close(self) -> None:
        assert not self._open or self.slots == 100


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backwards]:
    def use(plan: Any, **options: Any) -> Backwards:
        made = Backwards(plan, **options)
        monkeypatch.setattr(pipeline, "make_executor", lambda plan: made)
        return made

    return use


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def cells(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(row["attack"], row["defense"], row["seed"]) for row in rows]


def test_the_graph_has_each_task_once_after_what_it_needs(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, attacks=("none", "lsp"), defenses=("erm", "pst"), seeds=("0", "1"))
    tasks, found = graph(plan)
    assert [task.label for task in tasks] == ["prepare"] + [
        f"{name} seed {seed}"
        for seed in (0, 1)
        for name in ("none/erm", "none/pst", "lsp", "lsp/erm", "lsp/pst")
    ]
    for number, task in enumerate(tasks):
        assert all(tasks.index(need) < number for need in task.needs)
    assert [(cell.attack, cell.defense, cell.seed) for cell in found][:4] == [
        ("none", "erm", 0), ("none", "pst", 0), ("lsp", "erm", 0), ("lsp", "pst", 0),
    ]  # fmt: skip
    assert {task.label for task in found[3].tasks} == {
        "prepare", "none/erm seed 0", "lsp seed 0", "lsp/pst seed 0",
    }  # fmt: skip


def test_rows_keep_the_plans_order_and_are_there_as_cells_finish(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards]
) -> None:
    whole = run(plan_for(tmp_path / "whole", **GRID), quiet())
    stages.built.clear()
    plan = plan_for(tmp_path, **GRID)
    seen: list[list[tuple[str, str, int]]] = []

    def look(task: Task) -> None:
        if (tmp_path / "results.json").exists():
            seen.append(cells(results(tmp_path)["rows"]))

    executor(plan, before=look)
    rows = run(plan, quiet())
    order = [(a, d, s) for s in (0, 1) for a in ("lsp", "em") for d in ("erm", "pst")]
    assert cells(rows) == cells(results(tmp_path)["rows"]) == order
    assert stages.built[-1] == "train none/erm", "the baseline that was started first ends last"
    assert len(seen[-1]) == 4, "the cells of the other seed have their rows by then"
    for some in seen:
        assert some == [cell for cell in order if cell in some]
    assert results(tmp_path)["failures"] == []
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in whole]


def test_no_more_tasks_than_slots_are_under_way(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards]
) -> None:
    plan = plan_for(tmp_path, **GRID)
    some = executor(plan, slots=3)
    run(plan, quiet())
    assert some.most == 3
    assert len(some.started) == 1 + 2 * (1 + 2 * 3)


def test_what_is_finished_is_not_sent_to_a_worker(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for(tmp_path, **GRID)
    first = run(plan, quiet())
    (tmp_path / "train/em/pst-seed1/manifest.json").unlink()
    some = executor(plan)
    again = run(plan, quiet())
    assert some.started == ["em/pst seed 1"]
    assert cells(again) == cells(first)
    more = plan_for(tmp_path, **GRID | {"epochs": 99})
    some = executor(more)
    run(more, quiet())
    assert len(some.started) == 2 * (1 + 4), "trainings for another number of epochs, and nothing else"


def test_a_failing_attack_takes_its_own_cells_with_a_sentence_each(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards]
) -> None:
    plan = plan_for(tmp_path, attacks=("lsp", "em"), defenses=("erm", "pst"))
    some = executor(plan)
    stages.stop_at, stages.error = "craft lsp", InputError("no such thing")
    with pytest.raises(InputError, match=r"^lsp seed 0 failed: no such thing$"):
        run(plan, quiet())
    assert not any(label.startswith("lsp/") for label in some.started)
    written = results(tmp_path)
    assert cells(written["rows"]) == [("em", "erm", 0), ("em", "pst", 0)]
    assert cells(written["failures"]) == [("lsp", "erm", 0), ("lsp", "pst", 0)]
    assert {failure["error"] for failure in written["failures"]} == {"lsp seed 0 failed: no such thing"}


def test_a_diverging_cell_is_recorded_until_it_succeeds(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards]
) -> None:
    plan = plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst"))
    stages.stop_at, stages.error = "train lsp/pst", InputError("training diverged")
    executor(plan)
    with pytest.raises(InputError, match="training diverged"):
        run(plan, quiet())
    assert results(tmp_path)["failures"] == [
        {"attack": "lsp", "defense": "pst", "seed": 0, "error": "lsp/pst seed 0 failed: training diverged"}
    ]
    stages.stop_at = None
    some = executor(plan)
    run(plan, quiet())
    assert some.started == ["lsp/pst seed 0"]
    assert results(tmp_path)["failures"] == []


def test_without_its_baseline_a_seed_is_not_trained_on(tmp_path: Path, stages: Stages) -> None:
    stages.stop_at, stages.error = "train none/erm", InputError("training diverged")
    with pytest.raises(InputError, match=r"^none/erm seed 0 failed: training diverged$"):
        run(plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst")), quiet())
    assert stages.built == ["prepare"]
    assert len(results(tmp_path)["failures"]) == 2


def test_a_failure_to_prepare_ends_the_run(
    tmp_path: Path, stages: Stages, executor: Callable[..., Backwards]
) -> None:
    plan = plan_for(tmp_path)
    stages.stop_at, stages.error = "prepare", InputError("a.jpg: truncated")
    executor(plan)
    with pytest.raises(InputError, match=r"^a.jpg: truncated$"):
        run(plan, quiet())
    assert not (tmp_path / "results.json").exists()


def test_a_defect_of_one_cell_is_raised_when_the_others_are_done(tmp_path: Path, stages: Stages) -> None:
    stages.stop_at, stages.error = "train lsp/erm", ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        run(plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst")), quiet())
    written = results(tmp_path)
    assert cells(written["rows"]) == [("lsp", "pst", 0)]
    assert written["failures"][0]["error"] == "lsp/erm seed 0 failed: ZeroDivisionError: a defect"


def test_a_full_disk_ends_the_run_at_once(tmp_path: Path, stages: Stages) -> None:
    stages.stop_at, stages.error = "train lsp/erm", OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        run(plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst")), quiet())
    assert "train lsp/pst" not in stages.built
