"""Sizes by epoch, crops drawn from seed and step alone, recipes that are resumed to the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pst_fast.data.beton import read_beton
from pst_fast.models import create_model
from pst_fast.train.resizing import (
    draw_boxes,
    progressive_of,
    random_resized_crop,
    resized,
    resolution,
    trained_sizes,
)
from pst_fast.train.settings import TrainSettings
from tests.train.test_trainer import Killed, result, run, settings


def _images(count: int = 6, height: int = 40, width: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def test_resolution_grows_linearly_in_multiples_of_32() -> None:
    assert [resolution((0.7, 0.85), 224, epoch, 4) for epoch in range(4)] == [160, 160, 192, 192]
    assert [resolution((0.5, 1.0), 256, epoch, 5) for epoch in range(5)] == [128, 160, 192, 224, 256]
    assert [resolution(None, 100, epoch, 2) for epoch in range(2)] == [100, 100]
    assert resolution((0.1, 0.1), 64, 0, 1) == 32
    options = TrainSettings("erm", "resnet18", 64, 5, progressive=(0.5, 1.0), eval_size=288)
    assert trained_sizes(options, 256) == [128, 160, 192, 224, 288]
    assert trained_sizes(TrainSettings("erm", "resnet18", 64, 5), 256) == []


@pytest.mark.parametrize("text", ["0.7", "0.9:0.7", "0:1", "0.5:1.5", "a:b", "nan:1", ""])
def test_fractions_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError):
        progressive_of(text)
    assert progressive_of("0.7:0.85") == (0.7, 0.85)
    assert progressive_of(None) is None


def test_a_crop_is_what_resizing_its_box_gives() -> None:
    images = _images(8, 40, 30)
    found = random_resized_crop(images, 24, seed=3, step=7)
    assert found.shape == (8, 24, 24, 3) and found.dtype == torch.uint8
    for image, box, crop in zip(images, draw_boxes(8, 40, 30, 3, 7), found, strict=True):
        top, left, height, width = box
        part = image[top : top + height, left : left + width].permute(2, 0, 1)[None].float()
        expected = F.interpolate(part, (24, 24), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        assert (crop.float() - expected).abs().max() <= 0.51


def test_boxes_are_those_of_torchvision() -> None:
    """Inside the image, areas and ratios in range and spread over it, every draw its own."""
    boxes = draw_boxes(4000, 64, 64, seed=0, step=1)
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 64).all() and (left + width <= 64).all()
    share, ratio = height * width / 64**2, width / height
    assert share.min() > 0.07 and share.max() <= 1.0
    assert ratio.min() > 0.7 and ratio.max() < 1.42
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    params = transforms.RandomResizedCrop.get_params
    theirs = np.array([params(torch.zeros(3, 64, 64), [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)])
    assert abs(share.mean() - (theirs[:, 2] * theirs[:, 3]).mean() / 64**2) < 0.02
    assert np.abs(boxes.mean(0) - theirs.mean(0)).max() < 1
    assert (draw_boxes(5, 64, 64, 0, 1) == draw_boxes(5, 64, 64, 0, 1)).all()
    assert (draw_boxes(5, 64, 64, 0, 1) != draw_boxes(5, 64, 64, 0, 2)).any()
    assert (draw_boxes(5, 64, 64, 0, 1) != draw_boxes(5, 64, 64, 1, 1)).any()


def test_boxes_of_narrow_images_fall_back_to_the_largest_part() -> None:
    top, left, height, width = draw_boxes(50, 400, 4, seed=0, step=0).T
    assert ((height >= 1) & (top + height <= 400) & (width >= 1) & (left + width <= 4)).all()
    assert (height[width == 4] <= 6).all()


def test_resizing() -> None:
    images = _images(2, 64, 64)
    assert resized(images, 64) is images
    flat = torch.full((2, 64, 64, 3), 77, dtype=torch.uint8)
    for size in (32, 96):
        assert (resized(flat, size) == 77).all()
        assert resized(images, size).shape == (2, size, size, 3)
    # antialiasing: a checkerboard becomes grey, and not black or white
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    grey = resized(board.to(torch.uint8)[None, :, :, None].expand(1, 64, 64, 3).contiguous(), 32)
    assert (grey[:, 2:-2, 2:-2].float() - 127.5).abs().max() < 2


RECIPE = {
    "random_resized_crop": True,
    "progressive": (0.5, 1.0),
    "eval_size": 48,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "learning_rate": 0.05,
}


@pytest.mark.parametrize("defense", ["erm", "pst", "pst-plus", "early-stop"])
def test_a_killed_recipe_goes_on_to_the_same_bits(defense, tmp_path, clean, trapped):
    options = settings(defense, **RECIPE)
    unbroken = run(tmp_path / "unbroken", trapped, clean, options)
    for fraction in (0.4, 0.8):

        def kill(done: float, words: str, after: float = fraction) -> None:
            if done > after:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path / "killed", trapped, clean, options, kill)
    assert result(run(tmp_path / "killed", trapped, clean, options)) == result(unbroken)


def test_the_average_is_what_is_evaluated_and_kept(tmp_path, clean):
    """The average is apart from what is trained, and it is what all test accuracies are of."""
    plain = run(tmp_path / "plain", clean, clean, settings(epochs=4))
    still = run(tmp_path / "still", clean, clean, settings(epochs=4, ema=0.999999))  # after the first step
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (plain, still)]
    assert weights[0].keys() == weights[1].keys()
    assert not torch.equal(weights[0]["fc.weight"], weights[1]["fc.weight"])
    curves = [[row["test_accuracy"] for row in result(folder)[1]] for folder in (plain, still)]
    losses = [[row["train_loss"] for row in result(folder)[1]] for folder in (plain, still)]
    assert losses[0] == losses[1], "training does not look at the average"
    assert curves[0] != curves[1]
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    model.load_state_dict(weights[1])
    assert _accuracy(model, clean) == curves[1][-1]


def _accuracy(model: torch.nn.Module, clean: Path) -> float:
    from pst_fast.train.augmentation import normalise

    beton = read_beton(clean / "test.beton")
    with torch.no_grad():
        predicted = model.eval()(normalise(torch.from_numpy(beton.load_all()))).argmax(1)
    return float((predicted.numpy() == beton.labels).mean())
