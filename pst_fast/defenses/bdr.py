"""ISS by bit depth reduction: image shortcut squeezing (Liu et al., ICML 2023, arXiv 2301.13838)."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.viewed import Viewed
from pst_fast.ops import View


@DEFENSES.register("bdr")
class BitDepthReduction(Viewed):
    """Two bits a channel."""

    summary: ClassVar[str] = "every image with two bits a channel (ISS)"
    degradation: ClassVar[View] = View.bits(2)
