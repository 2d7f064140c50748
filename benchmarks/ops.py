"""The fused ops against PyTorch eager and torch.compile of the same reference, dtype and memory format.

GB/s counts the fewest bytes that the op must move (each input read once, each output written once), next to a
copy measured in the same run. A ratio of which either side's quartiles lie more than 20 % apart is not given.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import compare, copy_bandwidth, ratio, total_bytes
from pst_fast import ops
from pst_fast.cli.config import resolve_device
from pst_fast.defenses.views import STATIC_MIX, VIEWS
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import environment
from pst_fast.ops import View, reference, reference_degrade
from pst_fast.ops.degradation import cumulative

LAST = torch.channels_last
JITTER: dict[str, Any] = {
    "padding": 4,
    "flip": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
}


@dataclass
class Case:
    """One op on one set of arguments, native and twin; ``nbytes`` is what it must move at least."""

    op: str
    shape: str
    native: Callable[[], object]
    twin: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    nbytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's options."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads, for all sides (default: PyTorch's)")
    parser.add_argument("--only", default="", help="ops to run, by parts of their names, with commas between")
    parser.add_argument(
        "--sizes", choices=("small", "large", "all"), default="small", help="32 or 224 pixels"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each row (default: 1)")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (it is slow to start)"
    )
    parser.add_argument(
        "--best", action="store_true", help="fastest repetition, not the median (on a machine in use)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="rows of an earlier --json to set beside these"
    )


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    device = resolve_device(args.device)
    if not ops.is_native(device):
        raise InputError(f"--device: expected one with native ops, got {device.type}, whose are not built")
    if args.threads:
        torch.set_num_threads(args.threads)
    earlier = _earlier(args.compare) if args.compare else {}
    bandwidth = copy_bandwidth(device)
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{where}; torch {torch.__version__}; copy: {bandwidth:.1f} GB/s\n")
    print(LAYOUT.format(*HEADER))
    rows: list[dict[str, Any]] = []
    for case in cases(device, args.sizes):
        if not any(part in case.op for part in args.only.split(",")):
            continue
        row = measure(case, device, args.seconds, args.best, compiled=not args.no_compile)
        row["fraction_of_copy"] = row["gigabytes_per_second"] / bandwidth
        rows.append(row)
        print(_line(row, earlier.get((row["op"], row["shape"]))), flush=True)
    if not rows:
        raise InputError(f"--only: expected parts of ops' names with commas between, got {args.only!r}")
    if args.json:
        result = {
            "device": where,
            "threads": torch.get_num_threads(),
            "statistic": "best" if args.best else "median",
            "copy_gigabytes_per_second": bandwidth,
            "rows": rows,
            "environment": environment(),
        }
        write_json(args.json, result)


HEADER = (
    "op", "shape", "native ms", "spread", "eager ms", "compiled ms", "eager/nat", "comp/nat",
    "GB/s", "of copy", "earlier/now",
)  # fmt: skip
LAYOUT = "{:<20} {:<42} {:>9} {:>7} {:>9} {:>11} {:>9} {:>8} {:>6} {:>7} {:>11}"


def _line(row: dict[str, Any], earlier_ms: float | None) -> str:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    return LAYOUT.format(
        row["op"],
        row["shape"],
        cell(row["native_ms"], "{:.3f}"),
        cell(row["native_spread"], "{:.0%}"),
        cell(row["eager_ms"], "{:.3f}"),
        cell(row["compiled_ms"], "{:.3f}"),
        cell(row["eager_ratio"], "{:.1f}x"),
        cell(row["compiled_ratio"], "{:.1f}x"),
        cell(row["gigabytes_per_second"], "{:.1f}"),
        cell(row["fraction_of_copy"], "{:.0%}"),
        cell(earlier_ms and earlier_ms / row["native_ms"], "{:.2f}x"),
    )


def _earlier(path: Path) -> dict[tuple[str, str], float]:
    """Native milliseconds of an earlier run, by op and shape."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {(row["op"], row["shape"]): row["native_ms"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--compare: expected a file that --json wrote, got {path} ({error})") from error


def measure(case: Case, device: torch.device, seconds: float, best: bool, compiled: bool) -> dict[str, Any]:
    """One row of the table."""
    candidates: dict[str, Callable[[], object]] = {
        "native": case.native,
        "eager": lambda: case.twin(*case.arguments, **case.options),
    }
    if compiled:
        torch.compiler.reset()
        graph = torch.compile(case.twin, dynamic=False)
        candidates["compiled"] = lambda: graph(*case.arguments, **case.options)
    times = compare(candidates, device, seconds, best=best)
    native, graph_time = times["native"], times.get("compiled")
    return {
        "op": case.op,
        "shape": case.shape,
        "native_ms": native.milliseconds,
        "eager_ms": times["eager"].milliseconds,
        "compiled_ms": None if graph_time is None else graph_time.milliseconds,
        "native_spread": native.spread,
        "eager_spread": times["eager"].spread,
        "compiled_spread": None if graph_time is None else graph_time.spread,
        "eager_ratio": ratio(times["eager"], native, best),
        "compiled_ratio": ratio(graph_time, native, best),
        "gigabytes_per_second": case.nbytes / native.milliseconds / 1e6,
    }


def cases(device: torch.device, sizes: str) -> Iterator[Case]:
    """All rows of the table."""
    small, large = sizes in ("small", "all"), sizes in ("large", "all")
    maps = [(128, 64, 16, 16), (512, 64, 16, 16), (128, 128, 8, 8)] * small + [(64, 64, 56, 56)] * large
    for shape in maps:
        for last in (False, True):
            yield from _feature_cases(device, shape, last)
    images = [(128, 3, 32, 32), (512, 3, 32, 32)] * small + [(32, 3, 224, 224)] * large
    for shape in images:
        for last in (False, True):
            yield from _step_cases(device, shape, last)
    for shape in images:
        for last in (False, True):
            yield from _mean_cases(device, shape, last)
    for shape in images:
        yield from _augment_cases(device, shape)
    for shape in images:
        yield from _degrade_cases(device, shape)
    for shape in [(10_000, 32, 32, 3)] * small + [(256, 224, 224, 3)] * large:
        yield _pixel_case(device, shape)
    for shape in [(2000, 32, 32, 3)] * small + [(64, 224, 224, 3)] * large:
        yield _ar_case(device, shape)


def _name(shape: tuple[int, ...], *words: str) -> str:
    return " ".join([str(list(shape)).replace(" ", ""), *words])


def _layout(last: bool) -> str:
    return "channels_last" if last else "contiguous"


def _feature_cases(device: torch.device, shape: tuple[int, ...], last: bool) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        features = torch.randn(shape, device=device).to(dtype)
        if last:
            features = features.contiguous(memory_format=LAST)
        labels = torch.arange(shape[0], device=device) % 10
        words = _name(shape, str(dtype).removeprefix("torch."), _layout(last))
        out = 4 * shape[0] * shape[1] * 16
        nbytes = total_bytes(features)
        pool = (features, 4)
        stats = (features, labels, 10, 4)
        yield Case(
            "grid_pool", words, lambda a=pool: ops.grid_pool(*a), reference.grid_pool, pool, {}, nbytes + out
        )
        yield Case(
            "class_channel_stats",
            words,
            lambda a=stats: ops.class_channel_stats(*a),
            reference.class_channel_stats,
            stats,
            {},
            nbytes,
        )


def _step_cases(device: torch.device, shape: tuple[int, ...], last: bool) -> Iterator[Case]:
    def image() -> Tensor:
        values = torch.rand(shape, device=device)
        return values.contiguous(memory_format=LAST) if last else values

    mean, std = (torch.tensor(v, device=device) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    delta, grad, x = (image() - 0.5) * 0.06, image() - 0.5, image()
    for name, options in (
        ("linf_step_", {"step_size": 2 / 255, "epsilon": 8 / 255}),
        ("l2_step_", {"step_size": 0.1, "epsilon": 0.5}),
    ):
        for with_out in (False, True):
            extra: dict[str, Any] = dict(options)
            if with_out:
                extra |= {"mean": mean, "std": std, "out": torch.empty_like(x, dtype=torch.bfloat16)}
            native, arguments = getattr(ops, name), (delta, grad, x)
            yield Case(
                name,
                _name(shape, _layout(last), *["+out bf16"] * with_out),
                lambda f=native, a=arguments, o=extra: f(*a, **o),
                getattr(reference, name),
                arguments,
                extra,
                total_bytes(delta, delta, grad, x, extra.get("out")),
            )


def _mean_cases(device: torch.device, shape: tuple[int, ...], last: bool) -> Iterator[Case]:
    def images(count: int) -> Tensor:
        values = torch.rand((count, *shape[1:]), device=device) - 0.5
        return values.contiguous(memory_format=LAST) if last else values

    mean, std = (torch.tensor(v, device=device) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    delta, grad, x = 0.06 * images(10), images(shape[0]), images(shape[0]) + 0.5
    labels = torch.randint(0, 10, shape[:1], device=device)
    plain: dict[str, Any] = {"step_size": 1 / 255, "epsilon": 8 / 255}
    inputs = {"x": x, "mean": mean, "std": std, "out": torch.empty_like(x, dtype=torch.bfloat16)}
    for gradients, options, words in (
        (grad, plain, ["float32"]),
        (grad.bfloat16(), plain, ["bfloat16"]),
        (grad, plain | inputs, ["float32", "+out bf16"]),
    ):
        arguments = (delta, gradients, labels)
        yield Case(
            "class_mean_step_",
            _name(shape, *words, _layout(last)),
            lambda a=arguments, o=options: ops.class_mean_step_(*a, **o),
            reference.class_mean_step_,
            arguments,
            options,
            total_bytes(delta, delta, gradients, options.get("x"), options.get("out")),
        )


def _augment_cases(device: torch.device, shape: tuple[int, ...]) -> Iterator[Case]:
    batch, _, height, width = shape
    images = torch.randint(0, 256, (2 * batch, height, width, 3), dtype=torch.uint8, device=device)
    delta = torch.randint(-8, 9, images.shape, dtype=torch.int8, device=device)
    index = torch.randperm(2 * batch, device=device)[:batch]
    mean, std = (torch.tensor(v, device=device) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    plain: dict[str, Any] = {"seed": 1, "offset": 2, "index": index, "mean": mean, "std": std}
    for words, options in (
        ("crop flip", {"padding": 4, "flip": True}),
        ("crop flip delta", {"padding": 4, "flip": True, "delta": delta}),
        ("crop flip jitter grey", JITTER),
        ("crop flip jitter grey delta bf16", JITTER | {"delta": delta, "dtype": torch.bfloat16}),
    ):
        options = plain | options
        size = 2 if options.get("dtype") == torch.bfloat16 else 4
        nbytes = batch * height * width * 3 * (1 + ("delta" in options) + size)
        yield Case(
            "augment",
            _name(shape, words),
            lambda o=options: ops.augment(images, **o),
            reference.augment,
            (images,),
            options,
            nbytes,
        )


def _degrade_cases(device: torch.device, shape: tuple[int, ...]) -> Iterator[Case]:
    batch, _, height, width = shape
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device=device)
    for words, looks in (
        ("jpeg 10", [View.jpeg(10)]),
        ("median", [View.median()]),
        ("blur", [View.blur()]),
        ("down-up", [View.down_up()]),
        ("static mix", [VIEWS[name] for name in STATIC_MIX]),
    ):
        options = {"seed": 1, "offset": 2}
        shares = None if len(looks) == 1 else list(STATIC_MIX.values())
        yield Case(
            "degrade",
            _name(shape, words),
            lambda v=looks, p=shares: ops.degrade(images, v, probabilities=p, seed=1, offset=2),
            reference_degrade.degrade,
            (images, looks, cumulative(looks, shares)),
            options,
            2 * total_bytes(images),
        )


def _pixel_case(device: torch.device, shape: tuple[int, ...]) -> Case:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.arange(shape[0], device=device) % 10
    arguments = (images, labels, 10)
    return Case(
        "class_pixel_sums",
        _name(shape, "10 classes"),
        lambda a=arguments: ops.class_pixel_sums(*a),
        reference.class_pixel_sums,
        arguments,
        {},
        total_bytes(images) + 8 * 10 * 9 * shape[1] * shape[2],
    )


def _ar_case(device: torch.device, shape: tuple[int, ...]) -> Case:
    samples, height, width, channels = shape
    coefficients = torch.full((10, channels, 3, 3), 1 / 8, device=device)
    arguments = (coefficients, torch.arange(samples, device=device) % 10)
    options: dict[str, Any] = {"height": height, "width": width, "epsilon": 1.0, "seed": 1}
    return Case(
        "ar_perturbation",
        _name(shape, "10 classes"),
        lambda a=arguments, o=options: ops.ar_perturbation(*a, **o),
        reference.ar_perturbation,
        arguments,
        options,
        4 * samples * height * width * channels,
    )
