"""TUE: published settings, its two losses by hand, what the perturbations come to, going on after a kill."""

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.tue import contrastive_loss, separability


def test_paper_settings():
    recipe = ATTACKS["tue"].recipes["paper"]
    assert (recipe.max_rounds, recipe.steps, recipe.train_batches) == (40, 20, None)
    assert recipe.relative_step * ATTACKS["tue"].epsilon == pytest.approx(0.8 / 255)


def test_contrastive_loss_by_hand():
    views = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0]])
    # Each row is its own view's double and at right angles to the two others: e^2 against e^2 + 2.
    assert contrastive_loss(views).item() == pytest.approx(np.log(1 + 2 * np.exp(-2)), rel=1e-5)
    assert contrastive_loss(views[[0, 1, 3, 2]]) > contrastive_loss(views)


def test_separability_by_hand():
    delta = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 2.0], [4.0, -2.0]])
    labels = torch.tensor([3, 3, 7, 7])
    assert separability(delta, labels).item() == pytest.approx((1 + 2) / 4)
    assert separability(delta[:2], labels[:2]) == 0
    start = torch.zeros(4, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(separability(start, labels), start)
    assert torch.equal(grad, torch.zeros(4, 2)), "no NaN where all perturbations start"


def test_perturbations_come_apart_by_class(image_set, make_task):
    data = image_set(48, num_classes=3)
    steps = torch.from_numpy(ATTACKS["tue"]().craft(make_task(data))).float()
    labels = torch.from_numpy(data.labels)
    by_chance = separability(steps, labels[torch.randperm(48, generator=torch.Generator().manual_seed(0))])
    assert separability(steps, labels) < 0.7 * by_chance


def test_a_killed_craft_goes_on_to_the_same_bytes(image_set, killed_and_resumed):
    killed_and_resumed("tue", image_set(36), "round 3")
