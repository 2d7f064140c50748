"""Banks of perturbations as int8: a quarter of the bytes that float32 takes."""

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import check_device, check_dtype, check_label_range, forbid_grad


def quantize_bank_(bank: Tensor, delta: Tensor, *, epsilon: float, index: Tensor | None = None) -> Tensor:
    """Write perturbations into a bank, each value as one of the 255 levels of its L-infinity ball.

    A value is stored as ``round(delta * 127 / epsilon)``, ties to even: it comes back within epsilon / 254 of
    what it was. Values outside the ball go to its surface, NaN to 0.

    Args:
        bank: int8 [N, H, W, C], contiguous; changed.
        delta: float32 [B, C, H, W] in [0,1] units, of any layout; fastest channels_last.
        epsilon: The ball's radius in [0,1] units, more than 0.
        index: int64 [B], the bank's rows to write, each at most once; None: all, in order (B is N).

    Returns:
        ``bank``.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, layout or device, or ``epsilon`` out of range.
        RuntimeError: An index outside [0, N). On CUDA a device-side trap that the next synchronisation meets.
    """
    op = "quantize_bank_"
    _check_bank(op, bank, index, epsilon)
    check_dtype(op, "delta", delta, [torch.float32])
    batch = bank.shape[0] if index is None else index.shape[0]
    height, width, channels = bank.shape[1:]
    if tuple(delta.shape) != (batch, channels, height, width):
        expected = [batch, channels, height, width]
        raise ValueError(f"{op}: delta must be {expected} for this bank, got {list(delta.shape)}")
    check_device(op, "delta", delta, bank, "bank")
    forbid_grad(op, delta)
    if use_native(bank):
        torch.ops.pst_fast.quantize_bank_(bank, index, delta, epsilon)
        return bank
    if index is not None:
        check_label_range(op, index, bank.shape[0], "index")
    return reference.quantize_bank_(bank, delta, epsilon=epsilon, index=index)


def gather_bank(bank: Tensor, *, epsilon: float, index: Tensor | None = None) -> Tensor:
    """Read perturbations that :func:`quantize_bank_` wrote.

    Args:
        bank: int8 [N, H, W, C], contiguous.
        epsilon: The ball's radius in [0,1] units, more than 0.
        index: int64 [B], rows to read; None: all, in order.

    Returns:
        float32 [B, C, H, W], channels_last: ``bank * epsilon / 127``, within [-epsilon, epsilon].

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, layout or device, or ``epsilon`` out of range.
        RuntimeError: An index outside [0, N). On CUDA a device-side trap that the next synchronisation meets.
    """
    op = "gather_bank"
    _check_bank(op, bank, index, epsilon)
    if use_native(bank):
        return torch.ops.pst_fast.gather_bank(bank, index, epsilon)
    if index is not None:
        check_label_range(op, index, bank.shape[0], "index")
    return reference.gather_bank(bank, epsilon=epsilon, index=index)


def _check_bank(op: str, bank: Tensor, index: Tensor | None, epsilon: float) -> None:
    check_dtype(op, "bank", bank, [torch.int8])
    if bank.dim() != 4 or not bank.is_contiguous():
        raise ValueError(f"{op}: bank must be [N, H, W, C] and contiguous, got {list(bank.shape)}")
    if not 0 < epsilon <= 3e38:
        raise ValueError(f"{op}: epsilon must be more than 0 and finite, got {epsilon}")
    if index is not None:
        check_dtype(op, "index", index, [torch.int64])
        if index.dim() != 1:
            raise ValueError(f"{op}: index must be [B], got {list(index.shape)}")
        check_device(op, "index", index, bank, "bank")


def _register() -> None:
    @torch.library.register_fake("pst_fast::quantize_bank_")
    def _(bank: Tensor, index: Tensor | None, delta: Tensor, epsilon: float) -> None:
        return None

    @torch.library.register_fake("pst_fast::gather_bank")
    def _(bank: Tensor, index: Tensor | None, epsilon: float) -> Tensor:
        height, width, channels = bank.shape[1:]
        batch = bank.shape[0] if index is None else index.shape[0]
        shape = (batch, channels, height, width)
        return bank.new_empty(shape, dtype=torch.float32).to(memory_format=torch.channels_last)


if HAS_CPU:
    _register()
