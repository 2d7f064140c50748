"""Stems as ordinary convolutions over more channels, and of stride one.

A convolution over three channels leaves most of a vector unit or tensor core empty, above all in the
gradient of its input, which has these three; and with a stride, that gradient is slow. Seen by blocks of 2x2
pixels, an image has twelve channels and half the rows and columns, and a convolution of stride two is one of
stride one. Tensor cores read channels by eights: on CUDA zeros fill what is missing.
"""

from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 4
BLOCK = 2


class Blocks(nn.Module):
    """Images [B,C,H,W] by blocks, [B,4C,...], row by row of a block, with zeros around them.

    Args:
        before: Pixels, an even number, of zeros in front of each row and column.
        taps: Of the convolution that follows, by side, in blocks.
        filling: Channels of zeros behind the others.
    """

    def __init__(self, before: int, taps: int, filling: int) -> None:
        super().__init__()
        self.before, self.taps, self.filling = before // BLOCK, taps, filling

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)
        if height % BLOCK or width % BLOCK:
            pixels = F.pad(pixels, (0, 0, 0, width % BLOCK, 0, height % BLOCK))
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        blocks = pixels.reshape(batch, rows, BLOCK, columns, BLOCK * channels).transpose(2, 3)
        edges = (self.before, self.taps - 1 - self.before)
        blocks = F.pad(blocks.reshape(batch, rows, columns, -1), (0, self.filling, *edges, *edges))
        return blocks.permute(0, 3, 1, 2)


class Filled(nn.Module):
    """Images [B,C,H,W] with channels of zeros behind the others."""

    def __init__(self, filling: int) -> None:
        super().__init__()
        self.filling = filling

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x.permute(0, 2, 3, 1), (0, self.filling)).permute(0, 3, 1, 2)


def can_be_blocks(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution over few channels that halves the sides, by 3x3, 7x7, 11x11, ... taps."""
    if not _is_stem(module):
        return False
    side = module.kernel_size[0]
    return (
        side % 4 == 3
        and tuple(module.kernel_size) == (side, side)
        and tuple(module.padding) == (side // 2, side // 2)
        and tuple(module.stride) == (BLOCK, BLOCK)
        and tuple(module.dilation) == (1, 1)
    )


def rearrange_stems(model: nn.Module) -> None:
    """Put another module in the place of every convolution that is faster so."""
    for name, module in list(model.named_modules()):
        if can_be_blocks(module):
            model.set_submodule(name, by_blocks(module))
        elif _is_stem(module) and _filling(module.weight):
            model.set_submodule(name, filled(module, _filling(module.weight)))


def by_blocks(conv: nn.Conv2d) -> nn.Sequential:
    """What ``conv`` computes, one for which :func:`can_be_blocks` holds."""
    out, channels, side, _ = conv.weight.shape
    taps = (side + 1) // BLOCK
    # Zeros in front make the taps even in number, and the place of the first one too.
    weight = F.pad(conv.weight.detach(), (1, 0, 1, 0)).view(out, channels, taps, BLOCK, taps, BLOCK)
    weight = weight.permute(0, 3, 5, 1, 2, 4).reshape(out, BLOCK * BLOCK * channels, taps, taps)
    filling = _filling(weight)
    return nn.Sequential(Blocks(side // 2 + 1, taps, filling), _convolution(weight, conv.bias, filling))


def filled(conv: nn.Conv2d, filling: int) -> nn.Sequential:
    """What ``conv`` computes, on images with so many more channels."""
    where = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    return nn.Sequential(Filled(filling), _convolution(conv.weight.detach(), conv.bias, filling, **where))


def _is_stem(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= FEW_CHANNELS
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _filling(weight: Tensor) -> int:
    return -weight.shape[1] % 8 if weight.is_cuda else 0


def _convolution(weight: Tensor, bias: Tensor | None, filling: int, **where: Any) -> nn.Conv2d:
    out, channels, *taps = weight.shape
    conv = nn.utils.skip_init(nn.Conv2d, channels + filling, out, tuple(taps), bias=bias is not None, **where)
    conv.weight = nn.Parameter(F.pad(weight, (0, 0, 0, 0, 0, filling)))
    conv.bias = None if bias is None else nn.Parameter(bias.detach())
    return conv
