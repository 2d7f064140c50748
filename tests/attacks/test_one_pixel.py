"""OPS: what the pixels of the search do to the images."""

import numpy as np

from pst_fast.attacks.base import ATTACKS
from pst_fast.data.types import ImageSet
from tests.ops.test_pixels import COLOURS, exhaustive_scores


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
