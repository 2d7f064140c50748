"""Networks that attacks train first and leave as they are then."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pst_fast import distributed
from pst_fast.attacks.base import CraftTask
from pst_fast.attacks.pgd import MEAN, STD, LinfPGD, Transform, perturbed_inputs
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded

STATE = "reference.pt"


@dataclass(frozen=True)
class Training:
    """How a reference network is trained.

    Attributes:
        epochs: Passes over the images.
        adversary: Radius, on [0,1] images, of the adversarial examples that it is trained on; 0: it is
            trained on the images.
        adversary_steps: Gradient steps of those.
        batch_size: Images that it learns from at a time.
    """

    epochs: int
    adversary: float = 0.0
    adversary_steps: int = 5
    batch_size: int = 128


def train_reference(
    task: CraftTask,
    training: Training,
    transform: Transform,
    share: float,
    kept: Callable[[int, nn.Module], None] = lambda epochs, model: None,
) -> nn.Module:
    """The task's network, trained on transformed images (and, of those, adversarial examples).

    A tenth of the rate is left from half of the epochs on, and a hundredth from three quarters on.

    Args:
        task: The images, the network, the folder and the progress.
        training: How to train.
        transform: Of the network's inputs, drawn anew in each step.
        share: Of the task's progress that this is.
        kept: Called after each epoch with the number of epochs that are done, before that is on the disk.
    """
    surrogate = Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    distributed.on_main(lambda: _train(surrogate, task, training, transform, share, kept))
    distributed.share_module_(surrogate.model)
    return surrogate.model


def _train(
    surrogate: Surrogate,
    task: CraftTask,
    training: Training,
    transform: Transform,
    share: float,
    kept: Callable[[int, nn.Module], None],
) -> None:
    order = BatchOrder(len(task.data), training.batch_size, task.seed)
    batches = len(task.data) // order.batch_size
    state = load_state(task.folder / STATE)
    if state is not None:
        surrogate.restore(state["surrogate"])
    adversary = None
    if training.adversary:
        radius = training.adversary
        adversary = LinfPGD(surrogate.model, step_size=radius / 4, epsilon=radius, ascend=True)
    for epoch in range(state["epochs"] if state else 0, training.epochs):
        for group in surrogate.optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** ((2 * epoch >= training.epochs) + (4 * epoch >= 3 * training.epochs))
        with seeded(task.seed + 1 + epoch, task.device):
            for number in range(batches):
                done = (epoch + number / batches) / training.epochs
                task.progress(share * done, f"reference network, epoch {epoch + 1}")
                rows = order[epoch * batches + number]
                x, labels = task.batch(rows)
                inputs = transform(perturbed_inputs(x, torch.zeros_like(x)))
                if adversary is not None:
                    x = (inputs.float() * STD + MEAN).clamp_(0, 1)
                    surrogate.model.eval()
                    delta = adversary.run_(x, torch.zeros_like(x), labels, steps=training.adversary_steps)
                    inputs = perturbed_inputs(x, delta)
                surrogate.train_step(inputs, labels)
        kept(epoch + 1, surrogate.model)
        save_state(task.folder / STATE, {"surrogate": surrogate.state(), "epochs": epoch + 1})
