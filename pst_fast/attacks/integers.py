"""From real-valued perturbations to the integers, in units of 1/255, that a bank holds."""

import math

import numpy as np


def linf_steps(epsilon: float) -> int:
    """The largest whole number of 1/255 steps inside an Linf ball of ``epsilon`` on [0,1] images.

    8/255 * 255 need not be 8 in floating point, hence the tolerance of a ten-thousandth of a step.
    """
    return math.floor(epsilon * 255 + 1e-4)


def round_to_ball(delta: np.ndarray, epsilon: float) -> np.ndarray:
    """Round ``delta`` (float, [0,1] units) to nearest inside the ball, so that it holds exactly in uint8."""
    bound = linf_steps(epsilon)
    return narrowest(np.clip(np.rint(delta * 255.0), -bound, bound).astype(np.int16))


def round_to_l2_ball(delta: np.ndarray, epsilon: float) -> np.ndarray:
    """``delta`` (float [N,H,W,3]) in whole steps of 1/255, to nearest, each sample within L2 ``epsilon``.

    Rounding adds to most norms, by some 0.2 % at 32x32: these samples are scaled down until they fit.
    """
    wanted = delta * 255.0
    steps = np.rint(wanted)
    over = np.arange(len(delta))
    while len(over):
        squares = np.square(steps[over]).sum((1, 2, 3), dtype=np.float64)
        is_over = squares > (epsilon * 255) ** 2
        over, squares = over[is_over], squares[is_over]
        # A thousandth more than is missing: the scale falls at every turn.
        wanted[over] *= (0.999 * epsilon * 255 / np.sqrt(squares))[:, None, None, None]
        steps[over] = np.rint(wanted[over])
    return steps.astype(np.int16)


def narrowest(steps: np.ndarray) -> np.ndarray:
    """``steps`` (whole numbers within +-255) as int8 if they fit, else as int16."""
    fits = steps.size == 0 or (steps.min() >= -128 and steps.max() <= 127)
    return steps.astype(np.int8 if fits else np.int16, copy=False)
