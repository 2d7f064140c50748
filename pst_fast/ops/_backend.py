"""Loading the native libraries, and the choice between them and the twins."""

import os
import warnings
from pathlib import Path

import torch

BUILD_COMMAND = "pip install --no-build-isolation -e ."

_FOLDER = Path(__file__).resolve().parent.parent


def _load(name: str) -> str | None:
    """Load one library; return what went wrong, or None."""
    path = _FOLDER / name
    if not path.is_file():
        return f"{name} has not been built"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{name} does not load ({error})"
    return None


def _choose() -> tuple[bool, bool]:
    """Load what there is; return whether the CPU and the CUDA kernels are to be used."""
    choice = os.environ.get("PST_FAST_BACKEND", "")
    if choice not in ("", "native", "torch", "simt"):
        raise ImportError(f"PST_FAST_BACKEND must be 'native', 'torch', 'simt' or unset, got {choice!r}")
    if choice == "torch":
        return False, False
    trouble = _load("_C_simt.so" if choice == "simt" else "_C.so")
    if trouble is not None:
        if choice:
            command = "make test-simt" if choice == "simt" else BUILD_COMMAND
            raise ImportError(f"PST_FAST_BACKEND={choice}, but {trouble}; build it with `{command}`")
        warnings.warn(
            f"pst_fast runs on plain PyTorch, several times slower, because {trouble}; "
            f"build the native ops with `{BUILD_COMMAND}`, "
            "or set PST_FAST_BACKEND=torch to leave it so in silence",
            RuntimeWarning,
            stacklevel=2,
        )
        return False, False
    return True, choice != "simt" and torch.version.cuda is not None and _load("_C_cuda.so") is None


HAS_CPU, HAS_CUDA = _choose()
_warned = False


def devices_of(op: str) -> frozenset[str]:
    """Types of devices that the libraries have kernels of ``op`` for; PyTorch's may do on the CPU."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    loaded = [kind for kind, is_loaded in (("cpu", HAS_CPU), ("cuda", HAS_CUDA)) if is_loaded]
    return frozenset(kind for kind in loaded if has_kernel(f"pst_fast::{op}", kind.upper()))


def is_native(device: torch.device | str = "cpu") -> bool:
    """Whether the ops run natively on tensors of ``device`` (otherwise their twins do)."""
    return _use(torch.device(device).type)


def use_native(tensor: torch.Tensor) -> bool:
    """As :func:`is_native`, for a tensor; warns once where a CUDA tensor meets no CUDA kernels."""
    kind = tensor.device.type
    if kind == "cuda" and HAS_CPU and not HAS_CUDA and not torch.compiler.is_compiling():
        _cuda_is_missing()
    return _use(kind)


def _use(kind: str) -> bool:
    return HAS_CUDA if kind == "cuda" else HAS_CPU and kind in ("cpu", "meta")


def _cuda_is_missing() -> None:
    global _warned
    how = f"PST_FAST_CUDA=1 {BUILD_COMMAND}"
    if os.environ.get("PST_FAST_BACKEND") == "native":
        raise RuntimeError(
            f"PST_FAST_BACKEND=native, but _C_cuda.so is not there or does not load; build it with `{how}`"
        )
    if not _warned:
        _warned = True
        warnings.warn(
            "pst_fast runs on plain PyTorch on CUDA tensors, without its fused kernels, because _C_cuda.so "
            f"is not there or does not load; build it with `{how}`",
            RuntimeWarning,
            stacklevel=3,
        )
