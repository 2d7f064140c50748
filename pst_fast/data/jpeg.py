"""Images as JPEG in memory, on all cores."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
        ValueError: The first file, in order, that is no whole JPEG of that size, in colour or grey.
    """

    def one(row: int) -> None:
        with _opened(files[row], images.shape[1:3]) as image:
            images[row] = np.asarray(image.convert("RGB"))

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, range(len(files))))


def check_header(file: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the file (uint8 [length]) begins as a JPEG of that height and width."""
    with _opened(file, shape):
        pass


@contextmanager
def _opened(file: np.ndarray, shape: tuple[int, ...]) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=("JPEG",)) as image:
            if (image.height, image.width) != shape or image.mode not in ("RGB", "L"):
                raise ValueError(f"{image.mode} of {image.height}x{image.width}")
            yield image
    except Exception as error:
        raise ValueError(f"expected a JPEG of {shape[0]}x{shape[1]}, got '{error}'") from error
