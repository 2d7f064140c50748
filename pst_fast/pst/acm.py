"""Activation Cluster Measurement (ACM): how far a network is trapped in perturbations, layer by layer.

The paper (arXiv 2306.02064) names the measure and publishes no formula. This is our reading: a spatial
linear-discriminant ratio of each stage's output on training images. Positions are kept coarsely, because
*where* on the map activations cluster tells perturbations from content.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import nn

from pst_fast import distributed as processes
from pst_fast import ops
from pst_fast.precision import autocast
from pst_fast.pst.lda import spatial_ldas
from pst_fast.pst.stages import Stage, StageNames, find_stages, unwrapped
from pst_fast.pst.tracing import evaluating


class ActivationClusterMeasurement:
    """ACM of every stage of a network on a fixed set of probe images.

    Args:
        model: Any network; it is measured in eval mode, as it is inside ``torch.compile`` and wrappers that
            share out batches, and given back in the mode it was in.
        images: Probe images [N,3,H,W] as the model takes them. Take them from the training set: neither
            clean images nor test images are needed.
        labels: int64 [N], their (training) labels.
        stages: Stage name -> submodule name(s), shallow first; found by depth if None.
        grid: The output of a stage is averaged over ``grid`` x ``grid`` cells.
        components: Principal components of the pooled features that are kept.
        batch_size: Images a forward pass; None: 350 on a CPU, and on a GPU, where a pass of few small images
            is all launches, as many as have the pixels of 350 images of 224 pixels.
        bf16: Whether the forward passes run under autocast to bf16.
        measure: ``(pooled [N,D], labels [N], num_classes) -> float``, another definition of the measure. It
            may return a tensor of one element: if it does for every stage, those are read at once.
        distributed: Whether all processes of ``torch.distributed`` measure together. They have the same
            network and probes, and all call this; each runs the network on a part of the probes, the
            features come together in the process of rank 0, and all get what that one measures, to the bit.

    Calling it returns ``{stage name: value}``, shallow first; :meth:`under` does so for several views of the
    probes at once. The host waits for the device once, at the end.
    For 10 classes and 700 probes, values around .2-.4 are a fresh network's; a trap shows as values above 1
    in shallow stages.

    Raises:
        ValueError: Fewer than two classes, sizes that do not match, or what :func:`find_stages` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        stages: StageNames | None = None,
        grid: int = 4,
        components: int = 32,
        batch_size: int | None = None,
        bf16: bool = False,
        measure: Callable[[torch.Tensor, torch.Tensor, int], float | torch.Tensor] | None = None,
        distributed: bool = False,
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"images and labels differ in length: {len(images)} and {len(labels)}")
        self.model = unwrapped(model)
        self.images = images
        self.classes, self.labels = labels.unique(return_inverse=True)
        if len(self.classes) < 2:
            raise ValueError("labels: ACM needs probe images of at least two classes")
        self.stages: list[Stage] = find_stages(self.model, stages, images[:2])
        self.grid = grid
        self.batch_size = batch_size or _default_batch(images)
        self.bf16 = bf16
        self.components = components
        self._measure = measure
        self._distributed = distributed

    def __call__(self, images: torch.Tensor | None = None, *, depth: int | None = None) -> dict[str, float]:
        """Measure.

        Args:
            images: [N,3,H,W] in the place of the probes: the same images under another view.
            depth: How many of the stages are measured, shallow ones first; None: all. The network is run no
                further than these need.
        """
        return self.under([self.images if images is None else images], depth=depth)[0]

    @torch.no_grad()
    def under(self, views: Sequence[torch.Tensor], *, depth: int | None = None) -> list[dict[str, float]]:
        """Measure under each of some views, in passes and launches that they share.

        Args:
            views: The probes under each, [N,3,H,W] as the model takes them.
            depth: As above.
        """
        names = [stage.name for stage in self.stages[:depth]]
        if not names or not views:
            return [{} for _ in views]
        samples = len(self.labels)
        if self._distributed and samples >= processes.world_size():
            shard = processes.shard().of(samples)
            own = self._features([images[shard] for images in views], names)
            gathered = [processes.gather_rows(rows, samples) for rows in own]
            pooled = [rows for rows in gathered if rows is not None]
        else:
            pooled = self._features(views, names)
        values = self._values(pooled, self.labels.to(views[0].device)) if pooled else []
        if self._distributed:
            values = processes.broadcast(values)
        each = [values[start : start + len(names)] for start in range(0, len(values), len(names))]
        return [dict(zip(names, view, strict=True)) for view in each]

    def _features(self, views: Sequence[torch.Tensor], names: list[str]) -> list[torch.Tensor]:
        """Of each view its stages', [N,D] each: what ``names`` has for the first, then for the second, ..."""
        pooled: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        sizes = [len(images) for images in views]
        fits = sum(sizes) <= self.batch_size
        batches = [torch.cat(list(views))] if fits else [b for v in views for b in v.split(self.batch_size)]
        with evaluating(self.model), self._collecting(pooled), autocast(batches[0].device, self.bf16):
            for batch in batches:
                with suppress(_Enough):
                    self.model(batch)
        by_stage = [torch.cat(parts).split(sizes) for parts in pooled.values()]
        return [features for view in zip(*by_stage, strict=True) for features in view]

    def _values(self, pooled: list[torch.Tensor], labels: torch.Tensor) -> list[float]:
        classes = len(self.classes)
        if self._measure is None:
            return spatial_ldas(pooled, labels, classes, self.components)
        values = [self._measure(features, labels, classes) for features in pooled]
        tensors = [value.reshape(()) for value in values if isinstance(value, torch.Tensor)]
        if len(tensors) == len(values):
            return torch.stack(tensors).tolist() if tensors else []
        return [float(value) for value in values]

    @contextmanager
    def _collecting(self, pooled: dict[str, list[torch.Tensor]]) -> Iterator[None]:
        def hook(stage: Stage) -> Callable[[nn.Module, object, torch.Tensor], None]:
            def collect(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
                maps = output.movedim(-1, 1) if stage.channels_last else output
                pooled[stage.name].append(_pool(maps, self.grid))
                if all(len(parts) == len(pooled[stage.name]) for parts in pooled.values()):
                    raise _Enough

            return collect

        handles = [
            stage.output(self.model).register_forward_hook(hook(stage))
            for stage in self.stages
            if stage.name in pooled
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _default_batch(images: torch.Tensor) -> int:
    """How many images like these a pass of a measurement has."""
    if images.device.type == "cpu":
        return 350
    return max(1, 350 * 224 * 224 // (images.shape[-2] * images.shape[-1]))


class _Enough(Exception):
    """All stages that are measured have been reached."""


def _pool(output: torch.Tensor, grid: int) -> torch.Tensor:
    if output.dim() == 2:
        return ops.grid_pool(output, 1)
    if output.dim() == 3:
        output = output.transpose(1, 2).unsqueeze(2)  # tokens as a map of height 1: positions stay in order
    return ops.grid_pool(output.contiguous() if output.shape[2] == 1 else output, grid)
