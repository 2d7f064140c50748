"""OPS: one-pixel shortcuts (Wu et al., ICLR 2023)."""

import numpy as np
import torch

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.rows import Block, draw_blocks
from pst_fast.attacks.steps import row_blocks

_CHUNK_BYTES = 1 << 25


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
        count = len(task.data.classes)
        rows, columns = np.zeros((2, count, num_pixels), np.int64)
        colours = np.zeros((count, num_pixels, 3), np.int16)
        for label in range(count):
            task.progress(0.5 * label / count, f"class {label + 1} of {count}")
            members = np.flatnonzero(labels == label)
            if len(members):
                some = torch.from_numpy(np.ascontiguousarray(images[members]))
                found = ops.one_pixel_search(
                    some, torch.zeros(len(members), dtype=torch.int64), 1, num_pixels
                )
                rows[label], columns[label], colours[label] = (t[0].numpy() for t in found[:3])

        def draw(block: Block) -> np.ndarray:
            some, of_class = images[block], labels[block]
            steps, samples = np.zeros(some.shape, np.int16), np.arange(len(some))
            for pixel in range(num_pixels):
                at = samples, rows[of_class, pixel], columns[of_class, pixel]
                steps[at] = colours[of_class, pixel] - some[at]
            return steps

        return draw_blocks(task, row_blocks(images.shape, 2, _CHUNK_BYTES), draw, np.int16, after=0.5)
