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


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_goes_on_after_one_of_its_processes_is_killed(rank: int, tmp_path: Path) -> None:
    flags = ("--attacks", "none", "--defenses", "pst-plus", "--epochs", "12")
    run(tmp_path / "unbroken", 2, *flags)
    out = tmp_path / "broken"
    partial = out / "train" / "none" / "erm-seed0.partial"
    broken = begin(out, 2, *flags)
    wait_for(lambda: epochs(partial) >= 2)
    os.kill(process_of_rank(broken, rank), signal.SIGKILL)
    code, _, error = finish(broken, seconds=60)
    assert code != 0
    assert not (out / "results.json").exists()
    # The one that is left says so, if it notices before torchrun ends it; torchrun says which it was.
    assert error.count("the same command goes on from here") <= 1
    assert "SIGKILL" in error
    assert "pst_fast/" not in error  # no traceback of ours
    run(out, 2, *flags)
    assert rows(out) == rows(tmp_path / "unbroken")
    assert files(out) == files(tmp_path / "unbroken")
    for name in ("train/none/erm-seed0/model.pt", "train/none/pst-plus-seed0/model.pt"):
        assert sha256(out / name) == sha256(tmp_path / "unbroken" / name)


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
    assert error.count("error: unknown attack 'nope'") == 1
    assert "pst_fast/" not in error
    (tmp_path / "file").write_text("in the way")
    code, _, error = finish(begin(tmp_path / "file", 2))
    assert code != 0
    assert error.count("expected a folder, found a file in its place") == 1
