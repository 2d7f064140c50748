"""make gpu-check: what it says without a GPU, how it reads the sanitizer, that its exercise runs every op."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pst_fast.ops._backend import devices_of
from tests.ops.helpers import needs_native
from tests.ops.test_registration import NAMES

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PST_FAST_BACKEND": "torch"},
    )
    assert result.returncode == 2
    assert result.stderr == "error: expected a CUDA device, but PyTorch finds none\n"
    assert not list(tmp_path.iterdir())


def test_what_fails_or_takes_too_long_is_named_and_the_rest_runs(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(options: Sequence[str], limit: float, tables: dict[str, Any]) -> dict[str, Any]:
        if options[0] == "crafting":
            raise subprocess.TimeoutExpired("benchmarks", 7)
        tables[options[0]] = {"options": list(options)}
        return {"passed": True}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check.ops, "is_native", lambda device: True)
    monkeypatch.setattr(gpu_check, "_driver", dict)
    monkeypatch.setattr(gpu_check, "environment", dict)
    monkeypatch.setattr(gpu_check, "run_tests", lambda limit: {"passed": True, "tests": 5})
    monkeypatch.setattr(gpu_check, "sanitize", lambda tool, limit: {"passed": tool == "memcheck"})
    monkeypatch.setattr(gpu_check, "run_table", table)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--json", str(tmp_path / "out.json")])
    assert gpu_check.main() == 1
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["tests"] == {"passed": True, "tests": 5}
    assert (found["memcheck"]["passed"], found["racecheck"]["passed"]) == (True, False)
    assert found["crafting"] == {"passed": False, "why": "not done in 7 s"}
    assert "--no-compile" not in found["benchmarks"]["ops"]["options"]  # the later table, with torch.compile
    assert set(found["benchmarks"]) == {"ops", "training"}


def test_a_table_without_time_leaves_its_rows_beside_a_whole_one(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(command: list[str], limit: float) -> None:
        Path(command[-1]).write_text(json.dumps({"benchmarks": {"ops": {"rows": [{"op": "augment"}]}}}))
        raise subprocess.TimeoutExpired(command, limit)

    monkeypatch.setattr(gpu_check, "_run", runs_out)
    tables: dict[str, Any] = {"ops": {"rows": [1, 2]}}
    with pytest.raises(subprocess.TimeoutExpired):
        gpu_check.run_table(("ops",), 7, tables)
    assert tables == {"ops": {"rows": [1, 2]}, "ops, in part": {"rows": [{"op": "augment"}]}}


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 1 error", 1),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)", 2),
        ("Segmentation fault", None),
    ],
)
def test_reading_the_sanitizer(gpu_check: ModuleType, text: str, errors: int | None) -> None:
    assert gpu_check.count_errors(text) == errors


@needs_native
def test_the_exercise_runs_every_op(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import sets

    ran: set[str] = set()

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.namespace == "pst_fast":
                ran.add(func._schema.name.removeprefix("pst_fast::"))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(sets, "PIXEL_BYTES", sets.PIXEL_BYTES)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with Recorder():
        gpu_check.exercise(torch.device("cpu"))
    assert ran == {name for name in NAMES if "cpu" in devices_of(name)}
