"""What a network does with images: which of its modules run, in which order, and which one answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Trace:
    """One pass of some images through a network, in eval mode and without gradients.

    Args:
        model: Any network.
        images: At least one, as the model takes them.

    Attributes:
        classifier: The layer with weights that ran last, if it has a channel for each value of the answer.
    """

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self._starts: dict[nn.Module, int] = {}
        self._shapes: dict[nn.Module, list[tuple[int, ...]]] = {}
        hooks = [module.register_forward_pre_hook(self._start) for module in model.modules()]
        hooks += [module.register_forward_hook(self._end) for module in model.modules()]
        try:
            with torch.no_grad(), evaluating(model):
                answer = _logits(model(images))
        finally:
            for hook in hooks:
                hook.remove()
        self.classifier = self._classifier(answer)

    def runs(self, module: nn.Module) -> bool:
        """Whether it ran itself: a list of modules does not, whose modules are called one by one."""
        return module in self._starts

    def start(self, module: nn.Module) -> int | None:
        """When it, or the first module inside it, began to run, among all; None: nothing in it ran."""
        return min((self._starts[inner] for inner in module.modules() if inner in self._starts), default=None)

    def answers(self, module: nn.Module) -> bool:
        """Whether the classifier is inside."""
        return any(inner is self.classifier for inner in module.modules())

    def is_measurable(self, module: nn.Module) -> bool:
        """Whether it ran once, and its output has channels: [N,C], [N,T,C] or [N,C,H,W]."""
        return [len(shape) in (2, 3, 4) for shape in self._shapes.get(module, [])] == [True]

    def is_channels_last(self, module: nn.Module) -> bool:
        """Whether its output is [N,H,W,C], as a Swin transformer's: its parameters tell how many C are."""
        _, *shape = self._shapes[module][0]
        channels = {p.shape[0] for p in module.parameters() if p.dim()}
        return len(shape) == 3 and shape[2] in channels and shape[0] not in channels

    def _start(self, module: nn.Module, inputs: object) -> None:
        self._starts.setdefault(module, len(self._starts))

    def _end(self, module: nn.Module, inputs: object, output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        self._shapes.setdefault(module, []).append(shape)

    def _classifier(self, answer: torch.Tensor | None) -> nn.Module | None:
        layers = [module for module in self._starts if is_weighted(module)]
        if answer is None or not layers:
            return None
        _, *shape = self._shapes[layers[-1]][-1] or (0,)
        return layers[-1] if shape and answer.shape[-1] in (shape[0], shape[-1]) else None


def is_weighted(module: nn.Module) -> bool:
    """Whether it has a matrix of its own, or more: a layer, and not a normalisation."""
    return any(p.dim() >= 2 for p in module.parameters(recurse=False))


def _logits(output: object) -> torch.Tensor | None:
    """The answer in whatever a network hands out."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), torch.Tensor):
        return logits
    parts = list(output.values()) if isinstance(output, Mapping) else output
    parts = parts if isinstance(parts, list | tuple) else []
    return next((part for part in parts if isinstance(part, torch.Tensor)), None)
