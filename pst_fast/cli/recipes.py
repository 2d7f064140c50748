"""What a data set is trained with where the command line leaves it open."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Defaults of one data set; the fields are the flags of ``pst_fast.cli.flags.RunConfig``.

    Attributes:
        image_size: That networks are tried with before any work; the images' own size is known later.
    """

    model: str
    width: int
    epochs: int
    attacks: tuple[str, ...] = ("lsp", "em")
    defenses: tuple[str, ...] = ("erm", "pst")
    preset: Literal["fast", "paper"] = "paper"
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    random_resized_crop: bool = False
    progressive: str | None = None
    ema: float = 0.0
    image_size: int = 224


_CIFAR = Recipe(model="resnet18", width=64, epochs=30, image_size=32)
_RECIPES = {
    "demo": Recipe(
        model="resnet10",
        width=16,
        epochs=14,
        attacks=("lsp",),
        defenses=("erm", "pst-plus"),
        preset="fast",
        batch_size=40,
        learning_rate=0.08,
        image_size=32,
    ),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
}
_TRAINING = ("batch_size", "learning_rate", "weight_decay", "warmup_epochs", "label_smoothing")
_GENERAL = Recipe(model="resnet18", width=64, epochs=60)


BUDGETS = (16, 30, 60)
"""Epochs of the recipes after FFCV's for ImageNet."""


def recipe_of(dataset: str, budget: int | None = None) -> Recipe:
    """The recipe of a data set; one that is not in the table has the general one (ImageNet-like folders).

    With one of ``BUDGETS``: so many epochs, after FFCV's recipes for ResNet-18 and ResNet-50 on ImageNet
    (Leclerc et al., arXiv 2306.12517): random resized crops, images that grow from 0.7 to 0.85 of the stored
    size (at 224: from 160 to 192) and are tested at all of it, label smoothing, little weight decay; and an
    average of the weights.
    """
    recipe = _RECIPES.get(dataset, _GENERAL)
    if budget is None:
        return recipe
    return replace(
        recipe,
        epochs=budget,
        batch_size=256,
        learning_rate=0.2,
        weight_decay=5e-5,
        warmup_epochs=2.0,
        label_smoothing=0.1,
        random_resized_crop=True,
        progressive="0.7:0.85",
        ema=0.999,
    )


def describe_recipes() -> str:
    """The recipes in words, for the help."""
    names: dict[Recipe, list[str]] = {}
    for name, recipe in _RECIPES.items():
        names.setdefault(recipe, []).append(name)
    lines = [f"{', '.join(some)}: {_describe(recipe)}" for recipe, some in names.items()]
    common = ", ".join(_training(_GENERAL, name) for name in _TRAINING)
    return "; ".join([*lines, f"all others: {_describe(_GENERAL)}", f"unless said otherwise {common}"])


def _describe(recipe: Recipe) -> str:
    own = [f"{recipe.model} of width {recipe.width}", f"{recipe.epochs} epochs"]
    own += [f"attacks {','.join(recipe.attacks)} ({recipe.preset})", f"defenses {','.join(recipe.defenses)}"]
    own += [_training(recipe, name) for name in _TRAINING if getattr(recipe, name) != getattr(_GENERAL, name)]
    return ", ".join(own)


def _training(recipe: Recipe, name: str) -> str:
    return f"{name.replace('_', ' ')} {getattr(recipe, name):g}"
