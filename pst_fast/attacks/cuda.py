"""CUDA: class-wise convolutions, which have no budget (Sadasivan et al., CVPR 2023)."""

import numpy as np
import torch
import torch.nn.functional as F

from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.rows import Block, draw_blocks
from pst_fast.attacks.steps import row_blocks
from pst_fast.errors import InputError

BLUR = 0.3
_CHUNK, _CHUNK_BYTES = 4096, 1 << 26


@ATTACKS.register("cuda")
class ConvolutionBasedUnlearnability(Attack):
    """Every image of a class goes through the same 3x3 filter, shared by the channels.

    A filter's entries are uniform on [0, .3), but for one, drawn too, that is 1. The filtered image (zeros
    beyond its edges) is divided by its maximum.
    """

    paper = "Sadasivan et al., CVPR 2023 (arXiv 2303.04278)"
    norm = "linf"
    epsilon = 1.0

    @classmethod
    def check_epsilon(cls, epsilon: float) -> None:
        if epsilon != cls.epsilon:
            raise InputError(f"attack 'cuda' has no budget: epsilon cannot be set, got {epsilon}")

    def craft(self, task: CraftTask) -> np.ndarray:
        """Filter the images; the difference, int16 [N,H,W,3], is what the truncated image needs."""
        images, labels = task.data.images, task.data.labels
        filters = draw_filters(len(task.data.classes), task.seed)

        def draw(block: Block) -> np.ndarray:
            some = np.ascontiguousarray(images[block])
            poisoned = filtered(torch.from_numpy(some), filters[torch.from_numpy(labels[block])])
            return poisoned.numpy().astype(np.int16) - some

        return draw_blocks(task, row_blocks(images.shape, 4, _CHUNK_BYTES, most=_CHUNK), draw)


def draw_filters(num_classes: int, seed: int) -> torch.Tensor:
    """float32 [K,3,3]."""
    rng = np.random.default_rng(seed)
    filters = rng.uniform(0.0, BLUR, (num_classes, 9))
    filters[np.arange(num_classes), rng.integers(0, 9, num_classes)] = 1.0
    return torch.from_numpy(filters).float().view(num_classes, 3, 3)


def filtered(images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """uint8 [B,H,W,3], each image through its own filter, float32 [B,3,3]; black images stay black."""
    batch, height, width, channels = images.shape
    planes = images.permute(0, 3, 1, 2).float().div(255).reshape(1, batch * channels, height, width)
    taps = filters.repeat_interleave(channels, 0).unsqueeze(1)
    values = F.conv2d(planes, taps, padding=1, groups=batch * channels).view(batch, channels, height, width)
    brightest = values.amax((1, 2, 3), keepdim=True)
    values = torch.where(brightest > 0, values / brightest, values)
    return (values * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
