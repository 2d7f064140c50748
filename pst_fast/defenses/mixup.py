"""mixup (Zhang et al., ICLR 2018, arXiv 1710.09412)."""

from typing import ClassVar

from torchvision.transforms import v2

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.mixed import Mixed


@DEFENSES.register("mixup")
class MixUp(Mixed):
    """Convex combinations of two images and of their labels."""

    summary: ClassVar[str] = "plain training on convex combinations of images and labels"
    mixing = v2.MixUp
