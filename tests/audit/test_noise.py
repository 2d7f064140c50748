"""The noise floor: exact values, what counts of an image, and which images of a set."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pst_fast.audit.noise import noise_floor
from pst_fast.data import demo


def checkers(count: int, amplitude: int, size: int = 32) -> Tensor:
    """Grey images [N,size,size,3] with a checkerboard of so many levels about the grey."""
    sign = 1 - 2 * (torch.arange(size)[:, None] + torch.arange(size)).remainder(2)
    return (128 + amplitude * sign).to(torch.uint8)[None, :, :, None].repeat(count, 1, 1, 3)


def test_a_checkerboard_by_hand() -> None:
    """Centre, edges and corners all agree: (4 + 4 * 2 + 4 * 1) / 6 of the amplitude."""
    assert noise_floor(checkers(20, 3)) == pytest.approx(3 * 16 / 6)
    assert noise_floor(checkers(20, 3, size=3)) == pytest.approx(3 * 16 / 6)


def test_ramps_and_edges_along_an_axis_are_no_noise() -> None:
    ramp = 2 * torch.arange(32)[:, None] + 3 * torch.arange(32)
    ramp[:, 20:] += 60
    assert noise_floor(ramp.to(torch.uint8)[None, :, :, None].repeat(5, 1, 1, 3)) == 0


def test_white_noise_shows_with_somewhat_less_than_its_strength() -> None:
    random = np.random.default_rng(0)
    images = np.clip(128 + random.normal(0, 4, (300, 32, 32, 3)), 0, 255).round().astype(np.uint8)
    assert 2.5 < noise_floor(torch.from_numpy(images)) < 4


@pytest.mark.parametrize(("side", "expected"), [(5, 8.0), (20, 0.0)])
def test_an_image_counts_where_it_is_smoothest(side: int, expected: float) -> None:
    images = checkers(20, 3)
    images[:, :side, :side] = 128
    assert noise_floor(images) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("smooth_images", "expected"), [(4, 8.0), (6, 0.0)])
def test_a_set_counts_by_its_smoothest_images(smooth_images: int, expected: float) -> None:
    images = checkers(100, 3)
    images[:smooth_images] = 128
    assert noise_floor(images) == pytest.approx(expected)


def test_large_images_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(demo.draw(np.arange(50) % 10, 0))
    whole = noise_floor(images)
    monkeypatch.setattr("pst_fast.audit.noise._CHUNK_PIXELS", 100)
    assert noise_floor(images) == pytest.approx(whole)


def test_the_demo_has_noise_as_it_is_drawn_with() -> None:
    assert 1.2 < noise_floor(torch.from_numpy(demo.draw(np.arange(400) % 10, 0))) < 2
