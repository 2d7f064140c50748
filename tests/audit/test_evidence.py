"""The audit's evidence: what each learner sees, no alarm on content, samples by class."""

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.audit.evidence import KINDS, NETWORK, Evidence, _sample, collect_evidence
from pst_fast.audit.learners import FEATURES, SmallNetwork, linear_accuracy
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError


def content(count: int = 400, size: int = 16, seed: int = 0) -> ImageSet:
    """Four classes of coarse shapes in noise, which half of the images show poorly."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    shapes = np.random.default_rng(99).normal(size=(4, 4, 4, 1)).repeat(size // 4, 1).repeat(size // 4, 2)
    strength = random.uniform(0, 12, (count, 1, 1, 1))
    coarse = random.normal(0, 30, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    images = 128 + strength * shapes[labels] + coarse + random.normal(0, 8, (count, size, size, 3))
    return ImageSet(
        np.clip(images, 0, 255).astype(np.uint8),
        labels,
        np.arange(count),
        tuple(f"class {k}" for k in range(4)),
    )


def poisoned(name: str, tmp_path) -> ImageSet:
    data = content()
    task = CraftTask(
        data=data, epsilon=None, preset="fast", model="resnet10", width=8, seed=0,
        device=torch.device("cpu"), folder=tmp_path,
    )  # fmt: skip
    steps = ATTACKS[name]().craft(task)
    steps = steps[data.labels] if ATTACKS[name].class_conditional else steps
    images = np.clip(data.images.astype(int) + steps, 0, 255).astype(np.uint8)
    return ImageSet(images, data.labels, data.index, data.classes)


def test_content_is_no_alarm() -> None:
    evidence = collect_evidence(content(), epochs=4)
    assert not evidence.poisoned
    assert set(evidence.accuracy) == {*FEATURES, NETWORK} == set(KINDS)
    assert evidence.accuracy["pixels"] > 0.35, "there is something to learn"
    assert all(len(values) == 4 for values in evidence.acm.values())


@pytest.mark.parametrize(("name", "learner"), [("ops", "pixels"), ("ar", "texture")])
def test_each_kind_of_shortcut_is_seen(name: str, learner: str, tmp_path) -> None:
    evidence = collect_evidence(poisoned(name, tmp_path), epochs=0)
    assert evidence.poisoned
    assert evidence.lost[learner] >= 0.2
    assert NETWORK not in evidence.accuracy


def test_the_score_is_what_a_learner_loses_that_beats_the_view() -> None:
    evidence = Evidence({"pixels": 0.9, "texture": 0.5}, {"pixels": 0.75, "texture": 0.2}, {}, {}, 100, 0.0)
    assert evidence.score == pytest.approx(0.15), "texture loses more, but pixels under the view beat it"
    assert not evidence.poisoned
    evidence = Evidence({"pixels": 0.8, "texture": 0.78}, {"pixels": 0.75, "texture": 0.4}, {}, {}, 100, 0.0)
    assert evidence.score == pytest.approx(0.38)
    assert evidence.poisoned
    assert Evidence({"pixels": 0.3}, {"pixels": 0.4}, {}, {}, 100, 0.0).score == 0
    assert evidence.kind == KINDS["texture"]


def test_noisy_is_what_photographs_are_not() -> None:
    quiet, noisy = (Evidence({"pixels": 0.3}, {"pixels": 0.4}, {}, {}, 100, noise) for noise in (0.5, 0.7))
    assert (quiet.noisy, noisy.noisy) == (False, True)
    assert collect_evidence(content(), epochs=0).noise == pytest.approx(6.5, abs=1), "of 8 where smoothest"


def test_the_same_seed_gives_the_same_evidence() -> None:
    before = torch.get_rng_state()
    assert collect_evidence(content(), epochs=1, seed=3) == collect_evidence(content(), epochs=1, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_taken_by_class() -> None:
    labels = np.repeat([0, 1, 2], [500, 40, 10])
    rows = _sample(labels, 100, 0)
    assert len(set(rows)) == 100
    assert np.bincount(labels[rows]).tolist() == [50, 40, 10]
    assert np.bincount(labels[_sample(labels, 30, 0)]).tolist() == [10, 10, 10]
    assert len(_sample(labels, 9999, 0)) == 550


@pytest.mark.parametrize("classes", [1, 4])
def test_too_little_to_audit(classes: int) -> None:
    data = content(400 if classes == 1 else 60)
    data = ImageSet(data.images, data.labels % classes, data.index, data.classes[:classes])
    with pytest.raises(InputError, match="expected at least 100 images of at least two classes"):
        collect_evidence(data)


def test_linear_accuracy_by_hand() -> None:
    """One feature tells the classes apart, the other is noise; held-back rows with wrong labels count so."""
    features = torch.tensor(
        [[1.0, 0.3], [-1.0, 0.1], [1.2, -0.2], [-0.8, 0.2], [0.9, 0.0], [-1.1, 0.4], [1.0, 0.1]]
    )
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    assert linear_accuracy(features, labels, 4, 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("size", [(3, 4), (16, 16), (9, 21)])
def test_features_of_any_size(name: str, size: tuple[int, int]) -> None:
    found = FEATURES[name](torch.rand(300, 3, *size))
    assert found.shape[0] == 300
    assert found.isfinite().all()
    assert FEATURES[name](torch.zeros(2, 3, *size)).isfinite().all()


def test_texture_is_that_of_an_autoregressive_process() -> None:
    """Horizontal neighbours that go together show in the horizontal lag alone."""
    white = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    right = white + torch.roll(white, 1, 3)
    difference = (FEATURES["texture"](right) - FEATURES["texture"](white)).mean(0)
    lags = difference[3:-3].view(-1, 3).mean(1)
    assert lags.argmax() == 0, "the first lag is one pixel to the right"


def test_the_network_learns() -> None:
    random = np.random.default_rng(0)
    labels = torch.arange(400) % 4
    noise = torch.from_numpy(random.integers(0, 60, (400, 16, 16, 3)))
    images = (noise + 45 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    network = SmallNetwork(images[:300], labels[:300], 4, epochs=8, seed=0)
    assert network.accuracy(images[300:], labels[300:]) > 0.6
