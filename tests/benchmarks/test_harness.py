"""What the benchmarks' figures mean, by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Timing, compare, ratio, rotating, rotation

CPU = torch.device("cpu")


def test_a_timing_by_hand() -> None:
    timing = Timing.of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert timing == Timing(3.0, (4.0 - 2.0) / 3.0)  # one slow repetition moves neither
    assert Timing.of([4.0, 1.0, 2.0, 3.0, 100.0], best=True).milliseconds == 1.0


def test_no_ratio_from_an_unsteady_run() -> None:
    steady, shaky = Timing(4.0, 0.2), Timing(2.0, 0.21)
    assert ratio(Timing(8.0, 0.0), steady) == 2.0
    assert ratio(steady, shaky) is None
    assert ratio(shaky, steady) is None
    assert ratio(None, steady) is None
    assert ratio(steady, shaky, best=True) == 2.0


class Clock:
    """Stands in for time: a call lasts what the script says, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, durations: dict[str, list[float]]) -> None:
        self.now, self.calls = 0.0, []
        self.durations = {name: itertools.cycle(values) for name, values in durations.items()}
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def call(self, name: str) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += next(self.durations[name]) / 1e3

        return run


def test_candidates_take_turns_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {"a": [2.0], "b": [10.0]})
    times = compare({name: clock.call(name) for name in "ab"}, CPU, seconds=0)
    # warm-up; then blocks of at least 5 ms, in turns
    assert "".join(clock.calls) == "aaa" + "bbb" + 7 * "aaab"
    assert times["a"].milliseconds == pytest.approx(2)
    assert times["b"].milliseconds == pytest.approx(10)


def test_an_unsteady_measurement_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shaky = [10.0, 20.0] * 7
    clock = Clock(monkeypatch, {"a": [10.0] * 3 + shaky[:7] + [10.0] * 70})
    times = compare({"a": clock.call("a")}, CPU, seconds=0)
    assert len(clock.calls) == 3 + 7 + 7  # the second attempt was steady
    assert times["a"] == Timing(pytest.approx(10), pytest.approx(0, abs=1e-9))
    clock = Clock(monkeypatch, {"a": [10.0] * 3 + [10.0, 20.0, 30.0] * 100})
    times = compare({"a": clock.call("a")}, CPU, seconds=0)
    assert len(clock.calls) == 3 + 3 * 7
    assert times["a"].spread > harness.STEADY


def test_arguments_take_turns() -> None:
    seen: list[tuple[int, str]] = []
    call = rotating(lambda a, *, b: seen.append((a, b)), [((1,), {"b": "x"}), ((2,), {"b": "y"})])
    for _ in range(3):
        call()
    assert seen == [(1, "x"), (2, "y"), (1, "x")]


def test_enough_arguments_to_leave_the_cache() -> None:
    cache = harness.cache_bytes(CPU)
    for nbytes in (cache // 7, cache, 3 * cache):
        assert (rotation(nbytes, CPU) - 1) * nbytes >= 2 * cache
    assert rotation(1, CPU) == 64
