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
        compile: Whether to run the network through ``torch.compile``.
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
    compile: bool = False
