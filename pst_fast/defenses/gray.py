"""ISS by greyscale: image shortcut squeezing (Liu et al., ICML 2023, arXiv 2301.13838)."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.viewed import Viewed
from pst_fast.ops import View


@DEFENSES.register("gray")
class Gray(Viewed):
    """The luminance of ITU-R 601 on all three channels."""

    summary: ClassVar[str] = "every image in greyscale (ISS)"
    degradation: ClassVar[View] = View().in_grey()
