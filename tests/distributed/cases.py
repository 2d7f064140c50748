"""What one process and two have to do alike: called by a test, and by torchrun in two processes.

``python -m tests.distributed.cases FOLDER`` leaves ``FOLDER/results.json``.
"""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from pst_fast import distributed
from pst_fast.attacks import alternation, quantized, rows
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.quantized import DeviceBank
from pst_fast.attacks.reference import Training
from pst_fast.attacks.steps import StepsFile
from pst_fast.data import bank
from pst_fast.defenses import op
from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.op import linear_weights
from pst_fast.defenses.pst import PST
from pst_fast.distributed import Shard
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest
from pst_fast.train import loop
from pst_fast.train.settings import TrainSettings
from pst_fast.train.trainer import train
from tests.train.conftest import make_folder

CPU = torch.device("cpu")
EXACT = ("erm", "static-mix", "early-stop", "pst", "pst-plus")
CRAFTED = ("lsp", "em", "aue", "em-class", "tap", "sep", "sem", "gue", "ntga")
ROWS = 7
"""Which two processes cannot halve."""


def results(folder: Path) -> dict[str, Any]:
    """All cases, as JSON values."""
    clean = make_folder(folder / "clean")
    trapped = make_folder(folder / "trapped", pattern=12, step=2, train=180)
    few = make_folder(folder / "few", train=9)
    found: dict[str, Any] = {"collectives": collectives()}

    def noted(fit: loop.Fit) -> torch.Tensor:
        weights = linear_weights(fit)
        found["linear classifier"] = weights.flatten().tolist()
        return weights

    with (
        mock.patch.object(loop, "create_model", network_without_norms),
        mock.patch.object(op, "linear_weights", noted),
    ):
        for defense in EXACT:
            options = settings(defense, batch_size=ROWS, learning_rate=0.05, epochs=3)
            found[defense] = trained(folder / defense, trapped, clean, options)
        trained(folder / "op", trapped, clean, settings("op", batch_size=ROWS))
        found["few"] = trained(folder / "few-erm", few, clean, settings("erm", batch_size=40))
    with mock.patch.dict(DEFENSES._entries, {"watched": Watched}):
        options = settings("watched", batch_size=20, learning_rate=0.05, epochs=6)
        found["watched"] = trained(folder / "watched", trapped, clean, options)
    found["banks"] = {attack: crafted(folder / attack, clean, attack) for attack in CRAFTED}
    with mock.patch.object(quantized, "StepsFile", opened_late):
        found["late"] = crafted(folder / "late", clean, "em")
    found["mixup"] = trained(folder / "mixup", clean, clean, settings("mixup"))
    return found


def crafted(folder: Path, clean: Path, attack: str) -> dict[str, Any]:
    """The hash of a bank, of small recipes, a few images at a time; and its facts and files."""
    recipes: dict[str, Any] = {
        "em": {"train_batches": 2, "max_rounds": 2, "steps": 2},
        "aue": {"train_batches": 2, "max_rounds": 2, "steps": 1},
        "em-class": {"train_batches": 2, "max_rounds": 2},
        "tap": {"training": Training(1), "steps": 2},
        "sep": {"training": Training(2), "checkpoints": 2, "steps": 1},
        "sem": {"train_steps": 3, "steps": 1},
        "gue": {"batches": 3},
        "ntga": {"block": 8, "steps": 1},
    }
    kind = ATTACKS[attack]
    small = {"fast": replace(kind.recipes["fast"], **recipes[attack])} if attack in recipes else {}
    with (
        mock.patch.object(kind, "recipes", small, create=True),
        mock.patch.object(alternation, "crafting_batch", lambda *arguments: 8),
        mock.patch.object(rows, "crafting_batch", lambda *arguments: 8),
    ):
        bank.craft(
            folder, clean, attack=attack, epsilon=None, preset="fast", model="resnet10", width=8, seed=3,
            device=CPU, progress=lambda fraction, words: None,
        )  # fmt: skip
    manifest = read_manifest(folder)
    facts = {name: value for name, value in manifest["facts"].items() if name != "craft_seconds"}
    return {"outputs": manifest["outputs"], "facts": facts}


def opened_late(path: Path, *arguments: Any) -> StepsFile:
    """The file of perturbations: all but the main process open it when that one has had time to go on."""
    if not distributed.is_main():
        time.sleep(1)
        assert path.is_file()  # or an empty one would be made
    return StepsFile(path, *arguments)


def network_without_norms(name: str, *, num_classes: int, width: int, image_size: int) -> nn.Module:
    """With which processes differ from one process by the order of sums alone."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, num_classes)),
    )


def settings(defense: str, **changes: Any) -> TrainSettings:
    values = {"model": "resnet10", "width": 8, "epochs": 2, "batch_size": 10, "amp": "off", **changes}
    return TrainSettings(defense=defense, **values)


def trained(folder: Path, data: Path, clean: Path, options: TrainSettings) -> dict[str, Any]:
    """Train; the rows of the metrics, the names of the files, and some of the weights."""
    train(folder, train_data=data, test_data=clean, settings=options, device=CPU)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    weights = torch.load(folder / "model.pt", weights_only=True)
    return {
        "rows": [json.loads(line) for line in lines],
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
        "weights": torch.cat([w.flatten().float()[:50] for w in weights.values()]).tolist(),
    }


class Watched(PST):
    """`pst` that fails unless all processes hold the same network and momentum, to the bit."""

    def start(self, fit: loop.Fit) -> None:
        super().start(fit)
        self._fit = fit

    def after_step(self) -> None:
        self._check()  # before the measurement, and
        super().after_step()  # after what may have been a roll-back
        self._check()

    def _check(self) -> None:
        check_same(self._fit.model.state_dict())
        states = self._fit.optimizer.state_dict()["state"]
        check_same({str(k): v["momentum_buffer"] for k, v in states.items() if "momentum_buffer" in v})


def check_same(tensors: Mapping[str, torch.Tensor]) -> None:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    if distributed.world_size() > 1:
        digests: list[Any] = [None] * distributed.world_size()
        dist.all_gather_object(digests, digest.hexdigest())
        assert len(set(digests)) == 1


def collectives() -> dict[str, Any]:
    """What the helpers return in the main process, for arguments whose sums do not depend on their number."""
    rows = torch.arange(3.0 * ROWS).view(ROWS, 3)
    own = distributed.shard().of(ROWS)
    gathered = distributed.gather_rows(rows[own], ROWS)
    assert (gathered is None) == (not distributed.is_main())
    mean = [torch.full((2, 2), float(distributed.rank())), torch.full((3,), 5.0)]
    distributed.average_(mean)
    assert mean[0].unique().tolist() == [(distributed.world_size() - 1) / 2]
    codes = DeviceBank((ROWS, 2, 2, 3), 8 / 255, CPU)
    codes.scatter_(torch.arange(ROWS)[own], torch.full((own.stop - own.start, 3, 2, 2), own.start / 255))
    codes.end_round([Shard(rank, distributed.world_size()).of(ROWS) for rank in range(2)])
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise InputError("refused by the main process")

    try:
        distributed.on_main(refuse)
    except InputError as error:
        words = str(error)
    assert len(calls) == int(distributed.is_main())
    return {
        "gathered": None if gathered is None else gathered.tolist(),
        "sum": distributed.sum_(rows[own].sum()).item(),
        "mean": mean[1].tolist(),
        "broadcast": distributed.broadcast(7 if distributed.is_main() else None),
        "refused": words,
        "complete": codes.codes[:, 0, 0, 0].tolist() == [0, 0, 0, 0, *[64] * 3],
    }


if __name__ == "__main__":
    with distributed.started():
        assert distributed.world_size() == 2
        found = results(Path(sys.argv[1]))
        if distributed.is_main():
            (Path(sys.argv[1]) / "results.json").write_text(json.dumps(found))
