"""REM and SEM: published settings, what disturbs the images, what the noise does, going on after a kill."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.rem import STATE
from pst_fast.attacks.rows import STATE as ROWS
from pst_fast.models import create_model

PAPER = {name: ATTACKS[name].recipes["paper"] for name in ("rem", "sem")}


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3, width=8, image_size=16).eval()
    return model, torch.randn(12, 3, 16, 16), torch.arange(12) % 3


def test_paper_settings():
    published = {
        "train_steps": 5000,
        "decay_every": 2000,
        "steps": 10,
        "relative_step": 0.2,  # 1.6 of 8
        "views": 5,
        "disturbance": 0.5,  # 4 of 8
        "batch_size": 128,
    }
    for recipe in PAPER.values():
        assert {key: getattr(recipe, key) for key in published} == published
    assert (PAPER["rem"].disturbance_steps, PAPER["rem"].disturbance_step) == (10, 0.2)  # 0.8 of 4


@pytest.mark.parametrize("name", ["rem", "sem"])
def test_a_disturbance_stays_within_its_radius(name, setting):
    attack = ATTACKS[name]()
    attack.recipe = PAPER[name]
    change = attack.disturb(*setting, 0.1)
    assert 0.099 < change.abs().max() <= 0.1
    assert not change.requires_grad


def test_the_adversary_of_rem_raises_the_loss_and_the_noise_of_sem_does_not_aim(setting):
    model, inputs, labels = setting
    with torch.no_grad():
        before = F.cross_entropy(model(inputs), labels)
        raised = {}
        for name, recipe in PAPER.items():
            attack = ATTACKS[name]()
            attack.recipe = recipe
            with torch.enable_grad():
                change = attack.disturb(model, inputs, labels, 0.1)
            raised[name] = (F.cross_entropy(model(inputs + change), labels) - before).item()
    assert raised["rem"] > 0.2
    assert abs(raised["sem"]) < 0.1 * raised["rem"]


@pytest.mark.parametrize("name", ["rem", "sem"])
def test_noise_teaches_random_labels(name, image_set, make_task, monkeypatch):
    """Labels have nothing to do with the images: what the network gets right is the noise's work."""
    recipe = replace(ATTACKS[name].recipes["fast"], train_steps=60, decay_every=40, steps=3)
    monkeypatch.setitem(ATTACKS[name].recipes, "fast", recipe)
    task = make_task(image_set(64, num_classes=4), epsilon=32 / 255)
    ATTACKS[name]().craft(task)
    assert task.facts["train_error"] < 0.55  # 0.75 by chance


@pytest.mark.parametrize("name", ["rem", "sem"])
@pytest.mark.parametrize("words", ["batch 14", "image 33"])
def test_a_killed_craft_goes_on_to_the_same_bytes(name, words, image_set, killed_and_resumed, monkeypatch):
    monkeypatch.setattr("pst_fast.attacks.rows.crafting_batch", lambda *_: 8)
    monkeypatch.setattr("pst_fast.attacks.rem.SAVES", 5)

    def left(folder):
        steps = torch.load(folder / STATE, weights_only=True)["steps"]
        assert steps == (12 if words == "batch 14" else 20)
        assert (folder / ROWS.format(rank=0)).exists() == words.startswith("image")

    again = "batch 13" if words == "batch 14" else words
    killed_and_resumed(name, image_set(44, num_classes=3), words, again=again, left=left)
