"""quantize_bank_ and gather_bank."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.cases.base import LAYOUTS, Case, Shape, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

EPSILON = 8 / 255


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """A batch of perturbations [N,3,H,W] in and out of a bank of twice as many."""
    for shape in images:
        for layout in LAYOUTS:
            yield _write(device, shape, layout)
        yield _read(device, shape)


def _bank(device: torch.device, shape: Shape) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = shape
    codes = torch.randint(-127, 128, (2 * batch, height, width, channels), dtype=torch.int8, device=device)
    return codes, torch.randperm(2 * batch, device=device)[:batch]


def _write(device: torch.device, shape: Shape, layout: str) -> Case:
    def make() -> Arguments:
        delta = EPSILON * (2 * torch.rand(shape, device=device) - 1)
        bank, index = _bank(device, shape)
        delta = delta.contiguous(memory_format=LAYOUTS[layout])
        return (bank, delta), {"epsilon": EPSILON, "index": index}

    return Case(
        "quantize_bank_",
        words(shape, layout),
        ops.quantize_bank_,
        reference.quantize_bank_,
        make,
        5 * elements(shape),
    )


def _read(device: torch.device, shape: Shape) -> Case:
    def make() -> Arguments:
        bank, index = _bank(device, shape)
        return (bank,), {"epsilon": EPSILON, "index": index}

    nbytes = 5 * elements(shape)
    return Case("gather_bank", words(shape), ops.gather_bank, reference.gather_bank, make, nbytes)
