"""An adaptive attacker: error-minimising noise crafted against the views of `pst-plus` themselves."""

from statistics import fmean
from typing import ClassVar

from pst_fast.attacks.alternation import Recipe
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.em import ErrorMinimizing
from pst_fast.attacks.pgd import Transform
from pst_fast.attacks.transforms import coloured, in_turn, seen_through, shift_and_flip
from pst_fast.defenses.ladder import STAGES
from pst_fast.defenses.views import VIEWS
from pst_fast.ops import View


@ATTACKS.register("em-adaptive")
class AdaptiveErrorMinimizing(ErrorMinimizing):
    """`em` whose network sees the images as the stages of `pst-plus` do, in expectation over their draws.

    Each stage after the first counts alike. JPEG and quantised colours have no gradient to speak of, and
    so views are passed straight through (Athalye et al., ICML 2018).
    """

    paper = "ours, after Huang et al., ICLR 2021, and Athalye et al., ICML 2018 (arXiv 1802.00420)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=5, relative_step=0.1, train_batches=None, max_rounds=60, stop_error=0.0),
        "fast": Recipe(
            steps=2, relative_step=0.2, train_batches=40, max_rounds=8, stop_error=0.0, batch_size=128
        ),
    }

    def transform(self, num_classes: int) -> Transform:
        stages = [stage for stage in STAGES if stage.mix]
        mix: dict[View, float] = {}
        for stage in stages:
            for name, share in stage.mix.items():
                mix[VIEWS[name]] = mix.get(VIEWS[name], 0.0) + share / len(stages)
        grey = fmean(stage.augmentation.grey_probability for stage in stages)
        return in_turn(seen_through(mix), coloured(1.0, grey=grey), shift_and_flip)
