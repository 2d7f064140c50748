"""grid_pool and class_channel_stats."""

from collections.abc import Iterator

import torch

from benchmarks.cases.base import LAYOUTS, Case, Shape, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference

GRID, CLASSES = 4, 10


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Features [N,C,H,W] in both layouts, fp32 and bf16."""
    for shape in maps:
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.bfloat16):
                yield from _cases(device, shape, layout, dtype)


def _cases(device: torch.device, shape: Shape, layout: str, dtype: torch.dtype) -> Iterator[Case]:
    def pool() -> Arguments:
        features = torch.randn(shape, device=device).to(dtype, memory_format=LAYOUTS[layout])
        return (features, GRID), {}

    def stats() -> Arguments:
        labels = torch.arange(shape[0], device=device) % CLASSES
        (features, grid), _ = pool()
        return (features, labels, CLASSES, grid), {}

    name = words(shape, str(dtype).removeprefix("torch."), layout)
    read, cells = elements(shape) * dtype.itemsize, shape[1] * GRID**2
    yield Case("grid_pool", name, ops.grid_pool, reference.grid_pool, pool, read + 4 * shape[0] * cells)
    yield Case(
        "class_channel_stats",
        name,
        ops.class_channel_stats,
        reference.class_channel_stats,
        stats,
        read + 8 * CLASSES * cells,
    )
