"""Images as JPEG in memory, on all cores."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pst_fast.data.decode import cores


def encode(images: np.ndarray, quality: int) -> list[bytes]:
    """uint8 [N,H,W,3] as files of that quality (1 to 100), colours at half the resolution."""

    def one(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        return stream.getvalue()

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, images))


def decode_into(files: Sequence[np.ndarray], images: np.ndarray) -> None:
    """The pixels of files (uint8 [length] each) into uint8 [N,H,W,3].

    Raises:
        ValueError: The first file, in order, that is no JPEG of that size in three channels.
    """
    shape = images.shape[1:]

    def one(row: int) -> None:
        try:
            with Image.open(io.BytesIO(files[row].tobytes()), formats=("JPEG",)) as image:
                if (image.height, image.width) != shape[:2] or image.mode not in ("RGB", "L"):
                    raise ValueError(f"{image.mode} of {image.height}x{image.width}")
                images[row] = np.asarray(image.convert("RGB"))
        except Exception as error:
            raise ValueError(f"expected a JPEG of {shape[0]}x{shape[1]}, got '{error}'") from error

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, range(len(files))))
