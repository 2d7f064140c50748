"""From image files to uint8 RGB arrays of one size, by PIL."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pst_fast.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


def cores() -> int:
    """How many cores this process may use: those that it is bound to, or OMP_NUM_THREADS if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(count, int(allowed))) if allowed.isdigit() else count


def decode(path: Path) -> tuple[Image.Image, bool]:
    """Read a file as an RGB image, and say whether it had to be converted.

    CMYK, grey, palette and 16-bit images become RGB, an alpha channel is dropped. An EXIF orientation is not
    applied, as in torchvision's ``ImageFolder``.

    Raises:
        InputError: The file is missing, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "RGB":
                image.load()
                return image, False
            if image.mode in _SIXTEEN_BIT:
                # PIL's own conversion clips at 255, which leaves 16-bit images all but white.
                grey = np.clip(np.asarray(image) / 257, 0, 255).round().astype(np.uint8)
                return Image.fromarray(grey).convert("RGB"), True
            if image.mode == "F":
                raise InputError(f"{path}: expected an image of 8 or 16 bits a channel, got floating point")
            if "transparency" in image.info:
                return image.convert("RGBA").convert("RGB"), True
            return image.convert("RGB"), True
    except (InputError, MemoryError):
        raise
    except OSError as error:
        came = error.strerror or str(error) or type(error).__name__
        raise InputError(f"{path}: expected a whole image file, got '{came}'") from error
    except Exception as error:
        # PIL lets through whatever a damaged file provokes: SyntaxError, struct.error, zlib.error.
        raise InputError(f"{path}: expected a whole image file, got '{error}'") from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header alone; InputError where there is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise InputError(f"{path}: expected an image file, got one that cannot be opened") from error


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` pixels (bicubic) and cut out the central square.

    To the pixel what torchvision's ``Resize`` and ``CenterCrop`` do.
    """
    if image.size == (size, size):
        return image
    width, height = image.size
    shorter = min(width, height)
    width, height = int(size * width / shorter), int(size * height / shorter)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def load_images(paths: Sequence[Path], image_size: int) -> tuple[np.ndarray, int]:
    """Decode files on all cores to uint8 [N, S, S, 3], and count those that were converted to RGB.

    Raises:
        InputError: The first file, in order, that cannot be read.
    """
    images = np.empty((len(paths), image_size, image_size, 3), np.uint8)

    def one(row: int) -> bool:
        image, converted = decode(paths[row])
        images[row] = np.asarray(fit(image, image_size))
        return converted

    with ThreadPoolExecutor(cores()) as pool:
        futures = [pool.submit(one, row) for row in range(len(paths))]
        try:
            converted = sum(future.result() for future in futures)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images, converted
