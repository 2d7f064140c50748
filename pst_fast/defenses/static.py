"""Fixed mixes of views, with colour jitter: what the adaptive choice of views has to beat."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch

from pst_fast.defenses import views
from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.train.augmentation import COLOUR, Augmentation


class StaticViews(Defense):
    """Every image has a view drawn from one mix, for all data alike.

    Attributes:
        mix: View -> probability.
        grey_probability: Share of images that lose their colour afterwards.
    """

    mix: ClassVar[Mapping[str, float]]
    grey_probability: ClassVar[float]

    def augmentation(self) -> Augmentation:
        return replace(COLOUR, grey_probability=self.grey_probability)

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        return views.apply_mix(images, self.mix, seed, step)


@DEFENSES.register("static-mix")
class StaticMix(StaticViews):
    """All views, greyscale .7."""

    summary: ClassVar[str] = "all views at fixed shares, greyscale .7"
    mix: ClassVar[Mapping[str, float]] = views.STATIC_MIX
    grey_probability: ClassVar[float] = 0.7


@DEFENSES.register("static-jpeg")
class StaticJPEG(StaticViews):
    """JPEG at quality 10 (70 %) and 20, greyscale .5."""

    summary: ClassVar[str] = "JPEG at quality 10 or 20, greyscale .5"
    mix: ClassVar[Mapping[str, float]] = {"jpeg10": 0.7, "jpeg20": 0.3}
    grey_probability: ClassVar[float] = 0.5


@DEFENSES.register("static-jpeg-grey")
class StaticJPEGGrey(StaticJPEG):
    """JPEG at quality 10 (70 %) and 20, greyscale .95."""

    summary: ClassVar[str] = "JPEG at quality 10 or 20, greyscale .95"
    grey_probability: ClassVar[float] = 0.95
