"""ISS by JPEG: image shortcut squeezing (Liu et al., ICML 2023, arXiv 2301.13838)."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.viewed import Viewed
from pst_fast.ops import View


@DEFENSES.register("jpeg")
class JPEG(Viewed):
    """Quality 10, chroma halved; the pixels are those that libjpeg gives back."""

    summary: ClassVar[str] = "every image through JPEG at quality 10 (ISS)"
    degradation: ClassVar[View] = View.jpeg(10)
