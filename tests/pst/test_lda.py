"""Spatial LDA against exact double precision, on degenerate features, and what it asks of the device."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pst_fast.pst import spatial_lda, spatial_ldas


def exact_lda(features: Tensor, labels: Tensor, num_classes: int, components: int = 32) -> float:
    """The definition, by a dense SVD in double precision and explicit covariances."""
    x = features.double() - features.double().mean(0)
    z = x @ torch.linalg.svd(x, full_matrices=False)[2][:components].T
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    within, between = 0 * identity, 0 * identity
    for k in range(num_classes):
        members = z[labels == k]
        if len(members):
            between = between + len(members) * members.mean(0).outer(members.mean(0)) / len(z)
            within = within + (members - members.mean(0)).T @ (members - members.mean(0)) / len(z)
    ridge = 1e-3 * within.diagonal().mean() + 1e-8
    return float((torch.linalg.inv(within + ridge * identity) @ between).trace() / (num_classes - 1))


def activations(samples: int, size: int, separation: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with a decaying spectrum, as activations have, and classes apart along the same directions."""
    random = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1.0, size + 1) ** -1
    labels = torch.arange(samples) % 7
    centres = separation * torch.randn(7, size, generator=random)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=random))[0]
    return (spectrum * (torch.randn(samples, size, generator=random) + centres[labels])) @ rotation, labels


@pytest.mark.parametrize(("samples", "size"), [(300, 20), (300, 48), (500, 200), (150, 400), (30, 400)])
@pytest.mark.parametrize("separation", [0.0, 0.5, 5.0])
def test_equals_the_exact_value(samples: int, size: int, separation: float) -> None:
    features, labels = activations(samples, size, separation)
    assert spatial_lda(features, labels, 7) == pytest.approx(exact_lda(features, labels, 7), rel=1e-3)


@pytest.mark.parametrize("size", [60, 300])
@pytest.mark.parametrize("rank", [1, 12])
def test_rank_deficient_features(size: int, rank: int) -> None:
    random = torch.Generator().manual_seed(3)
    features = torch.randn(100, rank, generator=random) @ torch.randn(rank, size, generator=random)
    labels = torch.arange(100) % 5
    assert spatial_lda(features, labels, 5) == pytest.approx(exact_lda(features, labels, 5), rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("size", [10, 300])
def test_constant_features_separate_nothing(value: float, size: int) -> None:
    assert spatial_lda(torch.full((70, size), value), torch.arange(70) % 7, 7) == pytest.approx(0, abs=1e-6)


def test_features_that_are_not_finite_give_nan() -> None:
    features, labels = activations(60, 80, 0.5)
    features[3, 4] = float("inf")
    found = spatial_ldas([features, features[:, 10:]], labels, 7)
    assert found[0] != found[0]
    assert found[1] == pytest.approx(exact_lda(features[:, 10:], labels, 7), rel=1e-3)


def test_layers_of_one_size_do_not_touch_each_other() -> None:
    """They are worked on together: values stay in order, and what one cannot give, the others do."""
    layers = [activations(60, size, 0.5, seed)[0] for seed, size in enumerate((80, 20, 80, 20, 55))]
    labels = torch.arange(60) % 7
    layers[2][3, 4] = float("nan")
    found = spatial_ldas(layers, labels, 7)
    assert found[2] != found[2]
    for number in (0, 1, 3, 4):
        assert found[number] == pytest.approx(exact_lda(layers[number], labels, 7), rel=1e-3)


def test_layers_of_one_size_share_their_products_and_all_layers_a_factorisation() -> None:
    """On a GPU a measurement takes as long as its launches: they must not grow with views."""
    shared = ("bmm", "linalg_cholesky_ex", "linalg_solve_triangular")
    counts = []
    for views in (1, 3):
        layers = [activations(60, size, 0.5)[0] for size in (80, 100)] * views
        with _Recorder() as recorder:
            spatial_ldas(layers, torch.arange(60) % 7, 7)
        counts.append([recorder.names.count(name) for name in shared])
    assert counts[0] == counts[1]
    assert counts[0][1:] == [5, 5]


def test_classes_without_samples_and_no_layers() -> None:
    features, labels = activations(60, 80, 0.5)
    assert spatial_lda(features, labels, 9) == pytest.approx(spatial_lda(features, labels, 7) * 6 / 8)
    assert spatial_ldas([], labels, 7) == []


def test_leaves_the_random_state_alone_and_repeats_itself() -> None:
    features, labels = activations(90, 120, 0.5)
    before = torch.get_rng_state()
    first = spatial_ldas([features, features[:, :40]], labels, 7)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert spatial_ldas([features, features[:, :40]], labels, 7) == first
    assert [spatial_lda(f, labels, 7) for f in (features, features[:, :40])] == first


class _Recorder(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_reads_from_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU `.cpu()` stands for the copy; whatever comes before it must be free of synchronisation."""
    recorder = _Recorder()
    copies: list[int] = []
    original = Tensor.cpu

    def cpu(self: Tensor) -> Tensor:
        copies.append(len(recorder.names))
        return original(self)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    layers = [activations(60, size, 0.5)[0] for size in (20, 100, 30)]
    with recorder:
        spatial_ldas(layers, torch.arange(60) % 7, 7)
    assert len(copies) == 1
    waits = {
        "_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal",
        "_linalg_svd", "linalg_svd", "linalg_qr", "_linalg_eigh", "linalg_eigh", "linalg_solve",
        "_linalg_solve_ex", "linalg_inv", "linalg_cholesky", "_linalg_check_errors",
    }  # fmt: skip
    # `_local_scalar_dense` is what item(), tolist(), float() and bool() come to.
    assert not waits & set(recorder.names[: copies[0]])
    assert waits & set(recorder.names[copies[0] :])  # the names are those that the recorder sees


@pytest.mark.gpu
def test_synchronises_once_on_cuda(recwarn: pytest.WarningsRecorder) -> None:
    features, labels = activations(300, 200, 0.5)
    layers = [features.cuda(), features[:, :30].contiguous().cuda()]
    on_device = labels.cuda()
    expected = spatial_ldas(layers, on_device, 7)  # first use sets up the libraries
    recwarn.clear()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        assert spatial_ldas(layers, on_device, 7) == expected
    finally:
        torch.cuda.set_sync_debug_mode(before)
    # Turning the mode on warns too, of what it does not detect.
    assert sum("called a synchronizing" in str(w.message) for w in recwarn) == 1
    assert expected[0] == pytest.approx(exact_lda(features, labels, 7), rel=1e-3)
