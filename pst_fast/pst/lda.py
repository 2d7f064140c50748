"""Spatial LDA: how well classes separate in pooled features, for many layers in one host synchronisation.

On the device, each layer is reduced to the statistics of its scores in a small basis that holds the leading
principal components; none of the operations waits for the device (svd, qr, eigh and solve would: they check
their results). The statistics of all layers go to the host in one copy, and the rest is a few small
matrices' work in double precision there.
"""

from collections.abc import Sequence

import torch

OVERSAMPLING = 16
"""Directions that the basis holds beyond the components that are kept."""

ITERATIONS = 5
"""Passes through the features and back: the basis errs by the fifth power of ratios of eigenvalues."""


def spatial_lda(pooled: torch.Tensor, labels: torch.Tensor, num_classes: int, components: int = 32) -> float:
    """Class separation of pooled features; :func:`spatial_ldas` of one layer."""
    return spatial_ldas([pooled], labels, num_classes, components)[0]


@torch.no_grad()
def spatial_ldas(
    pooled: Sequence[torch.Tensor], labels: torch.Tensor, num_classes: int, components: int = 32
) -> list[float]:
    """Class separation of the pooled features of some layers, with one host synchronisation for all.

    The features are centred and reduced to their first principal components; the measure is
    ``trace((Sw + r I)^-1 Sb) / (num_classes - 1)`` with the within- and between-class covariances Sw and Sb
    and ``r = 1e-3 mean(diag Sw) + 1e-8``. The components are found by iteration from a fixed start: the same
    features give the same value, and no global random state is touched.

    Args:
        pooled: Each layer's features [N,D], floating point, D of its own; all on one device.
        labels: int64 [N], in [0, num_classes), on that device.
        num_classes: K, at least 2.
        components: Principal components that are kept (fewer where N or D is smaller).

    Returns:
        One value a layer; nan where features are not finite, 0 where they are constant.
    """
    if not pooled:
        return []
    members = labels[:, None] == torch.arange(num_classes, device=labels.device)
    indicator = members.double()  # [N, K]
    statistics = [_statistics(features, labels, indicator, components) for features in pooled]
    sizes = [s.shape for s in statistics]
    host = torch.cat([s.flatten() for s in statistics]).cpu()  # the one synchronisation
    values, start = [], 0
    for (rows, width), features in zip(sizes, pooled, strict=True):
        block = host[start : start + rows * width].reshape(rows, width)
        start += rows * width
        values.append(_measure(block[:width], block[width:], min(components, *features.shape)))
    return values


def _statistics(
    features: torch.Tensor, labels: torch.Tensor, indicator: torch.Tensor, components: int
) -> torch.Tensor:
    """Within-class covariance [q,q] of the scores, and below it the K classes' weighted means [K,q]."""
    # On CUDA products of float32 may run in TF32, which is too coarse; on the CPU double takes twice as long.
    centred = features.to(torch.float64 if features.is_cuda else torch.float32)
    centred = centred - centred.mean(0)
    samples, size = centred.shape
    width = min(components + OVERSAMPLING, samples, size)
    scores = (centred if width == size else centred @ _basis(centred, width)).double()
    scores = scores - scores.mean(0)  # what float32 left of a large mean
    counts = indicator.sum(0)
    means = (indicator.T @ scores) / counts.clamp(min=1)[:, None]
    deviations = scores - means.index_select(0, labels)
    within = deviations.T @ deviations / samples
    return torch.cat([within, means * (counts / samples).sqrt()[:, None]])


def _basis(centred: torch.Tensor, width: int) -> torch.Tensor:
    """Orthonormal directions [D,width] that hold the leading components of ``centred`` [N,D]."""
    start = torch.Generator(centred.device).manual_seed(0)
    size = (centred.shape[1], width)
    basis = torch.randn(size, generator=start, dtype=centred.dtype, device=centred.device)
    for _ in range(ITERATIONS):
        basis = _orthonormal(centred.T @ (centred @ basis))
    return basis


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """The columns' span by Cholesky QR, in double. Directions of next to no length stay short."""
    wide = columns.double()
    gram = wide.T @ wide
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    shift = 1e-13 * gram.diagonal().sum() + 1e-200  # so that the factorisation cannot fail
    factor = torch.linalg.cholesky_ex(gram + shift * identity)[0]
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return (wide @ inverse.T).to(columns.dtype)


def _measure(within: torch.Tensor, means: torch.Tensor, keep: int) -> float:
    """The measure, from covariance [q,q] and weighted means [K,q], on the ``keep`` leading components."""
    if not (within.isfinite().all() and means.isfinite().all()):
        return float("nan")
    _, basis = torch.linalg.eigh(within + means.T @ means)
    basis = basis[:, -keep:]
    within, means = basis.T @ within @ basis, means @ basis
    ridge = 1e-3 * within.diagonal().mean() + 1e-8
    ratio = torch.linalg.solve(within + ridge * torch.eye(keep, dtype=within.dtype), means.T @ means)
    return float(ratio.trace() / (len(means) - 1))
