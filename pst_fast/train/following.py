"""Consistency: images are seen a second time, and answered as the first time, whatever their labels are.

After UDA (Xie et al., NeurIPS 2020, arXiv 1904.12848), turned round: there the plain images have the labels,
here the degraded ones have. A perturbation that the first view takes away says nothing about the answer, and
so little is learned from it in the second view, which has the details that the first one lacks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pst_fast.train.augmentation import Augmentation


@dataclass(frozen=True)
class Following:
    """Which images of a batch follow, and how they are seen.

    Attributes:
        share: Of the batch, above 0 and at most 1; evenly spread over it.
        augmentation: What they go through, as they are, with the crop and flip that they had the first time.
    """

    share: float
    augmentation: Augmentation

    def rows(self, count: int, first: int = 0) -> torch.Tensor:
        """Which of ``count`` images follow, int64, if the batch has ``first`` others before them."""
        ends = (torch.arange(first, first + count + 1, dtype=torch.float64) * self.share).floor()
        return ends.diff().nonzero()[:, 0]

    def loss(self, logits: torch.Tensor, followed: torch.Tensor, count: int) -> torch.Tensor:
        """Kullback-Leibler divergence of the second answers from the first ones, the mean over the rows.

        Args:
            logits: [F,K] of the first view; they are not to move.
            followed: [F,K] of the second.
            count: Images that the F rows were chosen from; the mean is over ``share * count``.
        """
        answers = F.log_softmax(logits.detach().float(), 1)
        total = F.kl_div(F.log_softmax(followed.float(), 1), answers, reduction="sum", log_target=True)
        return total / (self.share * count)
