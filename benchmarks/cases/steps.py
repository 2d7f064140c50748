"""linf_step_ and l2_step_, with and without the network's next input."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases.base import LAYOUTS, Case, Shape, channel_constants, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

STEPS = {
    "linf_step_": {"step_size": 2 / 255, "epsilon": 8 / 255},
    "l2_step_": {"step_size": 0.1, "epsilon": 0.5},
}


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Images [N,3,H,W] in both layouts."""
    for shape in images:
        for layout in LAYOUTS:
            for op in STEPS:
                for with_out in (False, True):
                    yield _case(device, shape, layout, op, with_out)


def _case(device: torch.device, shape: Shape, layout: str, op: str, with_out: bool) -> Case:
    def image() -> Tensor:
        return torch.rand(shape, device=device).contiguous(memory_format=LAYOUTS[layout])

    def make() -> Arguments:
        options: dict[str, Any] = dict(STEPS[op])
        x = image()
        if with_out:
            options |= {**channel_constants(device), "out": torch.empty_like(x, dtype=torch.bfloat16)}
        return ((image() - 0.5) * 0.06, image() - 0.5, x), options

    # delta is read and written, the gradient and the image are read
    nbytes = elements(shape) * (4 * 4 + 2 * with_out)
    more = ["+out bf16"] * with_out
    return Case(op, words(shape, layout, *more), getattr(ops, op), getattr(reference, op), make, nbytes)
