"""Gaussian blur, a baseline of the literature on unlearnable examples."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.viewed import Viewed
from pst_fast.ops import View


@DEFENSES.register("gaussian")
class GaussianBlur(Viewed):
    """Sigma 1 pixel over 7x7: a real blur. 3x3 with sigma .1, as benchmarks have it, changes nothing."""

    summary: ClassVar[str] = "every image blurred, sigma 1 pixel"
    degradation: ClassVar[View] = View.blur(1.0)
