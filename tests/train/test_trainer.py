"""Training: resumes to the same bits, is steered by nothing clean, and refuses what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.data.loaders import Kind
from pst_fast.defenses.base import DEFENSES
from pst_fast.errors import InputError
from pst_fast.files import sha256
from pst_fast.manifest import read_manifest
from pst_fast.train.loop import Fit
from pst_fast.train.settings import TrainSettings
from pst_fast.train.trainer import probes, train
from tests.train.conftest import make_folder

CPU = torch.device("cpu")


def settings(defense: str = "erm", **changes) -> TrainSettings:
    values = {"model": "resnet10", "width": 8, "epochs": 3, "batch_size": 10, "amp": "off", **changes}
    return TrainSettings(defense=defense, **values)


def run(
    output: Path, data: Path, clean: Path, options: TrainSettings, progress=None, loader: Kind = "auto"
) -> Path:
    return train(
        output, train_data=data, test_data=clean, settings=options, device=CPU, progress=progress,
        loader=loader,
    )  # fmt: skip


def result(folder: Path) -> tuple[str, list[dict]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
    return sha256(folder / "model.pt"), timeless


class Killed(BaseException):
    """Like a signal: nothing catches it."""


@pytest.mark.parametrize("defense", DEFENSES.names())
def test_a_killed_run_goes_on_to_the_same_bits(defense, tmp_path, clean, trapped, monkeypatch):
    monkeypatch.setattr(DEFENSES["d-vae"], "epochs", 2)
    options = settings(defense, learning_rate=0.05)
    unbroken = run(tmp_path / "unbroken", trapped, clean, options)
    for fraction in (0.15, 0.5, 0.9):

        def kill(done: float, words: str, after: float = fraction) -> None:
            if done > after:
                raise Killed

        with pytest.raises(Killed):
            run(tmp_path / "killed", trapped, clean, options, kill)
        assert not (tmp_path / "killed").exists()
    killed = run(tmp_path / "killed", trapped, clean, options)
    assert result(killed) == result(unbroken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "unbroken"]


def test_facts_agree_with_the_metrics_and_a_finished_run_is_not_run_again(tmp_path, clean):
    folder = run(tmp_path / "run", clean, clean, settings())
    facts, (_, rows) = read_manifest(folder)["facts"], result(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert facts["last_accuracy"] == rows[-1]["test_accuracy"]
    assert facts["best_accuracy"] == max(row["test_accuracy"] for row in rows)
    assert facts["stages"] == ["stem", "layer1", "layer2", "layer3", "layer4"] == list(rows[0]["acm"])
    assert facts["peak_memory_bytes"] > 1e7 and facts["images_per_second"] > 0
    before = (folder / "manifest.json").stat().st_mtime_ns
    run(tmp_path / "run", clean, clean, settings())
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_test_labels_steer_nothing(tmp_path, trapped):
    weights = []
    for relabel in (0, 1):
        other = make_folder(tmp_path / f"test{relabel}", relabel=relabel)
        weights.append(result(run(tmp_path / f"run{relabel}", trapped, other, settings("pst")))[0])
    assert weights[0] == weights[1]


def test_pst_slows_stages_on_a_trap(tmp_path, clean, trapped):
    options = settings("pst", epochs=5, learning_rate=0.05)
    facts = read_manifest(run(tmp_path / "run", trapped, clean, options))["facts"]
    assert facts["events"] and {event["kind"] for event in facts["events"]} == {"rollback"}
    _, rows = result(tmp_path / "run")
    assert sum(len(row["events"]) for row in rows) == len(facts["events"])
    assert rows[-1]["levels"]["stem"] > 0


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, clean):
    def kill(done: float, words: str) -> None:
        if done > 0.5:
            raise Killed

    for width in (8, 16):
        with pytest.raises(Killed):
            run(tmp_path / f"w{width}", clean, clean, settings(width=width), kill)
    foreign = tmp_path / "w16.partial" / "training.ckpt"
    (tmp_path / "w8.partial" / "training.ckpt").write_bytes(foreign.read_bytes())
    with pytest.raises(InputError, match=r"training\.ckpt: expected a checkpoint of resnet10 \(width 8\)"):
        run(tmp_path / "w8", clean, clean, settings())


def test_a_file_of_another_data_set_is_refused_before_any_work(tmp_path, clean):
    other = make_folder(tmp_path / "other", classes=5)
    with pytest.raises(InputError, match=r"train\.beton"):
        run(tmp_path / "run", other, clean, settings())
    assert not (tmp_path / "run.partial").exists()


def test_divergence_is_one_sentence(tmp_path, clean):
    with pytest.raises(InputError, match=r"training diverged in epoch .*lower --learning-rate"):
        run(tmp_path / "run", clean, clean, settings(learning_rate=1e30, warmup_epochs=0.0))


def test_learning_rate_by_hand(tmp_path, clean):
    """6 steps an epoch, 3 epochs, one of warm-up: the peak at step 5, half of it halfway down, then zero."""
    rates = []

    class Spy(DEFENSES["erm"]):
        def start(self, fit: Fit) -> None:
            rates.extend(fit.learning_rate(step) for step in range(19))

    DEFENSES._entries["spy"] = Spy
    try:
        run(tmp_path / "run", clean, clean, settings("spy", learning_rate=0.6))
    finally:
        del DEFENSES._entries["spy"]
    assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert rates[12] == pytest.approx(0.3) and rates[18] == pytest.approx(0)


def test_probes_are_the_same_number_of_each_class_and_come_from_the_training_file(trapped):
    batch = probes(trapped / "train.beton", seed=1)
    assert batch.labels.bincount().tolist() == [60, 60, 60]
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (180, 16, 16, 3)
    assert np.array_equal(batch.labels.numpy(), batch.index.numpy() % 3)


def test_batches_smaller_than_a_batch_are_trained_on_too(tmp_path):
    few = make_folder(tmp_path / "few", train=6)
    _, rows = result(run(tmp_path / "run", few, few, settings(batch_size=64, epochs=1)))
    assert rows[0]["images"] == 6


@pytest.mark.slow
def test_the_compiled_network_learns_the_same(tmp_path, clean):
    plain = result(run(tmp_path / "plain", clean, clean, settings(epochs=1)))[1]
    compiled = result(run(tmp_path / "compiled", clean, clean, settings(epochs=1, compile=True)))[1]
    assert compiled[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], rel=0.05)


def test_early_stop_trains_on_nine_tenths_and_reports_its_epoch(tmp_path, clean):
    folder = run(tmp_path / "run", clean, clean, settings("early-stop", epochs=4, learning_rate=0.3))
    facts, rows = read_manifest(folder)["facts"], result(folder)[1]
    held_out = [row["held_out_accuracy"] for row in rows]
    chosen = held_out.index(max(held_out))
    assert facts["last_accuracy"] == rows[chosen]["test_accuracy"]
    assert rows[0]["images"] == 50  # 6 of 60 held out, the last batch of 4 dropped
    assert {"held_out_accuracy"}.isdisjoint(result(run(tmp_path / "erm", clean, clean, settings()))[1][0])
