"""Ops over whole data sets: class_pixel_sums and ar_perturbation."""

from collections.abc import Iterator

import torch

from benchmarks.cases.base import Case, Shape, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

CLASSES = 10
PIXEL_BYTES = 30_000_000


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Sets of PIXEL_BYTES of the images' sizes, and patterns for a fifth as many images."""
    for height, width in dict.fromkeys(shape[2:] for shape in images):
        count = PIXEL_BYTES // (3 * height * width)
        yield _pixel_sums(device, (count, height, width, 3))
        yield _ar(device, (count // 5, height, width, 3))


def _pixel_sums(device: torch.device, shape: Shape) -> Case:
    def make() -> Arguments:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        return (images, torch.arange(shape[0], device=device) % CLASSES, CLASSES), {}

    written = 8 * CLASSES * 9 * shape[1] * shape[2]
    return Case(
        "class_pixel_sums",
        words(shape, f"{CLASSES} classes"),
        ops.class_pixel_sums,
        reference.class_pixel_sums,
        make,
        elements(shape) + written,
    )


def _ar(device: torch.device, shape: Shape) -> Case:
    samples, height, width, channels = shape

    def make() -> Arguments:
        coefficients = torch.full((CLASSES, channels, 3, 3), 1 / 8, device=device)
        labels = torch.arange(samples, device=device) % CLASSES
        return (coefficients, labels), {"height": height, "width": width, "epsilon": 1.0, "seed": 1}

    return Case(
        "ar_perturbation",
        words(shape, f"{CLASSES} classes"),
        ops.ar_perturbation,
        reference.ar_perturbation,
        make,
        4 * elements(shape),
        compiles=False,
    )
