"""Classifiers of torchvision and timm, fitted to small images.

They are made for 224 pixels. Up to 48 pixels they are changed as the field does it for CIFAR: the first
convolution has stride 1, over 3x3 where it was larger, and the pooling right after it is gone; transformers
take patches of an eighth of the side.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pst_fast.errors import InputError

SMALL = 48
PATCHES = 8
"""Along the side of a small image."""


def from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    """``torchvision.models``' classifier of that name, with fresh weights; raises InputError."""
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"torchvision has no classifier called {name!r}")
    sizes: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    with_one_output: dict[str, Any] = (
        {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    try:
        model = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **sizes, **with_one_output
        )
    except ValueError as error:
        raise InputError(f"torchvision:{name} takes no images of {image_size} pixels: {error}") from error
    return fit_small(model, f"torchvision:{name}", image_size)


def from_timm(name: str, num_classes: int, image_size: int) -> nn.Module:
    """``timm``'s classifier of that name, with fresh weights; raises InputError."""
    try:
        import timm
    except ImportError as error:
        raise InputError(f"--model timm:{name} needs timm: pip install timm") from error
    if name not in timm.list_models():
        raise InputError(f"timm has no model called {name!r}")
    # transformers want to know the size; convolutional networks do not take the argument
    sized: dict[str, Any] = {"img_size": image_size}
    patches = {"patch_size": max(1, image_size // PATCHES)} if image_size <= SMALL else {}
    attempts: tuple[dict[str, Any], ...] = ({**sized, **patches}, sized, {})
    for sizes in attempts:
        try:
            model = timm.create_model(name, pretrained=False, num_classes=num_classes, **sizes)
            break
        except TypeError:
            continue
        except (AssertionError, ValueError) as error:
            raise InputError(f"timm:{name} takes no images of {image_size} pixels: {error}") from error
    return fit_small(model, f"timm:{name}", image_size)


def fit_small(model: nn.Module, name: str, image_size: int) -> nn.Module:
    """Give a network the stem for images of up to 48 pixels, and see that it takes such images.

    Raises:
        InputError: It does not.
    """
    if image_size <= SMALL:
        _widen_stem(model)
    training = model.training
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        sentence = str(error).splitlines()[0]
        raise InputError(f"{name} takes no images of {image_size}x{image_size} pixels: {sentence}") from error
    return model.train(training)


def _widen_stem(model: nn.Module) -> None:
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.Linear)
    ]
    if not layers or not isinstance(first := layers[0][1], nn.Conv2d):
        return
    if first.stride == first.kernel_size and first.stride != (1, 1):
        return  # patches, which do not overlap
    if first.stride != (1, 1):
        # fresh weights, drawn as those that were there
        narrow = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
        model.set_submodule(layers[0][0], narrow.to(first.weight.device))
    for (_, before), (name, module) in pairwise(layers[:2]):
        if isinstance(before, nn.Conv2d) and isinstance(module, nn.MaxPool2d) and module.stride == 2:
            model.set_submodule(name, nn.Identity())
