"""Views: JPEG against Pillow's own pixels, the others by hand and against the twin, draws by their shares."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import View, reference_degrade
from pst_fast.ops.degradation import cumulative
from pst_fast.ops.reference_degrade import gaussian_taps
from tests.ops.helpers import needs_native, threads

ALL = [
    View(),
    View.jpeg(10),
    View.jpeg(90, "4:4:4"),
    View.blur(),
    View.blur(0.4),
    View.median(),
    View.down_up(),
    View.down_up(3),
    View.bits(2),
    View.erase(),
]


def pictures(count: int = 3, height: int = 20, width: int = 17, seed: int = 0) -> Tensor:
    """Noise, a ramp and a smooth image, in turns."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    ramp = np.add.outer(3 * np.arange(height), 5 * np.arange(width))[..., None] + np.array([0, 80, 160])
    for i in range(1, count):
        smooth = Image.fromarray(images[i]).resize((max(1, width // 4), max(1, height // 4)))
        images[i] = ramp % 256 if i % 3 == 1 else smooth.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(images)


def pillow_jpeg(images: Tensor, quality: int, subsampling: str) -> Tensor:
    out = []
    for image in images.numpy():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=subsampling)
        out.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(out))


def look(images: Tensor, view: View, **options: Any) -> Tensor:
    return ops.degrade(images, [view], **({"seed": 0, "offset": 0} | options))


def twin(images: Tensor, views: list[View], seed: int, offset: int) -> Tensor:
    until = cumulative(views)
    return reference_degrade.degrade(images, views, until, seed=seed, offset=offset)


@pytest.mark.parametrize(
    "size", [(32, 32), (17, 23), (16, 4), (8, 6), (5, 3), (33, 40), (1, 1), (2, 9), (64, 224)]
)
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_jpeg_is_pillows_to_the_last_bit(
    device: torch.device, size: tuple[int, int], quality: int, subsampling: str
) -> None:
    images = pictures(3, *size)
    out = look(images.to(device), View.jpeg(quality, subsampling)).cpu()
    assert torch.equal(out, pillow_jpeg(images, quality, subsampling))


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 12), st.integers(-(2**63), 2**63 - 1), st.data()
)
def test_native_is_the_twin(height: int, width: int, count: int, seed: int, data: st.DataObject) -> None:
    views = data.draw(
        st.lists(st.sampled_from([*ALL, *(view.in_grey() for view in ALL)]), min_size=1, max_size=6)
    )
    images = pictures(count, height, width, seed=seed % 1000)
    out = ops.degrade(images, views, seed=seed, offset=7)
    assert out.shape == images.shape and out.dtype == torch.uint8 and out.is_contiguous()
    difference = (out.int() - twin(images, views, seed, 7).int()).abs()
    assert (
        not difference.numel() or difference.max() <= 1
    )  # sums of the blur and of down-up may round the other way
    exact = [view for view in views if view.kind not in ("blur", "down-up")]
    if exact == views:
        assert torch.equal(out, twin(images, views, seed, 7))


@needs_native
@pytest.mark.gpu
def test_cuda_is_the_cpu(device: torch.device) -> None:
    views = [*ALL, *(view.in_grey() for view in ALL)]
    for size in ((32, 32), (17, 23), (224, 224), (3, 1)):
        images = pictures(64, *size)
        index = torch.randperm(64)
        on_cpu = ops.degrade(images, views, seed=1, offset=2, index=index)
        out = ops.degrade(images.to(device), views, seed=1, offset=2, index=index.to(device)).cpu()
        assert (out.int() - on_cpu.int()).abs().max() <= 1


def test_median_of_a_single_bright_pixel_is_black(device: torch.device) -> None:
    image = torch.zeros(1, 5, 5, 3, dtype=torch.uint8, device=device)
    image[0, 2, 2] = 255
    assert not look(image, View.median()).any()


def test_median_by_sorting(device: torch.device) -> None:
    image = torch.randint(0, 256, (1, 3, 3, 3), dtype=torch.uint8)
    middle = look(image.to(device), View.median())[0, 1, 1].cpu()
    assert middle.tolist() == image.reshape(9, 3).sort(0).values[4].tolist()


def test_bits_by_hand(device: torch.device) -> None:
    image = torch.tensor([0, 42, 43, 127, 128, 255], dtype=torch.uint8, device=device).reshape(1, 1, 2, 3)
    assert look(image, View.bits(2)).flatten().tolist() == [0, 0, 85, 85, 170, 255]
    assert torch.equal(look(image, View.bits(8)), image)


def test_down_up_of_a_checkerboard_is_flat(device: torch.device) -> None:
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 200).to(torch.uint8)
    out = look(board[None, :, :, None].expand(1, 8, 8, 3).to(device), View.down_up())
    assert out.unique().tolist() == [100]


def test_blur_keeps_constants_and_spreads_a_point_evenly(device: torch.device) -> None:
    flat = torch.full((1, 9, 9, 3), 77, dtype=torch.uint8, device=device)
    assert torch.equal(look(flat, View.blur()), flat)
    point = torch.zeros(1, 9, 9, 3, dtype=torch.uint8, device=device)
    point[0, 4, 4] = 255
    out = look(point, View.blur())[0, :, :, 0]
    assert torch.equal(out, out.T) and out[4, 4] == round(255 * 0.39905**2)
    assert gaussian_taps(1.0).sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.equal(look(point, View.blur(0)), point)


def test_erase_leaves_one_grey_square_of_the_stated_size(device: torch.device) -> None:
    images = torch.zeros(40, 32, 40, 3, dtype=torch.uint8, device=device)
    corners, sides = set(), set()
    for image in look(images, View.erase())[..., 0].cpu():
        rows, columns = image.nonzero(as_tuple=True)
        side = int(rows.max() - rows.min()) + 1
        assert 8 <= side <= 16 and side == int(columns.max() - columns.min()) + 1
        assert int((image == 128).sum()) == side * side
        corners.add((int(rows.min()), int(columns.min())))
        sides.add(side)
    assert len(corners) > 30 and len(sides) > 5


def test_grey_is_pillows(device: torch.device) -> None:
    images = pictures()
    out = look(images.to(device), View().in_grey()).cpu()
    for image, wanted in zip(out, images, strict=True):
        assert torch.equal(
            image[..., 0], torch.from_numpy(np.array(Image.fromarray(wanted.numpy()).convert("L")))
        )
        assert torch.equal(image, image[..., :1].expand_as(image))


def test_views_are_drawn_by_their_shares_and_the_same_way_again(device: torch.device) -> None:
    images = pictures(4000, 4, 4).to(device)
    views, shares = [View(), View.bits(1), View.bits(1).in_grey()], [0.5, 0.0, 1.5]
    out = ops.degrade(images, views, probabilities=shares, seed=3, offset=4)
    assert torch.equal(out, ops.degrade(images, views, probabilities=shares, seed=3, offset=4))
    assert not torch.equal(out, ops.degrade(images, views, probabilities=shares, seed=3, offset=5))
    same = (out == images).flatten(1).all(1)
    assert torch.equal(out[~same], look(images, views[2])[~same])
    assert 900 < int(same.sum()) < 1100  # 1000 expected, standard deviation 27


def test_index_gathers_and_the_draw_belongs_to_the_position(device: torch.device) -> None:
    images = pictures(8).to(device)
    index = torch.tensor([5, 5, 0, 7], device=device)
    out = ops.degrade(images, ALL, seed=1, offset=2, index=index)
    assert torch.equal(out, ops.degrade(images[index], ALL, seed=1, offset=2))
    with threads(2):
        assert torch.equal(out, ops.degrade(images, ALL, seed=1, offset=2, index=index))


def test_the_input_stays_as_it_is(device: torch.device) -> None:
    images = pictures(20).to(device)
    before = images.clone()
    strided = images[:, ::2]
    out = ops.degrade(images, ALL, seed=0, offset=0)
    assert torch.equal(images, before) and out.data_ptr() != images.data_ptr()
    assert torch.equal(
        ops.degrade(strided, ALL, seed=0, offset=0), ops.degrade(strided.contiguous(), ALL, seed=0, offset=0)
    )


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "images must be uint8, got float32", lambda: look(torch.zeros(1, 4, 4, 3), View())),
        (ValueError, r"images must be \[M, H, W, 3\]", lambda: look(pictures()[..., :2], View())),
        (TypeError, "views must be of View, got str", lambda: look(pictures(), "jpeg10")),  # type: ignore[arg-type]
        (
            ValueError,
            "number of views must be between 1 and 32, got 0",
            lambda: ops.degrade(pictures(), [], seed=0, offset=0),
        ),
        (
            ValueError,
            "probabilities must be 1, one a view, got 2",
            lambda: look(pictures(), View(), probabilities=[1, 1]),
        ),
        (ValueError, "not all 0", lambda: look(pictures(), View(), probabilities=[0])),
        (ValueError, "not all 0", lambda: look(pictures(), View(), probabilities=[float("nan")])),
        (TypeError, "index must be int64", lambda: look(pictures(), View(), index=torch.zeros(1))),
        (
            RuntimeError,
            r"index must be in \[0, 3\), got 3",
            lambda: look(pictures(), View(), index=torch.tensor([3])),
        ),
        (ValueError, "quality must be between 1 and 100, got 0", lambda: View.jpeg(0)),
        (ValueError, "subsampling must be 4:2:0 or 4:4:4, got '4:2:2'", lambda: View.jpeg(10, "4:2:2")),
        (ValueError, "sigma must be between 0 and 5, got 6", lambda: View.blur(6)),
        (ValueError, "depth must be between 1 and 8", lambda: View.bits(9)),
        (ValueError, "high must be between 0.5 and 1", lambda: View.erase(0.5, 0.25)),
        (ValueError, "seed must fit 64 bits", lambda: look(pictures(), View(), seed=2**63)),
    ],
)
def test_bad_arguments(error: type[Exception], words: str, call: Any) -> None:
    with pytest.raises(error, match=words):
        call()
