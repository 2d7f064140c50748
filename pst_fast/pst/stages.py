"""Where a network's depth stages are: the units that Progressive Staged Training watches and slows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_MAX_STAGES = 5
_TRUNK = 4
"""Blocks that a container has to hold to be opened beside another one: a transformer's, say."""
_LEFT_OUT_AT_THE_END = ("pool", "flatten", "dropout", "identity")


@dataclass(frozen=True)
class Stage:
    """Neighbouring submodules that count as one depth.

    Attributes:
        name: For logs and plots.
        modules: Qualified names of the submodules, shallow first; the last one's output is measured.
    """

    name: str
    modules: tuple[str, ...]

    def output(self, model: nn.Module) -> nn.Module:
        """The submodule whose output stands for the stage."""
        return model.get_submodule(self.modules[-1])

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


def find_stages(model: nn.Module, names: StageNames | None = None) -> list[Stage]:
    """The stages of a network by depth, shallow first, without its classifier.

    A stem of single layers is one stage and so is every block of layers after it; where there are more
    than five, neighbours are merged. Works on networks whose submodules are defined in the order in
    which they run: ResNets, VGG, DenseNet, MobileNet, ViT, plain ``nn.Sequential``, and on modules that
    add nothing with parameters to one of these, such as a normalisation of the inputs.

    Args:
        model: Any network.
        names: Stage name -> submodule name(s), shallow first, for networks with another shape.

    Raises:
        ValueError: No stage can be found, or a name is not a submodule.
    """
    if names is not None:
        stages = [Stage(name, (m,) if isinstance(m, str) else tuple(m)) for name, m in names.items()]
        known = dict(model.named_modules())
        for stage in stages:
            for module in stage.modules:
                if module not in known:
                    raise ValueError(f"stages: {type(model).__name__} has no submodule {module!r}")
        return stages
    path, network = _innermost(model)
    blocks = _blocks(_units(network))
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no obvious order of depth: "
            "pass stages={'stem': ['conv1', 'bn1'], 'body': 'layers'}, shallow first, with its own names"
        )
    if len(blocks) <= _MAX_STAGES:
        named = [("stem" if _is_stem(group, blocks) else group[0][0], group) for group in blocks]
    else:
        named = [(f"stage{depth}", group) for depth, group in enumerate(_merge(blocks))]
    return [Stage(name, tuple(path + unit for unit, _ in group)) for name, group in named]


_Unit = tuple[str, nn.Module]


def _innermost(model: nn.Module) -> tuple[str, nn.Module]:
    """The network in whatever has no other parameters, and what its modules' names begin with."""
    path = ""
    while not list(model.parameters(recurse=False)):
        inner = [(name, child) for name, child in model.named_children() if _has_parameters(child)]
        if len(inner) != 1 or not list(inner[0][1].children()):
            break
        path, model = f"{path}{inner[0][0]}.", inner[0][1]
    return path, model


def _units(model: nn.Module) -> list[_Unit]:
    """Submodules in order of depth, containers opened until there are two blocks; no classifier."""
    units = _without_head(list(model.named_children()))
    while (at := _to_open([module for _, module in units])) is not None:
        name, module = units[at]
        units[at : at + 1] = [(f"{name}.{child}", m) for child, m in module.named_children()]
    while units and any(word in type(units[-1][1]).__name__.lower() for word in _LEFT_OUT_AT_THE_END):
        units.pop()
    return units


def _to_open(modules: list[nn.Module]) -> int | None:
    """Position of the container whose parts are to be looked at in its place; None: these are the units."""
    blocks = [at for at, module in enumerate(modules) if _is_block(module)]
    if len(blocks) < 2:
        return blocks[0] if blocks else None
    trunks = [at for at in blocks if _is_trunk(modules[at])]
    return trunks[0] if trunks and len(blocks) < _TRUNK else None


def _is_trunk(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and (
        sum(_has_parameters(child) for child in module.children()) >= _TRUNK
    )


def _without_head(units: list[_Unit]) -> list[_Unit]:
    """Cut the last unit with parameters, and what follows it, if it ends in a linear layer."""
    for position in reversed(range(len(units))):
        leaves = [m for m in units[position][1].modules() if not list(m.children()) and _has_parameters(m)]
        if leaves:
            is_head = isinstance(leaves[-1], nn.Linear) and position > 0
            return units[:position] if is_head else units[: position + 1]
    return []


def _blocks(units: Iterable[_Unit]) -> list[list[_Unit]]:
    """Group units: each layer with the normalisation and activation after it; the stem's layers together."""
    blocks: list[list[_Unit]] = []
    for name, module in units:
        if not blocks or _is_block(module) or _is_weighted(module):
            if _has_parameters(module):
                blocks.append([(name, module)])
        else:
            blocks[-1].append((name, module))
    stem = next((i for i, block in enumerate(blocks) if _is_block(block[0][1])), 0)
    if stem > 1:
        blocks[:stem] = [[unit for block in blocks[:stem] for unit in block]]
    return blocks


def _merge(blocks: list[list[_Unit]]) -> list[list[_Unit]]:
    bounds = [round(i * len(blocks) / _MAX_STAGES) for i in range(_MAX_STAGES + 1)]
    return [[unit for block in blocks[start:stop] for unit in block] for start, stop in pairwise(bounds)]


def _is_stem(group: list[_Unit], blocks: list[list[_Unit]]) -> bool:
    return group is blocks[0] and not _is_block(group[0][1]) and _is_block(blocks[-1][0][1])


def _is_block(module: nn.Module) -> bool:
    return any(_has_parameters(child) for child in module.children())


def _is_weighted(module: nn.Module) -> bool:
    return any(p.dim() >= 2 for p in module.parameters(recurse=False))


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
