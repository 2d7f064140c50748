"""A stem of stride two on packed pixels: the same convolution, of twice the channels, on half the columns.

A convolution over three channels leaves most of a vector unit or tensor core empty, above all in the gradient
of its input, which has these three. In channels_last two neighbours in a row lie side by side: seen as one
pixel they have six, and nothing is copied but for the padding.
"""

import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 4


class PackedStem(nn.Module):
    """What ``conv`` computes; on images with an odd number of columns, by ``conv`` itself.

    Args:
        conv: One for which :func:`can_be_packed` holds.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        out, channels, rows, columns = conv.weight.shape
        pairs = (columns + 1) // 2
        # A column of zeros in front makes the taps even in number, and the place of the first one too.
        taps = F.pad(conv.weight.detach(), (1, 0)).view(out, channels, rows, pairs, 2)
        self.weight = nn.Parameter(taps.permute(0, 4, 1, 2, 3).reshape(out, 2 * channels, rows, pairs))
        self.edges = pairs // 2, pairs // 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if width % 2:
            return self.conv(x)
        pixels = x.permute(0, 2, 3, 1).reshape(batch, height, width // 2, 2 * channels)
        padded = F.pad(pixels, (0, 0, *self.edges)).permute(0, 3, 1, 2)
        above = self.conv.kernel_size[0] // 2
        return F.conv2d(padded, self.weight, self.conv.bias, stride=(2, 1), padding=(above, 0))


def can_be_packed(module: nn.Module) -> bool:
    """Whether it is a convolution over few channels that halves the sides, by 3x3, 7x7, 11x11, ... taps."""
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    side = module.kernel_size[0]
    return (
        module.in_channels <= FEW_CHANNELS
        and side % 4 == 3
        and module.groups == 1
        and module.padding_mode == "zeros"
        and tuple(module.kernel_size) == (side, side)
        and tuple(module.padding) == (side // 2, side // 2)
        and tuple(module.stride) == (2, 2)
        and tuple(module.dilation) == (1, 1)
    )


def pack_stems(model: nn.Module) -> None:
    """Put a :class:`PackedStem` in the place of every convolution that can be packed."""
    for name, module in list(model.named_modules()):
        if can_be_packed(module):
            model.set_submodule(name, PackedStem(module))
