"""Sizes by epoch, and recipes that are resumed to the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.data.beton import read_beton
from pst_fast.models import create_model
from pst_fast.train.resizing import (
    progressive_of,
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


@pytest.mark.slow
def test_ffcv_cuts_for_those_that_need_no_whole_images(tmp_path, clean, trapped):
    """``erm`` learns from FFCV's crops, and is resumed with them; ``pst-plus`` from a device's."""
    pytest.importorskip("ffcv")
    found = {}
    for defense in ("erm", "pst-plus"):
        options = settings(defense, **RECIPE)
        for loader in ("device", "ffcv"):
            folder = tmp_path / f"{defense}-{loader}"
            found[defense, loader] = result(run(folder, trapped, clean, options, loader=loader))
    assert found["pst-plus", "device"] == found["pst-plus", "ffcv"]
    assert found["erm", "device"] != found["erm", "ffcv"]
    losses = [[row["train_loss"] for row in found["erm", loader][1]] for loader in ("device", "ffcv")]
    np.testing.assert_allclose(*losses, rtol=0.1)

    def kill(done: float, words: str) -> None:
        if done > 0.5:
            raise Killed

    options = settings("erm", **RECIPE)
    with pytest.raises(Killed):
        run(tmp_path / "killed", trapped, clean, options, kill, loader="ffcv")
    assert result(run(tmp_path / "killed", trapped, clean, options, loader="ffcv")) == found["erm", "ffcv"]


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
