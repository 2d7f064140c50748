"""Twin of the JPEG round trip: what libjpeg decodes from what it has encoded, bit for bit, without the bits.

The entropy coding in between loses nothing and is left out. Whole numbers throughout, as in libjpeg's exact
integer transforms ("islow"), its bias in halving the chroma, and its triangle filter in doubling it again.
"""

import torch
from torch import Tensor

SUBSAMPLINGS = ("4:2:0", "4:4:4")

LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip


def jpeg(images: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """A JPEG round trip of uint8 [B,H,W,3]; ``quality`` in 1..100, the tables of the standard's annex K."""
    height, width = images.shape[1:3]
    if images.numel() == 0:
        return images.clone()
    red, green, blue = images.int().unbind(3)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    # 128 << 16, and a half less one so that 255.5 does not round up.
    half = (128 << 16) + 32767
    chroma = torch.stack(
        [
            (-11059 * red - 21709 * green + 32768 * blue + half) >> 16,
            (32768 * red - 27439 * green - 5329 * blue + half) >> 16,
        ]
    )
    luma = _code(luma, _table(LUMA_TABLE, quality, images))[:, :height, :width]
    table = _table(CHROMA_TABLE, quality, images)
    if subsampling == "4:4:4":
        chroma = _code(chroma, table)[..., :height, :width]
    else:
        half_height, half_width = (height + 1) // 2, (width + 1) // 2
        chroma = _code(_halve(chroma), table)[..., :half_height, :half_width]
        chroma = _double(chroma)[..., :height, :width]
    cb, cr = chroma.unbind(0)
    cb, cr = cb - 128, cr - 128
    channels = [
        luma + ((91881 * cr + 32768) >> 16),
        luma + ((-22554 * cb - 46802 * cr + 32768) >> 16),
        luma + ((116130 * cb + 32768) >> 16),
    ]
    return torch.stack(channels, dim=3).clamp(0, 255).to(torch.uint8)


def _table(base: tuple[int, ...], quality: int, like: Tensor) -> Tensor:
    """The quantisation table [8,8] at a quality, of values 1..255."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = [min(255, max(1, (value * scale + 50) // 100)) for value in base]
    return torch.tensor(values, dtype=torch.int32, device=like.device).view(8, 8)


def _code(plane: Tensor, table: Tensor) -> Tensor:
    """[...,H,W] of 0..255, padded to whole blocks by its last row and column, through the quantised DCT."""
    height, width = plane.shape[-2:]
    rows, columns = (-(-n // 8) for n in (height, width))
    plane = _extend(plane, 8 * rows, 8 * columns)
    blocks = plane.unflatten(-2, (rows, 8)).unflatten(-1, (columns, 8)).transpose(-3, -2) - 128
    coefficients = _forward(_forward(blocks, -1, 2), -2, -2)
    step = 8 * table  # the transform's scale
    magnitude = torch.div(coefficients.abs() + step // 2, step, rounding_mode="floor")
    restored = coefficients.sign() * magnitude * table
    levels = _inverse(_inverse(restored, -2, 11), -1, 18) + 128
    return levels.clamp(0, 255).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _extend(plane: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height, device=plane.device).clamp(max=plane.shape[-2] - 1)
    columns = torch.arange(width, device=plane.device).clamp(max=plane.shape[-1] - 1)
    return plane[..., rows[:, None], columns]


def _halve(chroma: Tensor) -> Tensor:
    """Means of 2x2 pixels, the halves rounded down in even columns and up in odd ones."""
    height, width = ((n + 1) // 2 for n in chroma.shape[-2:])
    even = _extend(chroma, 2 * height, 16 * -(-width // 8))  # padded before it is halved, to whole blocks
    sums = even.unflatten(-1, (-1, 2)).sum(-1, dtype=torch.int32)
    sums = sums.unflatten(-2, (-1, 2)).sum(-2, dtype=torch.int32)
    bias = 1 + torch.arange(sums.shape[-1], dtype=torch.int32, device=chroma.device) % 2
    return (sums + bias) >> 2


def _double(chroma: Tensor) -> Tensor:
    """Twice the size by a triangle filter; by repetition where there are less than three columns."""
    if chroma.shape[-1] <= 2:
        return chroma.repeat_interleave(2, -2).repeat_interleave(2, -1)
    above = torch.cat([chroma[..., :1, :], chroma[..., :-1, :]], -2)
    below = torch.cat([chroma[..., 1:, :], chroma[..., -1:, :]], -2)
    rows = torch.stack([3 * chroma + above, 3 * chroma + below], -2).flatten(-3, -2)
    left = torch.cat([rows[..., :1], rows[..., :-1]], -1)
    right = torch.cat([rows[..., 1:], rows[..., -1:]], -1)
    return torch.stack([(3 * rows + left + 8) >> 4, (3 * rows + right + 7) >> 4], -1).flatten(-2)


def _descale(value: Tensor, shift: int) -> Tensor:
    return (value + (1 << (shift - 1))) >> shift


def _rotate(t0: Tensor, t1: Tensor, t2: Tensor, t3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The odd part that both transforms share (Loeffler, Ligtenberg, Moschytz, ICASSP 1989), times 2**13."""
    z5 = (t0 + t2 + t1 + t3) * 9633
    z1, z2 = (t0 + t3) * -7373, (t1 + t2) * -20995
    z3, z4 = (t0 + t2) * -16069 + z5, (t1 + t3) * -3196 + z5
    return t0 * 2446 + z1 + z3, t1 * 16819 + z2 + z4, t2 * 25172 + z2 + z3, t3 * 12299 + z1 + z4


def _forward(block: Tensor, dim: int, gain: int) -> Tensor:
    """DCT of 8 along ``dim``; ``gain`` 2: scaled by four (the first pass), -2: scaled back (the second)."""
    d = block.unbind(dim)
    s = [d[i] + d[7 - i] for i in range(4)]
    t = [d[i] - d[7 - i] for i in range(4)]  # t[0]: the outermost difference
    t10, t13, t11, t12 = s[0] + s[3], s[0] - s[3], s[1] + s[2], s[1] - s[2]
    z1 = (t12 + t13) * 4433
    shift = 13 - gain
    f7, f5, f3, f1 = _rotate(t[3], t[2], t[1], t[0])
    first = [t10 + t11, t10 - t11]
    first = [v << gain if gain > 0 else _descale(v, -gain) for v in first]
    out = {
        0: first[0],
        4: first[1],
        2: _descale(z1 + t13 * 6270, shift),
        6: _descale(z1 - t12 * 15137, shift),
        1: _descale(f1, shift),
        3: _descale(f3, shift),
        5: _descale(f5, shift),
        7: _descale(f7, shift),
    }
    return torch.stack([out[i] for i in range(8)], dim)


def _inverse(block: Tensor, dim: int, shift: int) -> Tensor:
    """Inverse DCT of 8 along ``dim``, scaled down by ``2 ** shift``."""
    d = block.unbind(dim)
    z1 = (d[2] + d[6]) * 4433
    t2, t3 = z1 - d[6] * 15137, z1 + d[2] * 6270
    t0, t1 = (d[0] + d[4]) << 13, (d[0] - d[4]) << 13
    even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3]
    odd = _rotate(d[7], d[5], d[3], d[1])[::-1]
    sums = [_descale(e + o, shift) for e, o in zip(even, odd, strict=True)]
    differences = [_descale(e - o, shift) for e, o in zip(even, odd, strict=True)]
    return torch.stack(sums + differences[::-1], dim)
