"""TAP, HYPO and EntF: published settings, where perturbations drive the network, going on after a kill."""

from dataclasses import replace

import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.features import without_classifier
from pst_fast.attacks.fixed import Recipe, best_start
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import LinfPGD, perturbed_inputs
from pst_fast.attacks.reference import STATE as TRAINING
from pst_fast.attacks.reference import Training
from pst_fast.attacks.rows import STATE as ROWS
from pst_fast.errors import InputError
from pst_fast.models import create_model

CRAFTING = ROWS.format(rank=0)
PAPER = {name: ATTACKS[name].recipes["paper"] for name in ("tap", "hypo", "entf", "aap")}


def test_paper_settings():
    assert PAPER["tap"] == Recipe(Training(40), steps=250, relative_step=0.05, restarts=8)
    assert PAPER["hypo"].training.adversary == 2 / 255
    assert PAPER["aap"] == Recipe(Training(40), steps=250, relative_step=0.01)
    assert PAPER["entf"].training.adversary == 4 / 255
    assert (PAPER["entf"].training.epochs, PAPER["entf"].steps) == (100, 300)
    assert (PAPER["hypo"].training.epochs, PAPER["hypo"].steps, PAPER["hypo"].relative_step) == (10, 100, 0.1)


def test_targets(image_set, make_task):
    task, network = make_task(image_set(num_classes=3)), torch.nn.Identity()
    labels, outputs = torch.tensor([0, 1, 2]), torch.eye(3)
    tap, hypo = (ATTACKS[name]().objective(task, network) for name in ("tap", "hypo"))
    assert tap.goals(labels).tolist() == [1, 2, 0]
    assert hypo.goals(labels).tolist() == [0, 1, 2]
    assert tap.reached(outputs, labels).tolist() == [False] * 3
    assert tap.reached(outputs[[1, 2, 0]], labels).all()
    assert hypo.reached(outputs, labels).all()


def test_entf_pushes_away_from_the_mean_of_the_class(image_set, make_task):
    task = make_task(image_set(30, num_classes=3))
    network = create_model("resnet10", num_classes=3, width=8, image_size=16).eval()
    aim = ATTACKS["entf"]().objective(task, network)
    x = torch.from_numpy(task.data.images).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(task.data.labels)
    with torch.no_grad():
        features = aim.model(perturbed_inputs(x, torch.zeros_like(x)))
    assert features.shape == (30, 64)
    for label in range(3):
        expected = features[labels == label].mean(0)
        torch.testing.assert_close(aim.goals(torch.tensor([label]))[0], expected)
    centres = aim.goals(labels)
    assert aim.loss(centres, centres) == 0
    assert aim.loss(centres + 1, centres).item() == pytest.approx(-64)
    assert aim.reached(centres[:3], (labels[:3] + 1) % 3).all()
    assert not aim.reached(centres[:3], labels[:3]).any()


def test_a_network_without_a_classifier():
    with pytest.raises(InputError, match="expected a network that ends in a linear layer with 3 outputs"):
        without_classifier(create_model("resnet10", num_classes=4, width=8, image_size=16), 3)


def test_the_best_restart_is_kept(image_set, make_task):
    torch.manual_seed(0)
    model = frozen(create_model("resnet10", num_classes=3, width=8, image_size=16))
    x = torch.rand(5, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 0, 1])

    def losses(delta):
        with torch.no_grad():
            outputs = model(perturbed_inputs(x, delta))
        return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")

    pgd = LinfPGD(model, step_size=0.01, epsilon=0.03)
    alone = []
    torch.manual_seed(1)
    for _ in range(4):
        alone.append(losses(best_start(pgd, x, labels, Recipe(Training(0), steps=2, relative_step=0.3))))
    torch.manual_seed(1)
    kept = losses(best_start(pgd, x, labels, Recipe(Training(0), steps=2, relative_step=0.3, restarts=4)))
    torch.testing.assert_close(kept, torch.stack(alone).min(0).values)


@pytest.mark.parametrize("name", ["tap", "hypo", "entf"])
def test_images_reach_their_targets(name, image_set, make_task, monkeypatch):
    """Without steps a third of them is there by chance: the labels have nothing to do with the images."""
    reached = []
    for steps in (0, 90):
        recipe = ATTACKS[name].recipes["fast"]
        training = replace(recipe.training, epochs=10)
        recipe = replace(recipe, training=training, steps=steps, relative_step=0.1)
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", recipe)
        task = make_task(image_set(48, num_classes=3), epsilon=32 / 255)
        ATTACKS[name]().craft(task)
        (task.folder / CRAFTING).unlink()
        reached.append(task.facts["reached_target"])
    assert reached[1] > reached[0] + 0.15


@pytest.mark.parametrize("name", ["tap", "hypo", "entf", "aap"])
@pytest.mark.parametrize("words", ["reference network, epoch 3", "image 33"])
def test_a_killed_craft_goes_on_to_the_same_bytes(name, words, image_set, killed_and_resumed, monkeypatch):
    monkeypatch.setattr("pst_fast.attacks.rows.crafting_batch", lambda *_: 8)

    def left(folder):
        trained = torch.load(folder / TRAINING, weights_only=True)["epochs"]
        assert trained == (2 if words.startswith("reference") else 3)
        assert (folder / CRAFTING).exists() == words.startswith("image")

    killed_and_resumed(name, image_set(44, num_classes=3), words, left=left)


def test_one_class(image_set, make_task):
    with pytest.raises(InputError, match="expected images of at least two classes, got one"):
        ATTACKS["tap"]().craft(make_task(image_set(8, num_classes=1)))
