"""What all tests share."""

import pytest
import torch

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def same_precision_everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 on every processor; tests of bf16 ask for it, those on CUDA take what the device computes in."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("PST_FAST_BF16", "0")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that the ops run on; CUDA only with ``-m gpu``, and where there is one."""
    return torch.device(request.param)
