"""Copies of networks that are only asked for gradients on their inputs."""

import copy
import logging
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pst_fast.attacks.activated import activate
from pst_fast.attacks.pools import MaxPool, replace_max_pools
from pst_fast.attacks.stem import Blocks, Filled, rearrange_stems
from pst_fast.precision import computes_in_bf16

_log = logging.getLogger(__name__)


def frozen(model: nn.Module) -> nn.Module:
    """A copy of the network, in evaluation mode, for gradients on its inputs; the network stays as it is.

    No parameter of it requires gradients, which saves a third of a step's arithmetic. Batch norm uses its
    running statistics, so that a sample's perturbation does not depend on its neighbours in the batch, and
    where it follows a convolution it is folded into it. Biases, sums and ReLUs are computed with their
    convolution (:mod:`~pst_fast.attacks.activated`), stems over more channels
    (:mod:`~pst_fast.attacks.stem`), and maxima by our op (:mod:`~pst_fast.attacks.pools`). The copy is
    channels_last, and bf16 where the device computes in it: its inputs have to be so too
    (:func:`~pst_fast.attacks.pgd.perturbed_inputs`).
    """
    model = copy.deepcopy(model)
    rearrange_stems(model)
    replace_max_pools(model)
    model.eval()
    try:
        model = activate(_fold_batch_norms(fx.GraphModule(model, _Tracer().trace(model))))
    except Exception as error:  # whatever the network's own code raises when it meets a traced value
        _log.warning(
            "The network's batch norms stay apart from its convolutions, which is slower, because torch.fx "
            "cannot trace it: %s",
            error,
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = torch.bfloat16 if computes_in_bf16(device) else torch.float32
    # Tracing and folding made modules and parameters anew.
    model = model.eval().requires_grad_(False)
    return model.to(device, dtype).to(memory_format=torch.channels_last)


class _Tracer(fx.Tracer):
    """Convolutions of one's own classes are left whole too, and so are the layers put in by us."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_whole = isinstance(m, nn.Conv2d | Blocks | Filled | MaxPool)
        return is_whole or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norms(traced: fx.GraphModule) -> fx.GraphModule:
    """Fold each batch norm whose input is a convolution that nothing else uses."""
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for norm in list(traced.graph.nodes):
        if norm.op != "call_module" or not isinstance(modules[norm.target], nn.BatchNorm2d):
            continue
        conv = norm.args[0]
        if conv.op != "call_module" or not isinstance(modules[conv.target], nn.Conv2d):
            continue
        tracks = modules[norm.target].running_mean is not None
        if not tracks or len(conv.users) != 1 or calls[conv.target] != 1:
            continue
        traced.set_submodule(conv.target, fuse_conv_bn_eval(modules[conv.target], modules[norm.target]))
        norm.replace_all_uses_with(conv)
        traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
