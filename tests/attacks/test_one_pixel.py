"""OPS against an exhaustive search, and cases by hand."""

import itertools

import numpy as np
import pytest
import torch

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.ops import COLOURS, best_pixels, pixel_scores
from pst_fast.data.types import ImageSet


def scores_of(images):
    """The scores of images that are all of one class."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    count, sums, products = (t[0].numpy() for t in ops.class_pixel_sums(torch.from_numpy(images), labels, 1))
    return pixel_scores(int(count), sums, products)


def exhaustive_scores(images):
    """mean / std of the change over the class, summed over channels, by trying every pixel and colour."""
    x = images / 255.0
    scores = np.zeros((8, *images.shape[1:3]))
    for k, colour in enumerate(itertools.product((0.0, 1.0), repeat=3)):
        for row in range(images.shape[1]):
            for column in range(images.shape[2]):
                change = np.abs(np.array(colour) - x[:, row, column]).sum(1)
                scores[k, row, column] = change.mean() / change.std()
    return scores


@pytest.mark.parametrize(("count", "height", "width"), [(50, 6, 5), (2, 3, 4), (700, 2, 2)])
def test_scores_are_those_of_the_exhaustive_search(count, height, width):
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    np.testing.assert_allclose(scores_of(images), exhaustive_scores(images), rtol=1e-9)


def test_craft_takes_the_best_pixel_of_each_class(image_set, make_task):
    data = image_set(60, 7, 6, 3)
    steps = ATTACKS["ops"]().craft(make_task(data))
    for label in range(3):
        members = data.labels == label
        scores = exhaustive_scores(data.images[members])
        colour, row, column = np.unravel_index(scores.argmax(), scores.shape)
        total = data.images[members].astype(int) + steps[members]
        assert (total[:, row, column] == 255 * COLOURS[colour]).all()
        others = steps[members].copy()
        others[:, row, column] = 0
        assert not others.any()


def test_by_hand():
    # Left pixel: black in one image, grey in the other. Right pixel: nearly black in both, so that white
    # changes it by 2.99 +- 0.0 on the scale of 3: by far the most reliable change.
    images = np.zeros((2, 1, 2, 3), np.uint8)
    images[1, 0, 0] = 128
    images[:, 0, 1] = [[1, 1, 1], [2, 1, 1]]
    rows, columns, colours = best_pixels(scores_of(images), 1)
    assert (rows.tolist(), columns.tolist(), colours.tolist()) == ([0], [1], [[255, 255, 255]])
    # White: changes 762 and 761 steps, mean 761.5, standard deviation 0.5.
    assert scores_of(images)[-1, 0, 1] == pytest.approx(761.5 / 0.5)


def test_pixels_that_never_vary_are_ranked_by_their_change():
    images = np.zeros((3, 1, 3, 3), np.uint8)
    images[:, 0, 1] = 40
    images[:, 0, 2] = [[9, 9, 9], [99, 9, 9], [9, 9, 200]]
    _, columns, colours = best_pixels(scores_of(images), 3)
    assert columns.tolist() == [0, 1, 2]
    assert colours[0].tolist() == [255, 255, 255]
    assert np.isfinite(scores_of(images)).all()


def test_several_pixels(image_set, make_task):
    data = image_set(30)
    steps = ATTACKS["ops"]().craft(make_task(data, epsilon=3))
    changed = steps.any(3).sum((1, 2))
    assert changed.max() == 3
    one = ATTACKS["ops"]().craft(make_task(data))
    assert (steps[one.any(3)] == one[one.any(3)]).all()


def test_a_class_without_images(make_task):
    data = ImageSet(np.full((2, 4, 4, 3), 9, np.uint8), np.array([0, 2]), np.arange(2), ("a", "b", "c"))
    steps = ATTACKS["ops"]().craft(make_task(data))
    assert steps.any(3).sum((1, 2)).tolist() == [1, 1]
