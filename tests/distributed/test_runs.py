"""Whole runs of two processes: their files and figures, and how they go on when one of them is killed."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pst_fast.files import sha256
from tests.distributed.torchrun import finish, process_of_rank, start, wait_for

TINY = (
    "--dataset", "demo", "--num-classes", "3", "--train-per-class", "24", "--test-per-class", "20",
    "--epochs", "4", "--width", "8", "--batch-size", "18", "--learning-rate", "0.05",
    "--preset", "fast", "--device", "cpu",
)  # fmt: skip
TRAIN = ("--attacks", "none", "--defenses", "pst-plus", "--epochs", "12")
CRAFT = (
    "--attacks", "tap,em", "--defenses", "erm", "--epochs", "1", "--surrogate", "resnet10",
    "--train-per-class", "200",
)  # fmt: skip
TIMES = ("seconds", "images_per_second", "peak_memory_bytes")


def begin(out: Path, processes: int, *flags: str) -> subprocess.Popen[str]:
    return start(processes, "pst_fast.run", *TINY, *flags, "--out", str(out))


def run(out: Path, processes: int, *flags: str) -> str:
    """Standard error of a run that ends well."""
    code, _, error = finish(begin(out, processes, *flags))
    assert code == 0, error
    return error


def rows(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "results.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if "tfevents" not in path.name)


def epochs(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


@pytest.mark.slow
def test_two_processes_end_with_the_files_and_nearly_the_figures_of_one(tmp_path: Path) -> None:
    flags = ("--attacks", "lsp", "--defenses", "erm,pst,cutout", "--epochs", "8")
    errors = {count: run(tmp_path / str(count), count, *flags) for count in (1, 2)}
    assert files(tmp_path / "2") == files(tmp_path / "1")
    assert errors[2].count("train lsp/pst seed 0") == 1  # said by one of them
    for row, expected in zip(rows(tmp_path / "2"), rows(tmp_path / "1"), strict=True):
        # 60 test images of 3 classes: twice the standard error of a difference.
        assert row["last_accuracy"] == pytest.approx(expected["last_accuracy"], abs=0.2)
    bank = "attacks/lsp-seed0/bank/perturbation.npy"
    assert sha256(tmp_path / "1" / bank) == sha256(tmp_path / "2" / bank)
    assert json.loads((tmp_path / "2" / "results.json").read_text())["environment"]["processes"] == 2


def kill(run: subprocess.Popen[str], rank: int) -> None:
    """End one process without a warning; the run has to end with it, in few words."""
    os.kill(process_of_rank(run, rank), signal.SIGKILL)
    code, _, error = finish(run, seconds=60)
    assert code != 0
    # The one that is left says so, if it notices before torchrun ends it; torchrun says which it was.
    assert error.count("the same command goes on from here") <= 1
    assert "SIGKILL" in error
    assert "pst_fast/" not in error  # no traceback of ours


def check_same(out: Path, expected: Path, *hashed: str) -> None:
    assert rows(out) == rows(expected)
    assert files(out) == files(expected)
    for name in hashed:
        assert sha256(out / name) == sha256(expected / name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(out, 2, *TRAIN)
    return out


@pytest.fixture(scope="module")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crafted")
    run(out, 2, *CRAFT)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_training_goes_on_after_one_of_its_processes_is_killed(
    rank: int, tmp_path: Path, trained: Path
) -> None:
    broken = begin(tmp_path, 2, *TRAIN)
    partial = tmp_path / "train" / "none" / "erm-seed0.partial"
    wait_for(lambda: epochs(partial) >= 2)
    kill(broken, rank)
    assert partial.is_dir() and not (tmp_path / "results.json").exists()
    run(tmp_path, 2, *TRAIN)
    check_same(tmp_path, trained, "train/none/erm-seed0/model.pt", "train/none/pst-plus-seed0/model.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "attack"), [(0, "tap"), (1, "tap"), (0, "em"), (1, "em")])
def test_crafting_goes_on_after_one_of_its_processes_is_killed(
    rank: int, attack: str, tmp_path: Path, crafted: Path
) -> None:
    broken = begin(tmp_path, 2, *CRAFT)
    working = tmp_path / "attacks" / f"{attack}-seed0" / "bank.partial" / "working"
    begun = {"em": "state.pt", "tap": f"rows-{rank}.pt"}[attack]
    wait_for((working / begun).is_file)
    kill(broken, rank)
    assert working.is_dir()
    run(tmp_path, 2, *CRAFT)
    check_same(tmp_path, crafted, *(f"attacks/{name}-seed0/bank/perturbation.npy" for name in ("em", "tap")))


@pytest.mark.slow
def test_one_process_crafts_what_two_do(tmp_path: Path, crafted: Path) -> None:
    run(tmp_path, 1, *CRAFT)
    for name in ("em", "tap"):
        bank = f"attacks/{name}-seed0/bank/perturbation.npy"
        assert sha256(tmp_path / bank) == sha256(crafted / bank)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    flags = ("--attacks", "none", "--defenses", "erm", "--epochs", "12")
    broken = begin(tmp_path, 1, *flags)
    partial = tmp_path / "train" / "none" / "erm-seed0.partial"
    wait_for(lambda: epochs(partial) >= 2)
    os.kill(process_of_rank(broken, 0), signal.SIGKILL)
    finish(broken)
    done = epochs(partial)
    assert 2 <= done < 12
    run(tmp_path, 2, *flags)
    metrics = tmp_path / "train" / "none" / "erm-seed0" / "metrics.jsonl"
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [*range(1, 13)]


@pytest.mark.slow
def test_what_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    code, _, error = finish(begin(tmp_path, 2, "--attacks", "nope"))
    assert code != 0
    assert error.count("error: --attacks nope: unknown attack 'nope'") == 1
    assert "pst_fast/" not in error
    (tmp_path / "file").write_text("in the way")
    code, _, error = finish(begin(tmp_path / "file", 2))
    assert code != 0
    assert error.count("expected a folder, found a file in its place") == 1
