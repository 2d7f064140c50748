"""Reading a ``.beton`` file through FFCV (Leclerc et al., arXiv 2306.12517).

FFCV is not maintained; everything that knows its ways is in this file:

- More threads than cores make its compiler raise, so they are capped.
- Importing it sets torch's threads to one, and loaders set them again, which is put back each time.
- A batch's buffers are written again once the next batch has been taken.
- Its reading thread never ends when an epoch is left early, and a failure in it leaves the reader waiting
  forever: epochs are closed here, and the thread is watched.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

import numpy as np
import torch

from pst_fast.data.beton import Beton
from pst_fast.data.decode import cores
from pst_fast.data.loaders import Order, on_device, own_cores
from pst_fast.data.types import Batch
from pst_fast.errors import InputError

_POLL_SECONDS = 1.0


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class FFCVLoader:
    """See :class:`~pst_fast.data.types.Loader`. The first epoch of a process compiles for some seconds.

    Args:
        beton: The file, of images of one size unless they are cropped.
        order: Shared by all loaders.
        device: Where the batches shall be.
        num_workers: Threads; None: one a core.
        random_resized_crop: Side in pixels of random crops (of 8 % to 100 % of the area, aspect ratio 3/4 to
            4/3) that the images are decoded to. FFCV draws these from a state of its own: unlike the order,
            they are not reproducible.
    """

    def __init__(
        self,
        beton: Beton,
        order: Order,
        device: torch.device,
        num_workers: int | None = None,
        random_resized_crop: int | None = None,
    ) -> None:
        side = random_resized_crop
        # Images of several sizes are refused here in words of ours.
        self._shape = beton.shape if side is None else (side, side)
        self.num_samples = order.num_samples
        self.batch_size = order.batch_size
        self._order = order
        self._device = device
        self._loader = _ffcv_loader(
            beton, order, min(num_workers or own_cores(), cores()), random_resized_crop
        )

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See :class:`~pst_fast.data.types.Loader`."""
        return on_device(self._read(epoch), self._device)

    def _read(self, epoch: int) -> Generator[Batch, None, None]:
        batches, own = len(self._order), len(self._order.rows(epoch))
        filled = -(-own // max(1, self._order.own_batch_size))
        if filled:
            yield from self._read_filled(epoch, filled)
        for _ in range(filled, batches):  # of which other shards have the few rows
            images = torch.empty(0, *self._shape, 3, dtype=torch.uint8)
            yield Batch(images, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))

    def _read_filled(self, epoch: int, batches: int) -> Generator[Batch, None, None]:
        with _torch_threads_kept():
            self._loader.next_epoch = epoch
            reader = iter(self._loader)
        try:
            # The reader's thread sets torch's threads too, at some moment before the first batch.
            with _torch_threads_kept():
                tensors = _next(reader)
            for remaining in reversed(range(batches)):
                images, labels, index = tensors
                yield Batch(images, labels[:, 0], index[:, 0])
                if remaining:
                    tensors = _next(reader)
        finally:
            _close(reader)


@_torch_threads_kept()
def _ffcv_loader(beton: Beton, order: Order, num_workers: int, crop: int | None) -> Any:
    try:
        from ffcv.fields.decoders import (
            IntDecoder,
            RandomResizedCropRGBImageDecoder,
            SimpleRGBImageDecoder,
        )
        from ffcv.loader import Loader
        from ffcv.transforms import ToTensor
        from ffcv.traversal_order.base import TraversalOrder
    except ImportError as error:
        raise InputError(
            f"loader: expected FFCV for the kind 'ffcv', got '{error}': install it with "
            f"pip install 'pst_fast[ffcv]' (after apt-get install libopencv-dev libturbojpeg0-dev pkg-config)"
        ) from error

    class EpochOrder(TraversalOrder):
        """Hands FFCV the order that the other loaders use."""

        def __init__(self) -> None:
            # FFCV calls an instance where it calls its own classes, to hand over the loader: see __call__.
            pass

        def __call__(self, loader: Any) -> "EpochOrder":
            return self

        def sample_order(self, epoch: int) -> np.ndarray:
            return order.rows(epoch)

    decoder = SimpleRGBImageDecoder() if crop is None else RandomResizedCropRGBImageDecoder((crop, crop))
    return Loader(
        os.fspath(beton.path),
        batch_size=max(1, order.own_batch_size),
        num_workers=num_workers,
        order=EpochOrder(),
        drop_last=False,  # the order has left it out
        pipelines={
            "image": [decoder, ToTensor()],
            "label": [IntDecoder(), ToTensor()],
            "index": [IntDecoder(), ToTensor()],
        },
    )


def _next(reader: Any) -> tuple[torch.Tensor, ...]:
    while True:
        try:
            _, tensors = reader.output_queue.get(timeout=_POLL_SECONDS)
            return tensors
        except Empty:
            if not reader.is_alive():
                raise RuntimeError("FFCV's reading thread failed: its error was printed above") from None


def _close(reader: Any) -> None:
    reader.terminate_event.set()
    while reader.is_alive():
        # The thread may be waiting for room in its queue.
        try:
            reader.output_queue.get(timeout=0.01)
        except Empty:
            continue
    reader.close()
