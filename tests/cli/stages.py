"""Stand-ins for what a run drives, and plans for it."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pst_fast.cli.flags import RunConfig
from pst_fast.cli.plan import Plan
from pst_fast.cli.resolve import resolve
from pst_fast.cli.terminal import Terminal
from pst_fast.data.beton import write_beton
from pst_fast.manifest import build_stage

PREPARED = {
    "classes": ["a", "b"],
    "image_size": 8,
    "counts": {"train": [2, 2], "test": [1, 1]},
    "converted": {"train": 1, "test": 0},
}


class Stages:
    """Stands in for the stages: builds folders in no time, and notes what it built.

    Attributes:
        built: Names of the stages that were really built, in order.
        stop_at: Building the stage of this name raises ``error``.
    """

    def __init__(self) -> None:
        self.built: list[str] = []
        self.stop_at: str | None = None
        self.error: BaseException = KeyboardInterrupt()

    def _build(
        self, output: Path, name: str, parameters: dict[str, Any], inputs: dict[str, Path], facts: Any
    ) -> Path:
        def build(folder: Path) -> dict[str, Any]:
            if name == self.stop_at:
                raise self.error
            self.built.append(name)
            if name in ("prepare", "apply"):
                write_beton(
                    folder / "train.beton", np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, np.arange(4)
                )
            return dict(facts)

        return build_stage(output, name.split()[0], parameters, inputs, build)

    def prepare(self, output: Path, *, progress: Any, **parameters: Any) -> Path:
        parameters["data_dir"] = str(parameters["data_dir"])
        return self._build(output, "prepare", parameters, {}, PREPARED)

    def craft(self, output: Path, clean: Path, *, device: Any, progress: Any, **parameters: Any) -> Path:
        progress(0.5, "half way")
        facts = {"craft_seconds": 7.0, "budget": {"linf": 8 / 255, "l2": 1.5, "pixels": 64}}
        return self._build(output, f"craft {parameters['attack']}", parameters, {"clean": clean}, facts)

    def apply(self, output: Path, clean: Path, bank: Path) -> Path:
        return self._build(output, "apply", {}, {"clean": clean, "bank": bank}, {})

    def train(
        self,
        output: Path,
        *,
        train_data: Path,
        test_data: Path,
        settings: Any,
        device: Any,
        loader: str,
        progress: Any,
    ) -> Path:
        progress(1.0, "epoch 1/1")
        attack = output.parent.name
        accuracy = (
            0.8 if attack == "none" else 0.6 if settings.defense == "pst" else 0.2
        ) + settings.seed / 100
        facts = {
            "last_accuracy": accuracy,
            "best_accuracy": accuracy + 0.05,
            "seconds": {"train": 3.0, "evaluate": 1.0},
            "images_per_second": 100.0,
            "peak_memory_bytes": 1024,
            "stages": ["stem", "layer1"],
        }
        inputs = {"train_data": train_data, "test_data": test_data}
        return self._build(output, f"train {attack}/{settings.defense}", vars(settings), inputs, facts)


def plan_for(out: Path, **flags: Any) -> Plan:
    return resolve(RunConfig(out=out, device="cpu", **flags))


def quiet() -> Terminal:
    return Terminal(Console(quiet=True))
