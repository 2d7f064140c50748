"""Timing that compares fairly: same threads, interleaved repetitions, medians, device synchronised."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

STEADY = 0.2
"""The largest spread at which a ratio of two medians is worth printing."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one candidate, median or least; the quartiles' distance, as a share of the median."""

    milliseconds: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float], best: bool = False) -> "Timing":
        """From at least two repetitions."""
        median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(min(values) if best else median, (high - low) / median)


def ratio(slow: Timing | None, fast: Timing, best: bool = False) -> float | None:
    """How many times faster ``fast`` is; None where either is missing or, unless ``best``, not steady."""
    if slow is None or (not best and max(slow.spread, fast.spread) > STEADY):
        return None
    return slow.milliseconds / fast.milliseconds


def compare(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float = 1.0,
    minimum: int = 7,
    best: bool = False,
) -> dict[str, Timing]:
    """Time each candidate: its median repetition, or its fastest if ``best``.

    The candidates take turns, so that whatever else the machine does falls on all of them alike.

    Args:
        candidates: Name -> call to time.
        device: What to synchronise with; CUDA is timed with events, and so without the launch's overhead
            where the device is the slower side.
        seconds: Time to spend on all of them, warm-up left out.
        minimum: Repetitions at least.
        best: For a machine that others use at the same time, where medians show the others' work.
    """
    clock = _cuda_ms if device.type == "cuda" else _cpu_ms
    for call in candidates.values():
        for _ in range(3):
            clock(call)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(times.values()))) < minimum:
        for name, call in candidates.items():
            times[name].append(clock(call))
    return {name: Timing.of(values, best) for name, values in times.items()}


def _cpu_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def copy_bandwidth(device: torch.device, nbytes: int = 1 << 28) -> float:
    """GB/s (read and written) of a plain copy of ``nbytes``: the roof for what moves bytes only."""
    source = torch.empty(nbytes // 4, device=device)
    target = torch.empty_like(source)
    source.fill_(1)
    timing = compare({"copy": lambda: target.copy_(source)}, device, seconds=0.5)["copy"]
    return 2 * nbytes / timing.milliseconds / 1e6


def total_bytes(*tensors: torch.Tensor | None) -> int:
    """Bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
