"""The example does what it says: a trap is found, and the loop differs by three lines."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torchvision

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_loop.py"


def own_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_loop_finds_the_trap(capsys):
    pst = own_loop().train(epochs=2, samples=1000)
    assert pst.events and sum(pst.levels.values()) > 0
    assert "epoch 2: " in capsys.readouterr().out


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_own_loop_takes_models_from_elsewhere(package, capsys):
    if package == "timm":
        model = timm.create_model("mobilenetv3_small_050", num_classes=10)
    else:
        model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    pst = own_loop().train(epochs=1, samples=700, model=model)  # 14 steps: one check
    assert len(pst.levels) == 5 and len(pst.last_acm) == 3
    assert all(value > 0 for value in pst.last_acm.values())
    assert "epoch 1: " in capsys.readouterr().out


def test_own_loop_adds_three_lines():
    marks = [
        line for line in EXAMPLE.read_text().splitlines() if line.rstrip().endswith(("# 1", "# 2", "# 3"))
    ]
    pst_lines = [line for line in EXAMPLE.read_text().splitlines() if "pst" in line.lower() and "#" in line]
    assert len(marks) == 3 and marks == pst_lines
