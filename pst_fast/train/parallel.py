"""One network that several processes train: PyTorch's DistributedDataParallel, and what it leaves open.

A step is that of one process on the same batch, but for the order of sums and for batch norm: its statistics
are the whole batch's on CUDA (SyncBatchNorm), and each process's own elsewhere, where the running ones are
averaged after each step. So all processes hold the same network between steps.
"""

import warnings

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pst_fast import distributed
from pst_fast.data.types import Loader
from pst_fast.errors import InputError


def with_shared_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """The network, its batch norms synchronised where PyTorch can do so."""
    if distributed.world_size() > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def replicated(model: nn.Module) -> nn.Module:
    """What to call in training, so that gradients are averaged over the processes; all start as the main one.

    Buffers are not broadcast in each step, as is PyTorch's default: see :func:`own_statistics`.
    """
    if distributed.world_size() == 1:
        return model
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())
    devices = [torch.cuda.current_device()] if on_cuda else None
    with warnings.catch_warnings():
        # Newer versions would have another name for it, which older ones do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def own_statistics(model: nn.Module) -> list[torch.Tensor]:
    """The running means and variances that each process changes by its own part of a batch."""
    norms = (m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm))
    return [b for norm in norms for b in norm.buffers(recurse=False) if b.is_floating_point()]


class Parts:
    """Which part of each batch this process has.

    Args:
        loader: Whose batches are shared out.

    Raises:
        InputError: A batch has fewer than two images for each process, which batch norm needs.
    """

    def __init__(self, loader: Loader) -> None:
        self._batch_size, self._num_samples = loader.batch_size, loader.num_samples
        self._shard = distributed.shard()
        least = min(self._batch_size, self._num_samples)
        if self._shard.count > 1 and least < 2 * self._shard.count:
            raise InputError(
                f"{self._shard.count} processes: expected at least two images of a batch for each, "
                f"got batches of {least}; raise --batch-size, or start fewer"
            )

    def whole(self, number: int) -> int:
        """Images of batch ``number`` of an epoch, over all processes."""
        return min(self._batch_size, self._num_samples - number * self._batch_size)

    def at_its_place(self, images: torch.Tensor, number: int) -> tuple[torch.Tensor, int]:
        """Images [B,...] where the whole batch has them, blank ones before; and how many those are.

        Random views and augmentations depend on a sample's place in its batch.
        """
        before = self._shard.of(self.whole(number)).start
        if before == 0:
            return images, 0
        return torch.cat([images.new_zeros(before, *images.shape[1:]), images]), before

    def weight(self, own: int, number: int) -> float:
        """Of this process's mean over its ``own`` images, so that the mean over processes is the batch's."""
        return own * self._shard.count / self.whole(number)


def seed_epoch(seed: int, epoch: int) -> None:
    """Give every process random numbers of its own, the same ones whenever this epoch is begun."""
    if distributed.world_size() > 1:
        sequence = np.random.SeedSequence((seed, epoch, distributed.rank()))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
