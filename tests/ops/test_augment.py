"""augment against its twin in fp64, against torchvision, and against what it promises."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import reference
from pst_fast.ops.reference_augment import BRIGHTNESS, CONTRAST, GREY_WEIGHTS, HUE, SATURATION
from tests.ops.helpers import REDUCED, lay_out, relative_error, threads

few = settings(max_examples=25, deadline=None)
JITTER: dict[str, Any] = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grey_probability": 0.2,
}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.75)


def random_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=random)


def random_delta(kind: str, images: Tensor) -> Tensor | None:
    random = torch.Generator().manual_seed(1)
    if kind == "float32":
        return 0.2 * (torch.rand(images.shape, generator=random) - 0.5).to(images.device)
    if kind == "int8":
        return torch.randint(-128, 128, images.shape, generator=random).to(images.device, torch.int8)
    if kind == "int16":
        return torch.randint(-400, 401, images.shape, generator=random).to(images.device, torch.int16)
    return None


def twin(images: Tensor, **options: Any) -> Tensor:
    """The twin in fp64."""
    for name in ("mean", "std"):
        if options.get(name) is not None:
            options[name] = torch.tensor(options[name], dtype=torch.float64, device=images.device)
    options["dtype"] = torch.float64
    return reference.augment(images, **options)


def test_plain_by_hand(device: torch.device) -> None:
    images = torch.tensor([0, 51, 255, 102, 204, 153], dtype=torch.uint8, device=device).view(1, 1, 2, 3)
    delta = torch.tensor([-1, 51, 9, 0, 0, -51], dtype=torch.int8, device=device).view_as(images)
    out = ops.augment(images, seed=0, offset=0, delta=delta, mean=(0.5, 0, 0), std=(0.5, 1, 2))
    assert out.shape == (1, 3, 1, 2)
    # Clamped below, perturbed, clamped above; then (x - mean) / std by channel.
    assert out.flatten().tolist() == pytest.approx([-1.0, -0.2, 0.4, 0.8, 0.5, 0.2], abs=1e-6)


@few
@given(
    size=st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 40)),
    padding=st.integers(0, 45),
    flip=st.booleans(),
    strengths=st.tuples(*[st.sampled_from([0.0, 0.3, 1.5])] * 3, st.sampled_from([0.0, 0.1, 0.5])),
    probabilities=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2),
    delta=st.sampled_from(["none", "float32", "int8", "int16"]),
    seed=st.integers(-(2**63), 2**63 - 1),
    offset=st.integers(-(2**63), 2**63 - 1),
)
def test_agrees_with_twin(
    size: tuple[int, int, int],
    padding: int,
    flip: bool,
    strengths: tuple[float, ...],
    probabilities: tuple[float, float],
    delta: str,
    seed: int,
    offset: int,
) -> None:
    images = random_images(*size)
    options: dict[str, Any] = {
        "seed": seed,
        "offset": offset,
        "delta": random_delta(delta, images),
        "padding": padding,
        "flip": flip,
        "jitter_probability": probabilities[0],
        "grey_probability": probabilities[1],
        "mean": MEAN,
        "std": STD,
        **dict(zip(("brightness", "contrast", "saturation", "hue"), strengths, strict=True)),
    }
    out = ops.augment(images, **options)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(out, twin(images, **options)) < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (40, 48), (3, 1100), (17, 15), (97, 100)])
@pytest.mark.parametrize("delta", ["none", "float32", "int8", "int16"])
@pytest.mark.parametrize("dtype", REDUCED)
@pytest.mark.parametrize("colours", [JITTER, {}], ids=["jitter", "plain"])
def test_training_sizes_agree_with_twin(
    device: torch.device, size: tuple[int, int], delta: str, dtype: torch.dtype, colours: dict[str, Any]
) -> None:
    images = random_images(10, *size).to(device)
    index = torch.randint(0, 10, (16,), generator=torch.Generator().manual_seed(3)).to(device)
    options = {
        "seed": 11,
        "offset": 5,
        "index": index,
        "delta": random_delta(delta, images),
        "padding": 4,
        "flip": True,
        "mean": MEAN,
        "std": STD,
        **colours,
    }
    bound = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    out = ops.augment(images, dtype=dtype, **options)
    assert out.dtype == dtype
    assert relative_error(out, twin(images, **options)) < bound


@pytest.mark.parametrize("kind", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
def test_one_adjustment_is_torchvisions(device: torch.device, kind: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    name = ("brightness", "contrast", "saturation", "hue")[kind]
    images = random_images(24, 13, 11).to(device)
    out = ops.augment(images, seed=1, offset=2, **{name: 0.5})
    drawn = reference.draw_parameters(24, seed=1, offset=2, device=device, **{name: 0.5})
    for i, factor in enumerate(drawn.factors[:, kind].tolist()):
        image = images[i].permute(2, 0, 1).double() / 255
        wanted = getattr(functional, f"adjust_{name}")(image, factor)
        assert relative_error(out[i], wanted) < 2e-5


def test_everything_is_torchvisions_in_the_drawn_order(device: torch.device) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = random_images(48, 12, 10).to(device)
    options = JITTER | {"padding": 3, "flip": True, "grey_probability": 0.3}
    out = ops.augment(images, seed=3, offset=4, mean=MEAN, std=STD, **options)
    drawn = reference.draw_parameters(48, seed=3, offset=4, device=device, **options)
    adjust = {
        BRIGHTNESS: functional.adjust_brightness,
        CONTRAST: functional.adjust_contrast,
        SATURATION: functional.adjust_saturation,
        HUE: functional.adjust_hue,
    }
    for i in range(48):
        image = functional.pad(images[i].permute(2, 0, 1).double() / 255, [3])
        image = functional.crop(image, int(drawn.top[i]), int(drawn.left[i]), 12, 10)
        if drawn.flip[i]:
            image = functional.horizontal_flip(image)
        if drawn.jitter[i]:
            for kind in drawn.order[i].tolist():
                image = adjust[kind](image, float(drawn.factors[i, kind]))
        if drawn.grey[i]:
            image = functional.rgb_to_grayscale(image, num_output_channels=3)
        wanted = functional.normalize(image, MEAN, STD)
        assert relative_error(out[i], wanted) < 2e-5


def test_grey_pixels_and_ties(device: torch.device) -> None:
    # No chroma, no hue: the division by the chroma must not show. Then every tie between two channels.
    table = [0, 0, 0, 255, 255, 255, 77, 77, 77, 9, 9, 200, 9, 200, 9, 200, 9, 9, 200, 200, 9, 200, 9, 200]
    table += [9, 200, 200, 1, 0, 0, 0, 0, 1, 254, 255, 254]
    images = torch.tensor(table, dtype=torch.uint8, device=device).view(1, 2, 6, 3).expand(64, 2, 6, 3)
    options = {"seed": 1, "offset": 1, "hue": 0.5}
    out = ops.augment(images, **options)
    assert bool(out.isfinite().all())
    assert relative_error(out, twin(images, **options)) < 1e-5
    assert relative_error(out[:, :, 0, 2], torch.full((64, 3), 77 / 255)) < 1e-5


def test_grey_has_three_equal_channels(device: torch.device) -> None:
    images = random_images(3, 5, 5).to(device)
    out = ops.augment(images, seed=0, offset=0, grey_probability=1.0)
    red, green, blue = images.double().unbind(3)
    wanted = (GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue) / 255
    for channel in range(3):
        assert relative_error(out[:, channel], wanted) < 1e-6


def test_index_gathers_images_and_perturbations(device: torch.device) -> None:
    images = random_images(6, 4, 4).to(device)
    delta = random_delta("int16", images)
    index = torch.tensor([5, 0, 0, 3], device=device)
    out = ops.augment(images, seed=0, offset=0, index=index, delta=delta)
    wanted = (images[index].int() + delta[index]).clamp(0, 255).permute(0, 3, 1, 2) / 255
    assert relative_error(out, wanted) < 1e-6
    strided = torch.tensor([5, 9, 0, 9, 0, 9, 3, 9], device=device)[::2]
    assert torch.equal(ops.augment(images, seed=0, offset=0, index=strided, delta=delta), out)


def test_depends_on_seed_and_offset_alone(device: torch.device) -> None:
    images = random_images(16, 9, 9).to(device)

    def run(seed: int, offset: int) -> Tensor:
        return ops.augment(images, seed=seed, offset=offset, padding=2, flip=True, **JITTER)

    assert torch.equal(run(1, 2), run(1, 2))
    assert not torch.equal(run(1, 2), run(1, 3))
    assert not torch.equal(run(1, 2), run(2, 2))
    # High words count as well.
    assert not torch.equal(run(1, 2), run(1 + 2**32, 2))
    assert not torch.equal(run(1, 2), run(1, 2 + 2**32))


def test_same_sample_drawn_twice_differs(device: torch.device) -> None:
    images = random_images(1, 16, 16).to(device)
    out = ops.augment(
        images, seed=0, offset=0, index=torch.zeros(8, dtype=torch.int64, device=device), hue=0.5
    )
    assert len({tuple(sample.flatten().tolist()) for sample in out}) == 8


def test_is_the_same_for_any_number_of_threads() -> None:
    images = random_images(64, 40, 40)
    results = []
    for count in (1, 4):
        with threads(count):
            results.append(ops.augment(images, seed=1, offset=2, padding=4, flip=True, **JITTER))
    assert torch.equal(*results)


def test_layouts_and_empty_batches(device: torch.device) -> None:
    images = random_images(4, 6, 7).to(device)
    wanted = ops.augment(images, seed=1, offset=2, padding=1, flip=True)
    for layout in ("channels_last", "strided"):
        assert torch.equal(
            ops.augment(lay_out(images, layout), seed=1, offset=2, padding=1, flip=True), wanted
        )
    none = ops.augment(images, seed=1, offset=2, index=torch.zeros(0, dtype=torch.int64, device=device))
    assert none.shape == (0, 3, 6, 7)
    assert ops.augment(images[:0], seed=1, offset=2, **JITTER).shape == (0, 3, 6, 7)


IMAGES = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"images": IMAGES.float()}, TypeError, "images must be uint8, got float32"),
        ({"images": IMAGES.permute(0, 3, 1, 2)}, ValueError, r"\[M, H, W, 3\], got \[2, 3, 4, 4\]"),
        ({"index": torch.tensor([0, 2])}, RuntimeError, r"index must be in \[0, 2\), got 2"),
        ({"index": torch.tensor([-1])}, RuntimeError, r"index must be in \[0, 2\), got -1"),
        ({"index": torch.tensor([0.0])}, TypeError, "index must be int64, got float32"),
        ({"index": torch.tensor([[0]])}, ValueError, r"index must be \[B\], got \[1, 1\]"),
        ({"delta": IMAGES}, TypeError, "delta must be float32, int8 or int16, got uint8"),
        ({"delta": IMAGES[:1].char()}, ValueError, r"delta must have the shape \[2, 4, 4, 3\]"),
        ({"delta": IMAGES.char().to("meta")}, ValueError, "delta must be on images's device cpu, got meta"),
        ({"dtype": torch.float64}, TypeError, "dtype must be float32, bfloat16 or float16, got float64"),
        ({"padding": -1}, ValueError, "padding must be between 0 and"),
        ({"brightness": -0.1}, ValueError, "brightness must be at least 0, got -0.1"),
        ({"hue": 0.6}, ValueError, "hue must be between 0 and 0.5, got 0.6"),
        ({"grey_probability": 1.5}, ValueError, "grey_probability must be between 0 and 1, got 1.5"),
        ({"mean": (0.5, 0.5)}, ValueError, r"mean must have the shape \[3\]"),
        ({"seed": 2**63}, ValueError, "seed must fit 64 bits"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ops.augment(**({"images": IMAGES, "seed": 0, "offset": 0} | changes))
