"""The demo's images are the same everywhere, balanced, and told apart by shape alone."""

import numpy as np
import pytest

from pst_fast.data.datasets import DATASETS
from pst_fast.data.demo import SHAPES, draw


def test_the_registered_source_has_the_promised_size_and_no_image_twice():
    source = DATASETS["demo"](None)
    for split, each in (("train", 200), ("test", 100)):
        assert np.bincount(source.labels(split)).tolist() == [each] * len(SHAPES)
    images = [
        image.tobytes()
        for split in ("train", "test")
        for image in source.load(split, np.arange(len(source.labels(split))), 32)
    ]
    assert len(set(images)) == len(images) == 3000


def test_drawing_is_deterministic_and_depends_on_the_seed():
    labels = np.arange(20) % 10
    assert np.array_equal(draw(labels, 3), draw(labels, 3))
    assert not np.array_equal(draw(labels, 3), draw(labels, 4))


def test_only_the_shape_depends_on_the_label():
    """With the same draws, two labels' images are equal except where exactly one of the shapes is."""
    square, disc = (draw(np.full(30, list(SHAPES).index(name)), 7) for name in ("square", "disc"))
    equal = (square == disc).all(-1).mean((1, 2))
    assert (equal > 0.6).all() and (equal < 1).all()


def test_colour_does_not_tell_the_classes_apart():
    labels = np.arange(1000) % 10
    means = draw(labels, 5).reshape(1000, -1, 3).mean(1)
    by_class = np.stack([means[labels == k].mean(0) for k in range(10)])
    assert (by_class.std(0) < 3 * means.std(0) / np.sqrt(100)).all()


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_covers_a_visible_part(name):
    axis = np.linspace(-1, 1, 64)
    inside = SHAPES[name](*np.meshgrid(axis, axis)) < 0
    assert 0.1 < inside.mean() < 0.8
