"""--dry-run: counts by hand, room that there is not, a calibration that leaves nothing behind."""

import collections
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pst_fast import run as command
from pst_fast.cli.cost import room
from pst_fast.cli.cost.calibrate import Calibration, _Enough, _Stopwatch
from pst_fast.cli.cost.forecast import finish_time, forecast
from pst_fast.cli.cost.room import check_room, disk_needed, in_words, memory_needed
from pst_fast.cli.cost.sizes import DataSize, RunSize, data_size, network_size
from pst_fast.cli.pipeline import run
from pst_fast.cli.stages import output_of, tasks_to_do
from pst_fast.cli.tasks import Task, graph
from pst_fast.data.beton import beton_bytes, write_beton
from pst_fast.defenses.base import DEFENSES, Defense, Purification
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest
from tests.cli.stages import Stages, plan_for, quiet

DATA = DataSize(train=(30, 30, 25), test=(10, 10, 10), image_size=32)
Usage = collections.namedtuple("Usage", "total used free")


def size_for(out: Path, data: DataSize = DATA, **flags: Any) -> RunSize:
    return RunSize(plan_for(out, width=8, **flags), data)


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


# What is counted


@pytest.mark.parametrize(("batch", "steps"), [(40, 2), (85, 1), (86, 1), (2, 42)])
def test_steps_of_an_epoch(batch: int, steps: int, tmp_path: Path) -> None:
    assert size_for(tmp_path, batch_size=batch).steps("erm") == steps


def test_held_out_images_are_not_learned_from(tmp_path: Path) -> None:
    # a tenth of 30, 30 and 25 images, rounded to even: 3, 3 and 2, which leaves 77
    assert size_for(tmp_path, batch_size=11).steps("early-stop") == 7
    assert size_for(tmp_path, batch_size=11).steps("erm") == 7
    assert size_for(tmp_path, batch_size=39).steps("early-stop") == 1
    assert size_for(tmp_path, batch_size=39).steps("erm") == 2


def test_probes_are_as_the_trainer_takes_them() -> None:
    assert DATA.probes == 85
    assert DataSize((500, 500), (1, 1), 8).probes == 700
    assert DataSize((1,) * 1000, (1,) * 1000, 8).probes == 1000


def test_a_convolution_is_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, **options: Any) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1, bias=False),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * 64, 5),
        )

    monkeypatch.setattr("pst_fast.cli.cost.sizes.create_model", small)
    network = network_size.__wrapped__("small", 8, 5, 8)
    convolution, linear = 2 * 64 * 4 * 27, 2 * 256 * 5
    assert network.parameters == 4 * 27 + 256 * 5 + 5
    assert network.state_bytes == 4 * network.parameters
    assert network.forward_flops == convolution + linear
    # backward: both gradients of the linear layer, and of the convolution that of the weights alone
    assert network.training_flops == 2 * convolution + 3 * linear
    assert network.largest_bytes == 4 * 256
    # the image for the convolution; its rectified output for the ReLU, which the linear layer shares
    assert network.saved_bytes == 4 * (3 * 64 + 256)


def test_flops_of_a_training(tmp_path: Path) -> None:
    size = size_for(tmp_path, batch_size=40, epochs=3)
    network = size.network
    looks = 30 + 85
    by_hand = 3 * (2 * 40 * network.training_flops + looks * network.forward_flops)
    assert size.training_flops("erm") == by_hand


@pytest.mark.parametrize(("count", "side"), [(1, 8), (700, 32), (2730, 16), (2731, 16), (40, 224)])
def test_a_beton_file_is_as_large_as_said(count: int, side: int, tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    write_beton(path, np.zeros((count, side, side, 3), np.uint8), np.zeros(count), np.arange(count))
    assert path.stat().st_size == beton_bytes(count, side)


def test_the_disk_of_a_run(tmp_path: Path) -> None:
    size = size_for(tmp_path, attacks=("lsp", "ops"), defenses=("erm", "pst"), seeds=("0", "1"))
    tasks = {task.label: task for task in graph(size.plan)[0]}
    image = 3 * 32 * 32
    assert size.disk_bytes(tasks["prepare"]) == {"prepare": beton_bytes(85, 32) + beton_bytes(30, 32)}
    assert size.disk_bytes(tasks["lsp seed 0"]) == {"craft": 85 * image, "apply": beton_bytes(85, 32)}
    assert size.disk_bytes(tasks["ops seed 0"])["craft"] == 2 * 85 * image, "two bytes a value"
    assert size.disk_bytes(tasks["lsp/pst seed 0"]) == {"train": size.network.state_bytes}
    one = size.network.state_bytes + 4 * size.network.parameters
    lasting = [sum(size.disk_bytes(task).values()) for task in tasks.values()]
    assert disk_needed(size, list(tasks.values())) == sum(lasting) + 4 * one, "3 snapshots of pst"
    wide = dataclasses.replace(size, plan=dataclasses.replace(size.plan, workers=2))
    assert disk_needed(wide, list(tasks.values())) == sum(lasting) + 2 * 4 * one


def test_the_size_of_the_data_is_that_of_the_source_or_of_what_is_prepared(
    tmp_path: Path, stages: Stages
) -> None:
    plan = plan_for(tmp_path / "out", train_per_class=3, test_per_class=2, num_classes=4)
    assert data_size(plan, prepared=False) == DataSize((3,) * 4, (2,) * 4, 32)
    run(plan, quiet())
    assert data_size(plan, prepared=True) == DataSize((2, 2), (1, 1), 8), "of the stand-in"


def test_nothing_is_fetched_for_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--dataset",
        "cifar10",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    assert command.main([*arguments, "--width", "8"]) == 2
    assert "--dry-run: expected the files of cifar10" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_what_is_there_already_is_told_apart(tmp_path: Path, stages: Stages) -> None:
    plan = plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst"))
    assert [task.label for task in tasks_to_do(plan)[0]] == []
    run(plan, quiet())
    shutil.rmtree(tmp_path / "train/lsp/pst-seed0")
    before = tree(tmp_path)
    assert [task.label for task in tasks_to_do(plan)[1]] == ["lsp/pst seed 0"]
    shutil.rmtree(tmp_path / "clean")
    assert len(tasks_to_do(plan)[1]) == 5, "without what it needs nothing is finished"
    assert [path for path in before if "/clean" not in path] == tree(tmp_path)


@pytest.mark.parametrize(
    ("workers", "end"),
    # two workers: the baseline to 10; lsp to 6, erm to 14; pst from 10 to 17. Three: pst from 6 to 13
    [(1, 30.0), (2, 17.0), (3, 14.0), (9, 14.0)],
)
def test_when_all_is_done(workers: int, end: float, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, attacks=("lsp",), defenses=("erm", "pst"))
    tasks = graph(plan)[0]  # prepare, the baseline, lsp, and its two cells
    seconds = dict(zip(tasks, (1.0, 9.0, 5.0, 8.0, 7.0), strict=True))
    assert finish_time(tasks, seconds, workers) == end
    assert finish_time(tasks[3:], {task: seconds[task] for task in tasks[3:]}, 1) == 15.0


# Room


def test_too_small_a_disk_is_refused_before_any_work(
    tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(tmp_path, width=8)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
    with pytest.raises(InputError, match=r"of free disk.*got 1 MB; a smaller --train-per-class"):
        run(plan, quiet())
    assert stages.built == []
    needed = disk_needed(RunSize(plan, DataSize((200,) * 10, (100,) * 10, 32)), graph(plan)[0])
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    assert run(plan, quiet())


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        ({"attacks": ("none",)}, r"none/erm seed 0: .*--batch-size of less than 40"),
        ({"attacks": ("none",), "workers": 3}, r"3 at a time, .*fewer --workers than 3"),
    ],
)
def test_too_little_memory_names_the_setting(
    flags: dict[str, Any], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = size_for(tmp_path, batch_size=40, **flags)
    train = graph(size.plan)[0][1]
    needed = memory_needed(size, train) * (size.plan.workers or 1)
    monkeypatch.setattr(room, "free_memory", lambda device: needed)
    check_room(size, [train])
    monkeypatch.setattr(room, "free_memory", lambda device: needed - 1)
    with pytest.raises(InputError, match=remedy):
        check_room(size, [train])


def test_images_that_do_not_fit_name_the_loader_or_the_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = DataSize((10**6,), (10,), 224)
    monkeypatch.setattr(room, "free_memory", lambda device: 8 * 10**9)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(0, 0, 10**15))
    held = size_for(tmp_path, large, loader="device")
    prepare, train = graph(held.plan)[0][:2]
    with pytest.raises(InputError, match="--loader ffcv or torch"):
        check_room(dataclasses.replace(held, data=large), [train])
    check_room(size_for(tmp_path, large, loader="auto", batch_size=2), [prepare, train])
    with pytest.raises(InputError, match=r"file seed 0: .*--train-per-class or --image-size"):
        check_room(held, [Task("poison", "file")])


def test_bytes_in_words() -> None:
    assert [in_words(count) for count in (0, 999, 1500, 3_200_000, 7_250_000_000)] == [
        "0 bytes", "999 bytes", "1.5 kB", "3.2 MB", "7.25 GB",
    ]  # fmt: skip


# The calibration


def test_the_pace_is_that_between_the_first_report_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    watch = _Stopwatch(8.0)
    with pytest.raises(_Enough):
        for now, fraction in ((3.0, 0.0), (4.0, 0.05), (9.0, 0.1)):  # noqa: B007
            watch(fraction, "")
    assert watch.whole() == pytest.approx(3.0 + 60.0)


def test_a_plan_is_printed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pst_fast.cli.cost.calibrate.TRAINING_SECONDS", 0.1)
    out = tmp_path / "deep" / "out"
    arguments = [
        "--attacks", "lsp", "--defenses", "erm,pst", "--epochs", "3", "--train-per-class", "8",
        "--test-per-class", "2", "--batch-size", "20", "--width", "8", "--device", "cpu", "--out", str(out),
    ]  # fmt: skip
    assert command.main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert tree(tmp_path) == []
    line = next(line for line in shown.splitlines() if line.startswith("train lsp/pst seed 0"))
    assert line.split("│")[1].strip() == "12"
    assert "to do: 5 tasks (0 are there already)" in shown
    assert "80 training and 20 test images of 32x32, 10 classes" in shown
    assert "time: " in shown


def test_steps_of_other_defenses_are_counted_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pst_fast.cli.cost.calibrate.TRAINING_SECONDS", 0.1)
    size = RunSize(
        plan_for(tmp_path, width=8, batch_size=10, epochs=2, amp="off"), DataSize((4,) * 10, (2,) * 10, 32)
    )
    calibration = Calibration(size)
    plain, adversarial = (calibration.training(name) for name in ("erm", "at"))
    assert plain.flops_per_step == pytest.approx(10 * size.network.training_flops, rel=1e-6)
    # ten steps of PGD more: forward, and backward without the weights' gradients
    assert 5 < adversarial.flops_per_step / plain.flops_per_step < 9
    assert plain.seconds > 0 and adversarial.seconds > 0


class _Sleeping(Defense):
    """Two seconds of a purification, of which it reports every fortieth."""

    summary = "sleeps"
    reports = 0

    def purify(self, task: Purification) -> list[np.ndarray]:
        for number in range(40):
            _Sleeping.reports += 1
            task.progress(number / 40, "")
            time.sleep(0.05)
        return []


def test_a_purification_is_begun_and_taken_from_its_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pst_fast.cli.cost.calibrate.CRAFTING_SECONDS", 0.2)
    monkeypatch.setattr("pst_fast.cli.cost.calibrate.TRAINING_SECONDS", 0.1)
    plan = plan_for(tmp_path, width=8, batch_size=10, epochs=1, amp="off")
    calibration = Calibration(RunSize(plan, DataSize((4,) * 10, (2,) * 10, 32)))
    with DEFENSES.extended({"sleeping": _Sleeping}):
        assert calibration.training("sleeping").seconds > 1.9
    assert 2 <= _Sleeping.reports < 40, "it is not slept through"


def test_what_is_purified_is_on_disk_twice_for_a_while(tmp_path: Path) -> None:
    size = size_for(tmp_path)
    plain, purified = (size.working_bytes(Task("train", "lsp", name, 0)) for name in ("erm", "d-vae"))
    assert purified - plain == 2 * beton_bytes(size.images, size.data.image_size)


@pytest.mark.slow
def test_the_forecast_is_near_the_run(tmp_path: Path) -> None:
    plan = plan_for(
        tmp_path, attacks=("lsp",), defenses=("erm", "pst-plus"), epochs=6, width=16, train_per_class=100
    )
    known = forecast(plan, quiet())
    assert tree(tmp_path) == []
    run(plan, quiet())
    real = sum(
        read_manifest(folder)["seconds"]
        for task in graph(plan)[0]
        for folder in (output_of(plan, task), *_bank(plan, task))
    )
    assert 0.5 < known.total / real < 2, "loose: the machine may be busy with something else"


def _bank(plan: Any, task: Task) -> tuple[Path, ...]:
    return (output_of(plan, task).with_name("bank"),) if task.kind == "poison" else ()
