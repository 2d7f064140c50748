"""How freed memory is handled: a network's activations are freed and taken again in every step."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 1 << 25
"""The largest blocks that glibc can keep in its heap."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks of up to 32 MiB in this process for the next ones of their kind.

    By default it gives them back to the system, which then clears each page again at its first use: about a
    fifth of a training step on a CPU. The process stays as large as it was at its largest.

    Returns:
        Whether the C library knows how.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
