"""Views keep shape and type, change what they say they change, and are drawn reproducibly."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pst_fast.defenses import views


def pictures(count: int = 4, height: int = 20, width: int = 17) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


@pytest.mark.parametrize("name", [*views.VIEWS, "grey"])
def test_shape_type_and_input_are_kept_and_empty_batches_pass(name):
    view = views.VIEWS.get(name, views.grey)
    images = pictures()
    before = images.clone()
    out = view(images, np.random.default_rng(0))
    assert out.shape == images.shape and out.dtype == torch.uint8
    assert torch.equal(images, before)
    assert view(images[:0], np.random.default_rng(0)).shape == images[:0].shape


def test_median_of_a_single_bright_pixel_is_black():
    image = torch.zeros(1, 5, 5, 3, dtype=torch.uint8)
    image[0, 2, 2] = 255
    assert not views.median(image, np.random.default_rng(0)).any()


def test_bits_by_hand():
    image = torch.tensor([0, 42, 43, 127, 128, 255], dtype=torch.uint8).reshape(1, 1, 2, 3)
    out = views.bits(image, np.random.default_rng(0), depth=2)
    assert out.flatten().tolist() == [0, 0, 85, 85, 170, 255]


def test_down_up_of_a_checkerboard_is_flat():
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 200).to(torch.uint8)
    out = views.down_up(board[None, :, :, None].expand(1, 8, 8, 3), np.random.default_rng(0))
    assert out.unique().tolist() == [100]


def test_blur_keeps_constants_and_spreads_a_point_evenly():
    flat = torch.full((1, 9, 9, 3), 77, dtype=torch.uint8)
    assert torch.equal(views.blur(flat, np.random.default_rng(0)), flat)
    point = torch.zeros(1, 9, 9, 3, dtype=torch.uint8)
    point[0, 4, 4] = 255
    out = views.blur(point, np.random.default_rng(0))[0, :, :, 0]
    assert torch.equal(out, out.T) and out[4, 4] == round(255 * 0.39905**2)


def test_jpeg_is_what_pillow_makes_of_it():
    images = pictures(2)
    stream = io.BytesIO()
    Image.fromarray(images[1].numpy()).save(stream, "JPEG", quality=10)
    expected = torch.from_numpy(np.asarray(Image.open(stream)).copy())
    assert torch.equal(views.jpeg(images, np.random.default_rng(0), quality=10)[1], expected)


def test_erase_leaves_one_grey_square_of_the_stated_size():
    images = torch.zeros(20, 32, 32, 3, dtype=torch.uint8)
    for image in views.erase(images, np.random.default_rng(0))[..., 0]:
        rows, columns = image.nonzero(as_tuple=True)
        side = int(rows.max() - rows.min()) + 1
        assert 8 <= side <= 16 and side == int(columns.max() - columns.min()) + 1
        assert int((image == 128).sum()) == side * side


def test_the_mix_is_drawn_a_view_a_sample_and_the_same_way_again():
    images = pictures(400, 4, 4)
    mix = {"raw": 0.5, "2-bit": 0.5}
    out = views.apply_mix(images, mix, np.random.default_rng(5))
    assert torch.equal(out, views.apply_mix(images, mix, np.random.default_rng(5)))
    coarse = views.bits(images, np.random.default_rng(0), depth=2)
    same = (out == images).flatten(1).all(1)
    assert torch.equal(out[~same], coarse[~same])
    assert 160 < int(same.sum()) < 240


def test_the_static_mix_is_a_distribution_over_the_views():
    assert set(views.STATIC_MIX) == set(views.VIEWS)
    assert sum(views.STATIC_MIX.values()) == pytest.approx(1)
