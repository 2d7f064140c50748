"""The inner loop of the attacks, end to end, against the loop as the papers' authors wrote it.

Theirs: fp32, contiguous, eager, one small op after the other, and a backward pass that computes the gradients
of the network's weights too, which nobody reads ("frozen": without those; "compiled": without them, and the
network through torch.compile). On CUDA PyTorch's convolutions take fp32 for TF32, unless they are told not to
("exact": theirs, told). Ours: ``pst_fast.attacks.pgd``. Same network, images and number of steps.

GFLOP/s counts the forward pass and the gradients of the inputs, next to a matrix product measured in the same
run. ``--unlearnability`` crafts `em` with both loops and trains a network on either result.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Timing, compare, exact_fp32, matmul_peak, ratio
from benchmarks.table import TIMES, Column, Table, prepare
from pst_fast.attacks.alternation import SampleWise
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.em import ErrorMinimizing
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import MEAN, STD, LinfPGD
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.pipeline import run as run_pipeline
from pst_fast.cli.resolve import resolve
from pst_fast.cli.terminal import Terminal
from pst_fast.models import create_model
from pst_fast.precision import computes_in_bf16

EPSILON, STEP_SIZE, STEPS = 8 / 255, 0.8 / 255, 4
SETTINGS = {
    "cpu": (("resnet18", 16, 32, 128), ("resnet18", 64, 32, 32), ("resnet18", 16, 224, 8)),
    "cuda": (("resnet18", 64, 32, 512), ("resnet18", 64, 224, 64), ("resnet50", 64, 224, 64)),
}
"""Network, its width, the image's side and the batch, by device."""


class PublishedPGD:
    """The steps as they are in published code, behind the interface of ``LinfPGD``."""

    def __init__(self, model: nn.Module, *, step_size: float, epsilon: float, weights: bool = True) -> None:
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
        self.model.requires_grad_(weights)
        self.step_size, self.epsilon = step_size, epsilon

    def run_(self, x: Tensor, delta: Tensor, labels: Tensor, *, steps: int) -> Tensor:
        """Take the steps on ``delta`` in place, and return it."""
        images, moved = x.contiguous(), delta.contiguous()
        for _ in range(steps):
            perturbed = torch.clamp(images + moved, 0, 1).requires_grad_()
            loss = F.cross_entropy(self.model((perturbed - MEAN) / STD), labels)
            self.model.zero_grad()
            loss.backward()
            assert perturbed.grad is not None
            perturbed = perturbed.detach() - self.step_size * perturbed.grad.sign()
            moved = torch.clamp(perturbed - images, -self.epsilon, self.epsilon)
            moved = torch.clamp(images + moved, 0, 1) - images
        return delta.copy_(moved)


COLUMNS = (
    Column("network", 12, "network"),
    Column("images", 15, "images"),
    Column("ours ms/step", 12, "native_ms", "{:.2f}"),
    Column("spread", 6, "native_spread", "{:.0%}"),
    Column("published", 9, "published_ratio", TIMES),
    Column("exact", 6, "exact_ratio", TIMES),
    Column("frozen", 7, "frozen_ratio", TIMES),
    Column("compiled", 8, "compiled_ratio", TIMES),
    Column("GFLOP/s", 8, "gigaflops_per_second", "{:.0f}"),
    Column("of matmul", 9, "fraction_of_matmul", "{:.0%}"),
    Column("same signs", 10, "same_signs", "{:.1%}"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are this benchmark's own."""
    parser.add_argument(
        "--unlearnability", action="store_true", help="craft em with both loops, and train on the results"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table, and return it."""
    device = prepare(args)
    dtype = torch.bfloat16 if computes_in_bf16(device) else torch.float32
    peak = matmul_peak(device, dtype)
    table = Table("crafting", device, COLUMNS, args, {"matmul_gigaflops_per_second": peak})
    for setting in SETTINGS[device.type]:
        row = measure(*setting, device, args.seconds or 20.0, args.best, compiled=not args.no_compile)
        row["fraction_of_matmul"] = row["gigaflops_per_second"] / peak
        table.add(row)
    document = table.document()
    if args.unlearnability:
        document["unlearnability"] = unlearnability(device)
    return document


def measure(
    name: str,
    width: int,
    size: int,
    batch: int,
    device: torch.device,
    seconds: float,
    best: bool,
    compiled: bool,
) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, width=width, image_size=size).to(device)
    settle(model, size)
    x = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 10
    loops: dict[str, LinfPGD | PublishedPGD] = {
        "native": LinfPGD(frozen(model), step_size=STEP_SIZE, epsilon=EPSILON),
        "published": PublishedPGD(model, step_size=STEP_SIZE, epsilon=EPSILON),
        "frozen": PublishedPGD(model, step_size=STEP_SIZE, epsilon=EPSILON, weights=False),
    }
    if compiled:
        torch.compiler.reset()
        graph = PublishedPGD(model, step_size=STEP_SIZE, epsilon=EPSILON, weights=False)
        graph.model.compile(dynamic=False)
        loops["compiled"] = graph

    def crafted(key: str) -> Tensor:
        return loops[key].run_(x, torch.zeros_like(x), labels, steps=STEPS)

    def exact() -> Tensor:
        with exact_fp32():
            return crafted("published")

    candidates: dict[str, Callable[[], object]] = {key: partial(crafted, key) for key in loops}
    if device.type == "cuda":
        candidates["exact"] = exact
    same = (crafted("native").sign() == crafted("published").sign()).float().mean().item()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    flops = 2 * counter.get_total_flops()  # the gradients of the inputs cost what the outputs do
    times = compare(candidates, device, seconds, best=best)
    native = Timing(times["native"].milliseconds / STEPS, times["native"].spread)
    row: dict[str, Any] = {
        "network": f"{name} w{width}",
        "images": f"[{batch},3,{size},{size}]",
        "native_ms": native.milliseconds,
        "native_spread": native.spread,
        "gigaflops_per_second": flops / native.milliseconds / 1e6,
        "same_signs": same,
    }
    for key in ("published", "exact", "frozen", "compiled"):
        time = times.get(key)
        row[f"{key}_ms"] = None if time is None else time.milliseconds / STEPS
        row[f"{key}_spread"] = None if time is None else time.spread
        row[f"{key}_ratio"] = ratio(time, times["native"], best)
    return row


def settle(model: nn.Module, size: int) -> None:
    """Fill batch norm's running statistics from noise, as training fills them."""
    device = next(model.parameters()).device
    with torch.no_grad():
        for _ in range(20):
            model((torch.rand(8, 3, size, size, device=device) - MEAN) / STD)


class _PublishedAlternation(SampleWise):
    def descent(self) -> LinfPGD:
        descent = PublishedPGD(
            self.surrogate.model,
            step_size=self.recipe.relative_step * self.epsilon,
            epsilon=self.epsilon,
        )
        # Errors are counted on inputs that may be bf16.
        descent.model.register_forward_pre_hook(lambda model, inputs: (inputs[0].float(),))
        return descent  # type: ignore[return-value]


def unlearnability(device: torch.device) -> list[dict[str, Any]]:
    """Plain training on the demo set: clean, and under `em` crafted with either loop."""

    class _Published(ErrorMinimizing):
        alternation = _PublishedAlternation

    attacks = ("none", "em", "em-published-loop")
    with ATTACKS.extended({"em-published-loop": _Published}), tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            attacks=attacks,
            defenses=("erm",),
            out=Path(folder) / "run",
            device="cuda" if device.type == "cuda" else "cpu",
        )
        rows = run_pipeline(resolve(config), Terminal(Console(stderr=True)))
    print("\nDemo set, plain training, test accuracy after the last epoch:")
    for row in rows:
        craft = row["seconds"]["craft"]
        print(f"  {row['attack']:<18} {row['last_accuracy']:.1%}   crafted in {craft:.0f} s")
    return [{key: row[key] for key in ("attack", "last_accuracy", "seconds", "epochs")} for row in rows]
