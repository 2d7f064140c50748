"""Whole training steps: loader, augmentation, forward, backward, optimizer, and what ACM adds to them.

Ours is ``pst_fast.train``: a loader on the device, the fused augmentation, a channels_last network, fused
SGD, bf16 where the device computes in it; on CUDA with ``--compile`` ("default": without it). The baseline is
what a training script of published code does: PIL and torchvision's transforms in a ``DataLoader`` with one
worker a core, fp32, contiguous, eager ("compiled": its network through torch.compile; "exact", on CUDA: fp32
convolutions that are not TF32, PyTorch's default). Same network, images, batches and augmentations; a
repetition is an epoch of ten batches, so that neither side has its batches prepared while the other one is
timed. "input" is what each side needs for the batches alone, as a share of its epoch (the baseline's workers
do it meanwhile, where there are cores to spare). "a check" is what one of `pst` costs, in steps; "ACM" what
all of them do, as a share of the steps of a training that is as long as 30 epochs of CIFAR-10 in batches of
128.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import compare, exact_fp32, matmul_peak, ratio
from benchmarks.table import TIMES, Column, Table, prepare
from pst_fast.data.beton import write_beton
from pst_fast.data.loaders import make_loader
from pst_fast.data.types import Loader
from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.pst import PST
from pst_fast.models import create_model
from pst_fast.precision import computes_in_bf16
from pst_fast.pst.cadence import Cadence
from pst_fast.pst.schedule import GROWTH, INTERVAL
from pst_fast.train.augmentation import MEAN, STD, Augmentation
from pst_fast.train.loop import Fit
from pst_fast.train.settings import TrainSettings
from pst_fast.train.trainer import probes

BATCHES, CLASSES = 10, 10
LENGTH = 30 * 50_000 // 128
"""Steps of the training whose checks are counted."""
CHECKS = Cadence(INTERVAL, GROWTH).checks(LENGTH)
SETTINGS = {
    "cpu": (("resnet18", 16, 32, 128),),
    "cuda": (("resnet18", 64, 32, 512), ("resnet18", 64, 224, 128)),
}
"""Network, its width, the images' side and the batch, by device."""

COLUMNS = (
    Column("network", 12, "network"),
    Column("images", 15, "images"),
    Column("augmentation", 12, "augmentation"),
    Column("ours ms/step", 12, "native_ms", "{:.1f}"),
    Column("spread", 6, "native_spread", "{:.0%}"),
    Column("img/s", 7, "images_per_second", "{:.0f}"),
    Column("default", 7, "default_ratio", TIMES),
    Column("naive", 7, "naive_ratio", TIMES),
    Column("exact", 6, "exact_ratio", TIMES),
    Column("compiled", 8, "compiled_ratio", TIMES),
    Column("GFLOP/s", 8, "gigaflops_per_second", "{:.0f}"),
    Column("of matmul", 9, "fraction_of_matmul", "{:.0%}"),
    Column("input", 6, "native_input_share", "{:.0%}"),
    Column("naive input", 11, "naive_input_share", "{:.0%}"),
    Column("a check", 7, "acm_steps", "{:.1f}"),
    Column("ACM", 6, "acm_share", "{:.1%}"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table, and return it."""
    device = prepare(args)
    dtype = torch.bfloat16 if computes_in_bf16(device) else torch.float32
    peak = matmul_peak(device, dtype)
    table = Table("training", device, COLUMNS, args, {"matmul_gigaflops_per_second": peak})
    for model, width, size, batch in SETTINGS[device.type]:
        for defense in ("erm", "cg"):
            setting = Setting(model, width, size, batch, defense)
            row = measure(setting, device, args.seconds or 20.0, args.best, compiled=not args.no_compile)
            row["fraction_of_matmul"] = row["gigaflops_per_second"] / peak
            table.add(row)
    return table.document()


@dataclass(frozen=True)
class Setting:
    """What both sides train."""

    model: str
    width: int
    size: int
    batch: int
    defense: str

    @property
    def augmentation(self) -> Augmentation:
        """The defense's."""
        return DEFENSES[self.defense]().augmentation()

    def images(self) -> np.ndarray:
        """Noise, uint8 [N,H,W,3]: ten batches of it."""
        shape = (BATCHES * self.batch, self.size, self.size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return np.arange(BATCHES * self.batch) % CLASSES


class Ours:
    """Epochs of our trainer."""

    def __init__(self, setting: Setting, device: torch.device, folder: Path, compiled: bool = False) -> None:
        path = folder / "train.beton"
        labels = setting.labels()
        write_beton(path, setting.images(), labels, np.arange(len(labels)))
        self.loader: Loader = make_loader(
            path, batch_size=setting.batch, seed=0, shuffle=True, drop_last=True, device=device
        )
        settings = TrainSettings(
            setting.defense, setting.model, setting.width, 1, setting.batch, compile=compiled
        )
        self.fit = Fit(
            defense=DEFENSES[setting.defense](),
            loader=self.loader,
            test_loader=self.loader,
            probe=probes(path, seed=0),
            num_classes=CLASSES,
            settings=settings,
            device=device,
            folder=folder,
            progress=lambda fraction, words: None,
        )

    def epoch(self) -> None:
        """Train for ten steps."""
        self.fit.model.train()
        for step, batch in enumerate(self.loader.epoch(0)):
            self.fit._step(batch, step, step)

    def inputs(self) -> None:
        """The same batches, and nothing done with them."""
        for step, batch in enumerate(self.loader.epoch(0)):
            self.fit.defense.augmentation()(batch.images, 0, step)

    def flops(self) -> int:
        """Of a forward and a backward pass on a batch."""
        batch = next(iter(self.loader.epoch(0)))
        inputs = self.fit.defense.augmentation()(batch.images, 0, 0)
        with FlopCounterMode(display=False) as counter:
            self.fit.model(inputs).sum().backward()
        return counter.get_total_flops()


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, setting: Setting) -> None:
        from torchvision import transforms

        self.images, self.labels = setting.images(), setting.labels()
        how = setting.augmentation
        steps: list[Callable[[Any], Any]] = [
            transforms.RandomCrop(setting.size, padding=round(how.crop * setting.size)),
            transforms.RandomHorizontalFlip(),
        ]
        if how.brightness:
            jitter = transforms.ColorJitter(how.brightness, how.contrast, how.saturation, how.hue)
            steps += [
                transforms.RandomApply([jitter], p=how.jitter_probability),
                transforms.RandomGrayscale(how.grey_probability),
            ]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


class Naive:
    """Epochs of a plain training script."""

    def __init__(self, setting: Setting, device: torch.device, compiled: bool = False) -> None:
        self.device = device
        self.loader = torch.utils.data.DataLoader(
            _Pictures(setting),
            setting.batch,
            shuffle=True,
            drop_last=True,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        torch.manual_seed(0)
        self.model: nn.Module = create_model(
            setting.model, num_classes=CLASSES, width=setting.width, image_size=setting.size
        ).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        if compiled:
            self.model.compile(dynamic=False)

    def epoch(self) -> None:
        """Train for ten steps."""
        self.model.train()
        for images, labels in self.loader:
            loss = F.cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def exact_epoch(self) -> None:
        """The same, no convolution in TF32."""
        with exact_fp32():
            self.epoch()

    def inputs(self) -> None:
        """The same batches, and nothing done with them."""
        for images, _ in self.loader:
            images.to(self.device)


def measure(
    setting: Setting, device: torch.device, seconds: float, best: bool, compiled: bool
) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        # First, so that the workers are forked from a process that has computed nothing yet.
        naive = Naive(setting, device)
        naive.inputs()
        graphed = compiled and device.type == "cuda"
        torch.compiler.reset()
        ours = Ours(setting, device, Path(folder), compiled=graphed)
        epochs: dict[str, Callable[[], object]] = {"native": ours.epoch, "naive": naive.epoch}
        if device.type == "cuda":
            epochs["exact"] = naive.exact_epoch
        if graphed:
            epochs["default"] = Ours(setting, device, Path(folder)).epoch
        if compiled:
            epochs["compiled"] = Naive(setting, device, compiled=True).epoch
        flops = ours.flops()
        times = compare(epochs, device, seconds, minimum=5, best=best)
        parts = compare(
            {"native": ours.inputs, "naive": naive.inputs, "acm": PST().trigger(ours.fit)},
            device,
            seconds / 4,
            best=best,
        )
    native = times["native"]
    step_ms = native.milliseconds / BATCHES
    row: dict[str, Any] = {
        "network": f"{setting.model} w{setting.width}",
        "images": f"[{setting.batch},3,{setting.size},{setting.size}]",
        "augmentation": setting.defense,
        "native_ms": step_ms,
        "native_spread": native.spread,
        "images_per_second": 1000 * setting.batch / step_ms,
        "gigaflops_per_second": flops / step_ms / 1e6,
        "native_input_share": parts["native"].milliseconds / native.milliseconds,
        "naive_input_share": parts["naive"].milliseconds / times["naive"].milliseconds,
        "acm_ms": parts["acm"].milliseconds,
        "acm_checks": CHECKS,
        "acm_steps": parts["acm"].milliseconds / step_ms,
        "acm_share": CHECKS * parts["acm"].milliseconds / LENGTH / step_ms,
    }
    for key in ("default", "naive", "exact", "compiled"):
        time = times.get(key)
        row[f"{key}_ms"] = time and time.milliseconds / BATCHES
        row[f"{key}_spread"] = time and time.spread
        row[f"{key}_ratio"] = ratio(time, native, best)
    return row
