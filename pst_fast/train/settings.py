"""What a training run depends on."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainSettings:
    """One training run; every field enters the manifest's key.

    Attributes:
        defense: Name in ``pst_fast.defenses``.
        model: Name of the network (see ``pst_fast.models``).
        width: Channels of its first stage (64 is the standard ResNet).
        epochs: Passes over the training set.
        batch_size: Images a step.
        learning_rate: Peak of the cosine schedule (SGD with Nesterov momentum).
        momentum: Of SGD.
        weight_decay: Of SGD.
        warmup_epochs: Linear warm-up before the cosine.
        label_smoothing: Of the cross-entropy.
        seed: Initial weights, order, augmentation.
        amp: bf16 autocast: ``auto`` uses it where the hardware computes in bf16.
        random_resized_crop: Crop at random and resize, in the place of the crop with padding.
        progressive: Fractions of the stored size between which training images grow over the epochs, or None.
        eval_size: Side of the test images; None: as they are stored.
        ema: Decay of the average of the weights that is evaluated and kept; 0: the weights themselves are.
        compile: Whether to train the network through ``torch.compile``, on CUDA with CUDA graphs.
    """

    defense: str
    model: str
    width: int
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    seed: int = 0
    amp: Literal["auto", "on", "off"] = "auto"
    random_resized_crop: bool = False
    progressive: tuple[float, float] | None = None
    eval_size: int | None = None
    ema: float = 0.0
    compile: bool = False
