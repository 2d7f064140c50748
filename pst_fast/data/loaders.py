"""Batches of a ``.beton`` file: the same ones in the same order, whichever kind of loader reads them.

``device``: the whole set is a tensor on the device; the fastest where it fits. ``ffcv``: FFCV's compiled
reader on all cores. ``torch``: the memory-mapped file read by threads, for where FFCV is not installed.
"""

import importlib.util
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pst_fast.data.beton import Beton, read_beton
from pst_fast.data.crops import Crops
from pst_fast.data.decode import cores
from pst_fast.data.types import Batch, Loader, epoch_order
from pst_fast.distributed import WHOLE, Shard, local_world_size
from pst_fast.errors import InputError

Kind = Literal["auto", "device", "ffcv", "torch"]

DEVICE_LIMIT_BYTES = 4_000_000_000
DEVICE_LIMIT_FRACTION = 0.25
_GATHER_THREADS = 4
_BATCHES_AHEAD = 3


def make_loader(
    path: Path,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
    drop_last: bool,
    device: torch.device,
    kind: Kind = "auto",
    num_workers: int | None = None,
    rows: np.ndarray | None = None,
    shard: Shard = WHOLE,
    crops: Crops | None = None,
) -> Loader:
    """A loader of batches on ``device``.

    Args:
        path: A ``.beton`` file of images of one size.
        batch_size: Images a batch; the last of an epoch may have fewer, unless ``drop_last``.
        seed: With the epoch, fixes the order: see :func:`~pst_fast.data.types.epoch_order`.
        shuffle: Whether to; otherwise each epoch follows the file.
        drop_last: Whether to leave out a last batch that is not full.
        device: Where the batches shall be.
        kind: ``auto`` takes ``device`` where the set fits (under 4 GB and a quarter of the device's free
            memory), else ``ffcv`` where it is installed, else ``torch``.
        num_workers: Threads that read; None: one a core for FFCV, at most 4 for torch; of the cores that this
            machine has for each process of the run.
        rows: int64 [N], the rows of the file to read; None: all.
        shard: The part of each batch that this loader gives; in a short last batch it may be empty.
        crops: Random resized crops, which FFCV cuts while it reads: its batches are ``cropped`` then, those
            of the other kinds have whole images all the same.

    Raises:
        InputError: The file is not sound, FFCV is asked for and missing, or a number is out of range.
    """
    beton = read_beton(path)
    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"num_workers: expected at least 1, got {num_workers}")
    if kind == "auto":
        kind = _choose(beton, device)
    rows = np.arange(len(beton)) if rows is None else rows
    order = Order(rows, batch_size, seed, shuffle, drop_last, shard)
    if kind == "device":
        return DeviceLoader(beton, order, device)
    if kind == "torch":
        return TorchLoader(beton, order, device, num_workers)
    if kind == "ffcv":
        from pst_fast.data.ffcv_loader import FFCVLoader

        return FFCVLoader(beton, order, device, num_workers, crops)
    raise InputError(f"loader: expected one of auto, device, ffcv, torch, got {kind!r}")


class Order:
    """Which rows make up which batch: the one thing that all loaders share.

    Args:
        rows: int64 [N], those of the file that are read.
        batch_size: Rows a batch.
        seed: Of the shuffling.
        shuffle: Whether to.
        drop_last: Whether to leave out a last batch that is not full.
        shard: The part of each batch that is read here.

    Attributes:
        num_samples: Rows in an epoch, of all shards.
        batch_size: Rows a batch, of all shards.
        own_batch_size: Rows of this shard in a batch; only the last may have fewer.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        shard: Shard = WHOLE,
    ) -> None:
        self.num_samples = len(rows)
        self.batch_size = batch_size
        self.drop_last = drop_last
        own = shard.of(min(batch_size, len(rows)))
        self.own_batch_size = own.stop - own.start
        self._shard = shard
        self._rows = rows
        self._seed = seed
        self._shuffle = shuffle

    def __len__(self) -> int:
        if self.drop_last:
            return self.num_samples // self.batch_size
        return -(-self.num_samples // self.batch_size)

    def rows(self, epoch: int) -> np.ndarray:
        """int64: every row that is read, in the order of an epoch."""
        return np.concatenate([*self.batches(epoch), np.empty(0, np.int64)])

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """The rows, int64, of each batch of an epoch."""
        rows = self._rows
        if self._shuffle:
            rows = rows[epoch_order(self.num_samples, self._seed, epoch)]
        for batch in range(len(self)):
            whole = rows[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.place(batch)]

    def place(self, batch: int) -> slice:
        """Where in a batch of an epoch this shard's rows lie."""
        return self._shard.of(min(self.batch_size, self.num_samples - batch * self.batch_size))


class DeviceLoader:
    """The whole set as uint8 on the device; a batch is one gather."""

    cropped = False

    def __init__(self, beton: Beton, order: Order, device: torch.device) -> None:
        self.num_samples = order.num_samples
        self.batch_size = order.batch_size
        self._order = order
        self._device = device
        self._images = torch.from_numpy(beton.load_all()).to(device)
        self._labels = torch.from_numpy(beton.labels).to(device)
        self._index = torch.from_numpy(beton.index).to(device)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See :class:`~pst_fast.data.types.Loader`."""
        sizes = [len(rows) for rows in self._order.batches(epoch)]
        for rows in torch.from_numpy(self._order.rows(epoch)).to(self._device).split(sizes):
            yield Batch(self._gather(rows), self._labels[rows], self._index[rows])

    def _gather(self, rows: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            # One thread that copies beats torch's parallel gather, which waits for the slowest of its
            # threads while others compute on the same cores.
            return torch.from_numpy(np.take(self._images.numpy(), rows.numpy(), axis=0))
        return self._images[rows]


class TorchLoader:
    """Threads gather the next batches from the memory-mapped file."""

    cropped = False

    def __init__(
        self, beton: Beton, order: Order, device: torch.device, num_workers: int | None = None
    ) -> None:
        beton.shape  # noqa: B018 - refuses images of several sizes here, not in a thread
        self.num_samples = order.num_samples
        self.batch_size = order.batch_size
        self._beton = beton
        self._order = order
        self._device = device
        self._num_workers = num_workers or min(_GATHER_THREADS, own_cores())

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See :class:`~pst_fast.data.types.Loader`."""
        return on_device(self._gathered(epoch), self._device)

    def _gathered(self, epoch: int) -> Generator[Batch, None, None]:
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._num_workers, "pst_fast-gather") as pool:
            try:
                for rows in self._order.batches(epoch):
                    pending.append(pool.submit(self._gather, rows))
                    if len(pending) >= self._num_workers + _BATCHES_AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _gather(self, rows: np.ndarray) -> Batch:
        images = torch.from_numpy(self._beton.gather(rows))
        if self._device.type == "cuda":
            # Only from page-locked memory does the copy overlap with computation.
            images = images.pin_memory()
        labels, index = self._beton.labels[rows], self._beton.index[rows]
        return Batch(images, torch.from_numpy(labels), torch.from_numpy(index))


def on_device(batches: Generator[Batch, None, None], device: torch.device) -> Iterator[Batch]:
    """Copy batches to ``device``, beside what it is computing.

    A batch has been copied whole before the next one is asked for, so that its memory may be used again then.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    with closing(batches):
        for batch in batches:
            if stream is None:
                yield Batch(batch.images.to(device), batch.labels.to(device), batch.index.to(device))
                continue
            with torch.cuda.stream(stream):
                copies = [x.to(device, non_blocking=True) for x in (batch.images, batch.labels, batch.index)]
            # Waits for this copy alone: the kernels queued on the computing stream go on meanwhile.
            stream.synchronize()
            for copy in copies:
                copy.record_stream(torch.cuda.current_stream(device))
            yield Batch(*copies)


def own_cores() -> int:
    """This process's part of the cores."""
    return max(1, cores() // local_world_size())


def ffcv_installed() -> bool:
    """Whether FFCV is there to be imported."""
    return importlib.util.find_spec("ffcv") is not None


def _choose(beton: Beton, device: torch.device) -> Kind:
    height, width = beton.shape
    size = len(beton) * height * width * 3
    free = free_memory(device)
    if device.type != "cuda":
        free //= local_world_size()  # each of the processes has a copy
    if size <= DEVICE_LIMIT_BYTES and size <= DEVICE_LIMIT_FRACTION * free:
        return "device"
    if ffcv_installed():
        return "ffcv"
    _warn_without_ffcv()
    return "torch"


@cache
def _warn_without_ffcv() -> None:
    warnings.warn(
        "FFCV is not installed: a data set that does not fit the device's memory is read by plain torch "
        "threads, which need more time for large images (pip install 'pst_fast[ffcv]' adds it).",
        stacklevel=4,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, or in main memory for any other."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        # A container may be allowed less than the machine has.
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=DEVICE_LIMIT_BYTES)
