"""Starting commands in several processes, and ending one of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(processes: int, module: str, *arguments: str) -> subprocess.Popen[str]:
    """``torchrun -m module arguments``, one thread a process, in fp32 as all tests."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PST_FAST_BF16": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--nproc-per-node", str(processes), "-m", module, *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(run: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        out, error = run.communicate(timeout=seconds)
    finally:
        run.kill()
    return run.returncode, out, error


def process_of_rank(run: subprocess.Popen[str], rank: int) -> int:
    """The id of one of the processes that torchrun started."""
    for task in Path(f"/proc/{run.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
                return int(child)
    raise ProcessLookupError(f"no child of {run.pid} has rank {rank}")


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Return once ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.02)
