"""Several processes that work on one run, as torchrun starts them. In one process all of this does nothing.

The main process is the one of rank 0. It writes every file, but for what is said to be each process's own.
Collectives on tensors go through torch.distributed's default group (gloo on a CPU, NCCL on CUDA); what
concerns the run goes through a second one, on gloo, in which one may wait for days.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from pst_fast.errors import InputError

T = TypeVar("T")

STEP = timedelta(minutes=10)
"""How long a process waits for the others in the middle of a computation."""
STAGE = timedelta(days=7)
"""How long processes wait while the main one does something alone."""


class ProcessLost(BaseException):
    """Another process of the run has ended."""


class _Control:
    """What :func:`started` set up."""

    group: Any = None
    store: Any = None
    alone = False


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts, of sizes that differ by one at most.

    Attributes:
        rank: Which one, from 0.
        count: Parts.
    """

    rank: int = 0
    count: int = 1

    def of(self, length: int) -> slice:
        """This part of ``length`` things in a row; the first parts are the longer ones."""
        size, longer = divmod(length, self.count)
        start = self.rank * size + min(self.rank, longer)
        return slice(start, start + size + (self.rank < longer))


WHOLE = Shard()


@contextmanager
def started() -> Iterator[None]:
    """Join the other processes inside the block if torchrun started this one together with others."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    _Control.store, number, count = next(rendezvous("env://", timeout=STEP))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=_Control.store, rank=number, world_size=count, timeout=STEP,
    )  # fmt: skip
    _Control.group = dist.new_group(backend="gloo", timeout=STAGE)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with losses_told():
            yield
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _Control.group = None


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # torchrun ends the processes that are left when one has ended.
    raise ProcessLost


@contextmanager
def losses_told() -> Iterator[None]:
    """Turn what a collective raises when another process has ended into :class:`ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        backends = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
        told = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in backends)
        if processes() > 1 and told:
            raise ProcessLost from error
        raise


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes are at the work in hand: one inside :func:`on_main`."""
    return dist.get_world_size() if _several() else 1


def processes() -> int:
    """How many processes work on the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _several() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def shard() -> Shard:
    """This process's part of whatever is shared out."""
    return Shard(rank(), world_size())


def local_device(kind: str) -> torch.device:
    """``cpu``, or ``cuda`` with a device of its own for each process of this machine.

    Raises:
        InputError: There are more processes than devices.
    """
    if kind == "cuda" and _several():
        number, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_world_size() > devices:
            raise InputError(
                f"--nproc-per-node {local_world_size()}: expected at most the {devices} CUDA devices of this "
                "machine, or --device cpu"
            )
        torch.cuda.set_device(number)
    return torch.device(kind)


def has_the_word() -> bool:
    """Whether no other process has said yet how the run ends: true in the first that asks."""
    if _Control.store is None:
        return True
    try:
        return _Control.store.add("last word", 1) == 1
    except RuntimeError:  # the store has ended with the process, or the machine, that kept it
        return True


def barrier() -> None:
    """Wait until all processes are here."""
    if _several():
        dist.barrier(group=_Control.group)


def broadcast(value: T) -> T:
    """The main process's ``value``, of any type that pickles."""
    if not _several():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, group=_Control.group)
    return box[0]


def on_main(work: Callable[[], T]) -> T:
    """Have the main process do ``work`` while the others wait; all get what it returns.

    Inside, it is as if there were no other process.

    Raises:
        InputError: As ``work`` does, in all processes.
    """
    if not _several():
        return work()
    value: T | None = None
    error: InputError | None = None
    if is_main():
        _Control.alone = True
        try:
            value = work()
        except InputError as raised:
            error = raised
        finally:
            _Control.alone = False
    value, error = broadcast((value, error))
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the processes, in place."""
    if _several():
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def average_(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each of some tensors of one type by its mean over the processes, with one message for all."""
    several = list(tensors)
    if not _several() or not several:
        return
    flat = sum_(torch.cat([tensor.flatten() for tensor in several])) / world_size()
    parts = flat.split([tensor.numel() for tensor in several])
    torch._foreach_copy_(several, [part.view_as(tensor) for part, tensor in zip(parts, several, strict=True)])


def gather_rows(rows: torch.Tensor, length: int) -> torch.Tensor | None:
    """In the main process all ``length`` rows, each process having ``shard().of(length)``; else None."""
    if not _several():
        return rows
    longest = Shard(0, world_size()).of(length).stop
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world_size())] if is_main() else None
    dist.gather(padded, parts)
    if parts is None:
        return None
    slices = [Shard(number, world_size()).of(length) for number in range(world_size())]
    return torch.cat([part[: some.stop - some.start] for part, some in zip(parts, slices, strict=True)])


def share_module_(module: nn.Module) -> None:
    """Give all processes the main one's weights and buffers."""
    if _several():
        state = {name: value.cpu() for name, value in module.state_dict().items()} if is_main() else {}
        module.load_state_dict(broadcast(state))


def share_rows_(tensor: torch.Tensor, parts: Iterable[slice]) -> None:
    """Complete a tensor of which each process has some rows: the n-th of ``parts`` is of rank n."""
    if _several():
        for number, part in enumerate(parts):
            if len(tensor[part]):
                dist.broadcast(tensor[part], number)


def beside_main() -> Shard:
    """This process's part of work on files that are mapped into memory, as one machine's processes can share.

    Processes of other machines than the main one's get empty parts.
    """
    return Shard(rank(), broadcast(local_world_size()))


def _several() -> bool:
    return processes() > 1 and not _Control.alone
