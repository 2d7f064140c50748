"""The random words that every op draws: a twin of csrc/common/philox.h."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(seed: int, offset: int | Tensor, positions: Tensor, block: int | Tensor) -> Tensor:
    """Four 32-bit words for each position: Philox4x32-10 (Salmon et al., SC 2011).

    The key is ``seed``; the counter is (low and high word of ``offset``, position, ``block``).

    Args:
        seed: Any 64-bit integer.
        offset: Any 64-bit integer, or an int64 tensor that broadcasts to [...].
        positions: int64 [...], in [0, 2**32).
        block: Number of the block of four draws, likewise.

    Returns:
        int64 [..., 4] of values in [0, 2**32).
    """
    zeros = torch.zeros_like(positions)
    words = [
        zeros + (offset & _MASK),
        zeros + ((offset >> 32) & _MASK),
        positions,
        zeros + block,
    ]
    key = [seed & _MASK, (seed >> 32) & _MASK]
    for _ in range(10):
        high0, low0 = _multiply(words[0], _MULTIPLIERS[0])
        high1, low1 = _multiply(words[2], _MULTIPLIERS[1])
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
        key = [(key[0] + _WEYL[0]) & _MASK, (key[1] + _WEYL[1]) & _MASK]
    return torch.stack(words, dim=-1)


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    # In halves: the whole product does not fit a signed 64-bit integer.
    low = (word & 0xFFFF) * multiplier
    high = (word >> 16) * multiplier + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def uniform(words: Tensor) -> Tensor:
    """fp32 in [0, 1), from the upper 24 bits."""
    return (words >> 8).float() * 2.0**-24
