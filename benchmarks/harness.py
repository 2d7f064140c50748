"""Timing that compares fairly: same threads, repetitions in turns, medians, devices synchronised."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STEADY = 0.2
"""The largest spread at which a ratio of two medians is worth printing."""

BLOCK_MS = 5.0
"""A repetition calls its candidate as often as it takes to last so long."""

ATTEMPTS = 3
"""How often an unsteady measurement is tried."""


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


@contextmanager
def exact_fp32() -> Iterator[None]:
    """CUDA's convolutions compute fp32 as fp32, and not in TF32, which is PyTorch's default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def compare(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float = 1.0,
    minimum: int = 7,
    best: bool = False,
    block_ms: float = BLOCK_MS,
) -> dict[str, Timing]:
    """Time each candidate: its median repetition, or its fastest if ``best``.

    The candidates take turns, so that whatever else the machine does falls on all of them alike. If one is
    not steady, all are measured again, up to three times, and the steadiest attempt counts.

    Args:
        candidates: Name -> call to time.
        device: What to synchronise with; CUDA is timed with events, and so without the launch's overhead
            where the device is the slower side.
        seconds: Time to spend on an attempt, warm-up left out.
        minimum: Repetitions at least.
        best: For a machine that others use at the same time, where medians show the others' work.
        block_ms: Least duration of a repetition.
    """
    clock = _cuda_ms if device.type == "cuda" else _cpu_ms
    calls = {name: _calls(call, clock, block_ms) for name, call in candidates.items()}
    attempts = []
    for _ in range(1 if best else ATTEMPTS):
        times: dict[str, list[float]] = {name: [] for name in candidates}
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(next(iter(times.values()))) < minimum:
            for name, call in candidates.items():
                times[name].append(clock(call, calls[name]))
        attempts.append({name: Timing.of(values, best) for name, values in times.items()})
        if _unsteadiness(attempts[-1]) <= STEADY:
            break
    return min(attempts, key=_unsteadiness)


def _unsteadiness(times: Mapping[str, Timing]) -> float:
    return max(timing.spread for timing in times.values())


def _calls(call: Callable[[], object], clock: Callable[[Callable[[], object], int], float], ms: float) -> int:
    """Warm up, and find how many calls last ``ms``."""
    for _ in range(2):
        clock(call, 1)
    return max(1, math.ceil(ms / max(clock(call, 1), 1e-6)))


def _cpu_ms(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) * 1e3 / count


def _cuda_ms(call: Callable[[], object], count: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and named ones."""


def rotating(call: Callable[..., object], sets: Sequence[Arguments]) -> Callable[[], object]:
    """A call that takes the next set of arguments each time."""
    endless = itertools.cycle(sets)

    def turn() -> object:
        arguments, options = next(endless)
        return call(*arguments, **options)

    return turn


def replayed(call: Callable[[], object], count: int) -> Callable[[], object]:
    """``count`` calls as one CUDA graph: how long they take does not depend on what their launches cost."""
    call()  # what is loaded or allocated once
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            call()
    return graph.replay


def rotation(nbytes: int, device: torch.device, most: int = 64) -> int:
    """How many sets of arguments of ``nbytes`` it takes for none to be in the cache when its turn comes."""
    return min(most, math.ceil(2 * cache_bytes(device) / max(nbytes, 1)) + 1)


def cache_bytes(device: torch.device) -> int:
    """Size of the last-level cache; 32 MiB where a CPU does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)


def copy_bandwidth(device: torch.device, nbytes: int = 1 << 28) -> float:
    """GB/s (read and written) of a plain copy of ``nbytes``: the roof for what moves bytes only."""
    source = torch.empty(nbytes // 4, device=device)
    target = torch.empty_like(source)
    source.fill_(1)
    timing = compare({"copy": lambda: target.copy_(source)}, device, seconds=0.5)["copy"]
    return 2 * nbytes / timing.milliseconds / 1e6


def matmul_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """GFLOP/s of a square matrix product: the roof for networks."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    timing = compare({"matmul": lambda: a @ b}, device, seconds=2.0)["matmul"]
    return 2 * side**3 / timing.milliseconds / 1e6


def total_bytes(*tensors: torch.Tensor | None) -> int:
    """Bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
