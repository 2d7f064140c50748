"""class_pixel_sums and one_pixel_search: by hand, against the twin and an exhaustive search, on bad input."""

import itertools

import numpy as np
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


@pytest.mark.parametrize(("samples", "num_classes"), [(700, 2), (5000, 1), (300, 1)])
def test_samples_that_are_shared_out_are_all_counted(
    device: torch.device, samples: int, num_classes: int
) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (samples, 4, 5, 3), dtype=torch.uint8)
    labels = torch.randint(0, num_classes, (samples,))
    found = ops.class_pixel_sums(images.to(device), labels.to(device), num_classes)
    expected = reference.class_pixel_sums(images, labels, num_classes)
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value.cpu(), wanted)


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


COLOURS = np.array(list(itertools.product((0, 1), repeat=3)))


def exhaustive_scores(images: np.ndarray) -> np.ndarray:
    """mean / std of the change over one class, summed over channels, by trying every pixel and colour."""
    x = images / 255.0
    scores = np.zeros((8, *images.shape[1:3]))
    for k, colour in enumerate(COLOURS):
        for row in range(images.shape[1]):
            for column in range(images.shape[2]):
                change = np.abs(colour - x[:, row, column]).sum(1)
                scores[k, row, column] = change.mean() / change.std()
    return scores


@pytest.mark.parametrize(("count", "height", "width"), [(50, 6, 5), (9, 3, 4), (700, 2, 2)])
def test_finds_what_an_exhaustive_search_finds(
    device: torch.device, count: int, height: int, width: int
) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    labels = torch.arange(count) % 2
    found = ops.one_pixel_search(torch.from_numpy(images).to(device), labels.to(device), 2, height * width)
    for label in range(2):
        expected = exhaustive_scores(images[labels.numpy() == label])
        best = expected.max(0)
        np.testing.assert_allclose(found.scores[label].cpu(), np.sort(best, axis=None)[::-1], rtol=1e-9)
        at = found.rows[label].cpu().numpy(), found.columns[label].cpu().numpy()
        np.testing.assert_allclose(best[at], found.scores[label].cpu(), rtol=1e-9)
        colours = 255 * COLOURS[expected[:, at[0], at[1]].argmax(0)]
        assert (found.colours[label].cpu().numpy() == colours).all()


def test_search_by_hand(device: torch.device) -> None:
    # Left pixel: black in one image, grey in the other. Right pixel: nearly black in both, so that white
    # changes it by 762 and 761 steps, mean 761.5, standard deviation 0.5: by far the most reliable change.
    images = torch.zeros(2, 1, 2, 3, dtype=torch.uint8)
    images[1, 0, 0] = 128
    images[:, 0, 1] = torch.tensor([[1, 1, 1], [2, 1, 1]])
    labels = torch.tensor([1, 1])
    found = ops.one_pixel_search(images.to(device), labels.to(device), 2)
    assert (found.rows.tolist(), found.columns.tolist()) == ([[-1], [0]], [[-1], [1]])
    assert found.colours.tolist() == [[[0, 0, 0]], [[255, 255, 255]]]
    assert found.scores[0].isnan()
    assert found.scores[1].item() == pytest.approx(761.5 / 0.5)


def test_pixels_that_never_vary_are_ranked_by_their_change(device: torch.device) -> None:
    images = torch.zeros(3, 1, 3, 3, dtype=torch.uint8)
    images[:, 0, 1] = 40
    images[:, 0, 2] = torch.tensor([[9, 9, 9], [99, 9, 9], [9, 9, 200]])
    labels = torch.zeros(3, dtype=torch.int64)
    found = ops.one_pixel_search(images.to(device), labels.to(device), 1, 3)
    assert found.columns.tolist() == [[0, 1, 2]]
    assert found.colours[0, 0].tolist() == [255, 255, 255]
    assert found.scores.isfinite().all()


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
    for count in (0, 17):
        with pytest.raises(ValueError, match=f"num_pixels must be between 1 and 16, got {count}"):
            ops.one_pixel_search(images, labels, 2, count)
