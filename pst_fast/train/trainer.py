"""From a folder of training images to a folder of results."""

import resource
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pst_fast import distributed
from pst_fast.data.beton import check_beton, read_beton
from pst_fast.data.crops import Crops
from pst_fast.data.loaders import Kind, make_loader
from pst_fast.data.types import Batch, Loader
from pst_fast.defenses.base import DEFENSES
from pst_fast.files import replacing
from pst_fast.manifest import WORKING, build_stage, read_manifest
from pst_fast.train.loop import Fit, Progress
from pst_fast.train.purifying import purify
from pst_fast.train.resizing import sizes_by_epoch
from pst_fast.train.settings import TrainSettings

PROBES = 700
EVALUATION_BATCH = 512
PURIFYING = 0.5
"""Of the progress of a training whose images are purified first."""


def train(
    output: Path,
    *,
    train_data: Path,
    test_data: Path,
    settings: TrainSettings,
    device: torch.device,
    loader: Kind = "auto",
    progress: Progress | None = None,
) -> Path:
    """Train one network with one defense, in all processes of a run together.

    Args:
        output: Folder to make: ``metrics.jsonl``, ``model.pt``, ``tensorboard/`` and the manifest, whose
            facts hold the accuracies (in [0,1]; last and best epoch, ``last`` being what the defense hands
            out: the last epoch, unless it stops early), seconds by phase, images a second,
            peak memory, the stages by depth, and the views through which the network is to look
            (:class:`~pst_fast.ops.View`; none: at the images as they are).
        train_data: Folder with ``train.beton``.
        test_data: Folder with ``test.beton``; it is evaluated after each epoch and steers nothing.
        settings: What the run depends on.
        device: Where to train.
        loader: ``auto``, ``device``, ``ffcv`` or ``torch``.
        progress: Called with (fraction done, a few words).

    Raises:
        InputError: Unknown names, a ``.beton`` file of another data set, a checkpoint of another model,
            divergence.
    """
    defense_type = DEFENSES[settings.defense]
    facts = read_manifest(test_data)["facts"]
    classes, image_size = len(facts["classes"]), facts["image_size"]
    for path in (train_data / "train.beton", test_data / "test.beton"):
        check_beton(path, classes=classes, image_size=image_size)
    report = progress or (lambda fraction, words: None)

    def build(folder: Path) -> Mapping[str, Any]:
        _reset_peak_memory(device)
        defense = defense_type()
        source, before = train_data, 0.0
        if defense.purifies:
            before = PURIFYING
            source = purify(
                folder / WORKING / "purified", defense, train_data, settings=settings, device=device,
                progress=lambda fraction, words: report(before * fraction, words),
            )  # fmt: skip
        kept, left_out = split(source / "train.beton", defense.held_out, settings.seed)
        crops = None
        if settings.random_resized_crop and not defense.whole_images:
            crops = Crops(settings.seed, sizes_by_epoch(settings, image_size))
        batches, held_out, test_batches = _loaders(
            source, test_data, kept, left_out, settings, device, loader, crops
        )
        probe = probes(source / "train.beton", settings.seed)
        fit = Fit(
            defense=defense, loader=batches, test_loader=test_batches, held_out=held_out, probe=probe,
            num_classes=classes, settings=settings, device=device, folder=folder,
            progress=lambda fraction, words: report(before + (1 - before) * fraction, words),
        )  # fmt: skip
        fit.run()
        chosen = defense.finish(fit.rows)
        if distributed.is_main():
            with replacing(folder / "model.pt") as temporary:
                torch.save(fit.averaged.result.state_dict(), temporary)
            for checkpoint in folder.glob("*.ckpt"):
                checkpoint.unlink()
        accuracies = [row["test_accuracy"] for row in fit.rows]
        purifying = {"purify": read_manifest(source)["seconds"]} if defense.purifies else {}
        return {
            "last_accuracy": accuracies[chosen - 1],
            "best_accuracy": max(accuracies),
            "seconds": {**purifying, **fit.seconds},
            "images_per_second": fit.images_per_second,
            "peak_memory_bytes": _peak_memory(device),
            "bf16": fit.bf16,
            "stages": [stage.name for stage in fit.acm.stages],
            "events": [asdict(event) for event in defense.events],
            "looks": [asdict(view) for view in defense.looks()],
            "device": str(device),
        }

    inputs = {"train_data": train_data, "test_data": test_data}
    return build_stage(output, "train", asdict(settings), inputs, build, together=True)


def probes(path: Path, seed: int) -> Batch:
    """Fixed training images on which ACM is measured: at most 700, the same number of every class."""
    beton = read_beton(path)
    order = np.random.default_rng((seed, 700)).permutation(len(beton.labels))
    classes = np.unique(beton.labels)
    each = max(2, PROBES // len(classes))
    rows = np.sort(np.concatenate([order[beton.labels[order] == k][:each] for k in classes]))
    return Batch(
        torch.from_numpy(beton.gather(rows)),
        torch.from_numpy(np.asarray(beton.labels[rows])),
        torch.from_numpy(np.asarray(beton.index[rows])),
    )


def split(path: Path, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from, and ``held_out`` of each class (at least one, of classes with two or more)."""
    labels = read_beton(path).labels
    order = np.random.default_rng((seed, 900)).permutation(len(labels))
    left_out = [np.empty(0, np.int64)]
    for k in np.unique(labels) if held_out else ():
        rows = order[labels[order] == k]
        left_out.append(rows[: held_out_count(len(rows), held_out)])
    chosen = np.sort(np.concatenate(left_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def held_out_count(images: int, share: float) -> int:
    """How many of a class's images are held out."""
    return min(max(1, round(share * images)), images - 1) if share and images else 0


def _loaders(
    train_data: Path,
    test_data: Path,
    kept: np.ndarray,
    left_out: np.ndarray,
    settings: TrainSettings,
    device: torch.device,
    kind: Kind,
    crops: Crops | None,
) -> tuple[Loader, Loader | None, Loader]:
    train_path, test_path = train_data / "train.beton", test_data / "test.beton"
    common: dict[str, Any] = {"device": device, "kind": kind, "shard": distributed.shard()}
    fixed = {"batch_size": EVALUATION_BATCH, "seed": 0, "shuffle": False, "drop_last": False, **common}
    return (
        make_loader(
            train_path, batch_size=settings.batch_size, seed=settings.seed, shuffle=True,
            drop_last=len(kept) >= settings.batch_size, rows=kept, crops=crops, **common,
        ),
        make_loader(train_path, rows=left_out, **fixed) if len(left_out) else None,
        make_loader(test_path, **fixed),
    )  # fmt: skip


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on CUDA, of the whole process (since its start) elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
