"""Differentiable augmentations: where pixels go, which colours come out, and that gradients come through."""

import pytest
import torch

from pst_fast import ops
from pst_fast.attacks.pgd import MEAN, STD
from pst_fast.attacks.transforms import contrastive, in_turn, seen_through, shift_and_flip
from pst_fast.ops import View


def test_shift_and_flip_moves_whole_pixels():
    torch.manual_seed(0)
    images = torch.arange(1.0, 1 + 200 * 16 * 24).view(200, 1, 16, 24)
    found = shift_and_flip(images)
    seen = set()
    for image, moved in zip(images[:, 0], found[:, 0], strict=True):
        row, column = torch.nonzero(moved).median(0).values.tolist()
        value = moved[row, column]
        mirrored = bool(moved[row, column + 1] < value)
        source_row, source_column = (torch.nonzero(image == value)[0]).tolist()
        middle = (23 - column if mirrored else column, row)
        shift = (middle[0] - source_column, middle[1] - source_row)
        seen.add((mirrored, *shift))
        expected = torch.zeros_like(image)
        flipped = image.flip(1) if mirrored else image
        dy, dx = source_row - row, (23 - source_column if mirrored else source_column) - column
        rows = slice(max(0, -dy), 16 - max(0, dy))
        columns = slice(max(0, -dx), 24 - max(0, dx))
        expected[rows, columns] = flipped[max(0, dy) : 16 + min(0, dy), max(0, dx) : 24 + min(0, dx)]
        assert torch.equal(moved, expected)
    assert {mirrored for mirrored, *_ in seen} == {False, True}
    assert max(abs(dx) for _, dx, _ in seen) == 3
    assert max(abs(dy) for _, _, dy in seen) == 2


def test_shift_and_flip_passes_gradients():
    torch.manual_seed(0)
    inputs = torch.rand(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def moved(x):
        torch.manual_seed(1)
        return shift_and_flip(x)

    assert torch.autograd.gradcheck(moved, inputs)


def test_the_weakest_contrastive_view_only_mirrors():
    torch.manual_seed(0)
    images = torch.rand(40, 3, 8, 12)
    inputs = (images - MEAN) / STD
    found = contrastive(0.0)(inputs)
    mirrored = (found - inputs.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    same = (found - inputs).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored ^ same).all()
    assert 8 < mirrored.sum() < 32


def test_contrastive_views_by_their_shares():
    torch.manual_seed(0)
    images = torch.zeros(4000, 3, 4, 4)
    images[:, 0], images[:, 1], images[:, 2] = 0.6, 0.3, 0.2
    found = contrastive(0.5)((images - MEAN) / STD) * STD + MEAN
    assert found.min() >= 0
    assert found.max() <= 1
    colours = found[:, :, 0, 0]
    assert (found - colours[:, :, None, None]).abs().max() < 1e-5  # of one colour each, still
    grey = (colours.amax(1) - colours.amin(1)) < 1e-5
    assert grey.float().mean() == pytest.approx(0.1, abs=0.02)
    untouched = (colours - torch.tensor([0.6, 0.3, 0.2])).abs().amax(1) < 1e-5
    assert untouched.float().mean() == pytest.approx(0.6 * 0.9, abs=0.03)
    luma = (colours[~untouched & ~grey] * torch.tensor([0.299, 0.587, 0.114])).sum(1)
    before = 0.299 * 0.6 + 0.587 * 0.3 + 0.114 * 0.2
    # Brightness alone moves the luma of an image of one colour: by up to a fifth.
    assert luma.min() == pytest.approx(0.8 * before, rel=0.02)
    assert luma.max() == pytest.approx(1.2 * before, rel=0.02)


def test_contrastive_crops_are_as_large_as_they_may_be():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).expand(2000, 3, 64, 64).contiguous()
    found = contrastive(1.0)(ramp)[:, :1]
    assert found.shape == (2000, 1, 64, 64)
    torch.manual_seed(0)
    from pst_fast.attacks.transforms import _crop

    cropped = _crop(ramp, 0.1)[:, 0]
    span = (cropped[:, :, -1] - cropped[:, :, 0]).abs().mean(1) / 2
    assert span.max() > 0.9
    assert 0.25 < span.min() < 0.4  # a tenth of the area, as narrow as 3:4


def test_contrastive_passes_gradients():
    torch.manual_seed(0)
    inputs = torch.rand(4, 3, 6, 6) * 0.2  # in the middle of the range: nothing is clamped
    for strength in (0.4, 1.0):
        leaf = inputs.clone().requires_grad_()
        torch.manual_seed(1)
        (grad,) = torch.autograd.grad(contrastive(strength)(leaf).sum(), leaf)
        direction = torch.randn_like(inputs)
        values = []
        for sign in (1, -1):
            torch.manual_seed(1)
            values.append(contrastive(strength)(inputs + sign * 1e-2 * direction).double().sum())
        slope = (values[0] - values[1]) / 2e-2
        assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.01)


def test_bad_strength():
    with pytest.raises(ValueError, match=r"strength: expected a value between 0 and 1, got 1\.5"):
        contrastive(1.5)


def test_each_sample_is_seen_through_a_view_of_the_mix_and_gradients_pass_straight_through():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (400, 8, 8, 3), dtype=torch.uint8)
    inputs = ((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD).requires_grad_()
    views = {View.jpeg(10): 0.75, View.bits(1): 0.25}
    found = seen_through(views)(inputs)
    back = ((found.detach() * STD + MEAN) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    under = [(back == ops.degrade(pixels, [view], seed=0, offset=0)).all((1, 2, 3)) for view in views]
    assert (under[0] ^ under[1]).all()
    assert 270 < under[0].sum() < 330
    weights = torch.rand_like(found)
    (gradient,) = torch.autograd.grad((found * weights).sum(), inputs)
    torch.testing.assert_close(gradient, weights)


def test_transforms_run_in_turn():
    assert in_turn(lambda x: x + 1, lambda x: x * 2)(torch.tensor(3.0)) == 8
