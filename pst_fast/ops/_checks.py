"""Checks of arguments: each message states what is accepted and what came."""

from collections.abc import Sequence

import torch
from torch import Tensor

REDUCED = (torch.float32, torch.bfloat16, torch.float16)
"""What the native kernels read and write."""


def names(dtypes: Sequence[torch.dtype]) -> str:
    """ "float32, bfloat16 or float16"."""
    words = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def check_dtype(op: str, name: str, tensor: Tensor, accepted: Sequence[torch.dtype]) -> None:
    """TypeError unless ``tensor`` is a tensor of one of the ``accepted`` dtypes."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in accepted:
        raise TypeError(f"{op}: {name} must be {names(accepted)}, got {names([tensor.dtype])}")


def check_device(op: str, name: str, tensor: Tensor, other: Tensor, other_name: str) -> None:
    """ValueError unless both tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(f"{op}: {name} must be on {other_name}'s device {other.device}, got {tensor.device}")


def check_shape(op: str, name: str, tensor: Tensor, shape: Sequence[int], of: str) -> None:
    """ValueError unless ``tensor`` has this shape; ``of`` says where it comes from."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{op}: {name} must have the shape {list(shape)} of {of}, got {list(tensor.shape)}")


def check_number(op: str, name: str, value: float, low: float, high: float) -> None:
    """ValueError unless ``low <= value <= high``."""
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{op}: {name} must be {limits}, got {value}")


def check_labels(op: str, labels: Tensor, samples: Tensor, name: str, num_classes: int) -> None:
    """TypeError or ValueError unless ``labels`` are int64 [N] beside ``samples`` (called ``name``)."""
    check_dtype(op, "labels", labels, [torch.int64])
    if labels.dim() != 1 or labels.shape[0] != samples.shape[0]:
        raise ValueError(
            f"{op}: labels must have the shape [{samples.shape[0]}] (one a sample), got {list(labels.shape)}"
        )
    check_device(op, "labels", labels, samples, name)
    if num_classes < 1:
        raise ValueError(f"{op}: num_classes must be at least 1, got {num_classes}")


def check_label_range(op: str, labels: Tensor, num_classes: int, name: str = "labels") -> None:
    """RuntimeError unless labels on the CPU are in [0, num_classes), as the native ops raise it."""
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise RuntimeError(f"{op}: {name} must be in [0, {num_classes}), got {low if low < 0 else high}")


def forbid_grad(op: str, delta: Tensor) -> None:
    """RuntimeError where autograd forbids that ``delta`` is changed in place."""
    if torch.is_grad_enabled() and delta.requires_grad and delta.is_leaf:
        raise RuntimeError(
            f"{op}: delta is a leaf that requires grad, which cannot be changed in place; "
            "pass delta.detach() (it shares memory) or call under torch.no_grad()"
        )
