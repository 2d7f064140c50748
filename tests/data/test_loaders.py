"""The three loaders: the same batches in the same order, and a clear word where one cannot serve."""

import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from pst_fast.data import ffcv_loader, loaders
from pst_fast.data.beton import MIN_PAGE_SIZE, read_beton, write_beton
from pst_fast.data.crops import Crops
from pst_fast.data.decode import cores
from pst_fast.data.ffcv_loader import FFCVLoader
from pst_fast.data.loaders import Kind, Order, make_loader
from pst_fast.data.types import Batch, Loader, epoch_order
from pst_fast.distributed import Shard
from pst_fast.errors import InputError

CPU = torch.device("cpu")
N, SIDE, BATCH = 50, 128, 16  # 48 KB an image: 43 fit on a page of 2 MiB


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
    path = tmp_path_factory.mktemp("loaders") / "x.beton"
    write_beton(path, images, random.integers(0, 9, N), random.permutation(N), page_size=MIN_PAGE_SIZE)
    return path


def _make(path: Path, kind: Kind, **changes: object) -> Loader:
    arguments: dict = {"batch_size": BATCH, "seed": 4, "shuffle": True, "drop_last": False, "device": CPU}
    return make_loader(path, kind=kind, **{**arguments, **changes})


@pytest.fixture(scope="module")
def ffcv(path: Path) -> Loader:
    """One for all tests, since each compiles for seconds."""
    pytest.importorskip("ffcv")
    return _make(path, "ffcv", num_workers=1)


def _copied(loader: Loader, epoch: int) -> list[Batch]:
    return [Batch(b.images.clone(), b.labels.clone(), b.index.clone()) for b in loader.epoch(epoch)]


def _check_epoch(loader: Loader, path: Path, epoch: int) -> None:
    beton = read_beton(path)
    order = epoch_order(N, 4, epoch)
    batches = _copied(loader, epoch)
    assert [len(batch.labels) for batch in batches] == [16, 16, 16, 2]
    assert len(loader) == 4
    assert (loader.num_samples, loader.batch_size) == (N, BATCH)
    for batch in batches:
        assert (batch.images.dtype, batch.labels.dtype, batch.index.dtype) == (
            torch.uint8,
            torch.int64,
            torch.int64,
        )
        assert batch.images.shape[1:] == (SIDE, SIDE, 3)
        assert batch.labels.ndim == batch.index.ndim == 1
    np.testing.assert_array_equal(torch.cat([b.images for b in batches]), beton.load_all()[order])
    np.testing.assert_array_equal(torch.cat([b.labels for b in batches]), beton.labels[order])
    np.testing.assert_array_equal(torch.cat([b.index for b in batches]), beton.index[order])


@pytest.mark.parametrize("kind", ["device", "torch"])
@pytest.mark.parametrize("epoch", [0, 7])
def test_batches_follow_the_epochs_order(path: Path, kind: Kind, epoch: int) -> None:
    _check_epoch(_make(path, kind), path, epoch)


def _check_shards(path: Path, kind: Kind) -> None:
    """Batches of 16, 16, 16 and 2 in three parts, of which the third has nothing of the last one."""
    whole = _copied(_make(path, "torch"), 5)
    shards = [_make(path, kind, shard=Shard(rank, 3), num_workers=1) for rank in range(3)]
    assert {(len(s), s.num_samples, s.batch_size) for s in shards} == {(4, N, BATCH)}
    parts = [_copied(shard, 5) for shard in shards]
    assert [[len(b.labels) for b in part] for part in parts] == [[6, 6, 6, 1], [5, 5, 5, 1], [5, 5, 5, 0]]
    for batch, *some in zip(whole, *parts, strict=True):
        for name in ("images", "labels", "index"):
            assert torch.equal(torch.cat([getattr(b, name) for b in some]), getattr(batch, name))


@pytest.mark.parametrize("kind", ["device", "torch"])
def test_the_shards_of_a_batch_are_the_batch(path: Path, kind: Kind) -> None:
    _check_shards(path, kind)


@pytest.mark.slow
def test_the_shards_that_ffcv_reads_are_the_batch(path: Path) -> None:
    pytest.importorskip("ffcv")
    _check_shards(path, "ffcv")


def test_ffcv_batches_follow_the_same_order_in_any_sequence_of_epochs(path: Path, ffcv: Loader) -> None:
    for epoch in (7, 0, 0):
        _check_epoch(ffcv, path, epoch)


def test_ffcv_leaves_torch_its_threads(path: Path, ffcv: Loader) -> None:
    torch.set_num_threads(2)
    _make(path, "ffcv", num_workers=1)
    assert torch.get_num_threads() == 2
    assert len(_copied(ffcv, 0)) == 4
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_importing_ffcv_leaves_torch_its_threads(path: Path) -> None:
    """Importing FFCV sets them to one, so that a process of its own is needed to see it."""
    pytest.importorskip("ffcv")
    code = f"""
import torch
from pathlib import Path
from pst_fast.data.loaders import make_loader
torch.set_num_threads(2)
loader = make_loader(
    Path({str(path)!r}), batch_size=25, seed=0, shuffle=True, drop_last=True,
    device=torch.device("cpu"), kind="ffcv", num_workers=1,
)
assert torch.get_num_threads() == 2, "set by importing"
assert len(list(loader.epoch(0))) == 2
assert torch.get_num_threads() == 2, "set by reading"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_epoch_of_ffcv_that_is_left_early_leaves_no_thread(path: Path, ffcv: Loader) -> None:
    before = threading.active_count()
    for taken in (0, 1, 4):
        batches = ffcv.epoch(1)
        for _ in range(taken):
            next(batches)
        batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    _check_epoch(ffcv, path, 2)


def test_a_failure_in_ffcvs_thread_is_raised(
    ffcv: FFCVLoader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ffcv_loader, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    _, outputs = ffcv._loader_of(None).code

    def broken(**arguments: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(ffcv._loader_of(None), "code", ([(broken, [])], outputs))
    with pytest.raises(RuntimeError, match="FFCV's reading thread failed"):
        list(ffcv.epoch(0))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"shuffle": False}, {"drop_last": True}, {"batch_size": 80}])
def test_all_kinds_agree(path: Path, changes: dict) -> None:
    pytest.importorskip("ffcv")
    kinds = [_make(path, kind, **changes) for kind in ("device", "torch", "ffcv")]
    assert len({len(loader) for loader in kinds}) == 1
    for batches in zip(*(_copied(loader, 3) for loader in kinds), strict=True):
        for batch in batches[1:]:
            assert torch.equal(batch.images, batches[0].images)
            assert torch.equal(batch.labels, batches[0].labels)
            assert torch.equal(batch.index, batches[0].index)


@pytest.mark.parametrize("kind", ["device", "torch"])
def test_without_shuffling_batches_follow_the_file(path: Path, kind: Kind) -> None:
    loader = _make(path, kind, shuffle=False)
    for epoch in (0, 1):
        index = torch.cat([batch.index for batch in loader.epoch(epoch)])
        np.testing.assert_array_equal(index, read_beton(path).index)


@pytest.mark.parametrize("kind", ["device", "torch"])
def test_drop_last(path: Path, kind: Kind) -> None:
    loader = _make(path, kind, drop_last=True)
    assert [len(batch.labels) for batch in loader.epoch(0)] == [16, 16, 16]
    assert len(loader) == 3
    assert list(_make(path, kind, drop_last=True, batch_size=51).epoch(0)) == []


def test_a_batch_can_be_written_to_without_touching_the_set(path: Path) -> None:
    for kind in ("device", "torch"):
        loader = _make(path, kind)
        for batch in loader.epoch(0):
            batch.images.zero_()
        _check_epoch(loader, path, 1)


def test_an_epoch_of_the_torch_loader_that_is_left_early_leaves_no_thread(path: Path) -> None:
    before = threading.active_count()
    batches = _make(path, "torch", batch_size=1).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_torch_loader_reads_ahead_but_not_far(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _make(path, "torch", batch_size=1, num_workers=2)
    gathered = []
    gather = loader._gather  # type: ignore[attr-defined]
    monkeypatch.setattr(loader, "_gather", lambda rows: gathered.append(rows) or gather(rows))
    batches = loader.epoch(0)
    next(batches)
    time.sleep(0.1)
    assert 2 <= len(gathered) <= 6


def test_auto_takes_the_device_where_the_set_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = N * SIDE * SIDE * 3
    monkeypatch.setattr(loaders, "free_memory", lambda device: 4 * size)
    assert isinstance(_make(path, "auto"), loaders.DeviceLoader)
    monkeypatch.setattr(loaders, "free_memory", lambda device: 4 * size - 4)
    monkeypatch.setattr(loaders, "ffcv_installed", lambda: False)
    loaders._warn_without_ffcv.cache_clear()
    with pytest.warns(UserWarning, match="FFCV is not installed: .* more time"):
        assert isinstance(_make(path, "auto"), loaders.TorchLoader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        _make(path, "auto")
    monkeypatch.setattr(loaders, "free_memory", lambda device: 1 << 60)
    monkeypatch.setattr(loaders, "DEVICE_LIMIT_BYTES", size - 1)
    assert isinstance(_make(path, "auto"), loaders.TorchLoader)


def test_auto_takes_ffcv_where_the_set_does_not_fit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ffcv")
    monkeypatch.setattr(loaders, "free_memory", lambda device: 0)
    assert isinstance(_make(path, "auto"), FFCVLoader)


def test_ffcv_that_is_missing_says_how_to_install_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ffcv.loader", None)
    monkeypatch.setitem(sys.modules, "ffcv.fields.decoders", None)
    with pytest.raises(InputError, match=r"pip install 'pst_fast\[ffcv\]'"):
        _make(path, "ffcv")


def test_images_of_several_sizes_are_refused_by_every_kind(tmp_path: Path) -> None:
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    write_beton(tmp_path / "x", images, np.zeros(2), np.arange(2))
    for kind in get_args(Kind):
        with pytest.raises(InputError, match="images of one size"):
            _make(tmp_path / "x", kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"num_workers": 0}, "num_workers: expected at least 1, got 0"),
        ({"kind": "dali"}, "expected one of auto, device, ffcv, torch, got 'dali'"),
    ],
)
def test_bad_arguments(path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _make(path, **{"kind": "torch", **changes})


def test_free_memory_is_positive_and_below_the_machines() -> None:
    assert 0 < loaders.free_memory(CPU) < 1 << 50


@pytest.mark.slow
def test_random_resized_crops_cut_from_the_images(tmp_path: Path) -> None:
    """Each image has one colour, and its crops that colour too."""
    pytest.importorskip("ffcv")
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (40, 3), np.uint8)
    images = [np.broadcast_to(c, (*random.integers(20, 90, 2), 3)) for c in colours]
    write_beton(tmp_path / "x", images, np.zeros(40), np.arange(40))
    order = Order(np.arange(40), 16, seed=0, shuffle=True, drop_last=False)
    loader = FFCVLoader(read_beton(tmp_path / "x"), order, CPU, cores(), crops=Crops(0, (32, 32)))
    for epoch in (0, 1):
        batches = _copied(loader, epoch)
        index = torch.cat([batch.index for batch in batches])
        np.testing.assert_array_equal(index, epoch_order(40, 0, epoch))
        crops = torch.cat([batch.images for batch in batches])
        assert crops.shape == (40, 32, 32, 3)
        expected = torch.from_numpy(colours)[index][:, None, None].expand_as(crops)
        assert torch.equal(crops, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["device", "torch", "ffcv"])
def test_batches_on_cuda_are_right_while_the_device_is_busy(path: Path, kind: Kind) -> None:
    """The host runs ahead of the device here: a buffer that is used again too early would show."""
    if kind == "ffcv":
        pytest.importorskip("ffcv")
    device = torch.device("cuda")
    images = torch.from_numpy(read_beton(path).load_all()).to(device)
    loader = _make(path, kind, device=device, batch_size=4)
    busy = torch.randn(4096, 4096, device=device)
    for epoch in range(5):
        order = torch.from_numpy(epoch_order(N, 4, epoch)).to(device)
        wrong = torch.zeros((), dtype=torch.int64, device=device)
        for number, batch in enumerate(loader.epoch(epoch)):
            for _ in range(3):
                busy = (busy @ busy).sign()
            wrong += (batch.images != images[order[4 * number : 4 * number + 4]]).sum()
        assert wrong.item() == 0
