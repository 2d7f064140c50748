"""The breakers of the literature: what each one does to a batch, and that it is what its paper describes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pst_fast import ops
from pst_fast.data.beton import read_beton
from pst_fast.data.types import Batch
from pst_fast.defenses.base import DEFENSES
from pst_fast.errors import InputError
from pst_fast.models import create_model
from pst_fast.train.augmentation import denormalise, normalise, renormalise
from pst_fast.train.averaging import Averaged
from pst_fast.train.parallel import Parts
from pst_fast.train.trainer import split
from tests.train.conftest import CLASSES

CPU = torch.device("cpu")


def fit_of(model: nn.Module | None = None, **more) -> SimpleNamespace:
    settings = SimpleNamespace(seed=0)
    common = {"num_classes": CLASSES, "device": CPU, "bf16": False, "settings": settings, "epochs": 4}
    return SimpleNamespace(model=model, **{**common, **more})


def batch(count: int = 12, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % CLASSES


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet10", num_classes=CLASSES, width=8, image_size=16)


def images_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    beton = read_beton(folder / "train.beton")
    return torch.from_numpy(beton.load_all()), torch.from_numpy(np.array(beton.labels))


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("jpeg", ops.View.jpeg(10)),
        ("gray", ops.View().in_grey()),
        ("bdr", ops.View.bits(2)),
        ("gaussian", ops.View.blur(1.0)),
    ],
)
def test_compressions_show_every_image_under_their_view(name, view):
    images, _ = batch()
    seen = DEFENSES[name]().view(images, 3, 4)
    assert torch.equal(seen, ops.degrade(images, [view], seed=0, offset=0))
    changed = (seen.int() - images.int()).abs().float().mean(dim=(1, 2, 3))
    assert changed.min() > 10  # of 255, on noise: none of them is an identity


def test_cutout_sets_one_square_of_half_the_side_to_the_mean():
    inputs, labels = torch.ones(400, 3, 32, 32), torch.zeros(400, dtype=torch.int64)
    torch.manual_seed(0)
    cut, targets = DEFENSES["cutout"]().transform(inputs, labels)
    assert targets is labels and inputs.min() == 1
    hole = cut == 0
    assert (cut[~hole] == 1).all() and (hole == hole[:, :1]).all()
    rows, columns = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(hole[:, 0].sum((1, 2)), rows * columns)  # rectangles
    # centred on any pixel: at most 16, at the edges from 8 (above) or 9 (below) on
    assert rows.max() == columns.max() == 16 and 8 <= rows.min() <= 9 and (rows == 16).float().mean() > 0.4
    assert hole[:, 0].float().mean(0).min() > 0  # every pixel is hit


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixtures_weigh_labels_like_images(name):
    torch.manual_seed(1)
    defense = DEFENSES[name]()
    defense.start(fit_of())
    inputs = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8).contiguous()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    shares = set()
    for _ in range(5):
        mixed, targets = defense.transform(inputs, labels)
        assert targets.shape == (6, CLASSES) and torch.allclose(targets.sum(1), torch.ones(6))
        own = targets[torch.arange(6), labels]
        other = inputs.roll(1, 0)
        expected = own * inputs[:, 0, 0, 0] + (1 - own) * other[:, 0, 0, 0]
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-4)
        if name == "cutmix":
            assert ((mixed == inputs) | (mixed == other)).all()
        shares.add(round(float(own[0]), 3))
    assert len(shares) > 2  # drawn anew


def test_at_climbs_the_loss_within_its_ball_and_leaves_the_network_as_it_was():
    model = network()
    defense = DEFENSES["at"]()
    defense.start(fit_of(model))
    images, labels = batch()
    inputs = normalise(images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    attacked, targets = defense.transform(inputs, labels)
    assert targets is labels and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    change = (denormalise(attacked) - denormalise(inputs)).abs()
    assert 7.9 / 255 < change.max() <= 8.001 / 255
    assert denormalise(attacked).min() > -1e-5 and denormalise(attacked).max() < 1 + 1e-5
    model.eval()
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(seen), labels)) for seen in (inputs, attacked)]
    assert losses[1] > losses[0] + 0.05


@pytest.mark.parametrize(("name", "hard_steps"), [("ueraser", 2), ("ueraser-max", 8)])
def test_ueraser_learns_the_hardest_of_five_draws(name, hard_steps, monkeypatch):
    model = network().train()
    defense = DEFENSES[name]()
    defense.start(fit_of(model, loader=[0, 1]))  # 4 epochs of 2 steps
    draws: list[torch.Tensor] = []

    def augment(images: torch.Tensor) -> torch.Tensor:
        draws.append((images * torch.rand(len(images), 1, 1, 1) * 2).clamp(0, 1))
        return draws[-1]

    monkeypatch.setattr(defense, "_augment", augment)
    images, labels = batch()
    for step in range(8):
        draws.clear()
        seen, targets = defense.transform(normalise(images), labels)
        assert targets is labels and model.training
        assert len(draws) == (5 if step < hard_steps else 1)
        model.eval()
        with torch.no_grad():
            each = [F.cross_entropy(model(renormalise(draw)), labels, reduction="none") for draw in (*draws,)]
            learned = F.cross_entropy(model(seen), labels, reduction="none")
        model.train()
        assert torch.allclose(learned, torch.stack(each).amax(0), atol=1e-4)


def test_ueraser_augments_with_kornia_and_says_so_where_it_is_missing(monkeypatch):
    defense = DEFENSES["ueraser-max"]()
    defense.start(fit_of(network(), loader=[0]))
    images, labels = batch()
    torch.manual_seed(0)
    seen, _ = defense.transform(normalise(images), labels)
    assert seen.shape == (12, 3, 16, 16) and seen.isfinite().all()
    assert (denormalise(seen) - images.permute(0, 3, 1, 2) / 255).abs().mean() > 0.05
    monkeypatch.setitem(__import__("sys").modules, "kornia.augmentation", None)
    with pytest.raises(InputError, match=r"needs kornia: pip install 'pst_fast\[rivals\]'"):
        DEFENSES["ueraser"]().start(fit_of(network(), loader=[0]))


def test_op_takes_out_what_a_linear_classifier_sees(trapped):
    images, labels = images_of(trapped)

    class Loader:
        batch_size, num_samples = len(labels), 20 * len(labels)

        def epoch(self, epoch: int):
            return iter([Batch(images, labels, torch.arange(len(labels)))] * 20)

    loader, defense = Loader(), DEFENSES["op"]()
    defense.start(fit_of(loader=loader, parts=Parts(loader), probe_images=images))
    directions = defense.state_dict()["directions"]
    assert directions.shape == (16 * 16 * 3, CLASSES)
    assert torch.allclose(directions.T @ directions, torch.eye(CLASSES), atol=1e-5)
    seen = defense.view(images, 0, 0)
    assert seen.dtype == torch.uint8 and seen.shape == images.shape

    def pattern(some: torch.Tensor) -> float:
        """How far apart the classes' means are, of their spread: the pattern's share."""
        flat = some.flatten(1).double()
        means = torch.stack([flat[labels == k].mean(0) for k in range(CLASSES)])
        return float((means - means.mean(0)).norm() / (flat - means[labels]).norm(dim=1).mean())

    assert pattern(seen) < 0.5 * pattern(images)
    # what is left along the directions is what rounding and clipping put back
    left = (seen.flatten(1).double() @ directions.double()).norm(dim=1)
    there = (images.flatten(1).double() @ directions.double()).norm(dim=1)
    assert (left < 0.1 * there).all()


def test_early_stop_hands_out_the_epoch_that_is_best_on_held_out_images():
    model = nn.Linear(1, 1, bias=False)
    defense = DEFENSES["early-stop"]()
    defense.start(fit_of(averaged=Averaged(model, 0.0)))
    rows = [{"epoch": e + 1, "held_out_accuracy": a} for e, a in enumerate([0.2, 0.7, 0.7, 0.4])]
    for row in rows:
        nn.init.constant_(model.weight, row["epoch"])
        defense.after_epoch(row)
    assert defense.finish(rows) == 2 and model.weight.item() == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_held_out_images_are_a_share_of_each_class_and_not_learned_from(share, clean):
    labels = read_beton(clean / "train.beton").labels
    kept, left_out = split(clean / "train.beton", share, seed=3)
    assert sorted([*kept, *left_out]) == list(range(len(labels)))
    expected = 0 if share == 0 else min(max(1, round(share * 20)), 19)
    assert np.bincount(labels[left_out], minlength=CLASSES).tolist() == [expected] * CLASSES
    again = split(clean / "train.beton", share, seed=3)[1]
    assert np.array_equal(left_out, again)
