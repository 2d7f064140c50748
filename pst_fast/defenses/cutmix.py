"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899)."""

from typing import ClassVar

from torchvision.transforms import v2

from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.mixed import Mixed


@DEFENSES.register("cutmix")
class CutMix(Mixed):
    """A rectangle of one image in another, the labels mixed by area."""

    summary: ClassVar[str] = "plain training on images with a rectangle of another one, labels by area"
    mixing = v2.CutMix
