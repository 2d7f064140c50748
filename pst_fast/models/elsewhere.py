"""Classifiers of torchvision and timm, fitted to small images.

They are made for 224 pixels. Up to 48 pixels they are changed as the field does it for CIFAR: the first
convolution has stride 1, over 3x3 where it was larger, and the pooling right after it is gone; transformers
take patches of an eighth of the side. A network that then takes no such images, or whose first layers go
together, stays as it was made, which is said.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pst_fast.errors import InputError

SMALL = 48
PATCHES = 8
"""Along the side of a small image."""

_log = logging.getLogger(__name__)


def from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    """``torchvision.models``' classifier of that name, with fresh weights; raises InputError."""
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"torchvision has no classifier called {name!r}")
    options: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    build = partial(torchvision.models.get_model, name, weights=None, num_classes=num_classes, **options)
    return _first_that_fits(f"torchvision:{name}", image_size, [build])


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
    build = partial(timm.create_model, name, pretrained=False, num_classes=num_classes)
    return _first_that_fits(f"timm:{name}", image_size, [partial(build, **sizes) for sizes in attempts])


def _first_that_fits(name: str, image_size: int, builders: Sequence[Callable[[], nn.Module]]) -> nn.Module:
    """The first network that takes such images; small ones rather by a stem that is made for them.

    Raises:
        InputError: None does.
    """
    problem: Exception | None = None
    for build in builders:
        for widens in (True, False) if image_size <= SMALL else (False,):
            try:
                model = build()
                if widens:
                    _widen_stem(model)
                _try(model, image_size)
            except Exception as error:  # a network raises what it likes
                problem = error
                continue
            if not widens and image_size <= SMALL:
                _log.warning("%s keeps its stem, which is made for larger images: no other fits it.", name)
            return model
    sentence = next(iter(str(problem).splitlines()), type(problem).__name__)
    raise InputError(f"{name} takes no images of {image_size}x{image_size} pixels: {sentence}") from problem


def _try(model: nn.Module, image_size: int) -> None:
    """Run an image of that size through it, which leaves no trace."""
    training = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    model.train(training)


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
