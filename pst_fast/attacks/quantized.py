"""Perturbations of a whole data set while they are crafted: one byte a value, on the device or on the disk.

They are kept as levels of the ball (:func:`pst_fast.ops.quantize_bank_`), and read and written by batches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pst_fast import distributed, ops
from pst_fast.attacks.integers import linf_steps
from pst_fast.attacks.steps import NAME, StepsFile, row_blocks
from pst_fast.data.mapped import MappedRows
from pst_fast.errors import InputError


class QuantizedBank(Protocol):
    """Perturbations [N,H,W,3], all zero at first.

    Several processes may each write some of them: all gather, begin, restore and end rounds together.
    """

    def begin(self) -> None:
        """Called first, or in its place :meth:`restore`."""

    def gather(self, rows: Tensor) -> Tensor:
        """Those of these samples, int64 [B] in main memory: fp32 [B,3,H,W] channels_last, on the device."""

    def scatter_(self, rows: Tensor, delta: Tensor) -> None:
        """Write fp32 [B,3,H,W]; in one round each sample once, and :meth:`gather` may still give the old."""

    def end_round(self, parts: Sequence[slice] = ()) -> None:
        """From here on :meth:`gather` gives what the round wrote, which was all samples.

        Args:
            parts: The rows that each process wrote, where there are several.
        """

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to come back to the end of the last round."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to there, also in another process.

        Raises:
            InputError: A file that belongs to the state is damaged.
        """

    def steps(self) -> np.ndarray:
        """Whole steps of 1/255 inside the ball, int8 or int16 [N,H,W,3]."""


class DeviceBank:
    """In the memory of the device that computes; changed in place."""

    def __init__(self, shape: tuple[int, ...], epsilon: float, device: torch.device) -> None:
        self.codes, self.epsilon = torch.zeros(shape, dtype=torch.int8, device=device), epsilon

    def begin(self) -> None:
        pass

    def gather(self, rows: Tensor) -> Tensor:
        return ops.gather_bank(self.codes, epsilon=self.epsilon, index=rows.to(self.codes.device))

    def scatter_(self, rows: Tensor, delta: Tensor) -> None:
        ops.quantize_bank_(self.codes, delta, epsilon=self.epsilon, index=rows.to(self.codes.device))

    def end_round(self, parts: Sequence[slice] = ()) -> None:
        distributed.barrier()
        distributed.share_rows_(self.codes, parts)

    def state(self) -> dict[str, Any]:
        return {"codes": self.codes}

    def restore(self, state: dict[str, Any]) -> None:
        self.codes.copy_(state["codes"])

    def steps(self) -> np.ndarray:
        return _steps_of_codes(self.epsilon)[self.codes.cpu().numpy().view(np.uint8)]


class MappedBank:
    """In two files that take turns: a round reads one and writes the other, and so can be done again.

    Processes of one machine have the same files before them.
    """

    def __init__(self, shape: tuple[int, ...], epsilon: float, device: torch.device, folder: Path) -> None:
        self.shape, self.epsilon, self.device, self.folder = shape, epsilon, device, folder
        self._turn = 0
        self._files: list[MappedRows] = []

    def begin(self) -> None:
        self._create(0, 1)
        self._files = [MappedRows(self._path(turn), writable=True) for turn in (0, 1)]

    def gather(self, rows: Tensor) -> Tensor:
        codes = self._files[self._turn].gather(rows.numpy(), threads=torch.get_num_threads())
        return ops.gather_bank(torch.from_numpy(codes).to(self.device), epsilon=self.epsilon)

    def scatter_(self, rows: Tensor, delta: Tensor) -> None:
        codes = torch.empty((len(rows), *self.shape[1:]), dtype=torch.int8, device=self.device)
        ops.quantize_bank_(codes, delta, epsilon=self.epsilon)
        written = codes.cpu().numpy()
        self._files[1 - self._turn].scatter(rows.numpy(), written, threads=torch.get_num_threads())

    def end_round(self, parts: Sequence[slice] = ()) -> None:
        self._turn = 1 - self._turn
        self._files[self._turn].flush()
        distributed.barrier()

    def state(self) -> dict[str, Any]:
        return {"turn": self._turn}

    def restore(self, state: dict[str, Any]) -> None:
        self._turn = state["turn"]
        read = MappedRows(self._path(self._turn), writable=True)
        if read.shape != self.shape:
            raise InputError(
                f"{self._path(self._turn)}: expected int8 {list(self.shape)}, got {list(read.shape)}"
            )
        self._create(1 - self._turn)
        written = MappedRows(self._path(1 - self._turn), writable=True)
        self._files = [written, read] if self._turn else [read, written]

    def steps(self) -> np.ndarray:
        """As a mapped file, so that memory holds a part of it at a time."""
        table, source = _steps_of_codes(self.epsilon), self._files[self._turn]

        def opened() -> StepsFile:
            return StepsFile(self.folder / NAME, self.shape, table.dtype.type)

        def write() -> None:
            steps = opened()
            for some in row_blocks(self.shape, table.itemsize, 1 << 24):
                codes = source.gather(np.arange(some.start, some.stop))
                steps.write(some, table[codes.view(np.uint8)])

        distributed.on_main(write)
        return opened().array

    def _path(self, turn: int) -> Path:
        return self.folder / f"bank-{turn}.npy"

    def _create(self, *turns: int) -> None:
        def create() -> None:
            for turn in turns:
                MappedRows.create(self._path(turn), self.shape)

        distributed.on_main(create)


def _steps_of_codes(epsilon: float) -> np.ndarray:
    """Steps of 1/255 for each of the 256 bytes that a code can be."""
    codes = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64)
    bound = linf_steps(epsilon)
    steps = np.clip(np.rint(codes * (epsilon / 127) * 255), -bound, bound)
    return steps.astype(np.int8 if bound <= 127 else np.int16)
