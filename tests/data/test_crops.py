"""Crops drawn from seed, step and place alone; FFCV's are those that a device cuts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.crops import Crops, draw_boxes, random_resized_crop
from pst_fast.data.loaders import make_loader
from pst_fast.distributed import WHOLE, Shard

CPU = torch.device("cpu")


def _images(count: int, height: int, width: int) -> torch.Tensor:
    """Noise whose neighbours are alike, so that half a pixel's shift changes little."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.normal(size=(count, 3, height // 4 + 1, width // 4 + 1)))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (128 + 60 * fine).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_a_pixel_is_the_mean_of_what_it_covers() -> None:
    """Each pixel blown up to ``size`` by ``size``, of which a crop's pixel covers a whole number."""
    images, size = _images(8, 40, 30), 24
    found = random_resized_crop(images, size, seed=3, step=7)
    assert found.shape == (8, size, size, 3) and found.dtype == torch.uint8
    for image, box, crop in zip(images, draw_boxes(8, 40, 30, 3, 7), found, strict=True):
        top, left, height, width = (int(side) for side in box)
        part = image[top : top + height, left : left + width].double()
        large = part.repeat_interleave(size, 0).repeat_interleave(size, 1)
        expected = large.reshape(size, height, size, width, 3).mean((1, 3))
        assert (crop - expected).abs().max() <= 0.51


def test_batches_of_any_length_are_cropped_alike() -> None:
    images = _images(600, 16, 16)
    whole = random_resized_crop(images, 8, 0, 5)
    assert torch.equal(random_resized_crop(images[:300], 8, 0, 5), whole[:300])
    assert random_resized_crop(images[:0], 8, 0, 5).shape == (0, 8, 8, 3)


def test_boxes_are_those_of_torchvision() -> None:
    """Inside the image, areas and ratios in range and spread over it, every draw its own."""
    boxes = draw_boxes(4000, 64, 64, seed=0, step=1)
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 64).all() and (left + width <= 64).all()
    share, ratio = height * width / 64**2, width / height
    assert share.min() > 0.07 and share.max() <= 1.0
    assert ratio.min() > 0.7 and ratio.max() < 1.42
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    params = transforms.RandomResizedCrop.get_params
    theirs = np.array([params(torch.zeros(3, 64, 64), [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)])
    assert abs(share.mean() - (theirs[:, 2] * theirs[:, 3]).mean() / 64**2) < 0.02
    assert np.abs(boxes.mean(0) - theirs.mean(0)).max() < 1
    assert (draw_boxes(5, 64, 64, 0, 1) == draw_boxes(5, 64, 64, 0, 1)).all()
    assert (draw_boxes(5, 64, 64, 0, 1) != draw_boxes(5, 64, 64, 0, 2)).any()
    assert (draw_boxes(5, 64, 64, 0, 1) != draw_boxes(5, 64, 64, 1, 1)).any()


def test_boxes_of_narrow_images_fall_back_to_the_largest_part() -> None:
    top, left, height, width = draw_boxes(50, 400, 4, seed=0, step=0).T
    assert ((height >= 1) & (top + height <= 400) & (width >= 1) & (left + width <= 4)).all()
    assert (height[width == 4] <= 6).all()


def test_boxes_of_images_of_several_sizes() -> None:
    heights, widths = np.array([64, 20, 64]), np.array([64, 90, 64])
    top, left, height, width = draw_boxes(3, heights, widths, seed=0, step=1).T
    assert ((top + height <= heights) & (left + width <= widths)).all()
    same = draw_boxes(3, 64, 64, seed=0, step=1)
    np.testing.assert_array_equal(np.stack([top, left, height, width], 1)[[0, 2]], same[[0, 2]])


SIDE, COUNT, BATCH = 48, 52, 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crops") / "x.beton"
    write_beton(path, _images(COUNT, SIDE, SIDE).numpy(), np.zeros(COUNT), np.arange(COUNT))
    return path


def _cut_by_ffcv(path: Path, crops: Crops, epoch: int, shard: Shard = WHOLE) -> list[torch.Tensor]:
    loader = make_loader(
        path, batch_size=BATCH, seed=crops.seed, shuffle=True, drop_last=False, device=CPU, kind="ffcv",
        crops=crops, shard=shard,
    )  # fmt: skip
    assert loader.cropped
    return [batch.images.clone() for batch in loader.epoch(epoch)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64])
def test_ffcv_cuts_the_crops_of_a_device(path: Path, size: int) -> None:
    """Within a level on most pixels; where one side grows and the other shrinks OpenCV's mean is another,
    and it takes the row beside the right one where a pixel's edge is one of the image."""
    pytest.importorskip("ffcv")
    whole = torch.from_numpy(read_beton(path).load_all())
    crops = Crops(seed=3, sizes=(16, size, 16))
    rows = make_loader(
        path, batch_size=BATCH, seed=3, shuffle=True, drop_last=False, device=CPU, kind="device"
    )
    assert not rows.cropped
    cut = _cut_by_ffcv(path, crops, epoch=1)
    assert [len(images) for images in cut] == [20, 20, 12]
    close, alike = [], []
    for number, (batch, found) in enumerate(zip(rows.epoch(1), cut, strict=True)):
        assert torch.equal(batch.images, whole[batch.index])
        step = len(cut) + number
        expected = random_resized_crop(batch.images, size, 3, step)
        off = (found.int() - expected.int()).abs().flatten(1)
        height, width = draw_boxes(len(found), SIDE, SIDE, 3, step)[:, 2:].T
        same = torch.from_numpy((height >= size) == (width >= size))
        close.append((off[same] <= 1).float().mean(1))
        alike.append(off.float().mean(1))
        other = random_resized_crop(batch.images, size, 3, step + 1)
        assert (found.int() - other.int()).abs().float().mean() > 20, "crops of another step are other ones"
    assert torch.cat(close).mean() > 0.98
    assert torch.cat(alike).max() < 3


@pytest.mark.slow
def test_ffcv_cuts_the_same_crops_again_and_in_shards(path: Path) -> None:
    pytest.importorskip("ffcv")
    crops = Crops(seed=1, sizes=(32, 24))
    epochs = [_cut_by_ffcv(path, crops, epoch) for epoch in (0, 1)]
    assert [images.shape[1] for images in (epochs[0][0], epochs[1][0])] == [32, 24]
    for epoch, cut in enumerate(epochs):
        again = _cut_by_ffcv(path, crops, epoch)
        assert all(torch.equal(one, other) for one, other in zip(cut, again, strict=True))
        shards = [_cut_by_ffcv(path, crops, epoch, Shard(rank, 3)) for rank in range(3)]
        joined = [torch.cat(parts) for parts in zip(*shards, strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(cut, joined, strict=True))
