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
        pooled: Each layer's features [N,D], floating point, D of its own; all on one device. Layers of one
            size share launches, and all share those of small matrices.
        labels: int64 [N], in [0, num_classes), on that device.
        num_classes: K, at least 2.
        components: Principal components that are kept (fewer where N or D is smaller).

    Returns:
        One value a layer; nan where features are not finite, 0 where they are constant.
    """
    if not pooled:
        return []
    by_shape: dict[torch.Size, list[int]] = {}
    for number, features in enumerate(pooled):
        by_shape.setdefault(features.shape, []).append(number)
    centred = [_centred([pooled[number] for number in alike]) for alike in by_shape.values()]
    members = labels[:, None] == torch.arange(num_classes, device=labels.device)
    indicator = members.double()  # [N, K]
    statistics = [_statistics(scores, labels, indicator) for scores in _scores(centred, components)]
    host = torch.cat([s.flatten() for s in statistics]).cpu()  # the one synchronisation
    values, start = [0.0] * len(pooled), 0
    for alike, on_device in zip(by_shape.values(), statistics, strict=True):
        blocks = host[start : start + on_device.numel()].reshape(on_device.shape)
        start += blocks.numel()
        for number, value in zip(alike, _measures(blocks, components), strict=True):
            values[number] = value
    return values


def _centred(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Features of one size as [B,N,D], each of mean 0 over the N."""
    # On CUDA products of float32 may run in TF32, which is too coarse; on the CPU double takes twice as long.
    stacked = torch.stack([f.to(torch.float64 if f.is_cuda else torch.float32) for f in features])
    return stacked.sub_(stacked.mean(1, keepdim=True))


def _scores(centred: Sequence[torch.Tensor], components: int) -> list[torch.Tensor]:
    """Each one's [B,N,q] in a small basis, double."""
    widths = [min(components + OVERSAMPLING, *features.shape[1:]) for features in centred]
    scores = list(centred)
    for width in set(widths):
        # Where the basis would be as large as the features, these are their own scores.
        wide = [n for n, f in enumerate(centred) if widths[n] == width < f.shape[2]]
        bases = _bases([centred[n] for n in wide], width) if wide else []
        for n, basis in zip(wide, bases, strict=True):
            scores[n] = centred[n] @ basis
    return [s.double() for s in scores]


def _statistics(scores: torch.Tensor, labels: torch.Tensor, indicator: torch.Tensor) -> torch.Tensor:
    """Within-class covariances [B,q,q] of the scores, and below them the K classes' weighted means."""
    scores = scores - scores.mean(1, keepdim=True)  # what float32 left of a large mean
    samples, counts = len(labels), indicator.sum(0)
    means = (indicator.T @ scores) / counts.clamp(min=1)[:, None]
    deviations = scores - means.index_select(1, labels)
    within = deviations.mT @ deviations / samples
    return torch.cat([within, means * (counts / samples).sqrt()[:, None]], 1)


def _bases(centred: Sequence[torch.Tensor], width: int) -> list[torch.Tensor]:
    """Orthonormal directions [B,D,width] that hold the leading components of each ``centred`` [B,N,D]."""
    bases = []
    for features in centred:
        start = torch.Generator(features.device).manual_seed(0)
        size = (features.shape[2], width)
        bases.append(torch.randn(size, generator=start, dtype=features.dtype, device=features.device))
    for _ in range(ITERATIONS):
        passed = zip(centred, bases, strict=True)
        bases = _orthonormal([features.mT @ (features @ basis) for features, basis in passed])
    return bases


def _orthonormal(columns: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The columns' spans by Cholesky QR, in double. Directions of next to no length stay short."""
    wide = [c.double() for c in columns]
    grams = torch.cat([w.mT @ w for w in wide])
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    shifts = 1e-13 * grams.diagonal(dim1=1, dim2=2).sum(1) + 1e-200  # so that factorisations cannot fail
    factors = torch.linalg.cholesky_ex(grams + shifts[:, None, None] * identity)[0]
    inverses = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    each = inverses.split([len(w) for w in wide])
    return [(w @ inverse.mT).to(columns[0].dtype) for w, inverse in zip(wide, each, strict=True)]


def _measures(statistics: torch.Tensor, components: int) -> list[float]:
    """The measure by layer, on the leading components, from :func:`_statistics` [B,q+K,q] on the host."""
    width = statistics.shape[2]
    keep = min(components, width)
    is_finite = statistics.isfinite().flatten(1).all(1)
    within, means = statistics.where(is_finite[:, None, None], 0.0).tensor_split([width], 1)
    _, basis = torch.linalg.eigh(within + means.mT @ means)
    basis = basis[:, :, -keep:]
    within, means = basis.mT @ within @ basis, means @ basis
    ridges = 1e-3 * within.diagonal(dim1=1, dim2=2).mean(1) + 1e-8
    identity = torch.eye(keep, dtype=within.dtype)
    ratios = torch.linalg.solve(within + ridges[:, None, None] * identity, means.mT @ means)
    values = ratios.diagonal(dim1=1, dim2=2).sum(1) / (means.shape[1] - 1)
    return values.where(is_finite, torch.nan).tolist()
