"""OPS: one-pixel shortcuts (Wu et al., ICLR 2023)."""

import itertools

import numpy as np
import torch

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.ops.reference import CHANNEL_PAIRS

# Colours at the corners of the RGB cube, [8, 3] of 0 and 1.
COLOURS = np.array(list(itertools.product((0, 1), repeat=3)))


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
        num_classes = len(task.data.classes)
        num_pixels = int(self.resolve_epsilon(task.epsilon, *images.shape[1:3]))
        task.progress(0.0, "one pass over the images")
        sums_by_class = ops.class_pixel_sums(
            torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels), num_classes
        )
        steps = np.zeros(images.shape, np.int16)
        for label, (count, sums, products) in enumerate(
            zip(*(t.numpy() for t in sums_by_class), strict=True)
        ):
            task.progress((label + 1) / (num_classes + 1), f"class {label + 1}/{num_classes}")
            if count == 0:
                continue
            members = np.flatnonzero(labels == label)
            rows, columns, colours = best_pixels(pixel_scores(int(count), sums, products), num_pixels)
            for row, column, colour in zip(rows, columns, colours, strict=True):
                steps[members, row, column] = colour - images[members, row, column].astype(np.int16)
        task.progress(1.0, "all classes placed")
        return steps


def pixel_scores(count: int, sums: np.ndarray, products: np.ndarray) -> np.ndarray:
    """mean / standard deviation of the summed change over a class, float64 [8,H,W], in the order of COLOURS.

    To reach 0 a value x changes by x, to reach 255 by 255 - x: the summed change is linear in the pixel,
    so its mean and variance follow from the pixel's mean and covariance, which whole numbers give exactly.

    Args:
        count: Images of the class.
        sums: Of their pixels, int64 [H,W,3].
        products: Sums of the products of two channels, int64 [H,W,6], as ``ops.class_pixel_sums`` has them.
    """
    signs = 1 - 2 * COLOURS
    mean = np.einsum("kc,hwc->khw", signs, sums) + 255 * count * COLOURS.sum(1)[:, None, None]
    variance = np.zeros(mean.shape, np.int64)
    for pair, (a, b) in enumerate(CHANNEL_PAIRS):
        covariance = count * products[..., pair] - sums[..., a] * sums[..., b]
        variance += (signs[:, a] * signs[:, b] * (1 if a == b else 2))[:, None, None] * covariance
    # Where nothing varies the score is infinite; this floor, far below any variance that can occur,
    # ranks such pixels by their mean.
    return mean / np.sqrt(np.maximum(variance, 1e-6))


def best_pixels(scores: np.ndarray, num_pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels with the highest scores, each with its best colour.

    Args:
        scores: Of one class, float64 [8,H,W].
        num_pixels: How many.

    Returns:
        Rows [n], columns [n] and colours, int16 [n,3] of 0 and 255, best first.
    """
    best = scores.max(0)
    rows, columns = np.unravel_index(np.argsort(-best, axis=None, kind="stable")[:num_pixels], best.shape)
    return rows, columns, (255 * COLOURS[scores[:, rows, columns].argmax(0)]).astype(np.int16)
