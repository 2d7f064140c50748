"""class_mean_step_, with and without the network's next input."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.base import LAYOUTS, Case, Shape, channel_constants, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

CLASSES = 10


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Gradients [N,3,H,W] in both layouts, fp32 and bf16."""
    for shape in images:
        for layout in LAYOUTS:
            yield _case(device, shape, layout, torch.float32, with_out=False)
            yield _case(device, shape, layout, torch.bfloat16, with_out=False)
            yield _case(device, shape, layout, torch.float32, with_out=True)


def _case(device: torch.device, shape: Shape, layout: str, dtype: torch.dtype, with_out: bool) -> Case:
    def image(count: int) -> Tensor:
        values = torch.rand((count, *shape[1:]), device=device) - 0.5
        return values.contiguous(memory_format=LAYOUTS[layout])

    def make() -> Arguments:
        options: dict[str, Any] = {"step_size": 1 / 255, "epsilon": 8 / 255}
        grad = image(shape[0])
        if with_out:
            out = torch.empty_like(grad, dtype=torch.bfloat16)
            options |= {**channel_constants(device), "x": image(shape[0]) + 0.5, "out": out}
        labels = torch.randint(0, CLASSES, shape[:1], device=device)
        return (0.06 * image(CLASSES), grad.to(dtype), labels), options

    nbytes = elements(shape) * (dtype.itemsize + (4 + 2) * with_out) + 8 * CLASSES * elements(shape[1:])
    name = words(shape, str(dtype).removeprefix("torch."), layout, *["+out bf16"] * with_out)
    return Case("class_mean_step_", name, ops.class_mean_step_, reference.class_mean_step_, make, nbytes)
