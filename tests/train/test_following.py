"""Images that are seen twice: which ones, what their loss is, and that their labels teach nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.manifest import read_manifest
from pst_fast.train.augmentation import PLAIN
from pst_fast.train.following import Following
from tests.train.conftest import make_folder
from tests.train.test_trainer import run, settings


def test_every_second_image_follows_whoever_has_it():
    half = Following(0.5, PLAIN)
    assert half.rows(6).tolist() == [1, 3, 5]
    assert half.rows(3, first=3).tolist() == [0, 2]  # the fourth and the sixth of the batch
    assert Following(1.0, PLAIN).rows(3).tolist() == [0, 1, 2]


@given(st.floats(0.01, 1), st.integers(0, 200), st.integers(0, 200))
def test_parts_of_a_batch_have_what_the_whole_has(share, first, second):
    following = Following(share, PLAIN)
    whole = following.rows(first + second).tolist()
    parts = following.rows(first).tolist() + (following.rows(second, first) + first).tolist()
    assert parts == whole and len(whole) == math.floor((first + second) * share)


def test_the_loss_is_the_divergence_from_the_first_answer_which_does_not_move():
    first = torch.tensor([[math.log(0.75), math.log(0.25)]], requires_grad=True)
    second = torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss = Following(0.5, PLAIN).loss(first, second, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert first.grad is None
    # softmax of the second minus that of the first
    assert torch.allclose(second.grad, torch.tensor([[-0.25, 0.25]]))
    assert Following(0.5, PLAIN).loss(first, first, 2).item() == pytest.approx(0, abs=1e-7)


class _Blind(Defense):
    """Labels are learned from images that show nothing."""

    summary = "black images, followed by plain ones"

    def view(self, images, seed, step):
        return torch.zeros_like(images)

    def following(self):
        return Following(0.5, PLAIN)


def test_what_follows_learns_nothing_of_its_label(tmp_path):
    clean = make_folder(tmp_path / "clean", test=600)
    options = settings("erm", epochs=4, learning_rate=0.05)
    seen = read_manifest(run(tmp_path / "seen", clean, clean, options))["facts"]["last_accuracy"]
    with DEFENSES.extended({"blind": _Blind}):
        folder = run(tmp_path / "blind", clean, clean, settings("blind", epochs=4, learning_rate=0.05))
    blind = read_manifest(folder)["facts"]["last_accuracy"]
    chance = 1 / len(read_manifest(clean)["facts"]["classes"])
    assert seen > chance + 0.1 > blind, (seen, blind)
