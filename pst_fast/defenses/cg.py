"""Colour jitter and random greyscale: the strongest of the simple augmentations against most attacks."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.train.augmentation import COLOUR, Augmentation


@DEFENSES.register("cg")
class ColourGrey(Defense):
    """Jitter .4/.4/.4/.1 of 80 % of the images, then 20 % in greyscale (the contrastive recipe)."""

    summary: ClassVar[str] = "plain training with colour jitter and random greyscale"

    def augmentation(self) -> Augmentation:
        return COLOUR
