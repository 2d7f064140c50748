"""class_pixel_sums: by hand, against its twin, at the ends of its integers, and on bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import needs_native, threads


def test_by_hand(device: torch.device) -> None:
    images = torch.tensor([[[[1, 2, 3]]], [[[10, 0, 5]]], [[[255, 255, 255]]]], dtype=torch.uint8)
    labels = torch.tensor([2, 2, 0])
    counts, sums, products = ops.class_pixel_sums(images.to(device), labels.to(device), 3)
    assert counts.tolist() == [1, 0, 2]
    assert sums.view(3, 3).tolist() == [[255] * 3, [0] * 3, [11, 2, 8]]
    assert products.view(3, 6).tolist() == [[65025] * 6, [0] * 6, [101, 2, 53, 4, 6, 34]]


@needs_native
@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 40),
    height=st.integers(1, 19),
    width=st.integers(1, 40),
    num_classes=st.integers(1, 5),
    seed=st.integers(0, 1000),
    is_strided=st.booleans(),
)
def test_equals_its_twin(
    samples: int, height: int, width: int, num_classes: int, seed: int, is_strided: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (samples, height, width, 3), dtype=torch.uint8, generator=generator)
    if is_strided:
        images = images.transpose(1, 2)
    labels = torch.randint(0, num_classes, (samples,), generator=generator)
    found = ops.class_pixel_sums(images, labels, num_classes)
    for value, expected in zip(found, reference.class_pixel_sums(images, labels, num_classes), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(300, 32, 32, 3), (33, 7, 5, 3), (0, 4, 4, 3), (50, 300, 4, 3)])
def test_equals_its_twin_on_cuda(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, 7, shape[:1])
    found = ops.class_pixel_sums(images.cuda(), labels.cuda(), 7)
    for value, expected in zip(found, reference.class_pixel_sums(images, labels, 7), strict=True):
        assert torch.equal(value.cpu(), expected)


def test_more_white_than_32_bits_hold(device: torch.device) -> None:
    count = 66_100  # 65,025 times as much is beyond 2**32
    images = torch.full((count, 1, 1, 3), 255, dtype=torch.uint8, device=device)
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    _, sums, products = ops.class_pixel_sums(images, labels, 1)
    assert sums.view(-1).tolist() == [255 * count] * 3
    assert products.view(-1).tolist() == [65_025 * count] * 6


@needs_native
def test_threads_change_nothing() -> None:
    images = torch.randint(0, 256, (500, 24, 24, 3), dtype=torch.uint8)
    labels = torch.arange(500) % 3
    with threads(1):
        alone = ops.class_pixel_sums(images, labels, 3)
    with threads(2):
        together = ops.class_pixel_sums(images, labels, 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_bad_input() -> None:
    images, labels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(TypeError, match="images must be uint8, got float32"):
        ops.class_pixel_sums(images.float(), labels, 2)
    with pytest.raises(ValueError, match=r"images must be \[N, H, W, 3\], got \[2, 3, 4, 4\]"):
        ops.class_pixel_sums(images.permute(0, 3, 1, 2), labels, 2)
    with pytest.raises(TypeError, match="labels must be int64, got int32"):
        ops.class_pixel_sums(images, labels.int(), 2)
    with pytest.raises(ValueError, match=r"labels must have the shape \[2\]"):
        ops.class_pixel_sums(images, labels[:1], 2)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        ops.class_pixel_sums(images, labels, 0)
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 1\), got 1"):
        ops.class_pixel_sums(images, labels, 1)
