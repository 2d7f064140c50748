"""Orthogonal projection (Sandoval-Segura et al., NeurIPS 2023, arXiv 2305.19254)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from pst_fast import distributed
from pst_fast.defenses.base import DEFENSES, Defense

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit

EPOCHS = 20
LEARNING_RATE = 0.1


@DEFENSES.register("op")
class OrthogonalProjection(Defense):
    """What a linear classifier of the pixels looks at is taken out of the training images.

    The classifier has no bias and learns for 20 epochs of SGD at .1, a tenth of that from half and from three
    quarters of them on. The projected images are rounded to whole levels.
    """

    summary: ClassVar[str] = "what a linear classifier of the pixels looks at is projected out of the images"

    def start(self, fit: Fit) -> None:
        self._directions = torch.linalg.qr(linear_weights(fit))[0]

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        flat = images.flatten(1).float()
        flat -= (flat @ self._directions) @ self._directions.T
        return flat.round_().clamp_(0, 255).to(torch.uint8).view_as(images)

    def state_dict(self) -> dict[str, Any]:
        return {"directions": self._directions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._directions = state["directions"]


def linear_weights(fit: Fit) -> torch.Tensor:
    """Weights, fp32 [H*W*3,K], of a linear classifier of the training images' pixels in [0,1]."""
    pixels = fit.probe_images[0].numel()
    weights = torch.zeros(pixels, fit.num_classes, device=fit.device, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.settings.seed)
        with torch.no_grad():
            weights.uniform_(-(pixels**-0.5), pixels**-0.5)
    optimizer = torch.optim.SGD([weights], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS // 2, EPOCHS * 3 // 4])
    for epoch in range(EPOCHS):
        for number, batch in enumerate(fit.loader.epoch(epoch)):
            logits = batch.images.to(fit.device).flatten(1).float() / 255 @ weights
            loss = F.cross_entropy(logits, batch.labels.to(fit.device))
            optimizer.zero_grad()
            (loss * fit.parts.weight(len(batch.labels), number)).backward()
            assert weights.grad is not None
            distributed.average_([weights.grad])
            optimizer.step()
        schedule.step()
    return weights.detach()
