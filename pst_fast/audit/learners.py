"""Learners that are fit to some images and asked about others; each looks for shortcuts of its own kind."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast.attacks.surrogate import BatchOrder, seeded
from pst_fast.models import create_model
from pst_fast.pst import ActivationClusterMeasurement
from pst_fast.train.augmentation import PLAIN, normalise

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
LAGS = 3
FILTERS, FILTER_SIZE = 128, 5
_CHUNK = 256

Features = Callable[[Tensor], Tensor]
"""From images, fp32 [N,3,H,W] in [0,1], to [N,D]."""


def pixels(x: Tensor) -> Tensor:
    """The images as they are: patterns at fixed places."""
    return x.flatten(1)


def residuals(x: Tensor) -> Tensor:
    """What a 3x3 mean leaves: fine patterns at fixed places."""
    return _residual(x).flatten(1)


def texture(x: Tensor) -> Tensor:
    """Autocorrelations of the residuals up to three pixels apart, and across channels: noise and filters."""
    rest = _residual(x)
    height, width = rest.shape[2:]
    norm = rest.square().mean((2, 3)).sqrt() + 1e-4
    found = [norm.log()]
    for down in range(min(LAGS, height - 1) + 1):
        for right in range(-LAGS if down else 1, LAGS + 1):
            if abs(right) < width:
                here = rest[:, :, down:, max(right, 0) : width + min(right, 0)]
                there = rest[:, :, : height - down, max(-right, 0) : width - max(right, 0)]
                found.append((here * there).mean((2, 3)) / norm.square())
    pairs = [
        (rest[:, a] * rest[:, b]).mean((1, 2)) / (norm[:, a] * norm[:, b])
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    return torch.cat([*found, torch.stack(pairs, 1)], 1)


def patches(x: Tensor) -> Tensor:
    """Rectified responses to patches of the images (Coates and Ng, 2011): small motifs anywhere."""
    generator = torch.Generator().manual_seed(0)
    size = min(FILTER_SIZE, *x.shape[2:])
    draws = [torch.randint(most, (FILTERS,), generator=generator).tolist() for most in
             (len(x), x.shape[2] - size + 1, x.shape[3] - size + 1)]  # fmt: skip
    cut = torch.stack(
        [x[row, :, top : top + size, left : left + size] for row, top, left in zip(*draws, strict=True)]
    )
    cut = cut - cut.mean((2, 3), keepdim=True)
    filters = cut / (cut.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-2)
    return torch.cat([_responses(part, filters) for part in x.split(_CHUNK)])


FEATURES: dict[str, Features] = {
    "pixels": pixels,
    "residuals": residuals,
    "texture": texture,
    "patches": patches,
}
"""What linear learners look at, by name."""


def linear_accuracy(features: Tensor, labels: Tensor, fitted: int, num_classes: int) -> float:
    """Accuracy on the rows from ``fitted`` on of a ridge regression on those before: the best ridge's."""
    features = features.double()
    mean, spread = features[:fitted].mean(0), features[:fitted].std(0) + 1e-6
    features = (features - mean) / spread
    known, others = features[:fitted], features[fitted:]
    targets = F.one_hot(labels[:fitted], num_classes).double() - 1 / num_classes
    own = known @ known.T / known.shape[1]
    across = others @ known.T / known.shape[1]
    eye = torch.eye(fitted, dtype=own.dtype, device=own.device)
    best = 0.0
    for ridge in RIDGES:
        said = (across @ torch.linalg.solve(own + ridge * eye, targets)).argmax(1)
        best = max(best, float((said == labels[fitted:]).double().mean()))
    return best


class SmallNetwork:
    """A slim ResNet that is trained for some epochs, and its ACM after each.

    Attributes:
        acm: Of each epoch, stage -> ACM on images that it was trained on.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, *, epochs: int, seed: int) -> None:
        """Train on uint8 [N,H,W,3] and int64 [N]; PyTorch's generators are left as they were."""
        self.acm: list[dict[str, float]] = []
        with seeded(seed, images.device):
            model = create_model("resnet10", num_classes=num_classes, width=16, image_size=images.shape[1])
        self.model = model.to(images.device).to(memory_format=torch.channels_last)
        order = BatchOrder(len(images), 64, seed)
        batches = len(images) // order.batch_size
        steps = epochs * batches
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=max(steps, 2))
        probes = slice(0, min(700, len(images)))
        measure = ActivationClusterMeasurement(self.model, normalise(images[probes]), labels[probes])
        for step in range(steps):
            self.model.train()
            at = torch.from_numpy(order[step]).to(images.device)
            loss = F.cross_entropy(self.model(PLAIN(images[at], seed, step)), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % batches == 0:
                self.acm.append(measure())

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """On uint8 [N,H,W,3], which it has not seen."""
        self.model.eval()
        right = sum(
            int((self.model(normalise(some)).argmax(1) == truth).sum())
            for some, truth in zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True)
        )
        return right / len(labels)


def _residual(x: Tensor) -> Tensor:
    return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def _responses(x: Tensor, filters: Tensor) -> Tensor:
    responses = F.conv2d(x, filters)
    usual = responses.abs().mean((2, 3), keepdim=True)
    both = torch.cat([(responses - usual).relu(), (-responses - usual).relu()], 1)
    return F.adaptive_avg_pool2d(both, 2).flatten(1)
