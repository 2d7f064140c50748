"""Perturbations that are crafted a batch at a time, each batch once, into a file that outlives a kill."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pst_fast import distributed
from pst_fast.attacks.base import CraftTask, Norm
from pst_fast.attacks.integers import linf_steps, round_to_ball, round_to_l2_ball
from pst_fast.attacks.pgd import crafting_batch
from pst_fast.attacks.steps import NAME as STEPS
from pst_fast.attacks.steps import StepsFile
from pst_fast.attacks.surrogate import load_state, save_state, seeded

STATE = "rows-{rank}.pt"
SAVES = 20
"""How often what is done is put on the disk."""

Block = slice | np.ndarray
"""Rows of the data set: consecutive ones, or int64 [n]."""

Crafted = tuple[Tensor, Tensor]
"""fp32 [B,3,H,W] in [0,1] units, and how many of the batch came out as they should: int64, one element."""


def craft_rows(
    task: CraftTask,
    epsilon: float,
    model: nn.Module,
    craft: Callable[[Tensor, Tensor], Crafted],
    after: float,
    norm: Norm = "linf",
) -> tuple[np.ndarray, float]:
    """Craft the perturbations of all images, in whole steps of 1/255.

    Args:
        task: The images, the folder and the progress.
        epsilon: Radius of the ball on [0,1] images.
        model: The frozen network that the crafting asks, which decides how many images are crafted at a time.
        craft: From x, fp32 [B,3,H,W] channels_last in [0,1], and labels, int64 [B], both on the device.
        after: Share of the task's progress that is behind.
        norm: Of the ball: ``linf`` or ``l2``.

    Returns:
        int8 or int16 [N,H,W,3], a mapped file; the share that came out as it should.
    """
    height, width = task.data.images.shape[1:3]
    batch = crafting_batch(model, height, width, task.device)
    return craft_blocks(task, epsilon, batch, lambda x, labels, start: craft(x, labels), after, norm)


def craft_blocks(
    task: CraftTask,
    epsilon: float,
    batch: int,
    craft: Callable[[Tensor, Tensor, int], Crafted],
    after: float,
    norm: Norm = "linf",
) -> tuple[np.ndarray, float]:
    """The same for blocks of ``batch`` images; ``craft`` is told the row of a block's first one too.

    Processes that share a machine craft different blocks, which depend on nothing but their own rows, and put
    them into one file.
    """
    count = len(task.data)
    dtype = np.int8 if linf_steps(epsilon) <= 127 else np.int16

    def opened() -> StepsFile:
        return StepsFile(task.folder / STEPS, task.data.images.shape, dtype)

    batch, hits = distributed.on_main(lambda: _done(task.folder, opened().is_new, batch, count))
    steps, missing = opened(), np.flatnonzero(hits < 0)
    own = missing[distributed.beside_main().of(len(missing))]
    for number, block in enumerate(own.tolist()):
        start = block * batch
        share = (len(hits) - len(own) + number) / len(hits)
        task.progress(after + (1 - after) * share, f"image {start + 1} of {count}")
        some = slice(start, start + batch)
        x, labels = task.batch(some)
        with seeded(task.seed + 1 + start, task.device):
            delta, good = craft(x, labels, start)
        whole = round_to_ball if norm == "linf" else round_to_l2_ball
        steps.write(some, whole(delta.permute(0, 2, 3, 1).cpu().numpy(), epsilon))
        hits[block] = int(good)
        if number % max(1, len(hits) // SAVES) == 0 or block == own[-1]:
            steps.flush()
            state = {"batch": batch, "hits": torch.from_numpy(hits)}
            save_state(task.folder / STATE.format(rank=distributed.rank()), state)
    distributed.barrier()
    fresh = distributed.sum_(torch.tensor(int(hits[own].sum())))
    return steps.array, (int(fresh) + int(np.delete(hits, missing).sum())) / max(count, 1)


def _done(folder: Path, is_new: bool, batch: int, count: int) -> tuple[int, np.ndarray]:
    """The size of a block, and how many came out well in each block; -1: it is still to do.

    What several processes have noted, each in a file of its own, goes together.
    """
    states = []
    for path in sorted(folder.glob(STATE.format(rank="*"))):
        if is_new:
            path.unlink()
        else:
            states.append(load_state(path))
    batch = next((state["batch"] for state in states if state), batch)
    hits = np.full(-(-count // batch), -1)
    for state in states:
        if state:
            hits = np.maximum(hits, state["hits"].numpy())
    return batch, hits


def draw_blocks(
    task: CraftTask,
    blocks: Sequence[Block],
    draw: Callable[[Block], np.ndarray],
    dtype: type[np.signedinteger] = np.int8,
    after: float = 0.0,
) -> np.ndarray:
    """Make the perturbations of all images block by block, where each block depends on nothing but its rows.

    After a kill it goes on with the blocks that are missing.

    Args:
        task: The images, the folder and the progress.
        blocks: Rows, each image in one of them.
        draw: From rows to their perturbations in whole steps, int8 or int16 [n,H,W,3].
        dtype: Of the result, unless a value does not fit.
        after: Share of the task's progress that is behind.

    Returns:
        int8 or int16 [N,H,W,3], a mapped file.
    """
    path = task.folder / STATE.format(rank=0)
    state = load_state(path)
    steps = StepsFile(task.folder / STEPS, task.data.images.shape, dtype)
    done = state["done"] if state and not steps.is_new else 0
    for number in range(done, len(blocks)):
        task.progress(after + (1 - after) * number / len(blocks), f"block {number + 1} of {len(blocks)}")
        steps.write(blocks[number], draw(blocks[number]))
        if number % max(1, len(blocks) // SAVES) == 0:
            steps.flush()
            save_state(path, {"done": number + 1})
    task.progress(1.0, "all perturbations drawn")
    return steps.array
