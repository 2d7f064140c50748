"""ResNets of any width (He et al., CVPR 2016), with the stem that the field uses for small images."""

import torch
import torch.nn.functional as F
from torch import nn


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, which of few channels takes the pixels of its stride first.

    oneDNN's gradient of such weights writes past its buffers where the input is channels_last, has a stride,
    and fewer channels than a vector (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.in_channels >= 16:
            return super().forward(input)
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], self.weight, self.bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                Pointwise(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, and a shortcut; the stride is the 3x3's, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                Pointwise(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet: stem, layer1..4, global average, linear classifier.

    Args:
        blocks: Blocks in each of the four layers: (1, 1, 1, 1) is ResNet-10, (2, 2, 2, 2) ResNet-18.
        num_classes: Outputs.
        width: Channels of layer1 (of its 3x3 convolutions); the others have 2, 4 and 8 times as many.
        image_size: From 96 pixels on the stem is ImageNet's (7x7, stride 2, max-pool); above 48 pixels
            it is a 3x3 convolution of stride 2; below, a 3x3 convolution of stride 1.
        block: What they are made of; (3, 4, 6, 3) bottlenecks are ResNet-50.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        num_classes: int,
        width: int,
        image_size: int,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        if image_size >= 96:
            first: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False)]
        else:
            first = [nn.Conv2d(3, width, 3, 2 if image_size > 48 else 1, 1, bias=False)]
        pool: list[nn.Module] = [nn.MaxPool2d(3, 2, 1)] if image_size >= 96 else []
        self.stem = nn.Sequential(*first, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *pool)
        channels = width
        for depth, count in enumerate(blocks):
            out_channels = width << depth
            layer: list[nn.Module] = [block(channels, out_channels, 1 if depth == 0 else 2)]
            channels = block.expansion * out_channels
            layer += [block(channels, out_channels, 1) for _ in range(count - 1)]
            self.add_module(f"layer{depth + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for depth in range(1, 5):
            x = getattr(self, f"layer{depth}")(x)
        return self.fc(x.mean((2, 3)))
