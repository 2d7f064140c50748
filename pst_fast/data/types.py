"""What flows between the stages: sets of images, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pst_fast.data.beton import MappedImages

Images = np.ndarray | MappedImages
"""uint8 [N, H, W, 3]; an index copies rows out of a file, where they are in one."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, in memory or in a file.

    Attributes:
        images: uint8 [N, H, W, 3].
        labels: int64 [N], in ``range(len(classes))``.
        index: int64 [N], each sample's position in the data set it was taken from (dataset order).
        classes: The classes' names, by label.
    """

    images: Images
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Batch:
    """What a loader yields.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: int64 [B].
        index: int64 [B], as in :class:`ImageSet`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class Loader(Protocol):
    """Batches of one ``.beton`` file. All kinds give the same order for the same seed and epoch.

    Attributes:
        num_samples: Images in an epoch.
        batch_size: Images of a batch; both are of all processes.
        cropped: Whether the images are random resized crops already, at the size of their epoch.
    """

    num_samples: int
    batch_size: int
    cropped: bool

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; a batch is valid until the next one is asked for."""


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order, int64 [N], in which a shuffling loader visits its samples."""
    return np.random.default_rng((seed, epoch)).permutation(num_samples)
