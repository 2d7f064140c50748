"""degrade, one view at a time and as training mixes them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.cases.base import Case, Shape, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.defenses.views import STATIC_MIX, VIEWS
from pst_fast.ops import View, reference_degrade
from pst_fast.ops.degradation import cumulative

MIXES: dict[str, dict[View, float]] = {
    "jpeg 10": {View.jpeg(10): 1.0},
    "median": {View.median(): 1.0},
    "blur": {View.blur(): 1.0},
    "down-up": {View.down_up(): 1.0},
    "static mix": {VIEWS[name]: share for name, share in STATIC_MIX.items()},
}


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Batches of uint8 images, of the sizes of [N,3,H,W]."""
    for shape in images:
        for name, mix in MIXES.items():
            yield _case(device, shape, name, list(mix), list(mix.values()))


def _native(images: Tensor, views: Sequence[View], shares: Sequence[float]) -> Tensor:
    return ops.degrade(images, views, probabilities=shares, seed=1, offset=2)


def _twin(images: Tensor, views: Sequence[View], shares: Sequence[float]) -> Tensor:
    return reference_degrade.degrade(images, views, cumulative(views, shares), seed=1, offset=2)


def _case(device: torch.device, shape: Shape, name: str, views: list[View], shares: list[float]) -> Case:
    batch, channels, height, width = shape

    def make() -> Arguments:
        size = (batch, height, width, channels)
        images = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
        return (images, views, shares), {}

    return Case("degrade", words(shape, name), _native, _twin, make, 2 * elements(shape), compiles=False)
