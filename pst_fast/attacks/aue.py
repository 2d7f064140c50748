"""AUE: augmented unlearnable examples (Wang et al., ICML 2024)."""

from typing import ClassVar

from pst_fast.attacks.alternation import Recipe
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.em import ErrorMinimizing
from pst_fast.attacks.pgd import Transform
from pst_fast.attacks.transforms import contrastive


@ATTACKS.register("aue")
class AugmentedUnlearnableExamples(ErrorMinimizing):
    """`em` under the augmentations of contrastive learning, so that such learners are trapped too."""

    paper = "Wang et al., ICML 2024 (arXiv 2402.04010)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=5, relative_step=0.1, train_batches=None, max_rounds=60, stop_error=0.0),
        "fast": Recipe(
            steps=1, relative_step=0.35, train_batches=25, max_rounds=6, stop_error=0.0, batch_size=128
        ),
    }

    def transform(self, num_classes: int) -> Transform:
        return contrastive(1.0 if num_classes >= 100 else 0.6)
