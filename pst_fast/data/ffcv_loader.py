"""Reading a ``.beton`` file through FFCV (Leclerc et al., arXiv 2306.12517).

FFCV is not maintained; everything that knows its ways is in this file:

- More threads than cores make its compiler raise, so they are capped.
- Importing it sets torch's threads to one, and loaders set them again, which is put back each time.
- A batch's buffers are written again once the next batch has been taken.
- Its reading thread never ends when an epoch is left early, and a failure in it leaves the reader waiting
  forever: epochs are closed here, and the thread is watched.
- Its decoder of random crops draws from a state that cannot be set, and its compiled code knows no epoch and
  takes arrays for constants: it is given the address of a table with a box for each image.
- It says nothing of a JPEG that it cannot decode: their headers are checked here.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from queue import Empty
from typing import Any

import numpy as np
import torch

from pst_fast.data.beton import Beton
from pst_fast.data.crops import Crops, draw_boxes
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
        crops: Random resized crops that the images are decoded to, or None.
    """

    def __init__(
        self,
        beton: Beton,
        order: Order,
        device: torch.device,
        num_workers: int | None = None,
        crops: Crops | None = None,
    ) -> None:
        if crops is None:
            beton.shape  # noqa: B018 - refuses images of several sizes in words of ours
        elif beton.compressed.any():
            raise InputError(f"{beton.path}: expected raw images to crop, got JPEG")
        beton.check_headers()
        self.num_samples = order.num_samples
        self.batch_size = order.batch_size
        self.cropped = crops is not None
        self._beton = beton
        self._order = order
        self._device = device
        self._num_workers = min(num_workers or own_cores(), cores())
        self._crops = crops
        self._boxes = np.zeros((len(beton), 4), np.int32)
        self._loader_of = cache(self._open)
        self._loader_of(crops.sizes[0] if crops else None)  # FFCV is missed here, not in the first epoch

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See :class:`~pst_fast.data.types.Loader`."""
        return on_device(self._read(epoch), self._device)

    def _open(self, size: int | None) -> Any:
        return _ffcv_loader(self._beton, self._order, self._num_workers, size, self._boxes)

    def _draw_boxes(self, epoch: int, seed: int) -> None:
        steps = len(self._order)
        for number, rows in enumerate(self._order.batches(epoch)):
            place = self._order.place(number)
            # What other shards have before these rows takes its draws too, and may be of any size.
            heights, widths = np.ones((2, place.stop), np.int64)
            heights[place], widths[place] = self._beton.heights[rows], self._beton.widths[rows]
            boxes = draw_boxes(place.stop, heights, widths, seed, epoch * steps + number)
            self._boxes[rows] = boxes[place]

    def _read(self, epoch: int) -> Generator[Batch, None, None]:
        size = None
        if self._crops is not None:
            size = self._crops.sizes[epoch]
            self._draw_boxes(epoch, self._crops.seed)
        batches, own = len(self._order), len(self._order.rows(epoch))
        filled = -(-own // max(1, self._order.own_batch_size))
        if filled:
            yield from self._read_filled(epoch, filled, self._loader_of(size))
        height, width = (size, size) if size else self._beton.shape
        for _ in range(filled, batches):  # of which other shards have the few rows
            images = torch.empty(0, height, width, 3, dtype=torch.uint8)
            yield Batch(images, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))

    def _read_filled(self, epoch: int, batches: int, loader: Any) -> Generator[Batch, None, None]:
        with _torch_threads_kept():
            loader.next_epoch = epoch
            reader = iter(loader)
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
def _ffcv_loader(beton: Beton, order: Order, num_workers: int, size: int | None, boxes: np.ndarray) -> Any:
    try:
        from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
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

    decoder = SimpleRGBImageDecoder() if size is None else _crop_decoder(size, boxes)
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


def _crop_decoder(size: int, boxes: np.ndarray) -> Any:
    """FFCV's decoder of resized crops, of raw images, that are cut where int32 ``boxes`` [N,4] say."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.libffcv import ctypes_memcopy, resize_crop
    from ffcv.pipeline.compiler import Compiler

    class BoxDecoder(RandomResizedCropRGBImageDecoder):
        """Boxes are read when an image is decoded, from where they lie."""

        def generate_code(self) -> Callable[..., np.ndarray]:
            memory_read, resize = self.memory_read, Compiler.compile(resize_crop)
            my_range = Compiler.get_iterator()
            table, bytes_each = boxes.ctypes.data, boxes.strides[0]

            def decode(batch_indices, storage, metadata, storage_state):  # type: ignore[no-untyped-def]
                crops = storage[0]
                for place in my_range(len(batch_indices)):
                    row = batch_indices[place]
                    field = metadata[row]
                    image = memory_read(field["data_ptr"], storage_state)
                    box = np.empty(4, np.int32)
                    ctypes_memcopy(table + row * bytes_each, box.ctypes.data, bytes_each)
                    top, left, height, width = box[0], box[1], box[2], box[3]
                    whole = image.reshape(np.uint32(field["height"]), np.uint32(field["width"]), 3)
                    resize(whole, top, top + height, left, left + width, crops[place])
                return crops[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined] # FFCV looks for it
            return decode

    return BoxDecoder((size, size))


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
