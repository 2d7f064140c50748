"""LSP: linearly separable perturbations, drawn without looking at the images (Yu et al., KDD 2022)."""

import math
from functools import lru_cache

import numpy as np

from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.rows import Block, draw_blocks
from pst_fast.attacks.steps import row_blocks

PATCH = 8
SEPARATION = 10.0
_CHUNK, _CHUNK_BYTES = 1024, 1 << 25


@ATTACKS.register("lsp")
class LinearlySeparablePerturbation(Attack):
    """One Gaussian cluster a class in the space of coarse colour patterns, one draw a sample.

    A pattern has a value for each 8x8 patch and channel. The L2 norm of every draw is the budget before
    it is truncated to whole steps; (6/255) * sqrt(3 H W) is the paper's 1.304 at 32x32.
    """

    paper = "Yu et al., KDD 2022 (arXiv 2111.00898)"
    norm = "l2"
    epsilon = 6 / 255 * math.sqrt(3 * 32 * 32)

    @classmethod
    def default_epsilon(cls, height: int, width: int) -> float:
        return 6 / 255 * math.sqrt(3 * height * width)

    def craft(self, task: CraftTask) -> np.ndarray:
        """Draw the perturbations, int8 [N,H,W,3] (int16 where the budget is large).

        Truncation can bring a perturbation's L2 norm over epsilon, by less than sqrt(3 H W) / 255.
        """
        _, height, width, _ = task.data.images.shape
        epsilon = self.resolve_epsilon(task.epsilon, height, width)
        rows, columns = math.ceil(height / PATCH), math.ceil(width / PATCH)
        centroids = cluster_centroids(len(task.data.classes), rows * columns * 3, task.seed)
        blocks, places = [], {}
        for label in range(len(task.data.classes)):
            members = np.flatnonzero(task.data.labels == label)
            for some in row_blocks((len(members), height, width, 3), 8, _CHUNK_BYTES, most=_CHUNK):
                places[int(members[some.start])] = (label, some)
                blocks.append(members[some])

        @lru_cache(1)  # a class's blocks follow each other
        def patterns_of(label: int) -> np.ndarray:
            members = int((task.data.labels == label).sum())
            return draw_cluster(centroids[label], members, (task.seed, label))

        def draw(block: Block) -> np.ndarray:
            label, some = places[int(np.asarray(block)[0])]
            patterns = patterns_of(label)[some].reshape(-1, rows, columns, 3)
            return _blow_up(truncated(patterns, epsilon, _patch_areas(height, width)), height, width)

        return draw_blocks(task, blocks, draw)


def cluster_centroids(num_classes: int, dimensions: int, seed: int) -> np.ndarray:
    """Distinct vertices of a hypercube with sides 2 * SEPARATION about the origin, float64 [K, D]."""
    if dimensions < 60 and num_classes > 2**dimensions:
        raise ValueError(f"a hypercube of {dimensions} dimensions has no {num_classes} vertices")
    rng = np.random.default_rng(seed)
    vertices: dict[bytes, np.ndarray] = {}
    while len(vertices) < num_classes:
        vertex = rng.integers(0, 2, dimensions, dtype=np.int8)
        vertices.setdefault(vertex.tobytes(), vertex)
    return SEPARATION * (2.0 * np.stack(list(vertices.values())) - 1.0)


def draw_cluster(centroid: np.ndarray, count: int, seed: tuple[int, int]) -> np.ndarray:
    """``count`` points, float64 [count, D], about a centroid: unit Gaussian noise mixed by one random matrix.

    These are the clusters of scikit-learn's ``make_classification`` (one a class, all features
    informative): the mixing matrix's entries are uniform on [-1, 1].
    """
    rng = np.random.default_rng(seed)
    mixing = rng.uniform(-1.0, 1.0, (centroid.size, centroid.size))
    return rng.standard_normal((count, centroid.size)) @ mixing + centroid


def truncated(delta: np.ndarray, epsilon: float, areas: np.ndarray | float = 1.0) -> np.ndarray:
    """Each sample of ``delta`` (float [N,H,W,3]) scaled to the L2 norm ``epsilon``, in whole steps of 1/255.

    The released code truncates image + perturbation to uint8. The image being whole numbers and the sum not
    negative, that is rounding the perturbation down: a norm in steps grows by less than sqrt(3 H W).

    Args:
        delta: Values of pixels, or of patches of them.
        epsilon: On [0,1] images.
        areas: Pixels that a value stands for; broadcast to [H,W,1].
    """
    norm = np.sqrt((np.square(delta) * areas).sum((1, 2, 3), keepdims=True))
    return np.floor(delta * (epsilon * 255 / norm)).astype(np.int16)


def _patch_areas(height: int, width: int) -> np.ndarray:
    """Pixels of each patch, [rows,columns,1]; those at the lower and right edges may be smaller."""
    sides = (np.minimum(PATCH, side - np.arange(0, side, PATCH)) for side in (height, width))
    return np.outer(*sides)[..., None]


def _blow_up(patterns: np.ndarray, height: int, width: int) -> np.ndarray:
    return patterns.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[:, :height, :width]
