"""grid_pool and class_channel_stats against hand-computed values and their twins in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import LAYOUTS, REDUCED, lay_out, relative_error, threads

few = settings(max_examples=25, deadline=None)

maps = st.tuples(
    st.integers(0, 5), st.integers(1, 70), st.integers(1, 19), st.integers(1, 19), st.integers(1, 5)
)


def test_pools_by_hand(device: torch.device) -> None:
    plane = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], device=device).view(1, 1, 3, 3)
    # Two cells over three pixels overlap in the middle one.
    assert ops.grid_pool(plane, 2).tolist() == [[3, 4, 6, 7]]
    assert ops.grid_pool(plane, 1).tolist() == [[5]]
    assert ops.grid_pool(plane, 3).tolist() == [plane.flatten().tolist()]


def test_orders_cells_within_channels(device: torch.device) -> None:
    features = torch.arange(8.0, device=device).view(1, 2, 2, 2)
    for layout in LAYOUTS:
        assert ops.grid_pool(lay_out(features, layout), 2).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_stats_by_hand(device: torch.device) -> None:
    features = torch.tensor([[1.0, 10], [2, 0], [5, 20], [3, 0]], device=device)
    labels = torch.tensor([0, 2, 0, 2], device=device)
    counts, means, m2 = ops.class_channel_stats(features, labels, 3)
    assert counts.tolist() == [2, 0, 2]
    assert means.tolist() == [[3, 15], [0, 0], [2.5, 0]]
    assert m2.tolist() == [[8, 50], [0, 0], [0.5, 0]]


@few
@given(shape=maps, layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(REDUCED), seed=st.integers(0, 999))
def test_pool_agrees_with_twin(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int) -> None:
    *size, grid = shape
    features = lay_out(_normal(size, seed).to(dtype), layout)
    pooled = ops.grid_pool(features, grid)
    assert pooled.dtype == torch.float32
    assert relative_error(pooled, reference.grid_pool(features.double(), grid)) < 1e-5


@few
@given(
    shape=maps,
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(REDUCED),
    classes=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_stats_agree_with_twin(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, classes: int, seed: int
) -> None:
    *size, grid = shape
    features = lay_out(_normal(size, seed).to(dtype), layout)
    labels = torch.randint(0, classes, (size[0],), generator=torch.Generator().manual_seed(seed))
    expected = reference.class_channel_stats(features.double(), labels, classes, grid)
    for value, wanted in zip(ops.class_channel_stats(features, labels, classes, grid), expected, strict=True):
        assert relative_error(value, wanted) < 1e-5


@pytest.mark.parametrize(
    "shape", [(6, 96, 16, 16), (3, 33, 8, 8), (5, 8, 32, 32), (2, 3, 130, 70), (4, 20, 4, 4)]
)
@pytest.mark.parametrize("grid", [1, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REDUCED)
def test_training_sizes_agree_with_twin(
    device: torch.device, shape: tuple[int, ...], grid: int, layout: str, dtype: torch.dtype
) -> None:
    features = lay_out(_normal(shape, 1).to(device, dtype), layout)
    labels = torch.arange(shape[0], device=device) % 3
    expected = reference.class_channel_stats(features.double(), labels, 4, grid)
    for value, wanted in zip(ops.class_channel_stats(features, labels, 4, grid), expected, strict=True):
        assert relative_error(value, wanted) < 1e-5


def test_stats_survive_a_large_offset(device: torch.device) -> None:
    # The textbook one-pass formula, sum of squares minus square of sums, loses everything here.
    features = _normal((5000, 16), 2).to(device) + 1000
    labels = torch.arange(5000, device=device) % 2
    _, means, m2 = ops.class_channel_stats(features, labels, 2)
    _, expected_means, expected_m2 = reference.class_channel_stats(features.double(), labels, 2)
    assert relative_error(means, expected_means) < 1e-6
    assert relative_error(m2, expected_m2) < 1e-5


def test_is_the_same_for_any_number_of_threads() -> None:
    features = _normal((64, 48, 16, 16), 3)
    labels = torch.arange(64) % 5
    for layout in LAYOUTS:
        laid = lay_out(features, layout)
        with threads(1):
            alone = ops.class_channel_stats(laid, labels, 5, 4)
        with threads(4):
            together = ops.class_channel_stats(laid, labels, 5, 4)
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 3, 7, 9, 4), (4, 9, 8, 8, 4), (6, 5, 1, 1, 1), (3, 2, 3, 3, 5)])
def test_gradients_agree_with_twin(device: torch.device, layout: str, shape: tuple[int, ...]) -> None:
    *size, grid = shape
    values = lay_out(_normal(size, 4).to(device), layout)
    labels = torch.arange(size[0], device=device) % 3

    def loss(features: Tensor, stats: object, pool: object) -> Tensor:
        _, means, m2 = stats(features, labels, 4, grid)
        pooled = pool(features, grid)
        weights = torch.linspace(-1, 2, means.numel(), device=device, dtype=means.dtype).view_as(means)
        return (weights * means).sum() + (weights.flip(0) * m2).sum() + pooled.pow(2).sum()

    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        features = values.to(dtype).detach().requires_grad_()
        exact = features.detach().double().requires_grad_()
        (grad,) = torch.autograd.grad(loss(features, ops.class_channel_stats, ops.grid_pool), features)
        (wanted,) = torch.autograd.grad(
            loss(exact, reference.class_channel_stats, reference.grid_pool), exact
        )
        assert grad.dtype == dtype
        assert relative_error(grad, wanted) < bound


def test_twins_pass_gradcheck() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1])
    features = torch.randn(5, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: reference.grid_pool(f, 2), (features,))
    assert torch.autograd.gradcheck(lambda f: reference.class_channel_stats(f, labels, 2, 2)[1:], (features,))


def test_flat_features(device: torch.device) -> None:
    features = _normal((7, 5), 5).to(device).requires_grad_()
    pooled = ops.grid_pool(features, 1)
    assert torch.equal(pooled, features)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))
    counts, means, m2 = ops.class_channel_stats(
        features.detach()[:0], torch.zeros(0, dtype=torch.int64, device=device), 3
    )
    assert counts.tolist() == [0, 0, 0]
    assert not means.any() and not m2.any()


@pytest.mark.parametrize(
    ("features", "grid", "error", "words"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.int32), 4, TypeError, "float32, bfloat16 or float16, got int32"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), 4, TypeError, "got float64"),
        (torch.zeros(2, 3, 4), 4, ValueError, r"\[N, C\] or \[N, C, H, W\], got \[2, 3, 4\]"),
        (torch.zeros(2, 3), 4, ValueError, "grid must be 1"),
        (torch.zeros(2, 3, 4, 4), 0, ValueError, "grid must be at least 1, got 0"),
        (torch.zeros(2, 3, 0, 4), 4, ValueError, "at least one pixel"),
    ],
)
def test_pool_refuses(features: Tensor, grid: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ops.grid_pool(features, grid)


@pytest.mark.parametrize(
    ("labels", "classes", "error", "words"),
    [
        (torch.tensor([0, 3]), 3, RuntimeError, r"labels must be in \[0, 3\), got 3"),
        (torch.tensor([-1, 0]), 3, RuntimeError, r"labels must be in \[0, 3\), got -1"),
        (torch.tensor([0, 1], dtype=torch.int32), 3, TypeError, "labels must be int64, got int32"),
        (torch.tensor([0, 1, 2]), 3, ValueError, r"shape \[2\].*got \[3\]"),
        (torch.tensor([0, 1]), 0, ValueError, "num_classes must be at least 1, got 0"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), 3, ValueError, "device cpu, got meta"),
    ],
)
def test_stats_refuse(labels: Tensor, classes: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ops.class_channel_stats(torch.zeros(2, 3), labels, classes)


def _normal(shape: list[int] | tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
