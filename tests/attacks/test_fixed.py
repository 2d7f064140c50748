"""TAP and HYPO: published settings, where the perturbations drive the network, going on after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.fixed import STATE as TRAINING
from pst_fast.attacks.fixed import Recipe
from pst_fast.attacks.rows import STATE as CRAFTING
from pst_fast.attacks.transforms import shift_and_flip
from pst_fast.errors import InputError

PAPER = {name: ATTACKS[name].recipes["paper"] for name in ("tap", "hypo")}


def test_paper_settings():
    assert PAPER["tap"] == Recipe(epochs=40, steps=250, relative_step=0.05, restarts=8)
    assert PAPER["hypo"].adversary == 2 / 255
    assert (PAPER["hypo"].epochs, PAPER["hypo"].steps, PAPER["hypo"].relative_step) == (10, 100, 0.1)


def test_targets():
    labels = torch.tensor([0, 1, 2])
    assert ATTACKS["tap"]().targets(labels, 3).tolist() == [1, 2, 0]
    assert ATTACKS["hypo"]().targets(labels, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["tap", "hypo"])
def test_images_reach_their_targets(name, image_set, make_task, monkeypatch):
    """Without steps a third of them is there by chance: the labels have nothing to do with the images."""
    reached = []
    for steps in (0, 30):
        recipe = replace(ATTACKS[name].recipes["fast"], epochs=10, steps=steps, relative_step=0.1)
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", recipe)
        task = make_task(image_set(48, num_classes=3), epsilon=32 / 255)
        ATTACKS[name]().craft(task)
        (task.folder / CRAFTING).unlink()
        reached.append(task.facts["reached_target"])
    assert reached[1] > reached[0] + 0.15


@pytest.mark.parametrize("name", ["tap", "hypo"])
@pytest.mark.parametrize("words", ["reference network, epoch 3", "image 33"])
def test_a_killed_craft_goes_on_to_the_same_bytes(name, words, image_set, make_task, tmp_path, monkeypatch):
    monkeypatch.setattr("pst_fast.attacks.fixed.crafting_batch", lambda *_: 8)
    data = image_set(44, num_classes=3)
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    whole = np.array(ATTACKS[name]().craft(make_task(data, folder=folders[0])))

    def stop(fraction, told):
        if told.startswith(words):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ATTACKS[name]().craft(make_task(data, folder=folders[1], progress=stop))
    trained = torch.load(folders[1] / TRAINING, weights_only=True)["epochs"]
    assert trained == (2 if words.startswith("reference") else 3)
    assert (folders[1] / CRAFTING).exists() == words.startswith("image")
    torch.manual_seed(77)
    told = []
    resumed = make_task(data, folder=folders[1], progress=lambda fraction, words: told.append(words))
    assert np.array(ATTACKS[name]().craft(resumed)).tobytes() == whole.tobytes()
    assert told[0].startswith(words)


def test_one_class(image_set, make_task):
    with pytest.raises(InputError, match="expected images of at least two classes, got one"):
        ATTACKS["tap"]().craft(make_task(image_set(8, num_classes=1)))


def test_shift_and_flip_moves_whole_pixels():
    torch.manual_seed(0)
    images = torch.arange(1.0, 1 + 200 * 16 * 24).view(200, 1, 16, 24)
    found = shift_and_flip(images)
    seen = set()
    for image, moved in zip(images[:, 0], found[:, 0], strict=True):
        row, column = torch.nonzero(moved).median(0).values.tolist()
        value = moved[row, column]
        mirrored = bool(moved[row, column + 1] < value)
        source_row, source_column = (torch.nonzero(image == value)[0]).tolist()
        middle = (23 - column if mirrored else column, row)
        shift = (middle[0] - source_column, middle[1] - source_row)
        seen.add((mirrored, *shift))
        expected = torch.zeros_like(image)
        flipped = image.flip(1) if mirrored else image
        dy, dx = source_row - row, (23 - source_column if mirrored else source_column) - column
        rows = slice(max(0, -dy), 16 - max(0, dy))
        columns = slice(max(0, -dx), 24 - max(0, dx))
        expected[rows, columns] = flipped[max(0, dy) : 16 + min(0, dy), max(0, dx) : 24 + min(0, dx)]
        assert torch.equal(moved, expected)
    assert {mirrored for mirrored, *_ in seen} == {False, True}
    assert max(abs(dx) for _, dx, _ in seen) == 3
    assert max(abs(dy) for _, _, dy in seen) == 2


def test_shift_and_flip_passes_gradients():
    torch.manual_seed(0)
    inputs = torch.rand(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def moved(x):
        torch.manual_seed(1)
        return shift_and_flip(x)

    assert torch.autograd.gradcheck(moved, inputs)
