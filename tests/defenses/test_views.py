"""The mix of views: what it is, and that it is drawn a view a sample, by seed and step."""

import pytest
import torch

from pst_fast import ops
from pst_fast.defenses import views
from pst_fast.ops import View


def pictures(count: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_mix_is_drawn_a_view_a_sample_and_the_same_way_again():
    images = pictures(400)
    mix = {"raw": 0.5, "2-bit": 0.5}
    out = views.apply_mix(images, mix, seed=5, step=6)
    assert torch.equal(out, views.apply_mix(images, mix, seed=5, step=6))
    assert not torch.equal(out, views.apply_mix(images, mix, seed=5, step=7))
    coarse = ops.degrade(images, [View.bits(2)], seed=0, offset=0)
    same = (out == images).flatten(1).all(1)
    assert torch.equal(out[~same], coarse[~same])
    assert 160 < int(same.sum()) < 240


def test_views_that_the_plan_left_out_are_not_drawn():
    images = pictures(200)
    mix = dict.fromkeys(views.VIEWS, 0.0) | {"raw": 1.0}
    assert torch.equal(views.apply_mix(images, mix, seed=0, step=0), images)


def test_the_static_mix_is_a_distribution_over_the_views():
    assert set(views.STATIC_MIX) == set(views.VIEWS)
    assert sum(views.STATIC_MIX.values()) == pytest.approx(1)


def test_edges_are_what_lies_inside_in_a_mirror():
    image = torch.arange(30, dtype=torch.uint8).view(1, 5, 6, 1).expand(1, 5, 6, 3)
    expected = [
        [14, 13, 14, 15, 16, 15],
        [8, 7, 8, 9, 10, 9],
        [14, 13, 14, 15, 16, 15],
        [20, 19, 20, 21, 22, 21],
        [14, 13, 14, 15, 16, 15],
    ]
    assert views.mirror_edges(image)[0, :, :, 1].tolist() == expected


def test_edges_of_small_images_have_nothing_inside_to_mirror():
    for side in (1, 2):
        image = torch.arange(side * side * 3, dtype=torch.uint8).view(1, side, side, 3)
        assert torch.equal(views.mirror_edges(image), image)
    nine = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
    assert torch.equal(views.mirror_edges(nine), nine[:, 1:2, 1:2].expand(1, 3, 3, 3))
