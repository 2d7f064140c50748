"""What a network tells classes from: the input of its last linear layer, and the classes' means of it."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pst_fast.attacks.base import CraftTask
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.errors import InputError

_CHUNK = 256


def without_classifier(network: nn.Module, num_classes: int) -> nn.Module:
    """A copy whose last linear layer hands its input on: the features that the classes are told from.

    Raises:
        InputError: The network's last linear layer has not as many outputs as there are classes.
    """
    return with_head(network, num_classes, lambda features: nn.Identity())


def with_head(network: nn.Module, num_classes: int, head: Callable[[int], nn.Module]) -> nn.Module:
    """A copy with ``head(number of features)`` in the last linear layer's place; raises as above."""
    network = copy.deepcopy(network)
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != num_classes:
        name = type(network).__name__
        raise InputError(f"{name}: expected a network that ends in a linear layer with {num_classes} outputs")
    place, layer = linear[-1]
    network.set_submodule(place, head(layer.in_features))
    return network


def class_means(task: CraftTask, model: nn.Module) -> Tensor:
    """Mean outputs on the clean images of each class, fp32 [K,D]; zero for a class without images."""
    labels = torch.from_numpy(task.data.labels).to(task.device)
    sums: Tensor | None = None
    for start in range(0, len(labels), _CHUNK):
        x, _ = task.batch(slice(start, start + _CHUNK))
        with torch.no_grad():
            features = model(perturbed_inputs(x, torch.zeros_like(x))).float()
        if sums is None:
            sums = features.new_zeros(len(task.data.classes), features.shape[1])
        sums.index_add_(0, labels[start : start + _CHUNK], features)
    assert sums is not None
    counts = labels.bincount(minlength=len(task.data.classes)).clamp(min=1)
    return sums / counts.unsqueeze(1)
