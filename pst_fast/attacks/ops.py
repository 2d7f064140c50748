"""OPS: one-pixel shortcuts (Wu et al., ICLR 2023)."""

import numpy as np
import torch

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask


@ATTACKS.register("ops")
class OnePixelShortcut(Attack):
    """All images of a class get the same saturated pixel, the one that changes them most reliably.

    Per class: the position and colour that maximise mean / standard deviation, over the class, of the
    change summed over the channels. With a budget of n pixels the best n positions are taken.
    """

    paper = "Wu et al., ICLR 2023 (arXiv 2205.12141)"
    norm = "pixels"
    epsilon = 1.0

    def craft(self, task: CraftTask) -> np.ndarray:
        """Place the pixels; int16 [N,H,W,3], because a value may change by all of 255."""
        images, labels = task.data.images, task.data.labels
        height, width = images.shape[1:3]
        num_pixels = min(int(self.resolve_epsilon(task.epsilon, height, width)), height * width)
        task.progress(0.0, "one pass over the images")
        found = ops.one_pixel_search(
            torch.from_numpy(np.ascontiguousarray(images)),
            torch.from_numpy(labels),
            len(task.data.classes),
            num_pixels,
        )
        rows, columns, colours = (t.numpy() for t in found[:3])
        samples, steps = np.arange(len(images)), np.zeros(images.shape, np.int16)
        for pixel in range(num_pixels):
            at = samples, rows[labels, pixel], columns[labels, pixel]
            steps[at] = colours[labels, pixel].astype(np.int16) - images[at]
        task.progress(1.0, "all classes placed")
        return steps
