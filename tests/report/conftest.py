"""A finished run's folder as the report meets it, drawn by a formula instead of trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pst_fast.cli.flags import RunConfig
from pst_fast.cli.plan import settings_of
from pst_fast.cli.resolve import resolve
from pst_fast.data.beton import write_beton
from pst_fast.files import write_json
from pst_fast.manifest import MANIFEST, environment

CLASSES = ["cat", "dog", "frog", "ship"]
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]
Rows = list[dict[str, Any]]


def epochs_of(defense: str, attack: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Metrics that look like real ones: a trapped plain trainer, a staged one that rolls back twice."""
    rng = np.random.default_rng([seed, len(defense), len(attack)])
    top = {"none": 0.73}.get(attack, 0.3 if defense == "erm" else 0.62)
    acts = defense.startswith("pst") and attack != "none"
    epochs = []
    for epoch in range(1, count + 1):
        rise = 1 - np.exp(-epoch / 4)
        growth = 1.0 if attack == "none" else (1 + 6 * rise if not acts else 1 + rise)
        levels = {
            name: int(acts and epoch > 3) + int(acts and epoch > 7 and depth < 2)
            for depth, name in enumerate(STAGES)
        }
        events: list[dict[str, Any]] = []
        if acts and epoch in (4, 8):
            slowed = STAGES[: 3 if epoch == 4 else 2]
            events = [
                {"step": epoch * 79, "epoch": epoch - 0.4, "kind": kind, "stages": slowed, "words": "slowed"}
                for kind in ("rollback", "slow")
            ]
        if defense == "pst-plus" and epoch == 1:
            words = "trapped at layer2, so views by measure: grey .70, jpeg10 .31, down2 .22"
            events.append({"step": 0, "epoch": 0.0, "kind": "view", "stages": [], "words": words})
        epochs.append(
            {
                "epoch": epoch,
                "lr": 0.1,
                "train_loss": 2.0 / epoch,
                "train_accuracy": min(1.0, rise + 0.1),
                "test_accuracy": float(np.clip(0.1 + (top - 0.1) * rise + rng.normal(0, 0.02), 0, 1)),
                "images_per_second": 800.0,
                "seconds": 12.5,
                "acm": {name: 0.25 * growth * (1 + 0.2 * depth) for depth, name in enumerate(STAGES)},
                "levels": {name: level if name != "layer4" else 0 for name, level in levels.items()},
                "events": events,
            }
        )
    return epochs


def write_run(
    out: Path,
    attacks: Sequence[str] = ("lsp", "em"),
    defenses: Sequence[str] = ("erm", "pst"),
    seeds: Sequence[int] = (0, 1),
    epochs: int = 12,
) -> Rows:
    """Fill ``out`` as a run would, and return the rows of its results.json."""
    rng = np.random.default_rng(0)
    labels, index = np.arange(24) % 4, np.arange(24)
    ramp = np.linspace(40, 210, 16, dtype=np.float32)
    images = (
        ramp[None, :, None, None] + ramp[None, None, :, None] * rng.uniform(-0.5, 0.5, (24, 1, 1, 3))
    ).clip(0, 255)
    images = images.astype(np.uint8)
    write_beton(out / "clean" / "train.beton", images, labels, index)
    write_json(out / "clean" / MANIFEST, {"facts": {"classes": CLASSES, "image_size": images.shape[1]}})
    rows: Rows = []
    for seed in seeds:
        for attack in ("none", *attacks):
            if attack != "none":
                delta = rng.integers(-8, 9, images.shape)
                poisoned = np.clip(images + delta, 0, 255).astype(np.uint8)
                write_beton(
                    out / "attacks" / f"{attack}-seed{seed}" / "poisoned" / "train.beton",
                    poisoned,
                    labels,
                    index,
                )
            for defense in defenses if attack != "none" else ("erm",):
                metrics = epochs_of(defense, attack, seed, epochs)
                folder = out / "train" / attack / f"{defense}-seed{seed}"
                folder.mkdir(parents=True)
                lines = [json.dumps(epoch) + "\n" for epoch in metrics]
                (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
                accuracies = [epoch["test_accuracy"] for epoch in metrics]
                rows.append(
                    {
                        "attack": attack,
                        "defense": defense,
                        "seed": seed,
                        "model": "resnet10",
                        "width": 16,
                        "dataset": "demo",
                        "epochs": epochs,
                        "last_accuracy": accuracies[-1],
                        "best_accuracy": max(accuracies),
                        "clean_accuracy": 0.73,
                        "seconds": {
                            "prepare": 1.0,
                            "craft": 2.0,
                            "apply": 3.0,
                            "train": 50.0,
                            "evaluate": 5.0,
                        },
                        "images_per_second": 800.0,
                        "peak_memory_bytes": 1 << 28,
                        "budget": {"linf": 8 / 255, "l2": 1.0, "pixels": 256},
                        "stages": STAGES,
                        "folder": folder.relative_to(out).as_posix(),
                    }
                )
    rows = [row for row in rows if row["attack"] in attacks]
    plan = resolve(RunConfig(seeds=tuple(map(str, seeds)), epochs=epochs, device="cpu", out=out))
    settings = settings_of(plan) | {"attacks": list(attacks), "defenses": list(defenses)}
    surroundings = {**environment(), "device": "cpu"}
    write_json(out / "results.json", {"rows": rows, "environment": surroundings, "settings": settings})
    return rows


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Rows]:
    return write_run
