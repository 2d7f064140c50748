"""A network that looks through views: accuracies are those of its mean answer, and the manifest has them."""

from dataclasses import asdict

import numpy as np
import torch

from pst_fast import ops
from pst_fast.data.beton import read_beton
from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.manifest import read_manifest
from pst_fast.models import create_model
from pst_fast.ops import View
from pst_fast.train.augmentation import normalise
from tests.train.test_trainer import run, settings

VIEWS = (View.bits(1), View.down_up(4))


class _Looking(Defense):
    summary = "plain training, looking through two views in the end"

    def looks(self):
        return VIEWS


def test_accuracy_is_that_of_the_mean_answer_through_the_views(tmp_path, clean):
    with DEFENSES.extended({"looking": _Looking}):
        folder = run(tmp_path / "run", clean, clean, settings("looking", epochs=4, learning_rate=0.05))
    facts = read_manifest(folder)["facts"]
    assert facts["looks"] == [asdict(view) for view in VIEWS]
    assert [View(**values) for values in facts["looks"]] == list(VIEWS)

    model = create_model("resnet10", num_classes=3, width=8, image_size=16).eval()
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    test = read_beton(clean / "test.beton")
    images = torch.from_numpy(test.gather(np.arange(len(test.labels))))

    def accuracy(views):
        seen = [normalise(ops.degrade(images, [view], seed=0, offset=0)) for view in views]
        with torch.no_grad():
            answers = sum(model(inputs).softmax(1) for inputs in seen)
        return (answers.argmax(1).numpy() == test.labels).mean()

    assert facts["last_accuracy"] == accuracy(VIEWS) != accuracy([View()])


def test_others_look_at_the_image_as_it_is(tmp_path, clean):
    facts = read_manifest(run(tmp_path / "run", clean, clean, settings(epochs=1)))["facts"]
    assert facts["looks"] == []
