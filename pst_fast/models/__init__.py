"""Networks by name: slim ResNets from here, everything else from timm or torchvision on demand."""

from torch import nn

from pst_fast.errors import InputError
from pst_fast.models.elsewhere import from_timm, from_torchvision
from pst_fast.models.resnet import BasicBlock, Bottleneck, ResNet

_RESNETS: dict[str, tuple[tuple[int, ...], type[BasicBlock] | type[Bottleneck]]] = {
    "resnet10": ((1, 1, 1, 1), BasicBlock),
    "resnet18": ((2, 2, 2, 2), BasicBlock),
    "resnet34": ((3, 4, 6, 3), BasicBlock),
    "resnet50": ((3, 4, 6, 3), Bottleneck),
}


def list_models() -> list[str]:
    """Names of the networks that live here; ``timm:NAME`` and ``torchvision:NAME`` name those elsewhere."""
    return sorted(_RESNETS)


def create_model(name: str, *, num_classes: int, width: int = 64, image_size: int = 32) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: One of :func:`list_models`, ``timm:NAME`` or ``torchvision:NAME``.
        num_classes: Outputs.
        width: Channels of the first stage, a multiple of 8; only the networks that live here have a choice.
        image_size: Side of the square input in pixels; decides on the stem. Up to 48 pixels, networks from
            elsewhere get the one that the field uses on CIFAR: see :mod:`pst_fast.models.elsewhere`.

    Returns:
        A module from normalised float images [N,3,H,W] to logits [N,num_classes].

    Raises:
        InputError: No such network, it does not take images of that size, or its package is not installed.
    """
    if name in _RESNETS:
        # narrower channels_last convolutions corrupt the heap in oneDNN as of PyTorch 2.15 (AVX2)
        if width < 8 or width % 8:
            raise InputError(f"--width: expected a multiple of 8, got {width}")
        blocks, block = _RESNETS[name]
        return ResNet(blocks, num_classes, width, image_size, block)
    package, _, rest = name.partition(":")
    if package == "torchvision" and rest:
        return from_torchvision(rest, num_classes, image_size)
    if package == "timm" and rest:
        return from_timm(rest, num_classes, image_size)
    raise InputError(
        f"unknown model {name!r}: expected {', '.join(list_models())}, timm:NAME or torchvision:NAME"
    )
