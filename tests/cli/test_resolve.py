"""What a plan holds: recipes, and the flags that win over them."""

import json
from pathlib import Path

import pytest
import torch

from pst_fast import run as command
from pst_fast.cli.checks import parse_epsilon
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.plan import settings_of
from pst_fast.cli.recipes import describe_recipes, recipe_of
from pst_fast.cli.resolve import resolve
from pst_fast.errors import InputError
from tests.cli.stages import plan_for


def test_open_flags_come_from_the_recipe(tmp_path: Path) -> None:
    plan, recipe = plan_for(tmp_path, dataset="cifar10"), recipe_of("cifar10")
    assert (plan.train.model, plan.train.width, plan.train.epochs) == ("resnet18", 64, recipe.epochs)
    assert (plan.surrogate, plan.surrogate_width) == ("resnet18", 64)
    assert (plan.attacks, plan.defenses, plan.preset) == (recipe.attacks, recipe.defenses, recipe.preset)


def test_given_flags_win_over_the_recipe(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, epochs=3, width=8, attacks=("em",), weight_decay=0.0, surrogate="resnet18")
    assert (plan.train.epochs, plan.train.width, plan.train.weight_decay) == (3, 8, 0.0)
    assert (plan.surrogate, plan.surrogate_width, plan.attacks) == ("resnet18", 8, ("em",))


def test_a_budget_is_a_recipe_whose_settings_other_flags_change(tmp_path: Path) -> None:
    train = plan_for(
        tmp_path, dataset="imagenet-mini", budget=16, ema=0.0, model="resnet50", eval_size=256
    ).train
    assert (train.epochs, train.label_smoothing, train.random_resized_crop) == (16, 0.1, True)
    assert (train.progressive, train.eval_size, train.ema) == ((0.7, 0.85), 256, 0.0)
    plain = plan_for(tmp_path, dataset="imagenet-mini").train
    assert (plain.progressive, plain.random_resized_crop, plain.ema) == (None, False, 0.0)


def test_a_network_of_one_size_is_not_resized(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a network that takes images of 160 pixels too"):
        plan_for(tmp_path, dataset="imagenet-mini", budget=16, model="torchvision:vit_b_16")


def test_unknown_data_sets_of_a_newcomer_have_the_general_recipe() -> None:
    assert recipe_of("somebody's").epochs == recipe_of("imagenet-mini").epochs
    assert "all others" in describe_recipes()


def test_settings_are_json(tmp_path: Path) -> None:
    settings = settings_of(plan_for(tmp_path, seeds=("3", "1"), attacks=("em",), epsilon="8/255"))
    assert json.loads(json.dumps(settings))["seeds"] == [3, 1]
    assert settings["epsilon"] == pytest.approx(8 / 255)
    assert settings["device"] == "cpu"
    assert settings["momentum"] == 0.9


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("1", 1.0), (" 4 / 255 ", 4 / 255)]
)
def test_epsilon_is_a_number_or_a_fraction(text: str, value: float) -> None:
    assert parse_epsilon(text) == pytest.approx(value)


def test_help_lists_what_the_registries_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "demo",
        "imagenet-mini",
        "lsp",
        "em",
        "ops",
        "pst-plus",
        "cg",
        "resnet18",
        "--train-per-class",
    ):
        assert word in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device cuda"):
        resolve(RunConfig(out=tmp_path, device="cuda"))
