"""SEP: published settings, checkpoints, where the steps lead, going on after a kill."""

from dataclasses import replace

import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.features import class_means, without_classifier
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.attacks.reference import Training
from pst_fast.attacks.sep import Member, Recipe, minimize, shift
from pst_fast.errors import InputError
from pst_fast.models import create_model


def test_paper_settings():
    recipe = ATTACKS["sep"].recipes["paper"]
    assert (recipe.training.epochs, recipe.checkpoints, recipe.steps) == (120, 15, 30)
    assert recipe.epochs() == list(range(8, 121, 8))
    assert recipe.relative_step * ATTACKS["sep"].epsilon == pytest.approx(1 / 255)
    assert [shift(count) for count in (2, 3, 5, 6, 10, 100)] == [1, 1, 2, 5, 5, 5]


def test_steps_bring_features_near_the_target_on_every_member(image_set, make_task):
    task = make_task(image_set(30, num_classes=3))
    x = torch.from_numpy(task.data.images).permute(0, 3, 1, 2).float().div(255)
    targets = (torch.from_numpy(task.data.labels) + 1) % 3
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = create_model("resnet10", num_classes=3, width=8, image_size=16)
        model = frozen(without_classifier(network, 3))
        members.append(Member(model, class_means(task, model)))

    def distances(delta):
        with torch.no_grad():
            return [
                (m.model(perturbed_inputs(x, delta)) - m.means[targets]).square().mean().item()
                for m in members
            ]

    recipe = Recipe(Training(0), checkpoints=3, steps=4, relative_step=0.25)
    delta = minimize(members, x, targets, 8 / 255, recipe)
    assert delta.abs().max() <= 8 / 255 + 1e-6
    before, after = distances(torch.zeros_like(x)), distances(delta)
    assert all(now < 0.8 * then for now, then in zip(after, before, strict=True))


@pytest.mark.parametrize("words", ["reference network, epoch 3", "image 33"])
def test_a_killed_craft_goes_on_to_the_same_bytes(words, image_set, killed_and_resumed, monkeypatch):
    monkeypatch.setattr("pst_fast.attacks.rows.crafting_batch", lambda *_: 8)
    killed_and_resumed("sep", image_set(44, num_classes=3), words)


def test_a_checkpoint_that_is_gone(image_set, make_task):
    task = make_task(image_set(20, num_classes=2))
    ATTACKS["sep"]().craft(task)
    next(task.folder.glob("checkpoint-*.pt")).unlink()
    with pytest.raises(InputError, match=r"checkpoint-\d\.pt: expected a checkpoint, but it is missing"):
        ATTACKS["sep"]().craft(task)


def test_checkpoints_of_few_epochs():
    recipe = Recipe(Training(12), checkpoints=3, steps=1, relative_step=1.0)
    assert recipe.epochs() == [4, 8, 12]
    assert replace(recipe, training=Training(3)).epochs() == [1, 2, 3]
