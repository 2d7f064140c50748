"""Comparing an op with its twin."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from pst_fast import ops

LAYOUTS = ("contiguous", "channels_last", "strided")
REDUCED = (torch.float32, torch.bfloat16, torch.float16)

needs_native = pytest.mark.skipif(
    not ops.is_native(), reason="the native ops are not built, or PST_FAST_BACKEND=torch"
)
not_simt = pytest.mark.skipif(
    os.environ.get("PST_FAST_BACKEND") == "simt",
    reason="a promise of the CPU kernels, in whose place the CUDA kernels stand with PST_FAST_BACKEND=simt",
)


def lay_out(values: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "strided":  # neither: every other element of something larger
        wide = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])
        wide[..., ::2] = values
        return wide[..., ::2]
    return values.contiguous()


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected magnitude."""
    if expected.numel() == 0:
        assert value.shape == expected.shape
        return 0.0
    value, expected = value.detach().double().cpu(), expected.detach().double().cpu()
    return float((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many CPU threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
