"""The command in a report gives the plan that the report was made with."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from pst_fast.cli.command import command_of
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.plan import settings_of
from pst_fast.cli.resolve import resolve


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"seeds": ("0", "2"), "attacks": ("em", "tap"), "epsilon": "8/255", "compile": True},
        {"dataset": "cifar10", "data_dir": Path("my data/it's $HOME"), "train_per_class": 100, "amp": "off"},
        {"dataset": "folder", "num_classes": 5, "test_part": "report", "loader": "torch", "preset": "fast"},
        {"dataset": "imagenet-mini", "budget": 16, "ema": 0.5, "eval_size": 256, "subset": "em-20"},
    ],
)
def test_the_command_gives_the_same_plan(flags: dict[str, Any], tmp_path: Path) -> None:
    plan = resolve(RunConfig(out=tmp_path / "a run", device="cpu", **flags))
    command = command_of(settings_of(plan))
    assert max(map(len, command.splitlines())) < 120
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "pst_fast.run"]
    assert resolve(tyro.cli(RunConfig, args=words[3:])) == plan


def test_settings_that_are_no_flags_are_left_out() -> None:
    assert command_of({"momentum": 0.9, "epochs": 3}) == "python -m pst_fast.run --epochs 3"
