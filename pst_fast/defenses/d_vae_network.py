"""The network of D-VAE: an autoencoder with a short code, and a decoder of the rest that knows the class."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.models.resnet import BasicBlock
from pst_fast.precision import autocast

LEAST_CODE = 16
"""Positions along a side of the code, at least, where images are large enough for more than one halving."""


class Disentangled(NamedTuple):
    """Images, as the network takes them apart.

    Attributes:
        image: What the code keeps, fp32 [B,3,H,W] in [0,1].
        perturbation: What is to be added for the rest, fp32 [B,3,H,W], unbounded.
        rate: Nats at a position of the code, fp32: the Kullback-Leibler divergence from noise, the mean over
            positions and images.
    """

    image: Tensor
    perturbation: Tensor
    rate: Tensor


class DisentanglingVAE(nn.Module):
    """A variational autoencoder with a second decoder, which is told the class at every position.

    The encoder is a ResNet-18 as far as the first block of a stage: the second one for images of 32 pixels,
    later ones for larger images, so that codes have 16 to 31 positions along a side.

    Args:
        num_classes: Classes of the data.
        width: Channels of the first stage (the paper's networks have 64), an even number.
        image_size: Height and width of the images.
    """

    def __init__(self, num_classes: int, width: int, image_size: int) -> None:
        super().__init__()
        self.halvings = max(1, int(math.log2(max(2, image_size / LEAST_CODE))))
        self.stride = 2**self.halvings
        channels = width * self.stride
        side = -(-image_size // self.stride)
        self.encoder = _encoder(width, self.halvings)
        self.mean = nn.Conv2d(channels, 4 * width, 1)
        self.log_variance = nn.Conv2d(channels, 4 * width, 1)
        self.from_code = nn.Conv2d(4 * width, channels, 1)
        self.decoder = _decoder(channels, self.halvings)
        self.perturbation_decoder = _decoder(channels, self.halvings)
        self.classes = nn.Embedding(num_classes, channels * side * side)

    def forward(self, x: Tensor, labels: Tensor) -> Disentangled:
        """Take images apart; the code is drawn, in evaluation mode too.

        Args:
            x: fp32 [B,3,H,W] in [0,1].
            labels: int64 [B].
        """
        height, width = x.shape[2:]
        whole = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        with autocast(x.device):
            encoded = self.encoder(whole)
            mean, log_variance = self.mean(encoded).float(), self.log_variance(encoded).float()
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        with autocast(x.device):
            content = self.from_code(code)
            image = torch.sigmoid(self.decoder(content).float())
            told = self.classes(labels).view_as(content)
            perturbation = self.perturbation_decoder(content + told).float()
        return Disentangled(
            image[:, :, :height, :width],
            perturbation[:, :, :height, :width],
            rate(mean, log_variance),
        )


def rate(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Nats at a position of normal codes [B,C,H,W], summed over channels; the mean over the rest."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def _encoder(width: int, halvings: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [BasicBlock(width, width, 1), BasicBlock(width, width, 1)]
    for stage in range(1, halvings + 1):
        channels = width * 2**stage
        layers.append(BasicBlock(channels // 2, channels, 2))
        if stage < halvings:
            layers.append(BasicBlock(channels, channels, 1))
    return nn.Sequential(*layers)


def _decoder(channels: int, halvings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(halvings):
        half = channels // 2
        layers += [
            nn.ConvTranspose2d(channels, half, 4, 2, 1),
            nn.Conv2d(half, half, 3, 1, 1),
            nn.InstanceNorm2d(half),
            nn.ReLU(),
        ]
        channels = half
    half = channels // 2
    layers += [nn.Conv2d(channels, half, 3, 1, 1), nn.InstanceNorm2d(half), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(half, 3, 3, 1, 1))
