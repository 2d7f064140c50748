"""Everything that needs a GPU, in one call of at most nine minutes, into one JSON file.

    make gpu-check ARGS="--json benchmarks/results/2026-01-31-h100.json"

Side by side, as none of them tells the time: the tests marked ``gpu``, and compute-sanitizer's memcheck and
racecheck over every op, at odd sizes and even ones. Then, alone, the three tables of the benchmarks, and that
of the ops again with ``torch.compile``, which takes longest. The file is written as findings come in, and
what there was no time or no tool for is named in it. The exit code is 0 if all of it ran and passed, 1 if
something failed or was left out, 2 where there is no GPU.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.table import read_documents  # noqa: E402
from pst_fast import ops  # noqa: E402
from pst_fast.files import write_json  # noqa: E402
from pst_fast.manifest import environment  # noqa: E402

SECONDS = 540
"""For all of it."""

CHECKS_SECONDS = 240
"""Of those, at most, for what runs side by side."""

TABLES = {
    "ops": ("ops", "--seconds", "0.1", "--no-compile"),
    "crafting": ("crafting", "--seconds", "3"),
    "training": ("training", "--seconds", "3"),
    "ops, compiled": ("ops", "--seconds", "0.1"),
}


def main() -> int:
    """Run what there is time for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the findings go")
    parser.add_argument("--exercise", action="store_true", help="only run each op once (for the sanitizer)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: expected a CUDA device, but PyTorch finds none", file=sys.stderr)
        return 2
    if not ops.is_native("cuda"):
        print("error: expected the CUDA ops, but _C_cuda.so is not there: run `make cuda`", file=sys.stderr)
        return 2
    if args.exercise:
        exercise(torch.device("cuda"))
        return 0
    started = time.monotonic()
    findings: dict[str, Any] = {"environment": environment(), "driver": _driver()}
    checks = {
        "tests": partial(run_tests, CHECKS_SECONDS),
        "memcheck": partial(sanitize, "memcheck", CHECKS_SECONDS),
        "racecheck": partial(sanitize, "racecheck", CHECKS_SECONDS),
    }
    passed = True

    def note(name: str, found: dict[str, Any]) -> None:
        nonlocal passed
        passed &= found["passed"]
        findings[name] = found
        findings["seconds"] = time.monotonic() - started
        print(f"{name}: {'passed' if found['passed'] else 'NOT PASSED'}", flush=True)
        write_json(args.json, findings)

    with ThreadPoolExecutor(len(checks)) as pool:
        names = {pool.submit(within_time, check): name for name, check in checks.items()}
        for future in as_completed(names):
            note(names[future], future.result())
    tables: dict[str, Any] = {}
    findings["benchmarks"] = tables
    for name, options in TABLES.items():
        limit = SECONDS - (time.monotonic() - started)
        note(name, within_time(partial(run_table, options, limit, tables)))
    return 0 if passed else 1


def within_time(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it finds, or that it was not done in time."""
    try:
        return run()
    except subprocess.TimeoutExpired as error:
        return {"passed": False, "why": f"not done in {error.timeout:.0f} s"}


def exercise(device: torch.device) -> None:
    """Run each op once on each kind of arguments, at sizes that fill vectors and blocks and at odd ones."""
    from benchmarks.cases import sets
    from benchmarks.ops import FAMILIES

    sets.PIXEL_BYTES = 100_000
    maps = [(6, 8, 16, 16), (3, 5, 7, 9)]
    images = [(6, 3, 32, 32), (3, 3, 13, 9)]
    for family in FAMILIES:
        for case in family.cases(device, maps, images):
            arguments, options = case.make()
            case.native(*arguments, **options)
    labels = torch.arange(6, device=device) % 3
    for shape in maps:
        for features in layouts(torch.randn(shape, device=device)):
            features.requires_grad_()
            _, means, m2 = ops.class_channel_stats(features, labels[: shape[0]], 3, grid=2)
            maxima = ops.max_pool(features, 3, 2, 1)
            (ops.grid_pool(features, 3).sum() + means.sum() + m2.sum() + maxima.sum()).backward()
    for shape in images:
        for x in layouts(torch.rand(shape, device=device)):
            out = torch.empty_like(x, dtype=torch.float16)
            for step in (ops.linf_step, ops.l2_step):
                step(0.1 * x, x - 0.5, x, step_size=0.1, epsilon=0.2)
                step(0.1 * x, x - 0.5, x, step_size=0.1, epsilon=0.2, out=out)
            bank = torch.zeros(shape[0], *shape[2:], 3, dtype=torch.int8, device=device)
            ops.quantize_bank_(bank, x, epsilon=1.0)
            ops.class_mean_step_(torch.zeros_like(x[:3]), x, labels[: shape[0]], step_size=0.1, epsilon=0.2)
    torch.cuda.synchronize()


def layouts(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same values contiguous, channels_last, and as every other column of something wider."""
    yield values.clone()
    yield values.contiguous(memory_format=torch.channels_last).clone(memory_format=torch.preserve_format)
    yield values.repeat_interleave(2, dim=3)[..., ::2]


def run_tests(limit: float) -> dict[str, Any]:
    """The tests that need a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}", "tests"]
        if find_spec("xdist") is not None:
            command += ["-n", str(min(6, os.cpu_count() or 1))]
        result = _run(command, limit)
        if not report.exists():
            return {"passed": False, "why": _tail(result)}
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        broken = [
            f"{case.get('classname')}.{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
    passed = result.returncode == 0 and counts["tests"] > counts["skipped"]
    return {"passed": passed, **counts, "broken": broken, **({} if passed else {"why": _tail(result)})}


def sanitize(tool: str, limit: float) -> dict[str, Any]:
    """One of compute-sanitizer's tools over :func:`exercise`."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    if sanitizer is None:
        return {"passed": False, "why": "compute-sanitizer is not there"}
    command = [sanitizer, "--tool", tool, "--kernel-name", "kernel_substring=pst", sys.executable, __file__]
    result = _run([*command, "--exercise", "--json", "none"], limit)
    errors = count_errors(result.stdout + result.stderr)
    passed = result.returncode == 0 and errors == 0
    return {"passed": passed, "errors": errors, **({} if passed else {"why": _tail(result)})}


def count_errors(text: str) -> int | None:
    """What compute-sanitizer's last line says; None where there is none.

    >>> count_errors("========= ERROR SUMMARY: 3 errors")
    3
    >>> count_errors("========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)")
    2
    """
    found = re.findall(r"SUMMARY: (\d+) (?:error|hazard)", text)
    return int(found[-1]) if found else None


def run_table(options: Sequence[str], limit: float, tables: dict[str, Any]) -> dict[str, Any]:
    """One of the benchmarks' tables; it takes the place of an earlier one of its name in ``tables``.

    Of one that there was no time for, or that failed, the rows so far are ``NAME, in part``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        command = [sys.executable, "-m", "benchmarks", *options, "--device", "cuda", "--json", str(path)]
        is_whole = False
        try:
            result = _run(command, limit)
            is_whole = result.returncode == 0
        finally:
            found = read_documents(path) if path.exists() else {}
            tables |= {name if is_whole else f"{name}, in part": table for name, table in found.items()}
    return {"passed": True} if is_whole else {"passed": False, "why": _tail(result)}


def _run(command: list[str], limit: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(limit, 1))


def _tail(result: "subprocess.CompletedProcess[str]") -> str:
    return (result.stdout + result.stderr)[-2000:]


def _driver() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    sys.exit(main())
