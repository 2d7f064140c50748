"""keep_freed_memory: what was freed stays in the process for the next allocation."""

import subprocess
import sys

MEBIBYTE = 1 << 20
SCRIPT = """
import ctypes, sys, torch
from pst_fast.memory import keep_freed_memory
class Info(ctypes.Structure):  # of glibc's mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
if not hasattr(ctypes.CDLL(None), "mallinfo2"):
    print("unknown")
    sys.exit()
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
if sys.argv[1] == "keep":
    assert keep_freed_memory()
blocks = [torch.empty(1 << 21).fill_(1) for _ in range(10)]  # 8 MiB each
del blocks
print(mallinfo2().fordblks)
"""


def free_bytes_kept(how: str) -> int | None:
    """Bytes that the C library holds for later, after 80 MiB were taken and freed."""
    command = [sys.executable, "-c", SCRIPT, how]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None if answer == "unknown" else int(answer)


def test_freed_blocks_stay_in_the_process() -> None:
    kept, left = free_bytes_kept("keep"), free_bytes_kept("leave")
    if kept is None or left is None:  # a C library other than glibc, or one before 2.33
        return
    assert kept >= 75 * MEBIBYTE > left
