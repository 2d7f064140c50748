"""D-VAE: what its autoencoders minimise, that what they take out goes, and that the rest is learned from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pst_fast.data.types import ImageSet
from pst_fast.defenses import d_vae
from pst_fast.defenses.base import DEFENSES, Defense, Purification
from pst_fast.defenses.d_vae_network import Disentangled, DisentanglingVAE, rate
from pst_fast.manifest import read_manifest
from tests.train.test_trainer import run, settings

CPU = torch.device("cpu")


def test_the_rate_is_the_divergence_from_noise_at_a_position():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    codes = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(codes, Normal(torch.zeros(()), torch.ones(()))).sum(1).mean()
    assert rate(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("nats", "bounded", "expected"),
    [
        # (.5 - .25)^2, (.5 + .5 - .25)^2, and a hundredth of what is not free
        (3.0, False, 0.0625 + 0.5625 + 0.03),
        (0.5, False, 0.0625 + 0.5625 + 0.02),
        (3.0, True, 0.0625 + 0.5625 + 0.03 + 0.25),
    ],
)
def test_the_loss_by_hand(nats, bounded, expected):
    shape = (2, 3, 4, 4)
    seen = Disentangled(torch.full(shape, 0.5), torch.full(shape, 0.5), torch.tensor(nats))
    loss = d_vae.loss(seen, torch.full(shape, 0.25), 2.0, bounded=bounded)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_little_power_costs_nothing():
    shape = (2, 3, 4, 4)
    x = torch.full(shape, 0.5)
    seen = Disentangled(x, torch.full(shape, 0.04, requires_grad=True), torch.tensor(0.0))
    loss = d_vae.loss(seen, x, 1.0, bounded=True)
    assert loss.item() == pytest.approx(0.04**2 + 0.01 + 0.002, rel=1e-6)  # .04^2 is less than .002


@pytest.mark.parametrize(("size", "side"), [(16, 8), (20, 10), (32, 16), (33, 17), (64, 16), (224, 28)])
def test_the_code_has_about_sixteen_positions_a_side(size, side):
    network = DisentanglingVAE(num_classes=3, width=4, image_size=size)
    codes = []
    network.mean.register_forward_hook(lambda module, inputs, output: codes.append(output.shape))
    seen = network(torch.rand(2, 3, size, size), torch.tensor([0, 2]))
    assert codes == [(2, 16, side, side)]
    assert seen.image.shape == seen.perturbation.shape == (2, 3, size, size)
    assert seen.image.min() > 0 and seen.image.max() < 1


def test_the_second_decoder_knows_the_class_and_the_first_does_not():
    torch.manual_seed(0)
    network = DisentanglingVAE(num_classes=2, width=4, image_size=16).eval()
    x, seen = torch.rand(2, 3, 16, 16), []
    for label in (0, 1):
        torch.manual_seed(1)
        seen.append(network(x, torch.full((2,), label)))
    assert torch.equal(seen[0].image, seen[1].image)
    assert not torch.allclose(seen[0].perturbation, seen[1].perturbation, atol=1e-3)


def smooth_images(count: int, size: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 170 + 40
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return smooth.permute(0, 2, 3, 1).numpy().clip(0, 255).round()


def test_a_perturbation_of_each_class_goes_and_content_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Short(DEFENSES["d-vae"]):
        epochs = 20

    monkeypatch.setattr(d_vae, "BATCH", 8)

    clean, labels = smooth_images(128, 16), np.arange(128) % 4
    patterns = np.random.default_rng(0).choice([-8, 8], (4, 16, 16, 3))
    poisoned = (clean + patterns[labels]).clip(0, 255)
    data = ImageSet(poisoned.astype(np.uint8), labels, np.arange(128), tuple("abcd"))
    task = Purification(data=data, seed=0, device=CPU, folder=tmp_path, width=8)
    purified = np.concatenate(list(Short().purify(task))).astype(float)
    delta = poisoned - clean
    left = ((purified - clean) * delta).sum() / np.square(delta).sum()
    assert abs(left) < 0.2
    assert np.corrcoef(purified.ravel(), clean.ravel())[0, 1] > 0.6
    # the two networks, and what lies between them, for a process that is killed later on
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.beton", "network-0.pt", "network-1.pt"]


class _Spying(Defense):
    """Plain training that remembers what it was given."""

    summary = "plain training"

    def start(self, fit):
        self.probes, self.batches = fit.probe_images, []
        seen.append(self)

    def view(self, images, seed, step):
        self.batches.append(images.clone())
        return images


class _Inverting(_Spying):
    """Images become their negatives, two chunks of them."""

    def purify(self, task):
        assert (task.width, task.seed) == (8, 3)
        for rows in (slice(0, 50), slice(50, None)):
            yield 255 - np.asarray(task.data.images[rows])


seen: list[_Spying] = []


def test_what_is_purified_is_learned_from_and_measured(tmp_path, trapped):
    seen.clear()
    with DEFENSES.extended({"spying": _Spying, "inverting": _Inverting}):
        for name in ("spying", "inverting"):
            run(tmp_path / name, trapped, trapped, settings(name, epochs=1, seed=3))
    plain, inverted = seen
    assert torch.equal(inverted.probes, 255 - plain.probes)
    for ours, theirs in zip(inverted.batches, plain.batches, strict=True):
        assert torch.equal(ours, 255 - theirs)
    seconds = read_manifest(tmp_path / "inverting")["facts"]["seconds"]
    assert list(seconds) == ["purify", "train", "evaluate"] and seconds["purify"] > 0
    assert "purify" not in read_manifest(tmp_path / "spying")["facts"]["seconds"]
    assert not list((tmp_path / "inverting").rglob("*.beton"))
