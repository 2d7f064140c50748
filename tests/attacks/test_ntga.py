"""NTGA: published settings, what blocks are made for, rows back in their order, going on after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.ntga import Recipe, _Learner
from pst_fast.attacks.ntk import convolutional_kernel, dense_kernel
from pst_fast.errors import InputError

RECIPES = ATTACKS["ntga"].recipes


def test_paper_settings():
    assert RECIPES["paper"] == Recipe(convolutional_kernel, 8.0, block=512, steps=10, relative_step=0.11)


@pytest.mark.parametrize("kernel", [dense_kernel, convolutional_kernel])
def test_the_block_teaches_what_is_wrong(kernel, image_set):
    """Images of a class share a tint, which the clean block teaches and the perturbed one does not."""
    data = image_set(48, 8, 8, 2)
    tinted = np.clip(data.images * 0.5 + 64 + 16 * (2 * data.labels[:, None, None, None] - 1), 0, 255)
    data = replace(data, images=tinted.astype(np.uint8))
    x = torch.from_numpy(data.images[:24]).permute(0, 3, 1, 2).float() / 255
    labels, errors = torch.from_numpy(data.labels[:24]), []
    for steps in (0, 10):
        learner = _Learner(data, Recipe(kernel, 64.0, steps=steps), 24, torch.device("cpu"))
        delta, wrong = learner.perturb(x, labels, 0, 32 / 255)
        assert delta.abs().max() <= 32 / 255 + 1e-6
        errors.append(int(wrong) / 24)
    assert errors[0] <= 0.1
    assert errors[1] >= 0.5


def test_rows_are_where_their_images_are(image_set, make_task, monkeypatch):
    """The first block is the first of the shuffled rows, and what is made of it comes back to those."""
    monkeypatch.setitem(RECIPES, "fast", replace(RECIPES["fast"], block=8, steps=1, relative_step=1.0))
    data = image_set(20)
    steps = ATTACKS["ntga"]().craft(make_task(data))
    order = np.random.default_rng(0).permutation(20)
    shuffled = replace(data, images=data.images[order], labels=data.labels[order])
    learner = _Learner(shuffled, RECIPES["fast"], 8, torch.device("cpu"))
    x = torch.from_numpy(shuffled.images[:8]).permute(0, 3, 1, 2).float() / 255
    delta, _ = learner.perturb(x, torch.from_numpy(shuffled.labels[:8]), 0, 8 / 255)
    expected = np.rint(delta.permute(0, 2, 3, 1).numpy() * 255)
    assert np.array_equal(steps[order[:8]], expected)


def test_a_killed_craft_goes_on_to_the_same_bytes(image_set, killed_and_resumed, monkeypatch):
    monkeypatch.setitem(RECIPES, "fast", replace(RECIPES["fast"], block=8, steps=2))
    killed_and_resumed("ntga", image_set(36), "image 25")


def test_one_image(image_set, make_task):
    with pytest.raises(InputError, match="expected at least two images, got one"):
        ATTACKS["ntga"]().craft(make_task(image_set(1)))
