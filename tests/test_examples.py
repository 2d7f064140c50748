"""The example does what it says: a trap is found, and the loop differs by three lines."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_loop.py"


def test_own_loop_finds_the_trap(capsys):
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pst = module.train(epochs=2, samples=1000)
    assert pst.events and sum(pst.levels.values()) > 0
    assert "epoch 2: " in capsys.readouterr().out


def test_own_loop_adds_three_lines():
    marks = [
        line for line in EXAMPLE.read_text().splitlines() if line.rstrip().endswith(("# 1", "# 2", "# 3"))
    ]
    pst_lines = [line for line in EXAMPLE.read_text().splitlines() if "pst" in line.lower() and "#" in line]
    assert len(marks) == 3 and marks == pst_lines
