"""How training images are augmented, and how any image becomes the network's input."""

from dataclasses import asdict, dataclass
from functools import cache

import torch

from pst_fast import ops

#: Per-channel constants of the networks' input, on [0,1] images (ImageNet's, for every data set).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """Settings of :func:`pst_fast.ops.augment`; the default is the field's crop and flip.

    Attributes:
        crop: Zero padding before the random crop, as a share of the side (1/8: 4 pixels at 32).
        flip: Whether to flip half of the images.
        brightness, contrast, saturation, hue: Ranges of the colour jitter, as in torchvision.
        jitter_probability: Share of images whose colours are jittered.
        grey_probability: Share of images that lose their colour.
    """

    crop: float = 1 / 8
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 0.8
    grey_probability: float = 0.0

    def __call__(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        """Augment uint8 [B,H,W,3] into normalised fp32 [B,3,H,W], the same way for the same seed and step."""
        options = asdict(self)
        padding = round(options.pop("crop") * images.shape[1])
        mean, std = _constants(images.device)
        return ops.augment(images, seed=seed, offset=step, padding=padding, mean=mean, std=std, **options)


PLAIN = Augmentation()
COLOUR = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_probability=0.2)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B,H,W,3] to normalised fp32 [B,3,H,W], nothing drawn."""
    mean, std = _constants(images.device)
    return ops.augment(images, seed=0, offset=0, mean=mean, std=std)


def denormalise(inputs: torch.Tensor) -> torch.Tensor:
    """Normalised fp32 [B,3,H,W] back to [0,1] (but for rounding), differentiable."""
    mean, std = _by_channel(inputs)
    return inputs * std + mean


def renormalise(images: torch.Tensor) -> torch.Tensor:
    """fp32 [B,3,H,W] in [0,1] to normalised ones, differentiable."""
    mean, std = _by_channel(images)
    return (images - mean) / std


def _by_channel(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = _constants(images.device)
    return mean[:, None, None], std[:, None, None]


@cache
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
