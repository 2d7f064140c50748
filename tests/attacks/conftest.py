"""Small image sets and the tasks that perturb them."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pst_fast.attacks.alternation import Recipe
from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.dc import Recipe as DeepRecipe
from pst_fast.attacks.fixed import Recipe as FixedRecipe
from pst_fast.attacks.gue import Recipe as GameRecipe
from pst_fast.attacks.reference import Training
from pst_fast.attacks.rem import Recipe as DisturbedRecipe
from pst_fast.attacks.sep import Recipe as EnsembleRecipe
from pst_fast.data.types import ImageSet

TINY = Recipe(steps=2, relative_step=0.4, train_batches=4, max_rounds=3, batch_size=16, stop_error=0.0)


@pytest.fixture(autouse=True)
def tiny_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast presets with a few batches of a few images."""
    for name in ("em", "aue", "tue", "em-adaptive"):
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", TINY)
    fixed = FixedRecipe(Training(3, batch_size=16), steps=6, relative_step=0.3)
    monkeypatch.setitem(ATTACKS["tap"].recipes, "fast", replace(fixed, restarts=2))
    monkeypatch.setitem(ATTACKS["aap"].recipes, "fast", fixed)
    for name in ("hypo", "entf"):
        recipe = replace(fixed, training=replace(fixed.training, adversary=2 / 255, adversary_steps=1))
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", recipe)
    games = {
        "dc": DeepRecipe(trials=3, batches=2, batch_size=16, width=8, warm_epochs=3),
        "gue": GameRecipe(4, replies=1, batch_size=16, width=8, warm_epochs=3),
    }
    for name, game in games.items():
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", game)
    ensemble = EnsembleRecipe(fixed.training, checkpoints=2, steps=2, relative_step=0.5)
    monkeypatch.setitem(ATTACKS["sep"].recipes, "fast", ensemble)
    disturbed = DisturbedRecipe(
        train_steps=20,
        decay_every=12,
        steps=2,
        relative_step=0.5,
        views=1,
        disturbance_steps=1,
        batch_size=16,
    )
    for name in ("rem", "sem"):
        monkeypatch.setitem(ATTACKS[name].recipes, "fast", disturbed)
    monkeypatch.setitem(ATTACKS["em-class"].recipes, "fast", replace(TINY, steps=1, subset=0.5))


@pytest.fixture
def image_set() -> Callable[..., ImageSet]:
    """Random images whose labels are random too; a third of the values is 0 or 255."""

    def make(
        count: int = 24, height: int = 16, width: int = 16, num_classes: int = 2, seed: int = 0
    ) -> ImageSet:
        rng = np.random.default_rng(seed)
        images = np.clip(rng.integers(-64, 320, (count, height, width, 3)), 0, 255).astype(np.uint8)
        labels = rng.permutation(np.arange(count) % num_classes)
        return ImageSet(images, labels, np.arange(count), tuple(f"class {k}" for k in range(num_classes)))

    return make


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., CraftTask]:
    """A task with a tiny network and a folder of its own; keywords replace its fields."""

    def make(data: ImageSet, **fields: Any) -> CraftTask:
        defaults = {
            "epsilon": None,
            "preset": "fast",
            "model": "resnet10",
            "width": 8,
            "seed": 0,
            "device": torch.device("cpu"),
            "folder": Path(tempfile.mkdtemp(dir=tmp_path)),
        }
        return CraftTask(data=data, **{**defaults, **fields})

    return make


@pytest.fixture
def killed_and_resumed(make_task: Callable[..., CraftTask], tmp_path: Path) -> Callable[..., None]:
    """Function that stops a craft at some words of its progress; it goes on from there to the same bytes.

    ``left`` is called with the folder that the killed craft left; ``again`` are the words it goes on with.
    """

    def check(
        name: str,
        data: ImageSet,
        words: str,
        *,
        again: str | None = None,
        left: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        def stop(fraction: float, told: str) -> None:
            if told.startswith(words):
                raise KeyboardInterrupt

        whole, killed = tmp_path / "whole", tmp_path / "killed"
        for folder in (whole, killed):
            folder.mkdir()
        expected = np.array(ATTACKS[name]().craft(make_task(data, folder=whole)))
        with pytest.raises(KeyboardInterrupt):
            ATTACKS[name]().craft(make_task(data, folder=killed, progress=stop))
        left(killed)
        torch.manual_seed(5)
        told: list[str] = []
        resumed = make_task(data, folder=killed, progress=lambda fraction, words: told.append(words))
        assert np.array_equal(np.array(ATTACKS[name]().craft(resumed)), expected)
        assert told[0].startswith(again or words)

    return check
