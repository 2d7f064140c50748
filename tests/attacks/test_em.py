"""Error-minimising noise: what it achieves, published settings, class-wise means, going on after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pst_fast.attacks.alternation import STATE, ClassWise, SampleWise, stratified_rows
from pst_fast.attacks.base import ATTACKS
from pst_fast.errors import InputError

RECIPES = {name: dict(ATTACKS[name].recipes) for name in ("em", "em-class")}


def test_paper_settings():
    published = {"train_batches": 10, "relative_step": 0.1, "batch_size": 512, "stop_error": 0.01}
    sample_wise, class_wise = (RECIPES[name]["paper"] for name in ("em", "em-class"))
    for recipe in (sample_wise, class_wise):
        assert {key: getattr(recipe, key) for key in published} == published
        assert recipe.max_rounds >= 100
    assert (sample_wise.steps, sample_wise.subset) == (20, 1.0)
    assert (class_wise.steps, class_wise.subset) == (1, 0.2)
    assert not ATTACKS["em"].class_conditional
    assert ATTACKS["em-class"].class_conditional


def test_augmented_settings(image_set, make_task):
    recipe = ATTACKS["aue"].recipes["paper"]
    assert (recipe.steps, recipe.relative_step, recipe.train_batches, recipe.max_rounds) == (5, 0.1, None, 60)
    task = make_task(image_set(50))
    assert SampleWise(task, replace(recipe, batch_size=16), 8 / 255).train_batches == 3  # an epoch


def test_noise_teaches_random_labels(image_set, make_task):
    """Labels have nothing to do with the images: what the network gets right is the noise's work."""
    task = make_task(image_set(96, num_classes=4), epsilon=16 / 255)
    ATTACKS["em"]().craft(task)
    assert task.facts["rounds"] == 3
    assert task.facts["train_error"] < 0.3


def test_stops_when_the_error_is_low_enough(monkeypatch, image_set, make_task):
    recipe = replace(ATTACKS["em"].recipes["fast"], stop_error=1.0, max_rounds=50)
    monkeypatch.setitem(ATTACKS["em"].recipes, "fast", recipe)
    task = make_task(image_set())
    ATTACKS["em"]().craft(task)
    assert 1 <= task.facts["rounds"] < 50
    assert task.facts["train_error"] < 1.0


@pytest.mark.parametrize("name", ["em", "em-class", "em-adaptive", "aue"])
def test_a_killed_craft_goes_on_to_the_same_bytes(name, image_set, make_task, tmp_path):
    data = image_set(40, num_classes=3)
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    whole = ATTACKS[name]().craft(make_task(data, folder=folders[0]))

    def stop(fraction, words):
        if words.startswith("round 3") and "follow" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ATTACKS[name]().craft(make_task(data, folder=folders[1], progress=stop))
    assert torch.load(folders[1] / STATE, weights_only=True)["round"] == 2
    torch.manual_seed(77)
    told = []
    resumed = make_task(data, folder=folders[1], progress=lambda fraction, words: told.append(words))
    assert ATTACKS[name]().craft(resumed).tobytes() == whole.tobytes()
    assert told[0].startswith("round 3")
    assert resumed.facts["rounds"] == 3


def test_a_finished_state_is_not_trained_again(image_set, make_task, tmp_path):
    data = image_set()
    first = ATTACKS["em"]().craft(make_task(data, folder=tmp_path))
    told = []
    task = make_task(data, folder=tmp_path, progress=lambda fraction, words: told.append(fraction))
    again = ATTACKS["em"]().craft(task)
    assert told == [1.0]
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 neither"])
def test_damaged_state(content, image_set, make_task):
    task = make_task(image_set())
    (task.folder / STATE).write_bytes(content)
    with pytest.raises(InputError, match=r"state\.pt: expected the state of unfinished work"):
        ATTACKS["em"]().craft(task)


def test_class_wise_perturbation_is_the_mean_of_its_samples(image_set, make_task):
    data = image_set(30, num_classes=3)
    recipe = replace(ATTACKS["em-class"].recipes["fast"], batch_size=64)
    alternation = ClassWise(make_task(data), recipe, 8 / 255)
    rows = torch.from_numpy(alternation.subset)
    x, labels = alternation.batch(rows)
    delta = torch.zeros_like(x)
    alternation.descent().run_(x, delta, labels, steps=1)
    alternation._minimize()
    for label in range(3):
        expected = delta[labels == label].mean(0).permute(1, 2, 0)
        torch.testing.assert_close(alternation.delta[label], expected)


def test_stratified_rows():
    labels = np.array([0] * 50 + [1] * 10 + [3] * 2)
    rows = stratified_rows(labels, 0.2, seed=3)
    assert np.bincount(labels[rows]).tolist() == [10, 2, 0, 1]
    assert len(np.unique(rows)) == len(rows)
    assert np.array_equal(rows, stratified_rows(labels, 0.2, seed=3))
    assert not np.array_equal(rows, stratified_rows(labels, 0.2, seed=4))
