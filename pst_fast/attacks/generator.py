"""Perturbations as a network makes them of images: a U-Net, for the attacks that train one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.attacks.base import CraftTask
from pst_fast.attacks.pgd import MEAN, STD
from pst_fast.attacks.surrogate import seeded
from pst_fast.precision import autocast


class Generator(nn.Module):
    """A U-Net (Ronneberger et al., 2015) of four resolutions; its coarsest sees the mean of the image too.

    Before the last tanh the values of a channel have mean 0 and variance 1 over the batch, so that it keeps a
    gradient.

    Args:
        epsilon: Largest value of a perturbation, on [0,1] images.
        width: Channels at full resolution, a multiple of 8.
    """

    def __init__(self, epsilon: float, width: int) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.context_size = 8 * width
        self.down1 = _block(3, width)
        self.down2 = _block(width, 2 * width, stride=2)
        self.down3 = _block(2 * width, 4 * width, stride=2)
        self.down4 = _block(4 * width, 8 * width, stride=2)
        self.up3 = _block((16 + 4) * width, 4 * width)
        self.up2 = _block(6 * width, 2 * width)
        self.up1 = _block(3 * width, width)
        self.last = nn.Sequential(nn.Conv2d(width, 3, 3, padding=1), nn.BatchNorm2d(3, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        """Perturbations, fp32 like the images ``x`` [B,3,H,W] in [0,1]."""
        return self.with_context(x)[0]

    def with_context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Perturbations, and what the generator knows of each image as a whole, [B, context_size]."""
        with autocast(x.device):
            full = self.down1((x - MEAN) / STD)
            half = self.down2(full)
            quarter = self.down3(half)
            coarse = self.down4(quarter)
            context = coarse.mean((2, 3))
            coarse = torch.cat([coarse, context[:, :, None, None].expand_as(coarse)], 1)
            up = self.up3(_joined(coarse, quarter))
            up = self.up2(_joined(up, half))
            up = self.up1(_joined(up, full))
            return self.epsilon * torch.tanh(self.last(up).float()), context


def create_generator(task: CraftTask, epsilon: float, width: int) -> Generator:
    """One with weights that follow from the task's seed, on its device."""
    with seeded(task.seed, task.device):
        generator = Generator(epsilon, width)
    return generator.to(task.device).to(memory_format=torch.channels_last)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _joined(low: Tensor, high: Tensor) -> Tensor:
    return torch.cat([F.interpolate(low, high.shape[2:], mode="nearest"), high], 1)
