"""What an attack is: a function from clean images to integer perturbations."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from pst_fast.data.task import ImageTask
from pst_fast.errors import InputError
from pst_fast.registry import Registry

Norm = Literal["linf", "l2", "pixels"]


@dataclass(frozen=True, kw_only=True)
class CraftTask(ImageTask):
    """One perturbation of the clean training images to make.

    Attributes:
        epsilon: Budget in the attack's norm on [0,1] images, or None for the paper's.
        preset: ``paper``: the paper's settings; ``fast``: fewer steps.
        model: Name of the surrogate network (see ``pst_fast.models``), where the attack needs one.
        width: Width of that network.
        steps: Gradient steps on a perturbation, or None for the preset's.
        facts: What the attack wants to be found in the bank's manifest (JSON values): rounds, errors reached.
    """

    epsilon: float | None
    preset: Literal["paper", "fast"]
    model: str
    width: int
    steps: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Attack(ABC):
    """Base of all attacks. A subclass is one file; it registers itself with ``@ATTACKS.register(name)``.

    Attributes:
        paper: Short reference, for the help and the documents.
        norm: ``linf``, ``l2`` or ``pixels``.
        epsilon: The paper's budget in that norm on [0,1] images (pixels: a count).
        norms: All norms that it works in.
        recipes: Its settings by preset, where it has any.
        class_conditional: Whether ``craft`` returns one perturbation a class, not one a sample.
        uses_model: Whether it trains the task's surrogate network.
        shared: Whether the processes of a run (:mod:`pst_fast.distributed`) craft together: all call
            ``craft``, the main one's result counts, and it does not depend on how many there are. Otherwise
            the main one crafts alone.
    """

    paper: ClassVar[str]
    norm: ClassVar[Norm]
    epsilon: ClassVar[float]
    norms: ClassVar[tuple[Norm, ...]] = ()
    recipes: ClassVar[Mapping[str, Any]] = {}
    class_conditional: ClassVar[bool] = False
    uses_model: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    @classmethod
    def in_norm(cls, norm: Norm | None) -> "type[Attack]":
        """The attack in another norm than its paper's; itself for None.

        Raises:
            InputError: It does not work in that norm.
        """
        if norm in (None, cls.norm):
            return cls
        if norm not in cls.norms:
            known = " and ".join(cls.norms or (cls.norm,))
            raise InputError(f"{cls.__name__} works in {known} alone, not in {norm}")

        paper = cls.norm

        def no_default(height: int, width: int) -> float:
            raise InputError(f"norm {norm}: expected an epsilon too, as the paper's budget is in {paper}")

        return type(cls.__name__, (cls,), {"norm": norm, "default_epsilon": staticmethod(no_default)})

    @classmethod
    def check_steps(cls, steps: int | None) -> None:
        """Raise InputError unless so many gradient steps, or the preset's for None, suit the attack."""
        if steps is None:
            return
        if not cls.recipes or not all(hasattr(recipe, "steps") for recipe in cls.recipes.values()):
            raise InputError(f"{cls.__name__} takes no gradient steps on perturbations, but steps is {steps}")
        if steps < 1:
            raise InputError(f"steps: expected 1 or more, got {steps}")

    def recipe_of(self, task: CraftTask) -> Any:
        """The preset's settings, with the task's number of steps where it names one."""
        self.check_steps(task.steps)
        recipe = self.recipes[task.preset]
        return recipe if task.steps is None else replace(recipe, steps=task.steps)

    @classmethod
    def default_epsilon(cls, height: int, width: int) -> float:
        """The paper's budget for images of this size; overridden where it grows with the size."""
        return cls.epsilon

    @classmethod
    def check_epsilon(cls, epsilon: float) -> None:
        """Raise InputError unless ``epsilon`` makes sense in this attack's norm at any image size."""
        if cls.norm == "pixels":
            if not (math.isfinite(epsilon) and epsilon >= 1 and epsilon == int(epsilon)):
                raise InputError(f"epsilon counts pixels: expected a whole number from 1 on, got {epsilon}")
        elif cls.norm == "linf":
            if not 0 < epsilon <= 1:
                raise InputError(
                    f"epsilon is measured on [0,1] images: expected more than 0 and at most 1, got {epsilon} "
                    "(for eight steps of the 255, write 8/255)"
                )
            if round(epsilon * 255, 6) < 1:
                raise InputError(
                    f"epsilon is below one step of an 8-bit image: expected at least 1/255, got {epsilon}"
                )
        elif not (math.isfinite(epsilon) and epsilon > 0):
            raise InputError(f"epsilon is an L2 norm on [0,1] images: expected more than 0, got {epsilon}")

    @classmethod
    def resolve_epsilon(cls, epsilon: float | None, height: int, width: int) -> float:
        """The budget to use on images of this size: ``epsilon``, or the paper's for None.

        Raises:
            InputError: It is out of the norm's range.
        """
        if epsilon is None:
            return cls.default_epsilon(height, width)
        cls.check_epsilon(epsilon)
        if cls.norm == "l2" and epsilon > math.sqrt(3 * height * width):
            raise InputError(
                f"epsilon is an L2 norm on [0,1] images of {height}x{width}: expected at most "
                f"{math.sqrt(3 * height * width):.4g}, got {epsilon}"
            )
        if cls.norm == "pixels" and epsilon > height * width:
            raise InputError(
                f"epsilon counts pixels: expected at most the {height * width} of a "
                f"{height}x{width} image, got {epsilon}"
            )
        return float(epsilon)

    @abstractmethod
    def craft(self, task: CraftTask) -> np.ndarray:
        """Make the perturbations.

        Returns:
            Integers in units of 1/255, int8 or (where they do not fit) int16: [N,H,W,3], row i for row i
            of ``task.data``; [num_classes,H,W,3] if ``class_conditional``. Adding them to the uint8
            images and clamping to [0,255] gives the poisoned images.

        Raises:
            InputError: The task's budget is out of range.
        """


ATTACKS: Registry[type[Attack]] = Registry("attack", "pst_fast.attacks")
