"""Which clean image a poisoned one was made of, where its place in a file does not say it."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

_CHUNK = 1024
_CELLS = 4
_CANDIDATES = 4
FARTHEST = 16.0
"""Mean change, in /255, up to which two images are the same one."""


def match_rows(rows: Callable[[slice], np.ndarray], count: int, clean: np.ndarray) -> np.ndarray:
    """Find the clean images in a file whose rows are shuffled, dropped or repeated.

    Images are compared by the means of 4x4 cells first, and the nearest ones value by value.

    Args:
        rows: Gives poisoned images, float [b,H,W,3] in /255, of a slice of the file.
        count: How many there are.
        clean: uint8 [N,H,W,3].

    Returns:
        int64 [N]: for each clean image the nearest of the rows to which no other image is nearer, no two the
        same; -1 where there is none that differs by no more than 16/255 in the mean.
    """
    whole = torch.from_numpy(clean)
    cells = torch.cat([_cells(part.float()) for part in whole.split(_CHUNK)])
    nearest, distance = np.empty(count, np.int64), np.empty(count)
    for start in range(0, count, _CHUNK):
        images = torch.from_numpy(np.ascontiguousarray(rows(slice(start, start + _CHUNK)), np.float32))
        some = torch.cdist(_cells(images), cells).topk(min(_CANDIDATES, len(cells)), largest=False).indices
        apart = torch.stack(
            [(images - whole[which].float()).abs().mean((1, 2, 3)) for which in some.unbind(1)], 1
        )
        best = apart.min(1)
        part = slice(start, start + len(images))
        nearest[part] = some.gather(1, best.indices[:, None])[:, 0].numpy()
        distance[part] = best.values.numpy()
    found = np.full(len(clean), -1, np.int64)
    for row in np.argsort(-distance, kind="stable"):  # the nearest comes last and stays
        if distance[row] <= FARTHEST:
            found[nearest[row]] = row
    return found


def _cells(images: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2), _CELLS).flatten(1)
