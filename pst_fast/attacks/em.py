"""Error-minimising noise: perturbations that leave a network nothing to learn (Huang et al., ICLR 2021)."""

from typing import ClassVar

import numpy as np

from pst_fast.attacks.alternation import Alternation, ClassWise, Recipe, SampleWise
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.pgd import Transform


# The fast presets take few steps in each of several rounds and do not stop early. Fewer rounds of more steps
# cost the same and fit the surrogate at once, but do not carry over: with two rounds of four steps its error
# was below 0.1 %, and a network trained afresh still learned the images.
@ATTACKS.register("em")
class ErrorMinimizing(Attack):
    """Sample-wise: the network learns a few batches, then every perturbation moves to reduce its loss."""

    paper = "Huang et al., ICLR 2021 (arXiv 2101.04898)"
    norm = "linf"
    epsilon = 8 / 255
    uses_model = True
    shared = True
    alternation: ClassVar[type[Alternation]] = SampleWise
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=20, relative_step=0.1, train_batches=10, max_rounds=100),
        "fast": Recipe(
            steps=1, relative_step=0.35, train_batches=25, max_rounds=6, stop_error=0.0, batch_size=128
        ),
    }

    def transform(self, num_classes: int) -> Transform | None:
        """Through which the network sees the images."""
        return None

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train network and perturbations in turns, until the error is below the recipe's or rounds run out.

        After every round the state goes to the task's folder, and a craft that was killed goes on from
        there. The facts say how many rounds there were and which error the last one reached.
        """
        recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        alternation = self.alternation(task, recipe, epsilon)
        alternation.transform = self.transform(len(task.data.classes))
        alternation.run()
        task.facts.update(
            rounds=alternation.round, train_error=alternation.error, stop_error=recipe.stop_error
        )
        task.progress(1.0, f"{alternation.round} rounds, training error {alternation.error:.1%}")
        return alternation.steps()


@ATTACKS.register("em-class")
class ClassWiseErrorMinimizing(ErrorMinimizing):
    """Class-wise: a class's perturbation is the mean of where a step takes those of its samples."""

    class_conditional = True
    shared = False  # each batch starts from where the one before took the perturbations
    alternation = ClassWise
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=1, relative_step=0.1, train_batches=10, max_rounds=100, subset=0.2),
        "fast": Recipe(
            steps=1,
            relative_step=0.2,
            train_batches=25,
            max_rounds=8,
            stop_error=0.0,
            batch_size=128,
            subset=0.2,
        ),
    }
