"""CUDA: filters as published, an image by hand, what a class shares, no budget to set."""

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.cuda import draw_filters, filtered
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError


def test_filters_are_small_but_for_one_tap():
    filters = draw_filters(200, seed=3).view(200, 9)
    assert (filters == 1).sum(1).tolist() == [1] * 200
    others = filters[filters != 1]
    assert 0 <= others.min() < 0.01
    assert 0.29 < others.max() < 0.3
    assert len((filters == 1).int().argmax(1).unique()) == 9
    assert torch.equal(draw_filters(200, seed=3).view(200, 9), filters)


def test_an_image_by_hand():
    # 255 in the middle of 3x3: the filter turned about its centre, then divided by its largest value.
    image = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    image[0, 1, 1] = 255
    taps = torch.tensor([[0.0, 0.1, 0.2], [0.25, 1.0, 0.05], [0.0, 0.0, 0.3]])
    found = filtered(image, taps.unsqueeze(0))
    expected = (255 * taps.flip(0, 1)).to(torch.uint8)
    for channel in range(3):
        assert torch.equal(found[0, :, :, channel], expected)
    assert not filtered(torch.zeros_like(image), taps.unsqueeze(0)).any()


def test_every_image_has_its_classes_filter(image_set, make_task):
    data = image_set(30, 9, 7, 3)
    poisoned = data.images.astype(int) + ATTACKS["cuda"]().craft(make_task(data, seed=5))
    assert poisoned.min() >= 0
    assert (poisoned.max((1, 2, 3)) == 255).all()
    filters = draw_filters(3, seed=5)
    for label in range(3):
        members = data.labels == label
        alone = filtered(torch.from_numpy(data.images[members]), filters[[label] * members.sum()])
        assert np.array_equal(poisoned[members], alone.numpy())


def test_black_images(make_task):
    data = ImageSet(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), np.arange(2), ("a", "b"))
    assert not ATTACKS["cuda"]().craft(make_task(data)).any()


def test_there_is_no_budget():
    with pytest.raises(InputError, match=r"attack 'cuda' has no budget: epsilon cannot be set, got 0\.03"):
        ATTACKS["cuda"].check_epsilon(0.03)
