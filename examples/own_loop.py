"""Progressive Staged Training in a loop of your own: the three lines marked with numbers, and nothing else.

    python examples/own_loop.py --epochs 3

Data, network, optimizer and schedule are stand-ins for yours: shapes drawn by the package, with a pattern
of +-8/255 for each class on top of them, so that a plain loop learns the pattern in their place.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pst_fast.data.demo import draw
from pst_fast.pst import ProgressiveStagedTraining  # 1


def poisoned_shapes(count: int, seed: int = 0) -> TensorDataset:
    """Images [N,3,32,32] in [-1,1] and labels [N], unlearnable."""
    labels = torch.arange(count) % 10
    images = torch.from_numpy(draw(labels.numpy(), seed)).permute(0, 3, 1, 2) / 255
    coarse = torch.randint(0, 2, (10, 3, 4, 4), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    patterns = F.interpolate(coarse, size=32, mode="nearest") * 8 / 255
    return TensorDataset((images + patterns[labels]).clamp(0, 1) * 2 - 1, labels)


def small_network() -> nn.Sequential:
    """Four convolutions: any nn.Module will do."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, 2, 1), nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(
    epochs: int, samples: int, seed: int = 0, model: nn.Module | None = None
) -> ProgressiveStagedTraining:
    """A plain loop with three more lines; ``model`` is yours, with ten outputs."""
    torch.manual_seed(seed)
    data = poisoned_shapes(samples, seed)
    loader = DataLoader(data, batch_size=50, shuffle=True)
    model = model or small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

    pst = ProgressiveStagedTraining(model, optimizer, *data[:700])  # 2

    for epoch in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            pst.step()  # 3
        acm = ", ".join(f"{name} {value:.2f}" for name, value in pst.last_acm.items())
        print(f"epoch {epoch + 1}: {len(pst.events)} roll-backs, levels {pst.levels}, ACM {acm}")
    return pst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    train(options.epochs, options.samples)
