"""What networks are computed in: what the environment asks for, else what the hardware has."""

import pytest
import torch

from pst_fast.errors import InputError
from pst_fast.precision import autocast, computes_in_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("asked", "expected"), [("0", False), ("1", True)])
def test_the_environment_has_the_first_word(asked, expected, monkeypatch):
    monkeypatch.setenv("PST_FAST_BF16", asked)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not expected})
    assert computes_in_bf16(CPU) is expected


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_else_the_hardware_decides(capability, monkeypatch):
    monkeypatch.delenv("PST_FAST_BF16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True, "avx2": True})
    assert computes_in_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, capability: False})
    assert not computes_in_bf16(CPU)


def test_products_are_bf16_inside_and_fp32_outside():
    x = torch.ones(2, 2)
    with autocast(CPU, bf16=True):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, bf16=False):
        assert (x @ x).dtype == torch.float32


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv("PST_FAST_BF16", "yes")
    with pytest.raises(InputError, match="PST_FAST_BF16: expected 0, 1 or nothing, got 'yes'"):
        computes_in_bf16(CPU)
