"""The fused ops against PyTorch eager and torch.compile of the same reference, dtype and memory format.

GB/s counts the fewest bytes that the op must move (each input read once, each output written once), next to a
copy measured in the same run. "eager/copy" is how many times faster than eager a plain copy of that many
bytes is: what an op that memory holds up can come to. On CUDA, GB/s and the share of a copy's are of the time
on the device alone ("device ms", of calls that a CUDA graph replays), the ratios of the time that a call
takes, its launch in it. Arguments take turns, so that none is in the cache when
it is read (``--hot`` keeps one set). A ratio of which either side's quartiles lie more than 20 % apart is not
given. torch.compile is left out for `augment`, `degrade` and `ar_perturbation`, whose twins keep it busy for
many minutes.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import geometric_mean
from typing import Any

import torch

from benchmarks.cases import augment, bank, degrade, mean, pooling, sets, steps
from benchmarks.cases.base import Case, Shape
from benchmarks.harness import Arguments, compare, copy_bandwidth, ratio, replayed, rotating, rotation
from benchmarks.table import TIMES, Column, Table, prepare
from pst_fast import ops
from pst_fast.errors import InputError

FAMILIES = (pooling, steps, mean, bank, augment, degrade, sets)
MAPS: dict[str, list[Shape]] = {
    "small": [(128, 64, 16, 16), (512, 64, 16, 16), (128, 128, 8, 8)],
    "large": [(64, 64, 56, 56)],
}
IMAGES: dict[str, list[Shape]] = {"small": [(128, 3, 32, 32), (512, 3, 32, 32)], "large": [(32, 3, 224, 224)]}
CUDA_FACTOR = 16
"""A GPU's batches are larger by so much, so that they are past its cache."""

COLUMNS = (
    Column("op", 19, "op"),
    Column("shape", 48, "shape"),
    Column("native ms", 9, "native_ms", "{:.3f}"),
    Column("device ms", 9, "device_ms", "{:.3f}"),
    Column("spread", 6, "native_spread", "{:.0%}"),
    Column("eager ms", 9, "eager_ms", "{:.3f}"),
    Column("compiled ms", 11, "compiled_ms", "{:.3f}"),
    Column("eager/nat", 9, "eager_ratio", TIMES),
    Column("comp/nat", 8, "compiled_ratio", TIMES),
    Column("GB/s", 7, "gigabytes_per_second", "{:.1f}"),
    Column("of copy", 7, "fraction_of_copy", "{:.0%}"),
    Column("eager/copy", 10, "copy_ratio", TIMES),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are this benchmark's own."""
    parser.add_argument("--only", default="", help="ops to run, by parts of their names, with commas between")
    parser.add_argument(
        "--sizes", choices=("small", "large", "all"), default="all", help="32 or 224 pixels (default: all)"
    )
    parser.add_argument("--hot", action="store_true", help="the same arguments every time, from the cache")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table, and return it."""
    device = prepare(args)
    if not ops.is_native(device):
        raise InputError(f"--device: expected one with native ops, got {device.type}, whose are not built")
    chosen = [
        case for case in cases(device, args.sizes) if any(part in case.op for part in args.only.split(","))
    ]
    if not chosen:
        raise InputError(f"--only: expected parts of ops' names with commas between, got {args.only!r}")
    bandwidth = copy_bandwidth(device)
    table = Table("ops", device, COLUMNS, args, {"copy_gigabytes_per_second": bandwidth})
    for case in chosen:
        row = measure(case, device, args.seconds or 1.0, args.best, not args.no_compile, args.hot)
        copy_ms = case.nbytes / bandwidth / 1e6
        row["fraction_of_copy"] = copy_ms / row["device_ms"]
        row["copy_ratio"] = row["eager_ms"] / copy_ms
        table.add(row)
    means = by_op(table.rows)
    print("\ngeometric means of an op's rows (eager/nat, comp/nat):")
    for op, ratios in means.items():
        cells = ("-" if value is None else TIMES.format(value) for value in ratios.values())
        print(f"  {op:19}  " + "  ".join(f"{cell:>8}" for cell in cells))
    return {**table.document(), "by_op": means}


def by_op(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Op -> geometric mean of its rows' ratios, None where no row has one."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        ratios = found.setdefault(row["op"], {"eager_ratio": [], "compiled_ratio": []})
        for key, values in ratios.items():
            if row[key] is not None:
                values.append(row[key])
    return {
        op: {key: geometric_mean(values) if values else None for key, values in ratios.items()}
        for op, ratios in found.items()
    }


def cases(device: torch.device, sizes: str) -> Iterator[Case]:
    """All rows of the table."""
    names = ("small", "large") if sizes == "all" else (sizes,)
    factor = CUDA_FACTOR if device.type == "cuda" else 1
    maps, images = ([(factor * s[0], *s[1:]) for name in names for s in t[name]] for t in (MAPS, IMAGES))
    for family in FAMILIES:
        yield from family.cases(device, maps, images)


def measure(
    case: Case, device: torch.device, seconds: float, best: bool, compiled: bool, hot: bool
) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    count = 1 if hot else rotation(case.nbytes, device)
    arguments = [case.make() for _ in range(count)]
    calls: dict[str, Callable[..., object]] = {"native": case.native, "eager": case.twin}
    if compiled and case.compiles:
        torch.compiler.reset()
        calls["compiled"] = torch.compile(case.twin, dynamic=False)
    candidates = {name: rotating(call, arguments) for name, call in calls.items()}
    times = compare(candidates, device, seconds, best=best)
    native, compiled_time = times["native"], times.get("compiled")
    device_ms = native.milliseconds
    if device.type == "cuda":
        device_ms = _device_ms(case.native, arguments, device, seconds)
    return {
        "op": case.op,
        "shape": case.shape,
        "native_ms": native.milliseconds,
        "device_ms": device_ms,
        "eager_ms": times["eager"].milliseconds,
        "compiled_ms": compiled_time and compiled_time.milliseconds,
        "native_spread": native.spread,
        "eager_spread": times["eager"].spread,
        "compiled_spread": compiled_time and compiled_time.spread,
        "eager_ratio": ratio(times["eager"], native, best),
        "compiled_ratio": ratio(compiled_time, native, best),
        "nbytes": case.nbytes,
        "argument_sets": count,
        "gigabytes_per_second": case.nbytes / device_ms / 1e6,
    }


def _device_ms(
    call: Callable[..., object], arguments: Sequence[Arguments], device: torch.device, seconds: float
) -> float:
    """Of a call, without its launch: some sixteen in one CUDA graph, each set of arguments in turn."""
    count = math.ceil(16 / len(arguments)) * len(arguments)
    replay = replayed(rotating(call, arguments), count)
    return compare({"replay": replay}, device, seconds / 4)["replay"].milliseconds / count
