"""How much fine noise the images carry where they are smoothest.

Among photographs there are always some with a smooth part: a sky, a wall, what is out of focus. In a set to
which somebody has added fine perturbations there are none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUIET_PART, QUIET_IMAGES = 0.1, 0.05
"""The share of an image that is called its smoothest, and of the images that may be smoother."""
_PATCH, _STRIDE = 5, 3
_CHUNK_PIXELS = 1 << 21


def noise_floor(images: Tensor) -> float:
    """Standard deviation, in levels of 1/255, of the noise that 95 % of the images have even where smoothest.

    Immerkaer's operator (Computer Vision and Image Understanding, 1996), which leaves ramps, and edges along
    the axes, at zero and white noise at its own strength, is averaged over patches of 5x5 pixels and all
    channels; of an image the patch at the tenth percentile counts, of the set the image at the fifth.

    Args:
        images: uint8 [N,H,W,3], H and W at least 3.
    """
    height, width = images.shape[1:3]
    parts = images.split(max(1, _CHUNK_PIXELS // (height * width)))
    return float(_percentile(torch.cat([_quietest(part) for part in parts])[None], QUIET_IMAGES))


def _quietest(images: Tensor) -> Tensor:
    x = images.permute(0, 3, 1, 2).float()
    second = x.new_tensor([1.0, -2.0, 1.0])
    operator = (second[:, None] * second).expand(3, 1, 3, 3)  # makes white noise six times as strong
    energy = (F.conv2d(x, operator, groups=3) / 6).square().mean(1, keepdim=True)
    patches = F.avg_pool2d(energy, [min(_PATCH, side) for side in energy.shape[2:]], _STRIDE)
    return _percentile(patches.flatten(1), QUIET_PART).sqrt()


def _percentile(values: Tensor, share: float) -> Tensor:
    """Of each row, the value that ``share`` of the others are below; of any number of values."""
    return values.kthvalue(1 + int(share * (values.shape[1] - 1)), dim=1).values
