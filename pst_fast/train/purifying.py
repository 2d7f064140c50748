"""The training set as a defense has purified it."""

from pathlib import Path

import torch

from pst_fast.data.beton import write_beton
from pst_fast.data.prepare import map_image_set
from pst_fast.defenses.base import Defense, Purification
from pst_fast.manifest import WORKING, build_stage
from pst_fast.train.loop import Progress
from pst_fast.train.settings import TrainSettings


def purify(
    output: Path,
    defense: Defense,
    train_data: Path,
    *,
    settings: TrainSettings,
    device: torch.device,
    progress: Progress,
) -> Path:
    """Write ``output``/train.beton: the training images as the defense would have them learned.

    Of several processes the main one does so, while the others wait.

    Args:
        output: Folder to make.
        defense: One that purifies.
        train_data: Folder with ``train.beton`` and a manifest.
        settings: Defense, seed and width.
        device: Where to compute.
        progress: Called with (fraction done, a few words).

    Raises:
        InputError: ``train_data`` or an unfinished state cannot be read, or the disk is full.
    """

    def build(folder: Path) -> None:
        data = map_image_set(train_data, "train")
        working = folder / WORKING
        working.mkdir(exist_ok=True)
        task = Purification(
            data=data, seed=settings.seed, device=device, folder=working, progress=progress,
            width=settings.width,
        )  # fmt: skip
        write_beton(folder / "train.beton", defense.purify(task), data.labels, data.index)

    parameters = {"defense": settings.defense, "seed": settings.seed, "width": settings.width}
    return build_stage(output, "purify", parameters, {"train_data": train_data}, build)
