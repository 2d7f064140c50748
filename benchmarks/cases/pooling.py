"""grid_pool, class_channel_stats and, on CUDA, max_pool with its gradient."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.cases.base import LAYOUTS, Case, Shape, elements, words
from benchmarks.harness import Arguments
from pst_fast import ops
from pst_fast.ops import reference
from pst_fast.ops.maxima import DEVICES as MAX_POOL_DEVICES

GRID, CLASSES = 4, 10


def cases(device: torch.device, maps: list[Shape], images: list[Shape]) -> Iterator[Case]:
    """Features [N,C,H,W] in both layouts, fp32 and bf16."""
    for shape in maps:
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.bfloat16):
                yield from _cases(device, shape, layout, dtype)
    if device.type in MAX_POOL_DEVICES:
        for shape in maps:
            for dtype in (torch.float32, torch.bfloat16):
                yield _maxima(device, shape, dtype)


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


def _maxima(device: torch.device, shape: Shape, dtype: torch.dtype) -> Case:
    """Windows of three pixels, every other one: forward and backward."""

    def make() -> Arguments:
        features = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
        windows = shape[0], shape[1], (shape[2] + 1) // 2, (shape[3] + 1) // 2
        grad = torch.randn(windows, device=device).to(dtype, memory_format=torch.channels_last)
        return (features.requires_grad_(), grad), {}

    def both(pool: Callable[[Tensor, int, int, int], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda features, grad: torch.autograd.grad(pool(features, 3, 2, 1), features, grad)[0]

    name = words(shape, str(dtype).removeprefix("torch."), "channels_last")
    windows = elements(shape) // 4  # each has a maximum and, twice, the byte that says where it was
    nbytes = (2 * elements(shape) + 2 * windows) * dtype.itemsize + 2 * windows
    return Case("max_pool", name, both(ops.max_pool), both(reference.max_pool), make, nbytes, compiles=False)
