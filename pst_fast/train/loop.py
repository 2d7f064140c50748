"""One optimisation: a network, a loader, a defense; read it from top to bottom."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pst_fast import distributed, ops
from pst_fast.data.crops import random_resized_crop
from pst_fast.data.types import Batch, Loader
from pst_fast.defenses.base import Defense, Event
from pst_fast.errors import InputError
from pst_fast.files import replacing
from pst_fast.models import create_model
from pst_fast.ops import View
from pst_fast.precision import autocast, computes_in_bf16
from pst_fast.pst import ActivationClusterMeasurement
from pst_fast.train.augmentation import Augmentation, normalise
from pst_fast.train.averaging import Averaged
from pst_fast.train.metrics import MetricsLog
from pst_fast.train.parallel import (
    Parts,
    own_statistics,
    replicated,
    seed_epoch,
    with_shared_statistics,
)
from pst_fast.train.resizing import resized, resolution
from pst_fast.train.settings import TrainSettings

Progress = Callable[[float, str], None]


class Fit:
    """Trains one network for a number of epochs; after a kill it goes on from the last whole epoch.

    Several processes (:mod:`pst_fast.distributed`) do so together: all of them have the same network and run
    the same lines, each on its part of the batches; the main one writes.

    Args:
        defense: What differs from plain training.
        loader: Training batches, of which it gives this process's part; so do the other two.
        test_loader: Test batches, for the accuracy after each epoch (nothing else looks at it).
        held_out: Batches of training images that are not in ``loader``, for the accuracy on them, or None.
        probe: Fixed training images (uint8 [P,H,W,3]) on which ACM is measured, and their labels.
        num_classes: Outputs of the network.
        settings: The run's settings.
        device: Where to train.
        folder: Where ``training.ckpt`` and the metrics go.
        progress: Called with (fraction done, a few words).
    """

    def __init__(
        self,
        *,
        defense: Defense,
        loader: Loader,
        test_loader: Loader,
        held_out: Loader | None = None,
        probe: Batch,
        num_classes: int,
        settings: TrainSettings,
        device: torch.device,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.defense = defense
        self.loader = loader
        self.test_loader = test_loader
        self.held_out = held_out
        self.num_classes = num_classes
        self.settings = settings
        self.epochs = settings.epochs
        self.device = device
        self.progress = progress
        self.checkpoint = folder / "training.ckpt"
        self.log = MetricsLog(folder)
        model = _seeded_model(settings, num_classes, probe.images.shape[1]).to(device)
        self.model = with_shared_statistics(model, device).to(memory_format=torch.channels_last)
        self.averaged = Averaged(self.model, settings.ema)
        self.image_size = probe.images.shape[1]
        self.forward: Callable[[torch.Tensor], torch.Tensor] = replicated(self.model)
        if settings.compile:
            # On a GPU, kernels of small batches take longer to launch than to run: hence a CUDA graph.
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.forward = torch.compile(self.forward, mode=mode)
        self.parts = Parts(loader)
        self._own_statistics = own_statistics(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
            fused=True,
        )
        self.probe_images = probe.images.to(device)
        self.bf16 = computes_in_bf16(device) if settings.amp == "auto" else settings.amp == "on"
        self.acm = ActivationClusterMeasurement(
            self.model,
            normalise(self.probe_images),
            probe.labels.to(device),
            bf16=self.bf16,
            distributed=distributed.world_size() > 1,
        )
        self.rows: list[dict[str, Any]] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        defense.start(self)

    def run(self) -> None:
        """Train until the last epoch is done."""
        self._resume()
        for epoch in range(len(self.rows), self.epochs):
            seed_epoch(self.settings.seed, epoch)
            seen_events = len(self.defense.events)
            row = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            started = time.perf_counter()
            row["test_accuracy"] = self._accuracy(self.test_loader)
            if self.held_out:
                row["held_out_accuracy"] = self._accuracy(self.held_out)
            row["acm"] = self.acm()
            self.seconds["evaluate"] += time.perf_counter() - started
            row["levels"] = self.defense.levels()
            row["events"] = [
                {**asdict(e), "epoch": e.step / len(self.loader)} for e in self.defense.events[seen_events:]
            ]
            self.defense.after_epoch(row)
            self.rows.append(row)
            if distributed.is_main():
                self._save()
                self.log.append(row)
        self.log.close()

    @property
    def images_per_second(self) -> float:
        """Training images by the seconds that training took, evaluation left out."""
        images = sum(row["images"] for row in self.rows)
        return images / max(self.seconds["train"], 1e-9)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self.model.train()
        started = time.perf_counter()
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        images = 0
        steps = len(self.loader)
        for number, batch in enumerate(self.loader.epoch(epoch)):
            step = epoch * steps + number
            loss, hits = self._step(batch, number, step)
            loss_sum += loss * len(batch.labels)
            correct += hits
            images += self.parts.whole(number)
            self._show(step + 1, images / (time.perf_counter() - started))
        for total in (loss_sum, correct):
            distributed.sum_(total)
        mean_loss = float(loss_sum) / images  # waits for the device, so that the clock below is honest
        if not math.isfinite(mean_loss):
            raise InputError(
                f"training diverged in epoch {epoch + 1} (its loss is {mean_loss}): "
                f"lower --learning-rate, which is {self.settings.learning_rate}"
            )
        seconds = time.perf_counter() - started
        self.seconds["train"] += seconds
        return {
            "lr": self.learning_rate((epoch + 1) * steps - 1),
            "images": images,
            "train_loss": mean_loss,
            "train_accuracy": int(correct) / images,
            "seconds": seconds,
            "images_per_second": images / seconds,
        }

    def _step(self, batch: Batch, number: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self.settings
        labels = batch.labels.to(self.device, non_blocking=True)
        images = batch.images.to(self.device, non_blocking=True)
        images, before = self.parts.at_its_place(images, number)
        seen = self.defense.view(images, settings.seed, step)
        inputs = self._augmented(seen, self.defense.augmentation(), step)[before:]
        inputs, targets = self.defense.transform(inputs, labels)
        following = self.defense.following()
        rows = following.rows(len(labels), before).to(self.device) if following else None
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        if following:
            again = self._augmented(images, following.augmentation, step)[before:]
            inputs = torch.cat([inputs, again[rows]])
        with autocast(self.device, self.bf16):
            outputs = self.forward(inputs)
        logits, followed = outputs[: len(labels)], outputs[len(labels) :]
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=settings.label_smoothing)
        if following:
            loss = loss + following.loss(logits[rows], followed, len(labels))
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.parts.weight(len(labels), number)).backward()
        self.optimizer.step()
        distributed.average_(self._own_statistics)
        self.averaged.update()
        self.defense.after_step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _augmented(self, images: torch.Tensor, augmentation: Augmentation, step: int) -> torch.Tensor:
        """uint8 images as the network's input, at the size of the step's epoch."""
        if self.settings.random_resized_crop:
            augmentation = replace(augmentation, crop=0.0)
        return augmentation(self._resized(images, step), self.settings.seed, step)

    def _resized(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """The batch at the size of its epoch, cropped at random if so set."""
        if self.loader.cropped:
            return images
        settings, epoch = self.settings, step // len(self.loader)
        size = resolution(settings.progressive, self.image_size, epoch, self.epochs)
        if settings.random_resized_crop:
            return random_resized_crop(images, size, settings.seed, step)
        return resized(images, size)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        total = self.epochs * len(self.loader)
        warmup = min(self.settings.warmup_epochs * len(self.loader), total / 2)
        if step < warmup:
            return self.settings.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1.0, total - warmup)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def _accuracy(self, loader: Loader) -> float:
        model, size = self.averaged.result, self.settings.eval_size or self.image_size
        model.eval()
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        for batch in loader.epoch(0):
            if not len(batch.labels):
                continue
            images = batch.images.to(self.device, non_blocking=True)
            answers = torch.zeros((), device=self.device)
            for view in self.defense.looks() or (View(),):
                seen = ops.degrade(images, [view], seed=0, offset=0)
                with autocast(self.device, self.bf16):
                    logits = model(normalise(resized(seen, size)))
                answers = answers + logits.float().softmax(1)
            correct += (answers.argmax(1) == batch.labels.to(self.device)).sum()
        return int(distributed.sum_(correct)) / loader.num_samples

    def _show(self, step: int, speed: float) -> None:
        left = (self.epochs * len(self.loader) - step) * self.loader.batch_size / speed
        epoch = (step - 1) // len(self.loader) + 1
        words = (
            f"epoch {epoch}/{self.epochs}, {speed:,.0f} img/s, {int(left) // 60}:{int(left) % 60:02d} left"
        )
        self.progress(step / (self.epochs * len(self.loader)), words)

    def _save(self) -> None:
        state = {
            "model": self.averaged.everything.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "defense": self.defense.state_dict(),
            "events": [asdict(event) for event in self.defense.events],
            "rows": self.rows,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        # through memory: a full disk is then an OSError, which torch's own writer would hide
        stream = io.BytesIO()
        torch.save(state, stream)
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(stream.getbuffer())

    def _resume(self) -> None:
        if self.checkpoint.exists():
            try:
                state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
                self.averaged.everything.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.defense.load_state_dict(state["defense"])
            except Exception as error:
                raise InputError(
                    f"{self.checkpoint}: expected a checkpoint of {self.settings.model} "
                    f"(width {self.settings.width}) from this run, which it is not; remove it to start again"
                ) from error
            self.defense.events = [Event(**{**e, "stages": tuple(e["stages"])}) for e in state["events"]]
            self.rows = state["rows"]
            self.seconds = state["seconds"]
            torch.set_rng_state(state["rng"].cpu())
            if state["device_rng"] is not None:
                torch.cuda.set_rng_state(state["device_rng"].cpu(), self.device)
        if distributed.is_main():
            self.log.restart(self.rows)


def _seeded_model(settings: TrainSettings, num_classes: int, image_size: int) -> nn.Module:
    torch.manual_seed(settings.seed)
    return create_model(settings.model, num_classes=num_classes, width=settings.width, image_size=image_size)
