"""What a device computes networks in: bf16 where the hardware does, else fp32.

``PST_FAST_BF16=0`` in the environment has fp32 everywhere, ``1`` bf16 (emulated where the hardware has none).
"""

import os

import torch

from pst_fast.errors import InputError


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices, rather than emulating it; or what the environment says.

    Raises:
        InputError: The environment says something else than 0 or 1.
    """
    asked = os.environ.get("PST_FAST_BF16", "")
    if asked:
        if asked not in ("0", "1"):
            raise InputError(f"PST_FAST_BF16: expected 0, 1 or nothing, got {asked!r}")
        return asked == "1"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """Autocast to bf16, if ``bf16`` (None: where the hardware computes in it)."""
    enabled = computes_in_bf16(device) if bf16 is None else bf16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
