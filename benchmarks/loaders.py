"""Images a second of the loaders alone, on real images.

    python -m benchmarks loaders --data-dir photos/train --json loaders.json

Two comparisons, nothing computed on the images in either:

- ``small``: every image at ``--image-size``, whole, in shuffled batches: device, torch and FFCV loaders.
- ``crops``: random resized crops of 224 pixels. FFCV cuts them from raw images whose longer side is at most
  256 pixels. The baselines are PIL and torchvision's transform in a ``DataLoader`` with one worker a core,
  and SPDL with as many threads where it is installed (``pip install spdl``, and ffmpeg's libraries), on the
  files as they are, and on JPEGs of the same reduced size as FFCV's, since part of the gain is that.

The first epoch (compilation, cold caches) is left out; the median of the others counts.
"""

import argparse
import importlib.util
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.crops import Crops
from pst_fast.data.decode import EXTENSIONS, cores, decode, load_images
from pst_fast.data.loaders import Kind, Order, ffcv_installed, make_loader
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import environment

CROP, LONGEST_SIDE, JPEG_QUALITY = 224, 256, 90


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder of images, at any depth (an ImageFolder)"
    )
    parser.add_argument("--only", choices=("small", "crops"), help="one of the two comparisons")
    parser.add_argument("--image-size", type=int, default=64, help="side of the small images")
    parser.add_argument("--batch-size", type=int, default=256, help="images a batch")
    parser.add_argument(
        "--images", type=int, default=2000, help="images an epoch; fewer files than that are repeated"
    )
    parser.add_argument("--epochs", type=int, default=5, help="epochs that are timed, after one that is not")
    parser.add_argument("--device", default="cpu", help="where the small batches go")
    parser.add_argument("--json", type=Path, help="file for the figures")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, and return (and write) the figures."""
    files = sorted(path for path in args.data_dir.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise InputError(f"--data-dir: expected a folder with images, got none in {args.data_dir}")
    files = (files * -(-args.images // len(files)))[: args.images]
    load_before = os.getloadavg()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "small":
            results += _crops(files, Path(folder), args)
        if args.only != "crops":
            results += _small(files, Path(folder), args)
    report = {
        "settings": {key: str(value) for key, value in vars(args).items() if key not in ("data_dir", "json")},
        "cores": cores(),
        "load_average_before": load_before,
        "results": results,
        "environment": environment(),
    }
    for result in results:
        rates = result["epochs"]
        print(
            f"{result['comparison']:6} {result['loader']:34} {result['images_per_second']:>9.0f} img/s"
            f"   ({min(rates):.0f} to {max(rates):.0f})"
        )
    if args.json:
        write_json(args.json, report)
    return report


def _small(files: Sequence[Path], folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    path = folder / "small.beton"
    images, _ = load_images(files, args.image_size)
    write_beton(path, images, np.zeros(len(files), np.int64), np.arange(len(files)))
    device = torch.device(args.device)
    for kind in get_args(Kind):
        if kind == "auto" or (kind == "ffcv" and not ffcv_installed()):
            continue
        loader = make_loader(
            path, batch_size=args.batch_size, seed=0, shuffle=True, drop_last=False, device=device, kind=kind
        )
        yield _timed("small", kind, loader.epoch, args, device)


def _crops(files: Sequence[Path], folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    reduced = folder / "reduced"
    reduced.mkdir()
    arrays, jpegs = {}, {}
    for number, path in enumerate(dict.fromkeys(files)):
        image, _ = decode(path)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        arrays[path] = np.asarray(image)
        jpegs[path] = reduced / f"{number}.jpg"
        image.save(jpegs[path], quality=JPEG_QUALITY)
    cpu = torch.device("cpu")
    # Before FFCV starts its threads, so that the workers are forked from a process that has none of them.
    yield _timed("crops", "pil, files as they are", _pil_epochs(files, args.batch_size), args, cpu)
    small_files = [jpegs[path] for path in files]
    yield _timed(
        "crops", f"pil, jpegs of <= {LONGEST_SIDE}", _pil_epochs(small_files, args.batch_size), args, cpu
    )
    if importlib.util.find_spec("spdl") is not None:
        for name, some in (("files as they are", files), (f"jpegs of <= {LONGEST_SIDE}", small_files)):
            yield _timed("crops", f"spdl, {name}", _spdl_epochs(some, args.batch_size), args, cpu)
    if not ffcv_installed():
        return
    from pst_fast.data.ffcv_loader import FFCVLoader

    raw = folder / "crops.beton"
    zeros = np.zeros(len(files), np.int64)
    write_beton(raw, [arrays[path] for path in files], zeros, np.arange(len(files)))
    order = Order(np.arange(len(files)), args.batch_size, seed=0, shuffle=True, drop_last=False)
    loader = FFCVLoader(read_beton(raw), order, cpu, crops=Crops(0, (CROP,) * (args.epochs + 1)))
    yield _timed("crops", f"ffcv, raw of <= {LONGEST_SIDE}", loader.epoch, args, cpu)


class _PilCrops(torch.utils.data.Dataset[torch.Tensor]):
    """What a plain PyTorch training script does for each image, up to uint8 [H, W, 3]."""

    def __init__(self, files: Sequence[Path]) -> None:
        from torchvision import transforms

        self._files = files
        self._crop = transforms.RandomResizedCrop(CROP)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self._files[row]) as image:
            return torch.from_numpy(np.array(self._crop(image.convert("RGB"))))


def _pil_epochs(files: Sequence[Path], batch_size: int) -> Callable[[int], Iterable[Any]]:
    loader: torch.utils.data.DataLoader[torch.Tensor] = torch.utils.data.DataLoader(
        _PilCrops(files), batch_size, shuffle=True, num_workers=cores(), persistent_workers=True
    )
    return lambda epoch: loader


def _spdl_epochs(files: Sequence[Path], batch_size: int) -> Callable[[int], Iterable[Any]]:
    """SPDL (facebookresearch): ffmpeg decodes, crops and resizes in threads, as many as there are cores."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    def decode_crop(path: str) -> np.ndarray:
        share, ratio = random.uniform(0.08, 1), math.exp(random.uniform(-1, 1) * math.log(4 / 3))
        width, height = min(1.0, math.sqrt(share * ratio)), min(1.0, math.sqrt(share / ratio))
        steps = (
            f"crop=w=iw*{width:.4f}:h=ih*{height:.4f}:x=(iw-ow)*{random.random():.4f}"
            f":y=(ih-oh)*{random.random():.4f}",
            f"scale={CROP}:{CROP}",
            "format=pix_fmts=rgb24",
        )
        frames = spdl.io.decode_packets(spdl.io.demux_image(path), filter_desc=",".join(steps))
        return spdl.io.to_numpy(spdl.io.convert_frames(frames))

    def epoch(number: int) -> Iterator[torch.Tensor]:
        order = random.Random(number).sample(files, len(files))
        builder = PipelineBuilder().add_source(map(os.fspath, order))
        builder = builder.pipe(decode_crop, concurrency=cores()).aggregate(batch_size)
        pipeline = builder.pipe(np.stack).add_sink(3).build(num_threads=cores())
        with pipeline.auto_stop():
            yield from map(torch.from_numpy, pipeline.get_iterator())

    return epoch


def _timed(
    comparison: str,
    name: str,
    epochs: Callable[[int], Iterable[Any]],
    args: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    rates = []
    for epoch in range(args.epochs + 1):
        started = time.perf_counter()
        for _ in epochs(epoch):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(args.images / (time.perf_counter() - started))
    return {
        "comparison": comparison,
        "loader": name,
        "images_per_second": statistics.median(rates[1:]),
        "epochs": rates[1:],
        "first_epoch": rates[0],
    }
