"""augment, from crop and flip to all that it can do in a pass."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.cases.base import Case, Shape, channel_constants, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

CROP: dict[str, Any] = {"padding": 4, "flip": True}
JITTER: dict[str, Any] = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
}


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Batches of the shapes [N,3,H,W], gathered from sets of twice as many images."""
    for shape in images:
        yield _case(device, shape, "crop flip", CROP, False)
        yield _case(device, shape, "crop flip delta", CROP, True)
        yield _case(device, shape, "crop flip jitter grey", CROP | JITTER, False)
        bf16 = {"dtype": torch.bfloat16}
        yield _case(device, shape, "crop flip jitter grey delta bf16", CROP | JITTER | bf16, True)


def _case(device: torch.device, shape: Shape, name: str, settings: dict[str, Any], with_delta: bool) -> Case:
    batch, channels, height, width = shape

    def make() -> Arguments:
        size = (2 * batch, height, width, channels)
        images = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
        options = {"seed": 1, "offset": 2, **channel_constants(device), **settings}
        options["index"] = torch.randperm(2 * batch, device=device)[:batch]
        if with_delta:
            options["delta"] = torch.randint(-8, 9, size, dtype=torch.int8, device=device)
        return (images,), options

    written = settings.get("dtype", torch.float32).itemsize
    nbytes = elements(shape) * (1 + with_delta + written)
    return Case("augment", words(shape, name), ops.augment, reference.augment, make, nbytes, compiles=False)
