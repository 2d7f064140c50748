"""Work on a whole set of images, such as crafting a perturbation or taking one away."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pst_fast.data.types import ImageSet


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """What such work is given.

    Attributes:
        data: Training images.
        seed: Everything random follows from it.
        device: Where to compute.
        folder: Working folder. What is left there is found again after a kill.
        progress: Called with (fraction done in [0,1], a few words).
    """

    data: ImageSet
    seed: int
    device: torch.device
    folder: Path
    progress: Callable[[float, str], None] = field(default=lambda fraction, words: None)

    def batch(self, rows: np.ndarray | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """x, fp32 [B,3,H,W] channels_last in [0,1], and labels, int64 [B], of some images, on the device."""
        images, labels = (
            torch.from_numpy(np.ascontiguousarray(array[rows])).to(self.device)
            for array in (self.data.images, self.data.labels)
        )
        return images.permute(0, 3, 1, 2).float().div_(255), labels
