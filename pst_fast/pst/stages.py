"""Where a network's depth stages are: the units that Progressive Staged Training watches and slows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pst_fast.pst.tracing import Trace, is_weighted

_MAX_STAGES = 5
_TRUNK = 4
"""Blocks that a container has to hold to be opened beside another one: a transformer's, say."""
_LEFT_OUT_AT_THE_END = ("pool", "flatten", "dropout", "identity")


@dataclass(frozen=True)
class Stage:
    """Neighbouring submodules that count as one depth.

    Attributes:
        name: For logs and plots.
        modules: Qualified names of the submodules, shallow first.
        measured: The one whose output stands for the stage; the last one, unless another is given.
        channels_last: Whether that output is [N,H,W,C], and not [N,C,H,W].
    """

    name: str
    modules: tuple[str, ...]
    measured: str = ""
    channels_last: bool = False

    def output(self, model: nn.Module) -> nn.Module:
        """The submodule whose output stands for the stage."""
        return model.get_submodule(self.measured or self.modules[-1])

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """All parameters of the stage."""
        return [p for name in self.modules for p in model.get_submodule(name).parameters()]


StageNames = Mapping[str, str | Sequence[str]]


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, DataParallel and DistributedDataParallel, with its own names."""
    while True:
        if isinstance(model, nn.DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def find_stages(
    model: nn.Module, names: StageNames | None = None, images: torch.Tensor | None = None
) -> list[Stage]:
    """The stages of a network by depth, shallow first, without its classifier.

    A stem of single layers is one stage and so is every block of layers after it; where there are more
    than five, neighbours are merged. Modules that add nothing with parameters to a network, such as a
    normalisation of its inputs, change nothing.

    Args:
        model: Any network.
        names: Stage name -> submodule name(s), shallow first, for networks with another shape.
        images: Some that the model takes. They are run through it once, to see what runs, in which order, and
            what answers. Without them it is taken to be a network whose submodules are defined in the order
            in which they run, each once, and whose classifier is its last linear layer.

    Raises:
        ValueError: No stage can be found, or a name is not a submodule, or nothing in a stage can be
            measured: no submodule runs once and gives [N,C], [N,T,C] or [N,C,H,W].
    """
    trace = None if images is None else Trace(model, images)
    if names is not None:
        return _named(model, names, trace)
    path, network = _innermost(model)
    blocks = _blocks(_units(network, trace))
    if trace:
        blocks = _measurable(blocks, trace)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no obvious order of depth: "
            "pass stages={'stem': ['conv1', 'bn1'], 'body': 'layers'}, shallow first, with its own names"
        )
    if len(blocks) <= _MAX_STAGES:
        named = [("stem" if _is_stem(group, blocks) else group[0][0], group) for group in blocks]
    else:
        named = [(f"stage{depth}", group) for depth, group in enumerate(_merge(blocks))]
    return [_stage(name, [(path + unit, module) for unit, module in group], trace) for name, group in named]


_Unit = tuple[str, nn.Module]


def _named(model: nn.Module, names: StageNames, trace: Trace | None) -> list[Stage]:
    known = dict(model.named_modules())
    stages = []
    for name, given in names.items():
        modules = (given,) if isinstance(given, str) else tuple(given)
        for module in modules:
            if module not in known:
                raise ValueError(f"stages: {type(model).__name__} has no submodule {module!r}")
        stages.append(_stage(name, [(module, known[module]) for module in modules], trace))
        if trace and not stages[-1].measured:
            raise ValueError(
                f"stages: {name!r}: expected a submodule that runs once and gives [N,C], [N,T,C] or "
                f"[N,C,H,W], got {', '.join(modules)}"
            )
    return stages


def _stage(name: str, group: Sequence[_Unit], trace: Trace | None) -> Stage:
    modules = tuple(unit for unit, _ in group)
    for unit, module in reversed(group):
        if trace and trace.is_measurable(module):
            return Stage(name, modules, unit, trace.is_channels_last(module))
    return Stage(name, modules)


def _innermost(model: nn.Module) -> tuple[str, nn.Module]:
    """The network in whatever has no other parameters, and what its modules' names begin with."""
    path = ""
    while not list(model.parameters(recurse=False)):
        inner = [(name, child) for name, child in model.named_children() if _has_parameters(child)]
        if len(inner) != 1 or not list(inner[0][1].children()):
            break
        path, model = f"{path}{inner[0][0]}.", inner[0][1]
    return path, model


def _units(model: nn.Module, trace: Trace | None) -> list[_Unit]:
    """Submodules in order of depth, containers opened until there are two blocks; no classifier."""
    units = _without_head(_in_order(list(model.named_children()), trace), trace)
    while (at := _to_open([module for _, module in units], trace)) is not None:
        name, module = units[at]
        units[at : at + 1] = [(f"{name}.{child}", m) for child, m in module.named_children()]
        units = _in_order(units, trace)
        if trace and any(trace.answers(unit) for _, unit in units):  # the classifier was in there
            units = _without_head(units, trace)
    while units and any(word in type(units[-1][1]).__name__.lower() for word in _LEFT_OUT_AT_THE_END):
        units.pop()
    return units


def _in_order(units: list[_Unit], trace: Trace | None) -> list[_Unit]:
    """Those that run, as they do."""
    if trace is None:
        return units
    starts = [(start, unit) for unit in units if (start := trace.start(unit[1])) is not None]
    return [unit for _, unit in sorted(starts, key=lambda pair: pair[0])]


def _to_open(modules: list[nn.Module], trace: Trace | None) -> int | None:
    """Position of the container whose parts are to be looked at in its place; None: these are the units."""
    blocks = [at for at, module in enumerate(modules) if _is_block(module)]
    if len(blocks) < 2:
        return blocks[0] if blocks else None
    trunks = [at for at in blocks if _is_trunk(modules[at])]
    if trunks and len(blocks) < _TRUNK:
        return trunks[0]
    return next((at for at in blocks if trace and not trace.runs(modules[at])), None)


def _is_trunk(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and (
        sum(_has_parameters(child) for child in module.children()) >= _TRUNK
    )


def _without_head(units: list[_Unit], trace: Trace | None) -> list[_Unit]:
    """Cut the last unit with parameters, and what follows it, if it holds the classifier and is not all."""
    for position in reversed(range(len(units))):
        leaves = [m for m in units[position][1].modules() if not list(m.children()) and _has_parameters(m)]
        if leaves:
            answers = trace.answers(units[position][1]) if trace else isinstance(leaves[-1], nn.Linear)
            has_body = any(_is_block(module) or is_weighted(module) for _, module in units[:position])
            return units[:position] if answers and has_body else units[: position + 1]
    return []


def _blocks(units: Iterable[_Unit]) -> list[list[_Unit]]:
    """Group units: each layer with the normalisation and activation after it; the stem's layers together."""
    blocks: list[list[_Unit]] = []
    for name, module in units:
        if not blocks or _is_block(module) or is_weighted(module):
            if _has_parameters(module):
                blocks.append([(name, module)])
        else:
            blocks[-1].append((name, module))
    stem = next((i for i, block in enumerate(blocks) if _is_block(block[0][1])), 0)
    if stem > 1:
        blocks[:stem] = [[unit for block in blocks[:stem] for unit in block]]
    return blocks


def _measurable(blocks: list[list[_Unit]], trace: Trace) -> list[list[_Unit]]:
    """Blocks with an output that can be measured; others go with the next one, or the last one."""
    joined: list[list[_Unit]] = []
    pending: list[_Unit] = []
    for block in blocks:
        pending = pending + block
        if any(trace.is_measurable(module) for _, module in pending):
            joined.append(pending)
            pending = []
    if joined:
        joined[-1] = joined[-1] + pending
    return joined


def _merge(blocks: list[list[_Unit]]) -> list[list[_Unit]]:
    bounds = [round(i * len(blocks) / _MAX_STAGES) for i in range(_MAX_STAGES + 1)]
    return [[unit for block in blocks[start:stop] for unit in block] for start, stop in pairwise(bounds)]


def _is_stem(group: list[_Unit], blocks: list[list[_Unit]]) -> bool:
    return group is blocks[0] and not _is_block(group[0][1]) and _is_block(blocks[-1][0][1])


def _is_block(module: nn.Module) -> bool:
    return any(_has_parameters(child) for child in module.children())


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
