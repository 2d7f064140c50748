"""Frozen subsets of ImageNet, so that a figure means the same images everywhere.

- ``first-100``: the hundred classes whose WordNet ids sort first, which papers on unlearnable examples call
  the first hundred classes of ImageNet.
- ``em-20``: a fifth of the training images of each of them, as Huang et al. (ICLR 2021) take it, and all of
  their test images. Which fifth theirs was is not at hand: this one is ours, the images whose ids have the
  smallest SHA-256.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from pst_fast.data.datasets import Split
from pst_fast.errors import InputError

Subset = Literal["all", "first-100", "em-20"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)

_NUMBERS = """
01440764 01443537 01484850 01491361 01494475 01496331 01498041 01514668 01514859 01518878 01530575
01531178 01532829 01534433 01537544 01558993 01560419 01580077 01582220 01592084 01601694 01608432
01614925 01616318 01622779 01629819 01630670 01631663 01632458 01632777 01641577 01644373 01644900
01664065 01665541 01667114 01667778 01669191 01675722 01677366 01682714 01685808 01687978 01688243
01689811 01692333 01693334 01694178 01695060 01697457 01698640 01704323 01728572 01728920 01729322
01729977 01734418 01735189 01737021 01739381 01740131 01742172 01744401 01748264 01749939 01751748
01753488 01755581 01756291 01768244 01770081 01770393 01773157 01773549 01773797 01774384 01774750
01775062 01776313 01784675 01795545 01796340 01797886 01798484 01806143 01806567 01807496 01817953
01818515 01819313 01820546 01824575 01828970 01829413 01833805 01843065 01843383 01847000 01855032
01855672
"""
FIRST_100 = tuple(f"n{number}" for number in _NUMBERS.split())
"""WordNet ids of the first hundred classes of ILSVRC 2012, sorted."""

_EM_SHARE = 0.2
_EM_KEY = "pst_fast em-20"


def class_labels(subset: Subset, classes: Sequence[str]) -> np.ndarray:
    """Labels, int64 and ascending, of the classes that a subset takes.

    Raises:
        InputError: One of its classes is not there.
    """
    if subset == "all":
        return np.arange(len(classes))
    place = {name: label for label, name in enumerate(classes)}
    missing = [name for name in FIRST_100 if name not in place]
    if missing:
        raise InputError(
            f"--subset {subset}: expected the first hundred ImageNet classes, "
            f"got no {missing[0]} ({len(missing)} of 100 are missing)"
        )
    return np.array([place[name] for name in FIRST_100])


def is_taken(subset: Subset, split: Split, ids: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Which samples a subset takes, bool [N], whatever their order.

    Args:
        subset: Its name.
        split: ``train`` or ``test``.
        ids: See :meth:`pst_fast.data.datasets.Source.ids`.
        labels: int64 [N]; -1: of no class that the subset takes.
    """
    taken = labels >= 0
    if subset != "em-20" or split != "train":
        return taken
    rank = np.array([hashlib.sha256(f"{_EM_KEY} {name}".encode()).hexdigest() for name in ids])
    for label in np.unique(labels[taken]):
        members = np.flatnonzero(labels == label)
        count = max(1, round(_EM_SHARE * len(members)))
        taken[members[np.argsort(rank[members], kind="stable")[count:]]] = False
    return taken


def ids_sha256(ids: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of a set of ids: sorted, one a line."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()
