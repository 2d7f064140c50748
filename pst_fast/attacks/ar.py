"""AR: autoregressive perturbations, made without looking at the images (arXiv 2206.03693)."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.integers import round_to_l2_ball
from pst_fast.attacks.rows import Block, draw_blocks
from pst_fast.attacks.steps import row_blocks
from pst_fast.ops.reference_ar import ar_process

CROP = 4
SIDE = 32
TRIALS = 3
RESPONSE = 10.0
_PATIENCE = 20
_CHUNK, _CHUNK_BYTES = 2048, 1 << 25


@ATTACKS.register("ar")
class AutoregressivePerturbation(Attack):
    """One autoregressive process a class and channel, run from start noise of each sample's own.

    In a perturbation every value is the same weighted sum of the eight before it in its 3x3 window: the
    filter of these weights, with a -1 in its last place, answers with nothing to its own class's
    perturbations, and with something to the others'. The L2 norm is the paper's 1.0 at 32x32, and as much for
    each pixel at other sizes.
    """

    paper = "Sandoval-Segura et al., NeurIPS 2022 (arXiv 2206.03693)"
    norm = "l2"
    epsilon = 1.0

    @classmethod
    def default_epsilon(cls, height: int, width: int) -> float:
        return cls.epsilon * math.sqrt(height * width / SIDE**2)

    def craft(self, task: CraftTask) -> np.ndarray:
        """Run the processes, int8 [N,H,W,3] (int16 where the budget is large), rounded to nearest."""
        _, height, width, _ = task.data.images.shape
        epsilon = self.resolve_epsilon(task.epsilon, height, width)
        task.progress(0.0, "search for processes")
        coefficients = draw_processes(len(task.data.classes), height, width, task.seed).to(task.device)

        def draw(block: Block) -> np.ndarray:
            rows = torch.arange(len(task.data))[block]
            delta = ops.ar_perturbation(
                coefficients,
                torch.from_numpy(task.data.labels[block]).to(task.device, torch.int64),
                height=height,
                width=width,
                epsilon=epsilon,
                seed=task.seed,
                crop=CROP,
                index=rows.to(task.device),
            )
            return round_to_l2_ball(delta.cpu().numpy(), epsilon)

        blocks = row_blocks(task.data.images.shape, 8, _CHUNK_BYTES, most=_CHUNK)
        return draw_blocks(task, blocks, draw)


def draw_processes(num_classes: int, height: int, width: int, seed: int) -> Tensor:
    """Coefficients of stable processes that tell the classes apart, float32 [num_classes, 3, 3, 3].

    As the authors draw them: eight standard normal numbers, divided by their sum. A channel's process is
    taken if in each of three trial patterns, at 32x32 and at the images' size where that is larger, the root
    mean square

    - of all values is at most 1, that of the start noise: it does not diverge;
    - of the lower right quarter is at least half of that of all: it does not die out.

    Three of them make a class, unless one of the classes before has filters whose response to its pattern is
    less than 10, the authors' for ten classes; whenever 20 in a row fail, half of that is asked.
    """
    found: list[Tensor] = []
    processes = _stable_processes(np.random.default_rng(seed), height, width)
    required, failures = RESPONSE, 0
    while len(found) < num_classes:
        filters, patterns = (
            torch.stack(parts) for parts in zip(*(next(processes) for _ in range(3)), strict=True)
        )
        if found and float(responses(torch.stack(found), patterns).min()) < required:
            failures += 1
            if failures == _PATIENCE:
                required, failures = required / 2, 0
            continue
        found.append(filters)
        failures = 0
    return torch.stack(found).float() if found else torch.empty(0, 3, 3, 3)


def responses(coefficients: Tensor, pattern: Tensor) -> Tensor:
    """What the filters of processes answer to a pattern of L2 norm 1; 0 to one of their own.

    Args:
        coefficients: [K, 3, 3, 3].
        pattern: [3, H, W], of any norm.

    Returns:
        [K], sums of the positive parts.
    """
    filters = coefficients.clone()
    filters[:, :, 2, 2] = -1
    return functional.conv2d((pattern / pattern.norm())[None], filters)[0].relu().sum((1, 2))


def _stable_processes(rng: np.random.Generator, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Filters [3, 3] of stable processes and a pattern [32, 32] of each."""
    while True:
        drawn = rng.standard_normal((64, 3, 3))
        drawn[:, 2, 2] = 0
        filters = torch.from_numpy(drawn / drawn.sum((1, 2), keepdims=True)).float().double()
        patterns = _trials(filters, SIDE, SIDE, rng)
        keep = _is_stable(patterns)
        filters, patterns = filters[keep], patterns[0, keep]
        if height > SIDE or width > SIDE:
            keep = _is_stable(_trials(filters, max(height, SIDE), max(width, SIDE), rng))
            filters, patterns = filters[keep], patterns[keep]
        yield from zip(filters, patterns, strict=True)


def _trials(filters: Tensor, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Patterns float64 [TRIALS, B, height, width] of B filters."""
    start = rng.standard_normal((TRIALS, len(filters), height + CROP, width + CROP))
    return ar_process(filters, torch.from_numpy(start))[..., CROP:, CROP:]


def _is_stable(patterns: Tensor) -> Tensor:
    """bool [B] of patterns [TRIALS, B, H, W]; a value that is not finite fails either comparison."""
    height, width = patterns.shape[-2:]
    whole = patterns.square().mean((-2, -1))
    corner = patterns[..., height // 2 :, width // 2 :].square().mean((-2, -1))
    return ((whole <= 1) & (corner >= whole / 4)).all(0)
