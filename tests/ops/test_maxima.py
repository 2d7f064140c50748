"""max_pool against hand-computed values, and against PyTorch's own, its gradient in double."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import LAYOUTS, REDUCED, lay_out, relative_error

sizes = st.tuples(st.integers(0, 3), st.integers(1, 17), st.integers(1, 14), st.integers(1, 14))


def test_by_hand(device: torch.device) -> None:
    plane = torch.tensor([[1.0, 5, 0, 0], [2, 5, 0, 0], [3, 4, 9, 0]], device=device).view(1, 1, 3, 4)
    plane.requires_grad_()
    maxima = ops.max_pool(plane, 2, 1)
    assert maxima.tolist() == [[[[5, 5, 0], [5, 9, 9]]]]
    (grad,) = torch.autograd.grad(maxima, plane, torch.tensor([[[[1.0, 2, 4], [8, 16, 32]]]], device=device))
    # Of equal ones the first; 9 is the maximum of two windows, and so is the upper 5.
    assert grad.tolist() == [[[[0, 3, 4, 0], [0, 8, 0, 0], [0, 0, 48, 0]]]]


def test_windows_reach_beyond_the_edge(device: torch.device) -> None:
    plane = -torch.arange(1.0, 17, device=device).view(1, 1, 4, 4)
    assert ops.max_pool(plane, 3, 2, 1).tolist() == [[[[-1, -2], [-5, -6]]]]
    assert ops.max_pool(plane, 2).tolist() == [[[[-1, -3], [-9, -11]]]]


def test_what_is_no_number(device: torch.device) -> None:
    low, high, none = -torch.inf, torch.inf, torch.nan
    plane = torch.tensor([[low, low, none, 1.0], [low, low, 2, high]], device=device).view(1, 1, 2, 4)
    plane.requires_grad_()
    maxima = ops.max_pool(plane, 2)
    assert maxima[0, 0, 0, 0] == low and maxima[0, 0, 0, 1].isnan()
    (grad,) = torch.autograd.grad(maxima.sum(), plane)
    assert grad.tolist() == [[[[1, 0, 1, 0], [0, 0, 0, 0]]]]


@settings(max_examples=60, deadline=None)
@given(
    shape=sizes,
    size=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(REDUCED),
    seed=st.integers(0, 999),
)
def test_agrees_with_pytorch(
    shape: tuple[int, ...], size: int, stride: int, padding: int, layout: str, dtype: torch.dtype, seed: int
) -> None:
    padding = min(padding, size // 2)
    shape = (*shape[:2], *(max(side, size - 2 * padding) for side in shape[2:]))
    _assert_same(_integers(shape, seed).to(dtype), layout, size, stride, padding)


@pytest.mark.parametrize("shape", [(2, 64, 56, 56), (3, 12, 33, 18), (1, 3, 224, 112)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (16, 5, 8)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REDUCED)
def test_sizes_of_networks(
    device: torch.device,
    shape: tuple[int, ...],
    size: int,
    stride: int,
    padding: int,
    layout: str,
    dtype: torch.dtype,
) -> None:
    _assert_same(_integers(shape, 0).to(device, dtype), layout, size, stride, padding)


def _integers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Few different values, so that many windows have several maxima."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def _assert_same(values: Tensor, layout: str, size: int, stride: int, padding: int) -> None:
    features = lay_out(values, layout).requires_grad_()
    maxima = ops.max_pool(features, size, stride, padding)
    exact = values.double().requires_grad_()
    expected = functional.max_pool2d(exact, size, stride, padding)
    assert maxima.dtype == values.dtype and torch.equal(maxima.double(), expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(maxima)
    (grad,) = torch.autograd.grad(maxima, features, weights)
    (wanted,) = torch.autograd.grad(expected, exact, weights.double())
    assert grad.dtype == values.dtype
    assert relative_error(grad, wanted) < (1e-6 if values.dtype == torch.float32 else 2e-2)


def test_it_is_its_twin(device: torch.device) -> None:
    features = torch.randn(2, 8, 9, 9, device=device)
    assert torch.equal(ops.max_pool(features, 3, 2, 1), reference.max_pool(features, 3, 2, 1))


def test_errors_name_what_is_wrong() -> None:
    features = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match="features must be float32, bfloat16 or float16, got int64"):
        ops.max_pool(features.long(), 2)
    with pytest.raises(ValueError, match="kernel_size must be between 1 and 16, got 17"):
        ops.max_pool(features, 17)
    with pytest.raises(ValueError, match="padding must be between 0 and 1, got 2"):
        ops.max_pool(features, 3, 2, 2)
    with pytest.raises(ValueError, match=r"with 5 pixels a side, padding included, got \[2, 3, 4, 4\]"):
        ops.max_pool(features, 5)
    with pytest.raises(ValueError, match=r"got \[2, 3, 4\]"):
        ops.max_pool(features[..., 0], 2)
