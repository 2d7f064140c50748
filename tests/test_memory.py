"""keep_freed_memory: pages that were freed are not cleared again."""

import subprocess
import sys

SCRIPT = """
import resource, sys, torch
from pst_fast.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("unknown")
    sys.exit()
def fault():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.empty(1 << 21).fill_(1) for _ in range(10)]  # 8 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fault()
print(fault())
"""


def faults(how: str) -> str:
    command = [sys.executable, "-c", SCRIPT, how]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_freed_pages_are_used_again() -> None:
    kept = faults("keep")
    if kept == "unknown":  # a C library other than glibc
        return
    assert 10 * int(kept) < int(faults("leave"))
