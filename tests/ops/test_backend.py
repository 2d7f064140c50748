"""PST_FAST_BACKEND and what happens without the libraries."""

import warnings
from pathlib import Path

import pytest
import torch

from pst_fast import ops
from pst_fast.ops import _backend
from tests.ops.helpers import needs_native, not_simt

BUILD = "pip install --no-build-isolation -e ."


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The libraries' folder, empty."""
    monkeypatch.setattr(_backend, "_FOLDER", tmp_path)
    monkeypatch.delenv("PST_FAST_BACKEND", raising=False)
    return tmp_path


def test_unset_without_library_warns_once(unbuilt: Path) -> None:
    with pytest.warns(RuntimeWarning) as caught:
        assert _backend._choose() == (False, False)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "several times slower, because _C.so has not been built" in message
    assert BUILD in message


def test_native_without_library_says_how_to_build(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_FAST_BACKEND", "native")
    with pytest.raises(ImportError, match=r"PST_FAST_BACKEND=native, but _C\.so has not been built") as error:
        _backend._choose()
    assert BUILD in str(error.value)


def test_simt_without_library_says_how_to_build(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_FAST_BACKEND", "simt")
    with pytest.raises(ImportError, match=r"=simt, but _C_simt\.so has not been built; .*`make test-simt`"):
        _backend._choose()


def test_a_broken_library_is_named(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unbuilt / "_C.so").write_bytes(b"not a library")
    monkeypatch.setenv("PST_FAST_BACKEND", "native")
    with pytest.raises(ImportError, match=r"_C\.so does not load"):
        _backend._choose()


def test_torch_is_silent(unbuilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_FAST_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend._choose() == (False, False)


def test_other_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_FAST_BACKEND", "cuda")
    with pytest.raises(ImportError, match="must be 'native', 'torch', 'simt' or unset, got 'cuda'"):
        _backend._choose()


@needs_native
@not_simt
@pytest.mark.parametrize("choice", ["", "native"])
def test_a_built_library_is_used(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PST_FAST_BACKEND", choice)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend._choose()[0]


def test_the_twins_serve_every_op(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a native op was called")

    for module in ("pooling", "steps", "augmentation"):
        monkeypatch.setattr(f"pst_fast.ops.{module}.use_native", lambda tensor: False)
        monkeypatch.setattr(f"pst_fast.ops.{module}.torch.ops.pst_fast", refuse, raising=False)
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    counts, means, _ = ops.class_channel_stats(x, labels, 2, 4)
    assert torch.equal(ops.grid_pool(x, 4), means) and counts.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 2\), got 2"):
        ops.class_channel_stats(x, labels + 1, 2)
    delta = torch.zeros_like(x)
    for name in ("linf_step", "l2_step"):
        new = getattr(ops, name)(delta, x, x, step_size=0.1, epsilon=0.05)
        assert getattr(ops, name + "_")(delta, x, x, step_size=0.1, epsilon=0.05) is delta
        assert torch.equal(new, delta)
        delta = torch.zeros_like(x)
    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    assert ops.augment(images, seed=1, offset=2, index=labels).shape == (2, 3, 4, 4)
    with pytest.raises(RuntimeError, match=r"index must be in \[0, 2\), got 2"):
        ops.augment(images, seed=1, offset=2, index=labels + 1)


@needs_native
def test_missing_cuda_kernels_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "HAS_CUDA", False)
    monkeypatch.setattr(_backend, "_warned", False)
    monkeypatch.delenv("PST_FAST_BACKEND", raising=False)

    class OnCuda:
        device = torch.device("cuda")

    with pytest.warns(RuntimeWarning, match=r"_C_cuda\.so") as caught:
        assert not _backend.use_native(OnCuda())  # type: ignore[arg-type]
        assert not _backend.use_native(OnCuda())  # type: ignore[arg-type]
    assert len(caught) == 1
    monkeypatch.setenv("PST_FAST_BACKEND", "native")
    with pytest.raises(RuntimeError, match="PST_FAST_CUDA=1"):
        _backend.use_native(OnCuda())  # type: ignore[arg-type]
