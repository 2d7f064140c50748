"""The ops as PyTorch sees them: schemas, fake kernels, autograd, torch.compile, the libraries' symbols."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pst_fast
from pst_fast import ops
from pst_fast.ops._backend import devices_of
from pst_fast.ops.degradation import _table
from tests.ops.helpers import lay_out, needs_native, relative_error

LIBRARIES = sorted(Path(pst_fast.__file__).parent.glob("_C*.so"))


def _samples(name: str, device: torch.device) -> list[tuple[Any, ...]]:
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 2, 0], device=device)
    maps = torch.randn(4, 3, 5, 5, device=device)
    if name == "max_pool":
        return [
            (maps.clone().requires_grad_(), 3, 2, 1),
            (lay_out(maps, "channels_last").bfloat16().requires_grad_(), 2, 2, 0),
        ]
    if name == "max_pool_backward":
        places = torch.randint(0, 9, (4, 3, 3, 3), dtype=torch.uint8, device=device)
        return [(maps[:, :, :3, :3].clone(), lay_out(places, "channels_last"), 5, 6, 3, 2, 1)]
    if name == "grid_pool":
        return [
            (maps.clone().requires_grad_(), 2),
            (lay_out(maps, "channels_last").bfloat16().requires_grad_(), 3),
            (maps[:, :, 0, 0].clone().requires_grad_(), 1),
        ]
    if name == "grid_pool_backward":
        grad = torch.randn(4, 12, device=device)
        return [(grad, 5, 7, 2, torch.float32, True), (grad, 5, 7, 2, torch.float16, False)]
    if name == "class_channel_stats":
        return [
            (maps.clone().requires_grad_(), labels, 3, 2),
            (lay_out(maps, "channels_last").clone().requires_grad_(), labels, 3, 1),
        ]
    if name == "class_channel_stats_backward":
        pooled = maps.flatten(1)
        counts, means, _ = ops.class_channel_stats(pooled, labels, 3)
        return [(means, means + 1, pooled, labels, counts, means)]
    if name == "class_pixel_sums":
        return [(torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8, device=device), labels, 3)]
    if name == "degrade":
        images = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8, device=device)
        views = [ops.View.jpeg(10), ops.View.blur(), ops.View.erase()]
        return [(images, index, _table(views, [0.3, 0.6, 2.0]), 1, 2) for index in (None, labels)]
    if name == "ar_perturbation":
        coefficients = torch.rand(3, 2, 3, 3, device=device) / 8
        return [
            (coefficients, labels, None, 5, 6, 1.0, 2, 4),
            (coefficients, labels, labels + 7, 5, 6, 0.5, -2, 0),
        ]
    if name == "augment":
        images = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8, device=device)
        channels = torch.full((3,), 0.5, device=device)
        jitter = (1, 2, 2, True, 0.4, 0.4, 0.4, 0.1, 0.8, 0.2)
        return [
            (images, None, None, *jitter, None, None, torch.float32),
            (images, labels, images.char(), *jitter, channels, channels, torch.bfloat16),
        ]
    if name in ("quantize_bank_", "gather_bank"):
        bank = torch.randint(-127, 128, (5, 6, 4, 3), dtype=torch.int8, device=device)
        rows = torch.tensor([4, 0], device=device)
        delta = 0.1 * torch.randn(5, 3, 6, 4, device=device)
        if name == "gather_bank":
            return [(bank, None, 0.1), (bank, rows, 0.1)]
        return [(bank, None, delta, 0.1), (bank, rows, lay_out(delta[:2], "channels_last"), 0.1)]
    if name == "class_mean_step_":
        step = (0.1 * maps[:3], maps, labels, 0.1, 0.2, True)
        channels = torch.full((3,), 0.5, device=device)
        return [
            (*step, None, None, None, None),
            (*step, maps.sigmoid(), channels, channels, torch.empty_like(maps, dtype=torch.bfloat16)),
        ]
    arguments = (0.1 * maps, maps, maps.sigmoid(), 0.1, 0.2, True)
    channels = torch.full((3,), 0.5, device=device)
    if not name.endswith(("_", "_out")):
        return [arguments]
    empty = [] if name.endswith("_out") else [(*arguments, None, None, None)]
    return [
        *empty,
        (*arguments, channels, channels, torch.empty_like(maps, dtype=torch.bfloat16)),
    ]


NAMES = (
    "max_pool",
    "max_pool_backward",
    "grid_pool",
    "grid_pool_backward",
    "class_channel_stats",
    "class_channel_stats_backward",
    "class_pixel_sums",
    "ar_perturbation",
    "linf_step_",
    "linf_step",
    "linf_step_out",
    "l2_step_",
    "l2_step",
    "l2_step_out",
    "class_mean_step_",
    "quantize_bank_",
    "gather_bank",
    "augment",
    "degrade",
)

STATIC_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@needs_native
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(device: torch.device, name: str) -> None:
    if device.type not in devices_of(name):
        pytest.skip("on the CPU it is PyTorch's own")
    op = getattr(torch.ops.pst_fast, name).default
    for arguments in _samples(name, device):
        if name in ("class_channel_stats", "max_pool"):
            # opcheck's own loss adds up all outputs, of which some are integers here.
            torch.library.opcheck(op, arguments, test_utils=STATIC_CHECKS)
            arguments = (arguments[0].detach(), *arguments[1:])
        torch.library.opcheck(op, arguments)


def _everything(features: Tensor, labels: Tensor, images: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """All ops in one graph, between others, with what is mutated used afterwards."""
    counts, means, m2 = ops.class_channel_stats(features * 2, labels, 3, grid=2)
    pooled = ops.grid_pool(features.relu(), 2)
    delta = torch.zeros_like(x)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    options = {"step_size": 0.1, "epsilon": 0.2}
    ops.linf_step_(delta, x - 0.5, x, out=out, **options)
    ops.l2_step_(delta, delta + 0.1, x, **options)
    delta = ops.linf_step(delta, x, x, out=out, **options) * ops.linf_step(delta, x, x, **options)
    delta = delta + ops.l2_step(delta, x, x, ascend=True, **options)
    by_class = torch.zeros_like(x[:3])
    ops.class_mean_step_(by_class, x - 0.5, labels, **options)
    bank = torch.zeros(4, 6, 6, 3, dtype=torch.int8, device=x.device)
    ops.quantize_bank_(bank, delta, epsilon=0.2, index=labels.argsort())
    stored = ops.gather_bank(bank, epsilon=0.2, index=labels)
    view = ops.augment(
        images, seed=1, offset=2, padding=1, flip=True, hue=0.1, contrast=0.4, mean=(0.5, 0.5, 0.5)
    )
    seen = ops.degrade(images, [ops.View.jpeg(50), ops.View.median()], seed=1, offset=2)
    return counts, means, m2, pooled, delta * 3, out.float() + 1, view, seen.float(), by_class + 1, stored + 1


def _compare_compiled(device: torch.device, backend: str) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    images = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8, device=device)
    x = torch.rand(4, 3, 6, 6, device=device)
    labels = torch.tensor([0, 2, 2, 0], device=device)
    compiled: Callable[..., tuple[Tensor, ...]] = torch.compile(_everything, fullgraph=True, backend=backend)
    results = []
    for run in (_everything, compiled):
        features = torch.linspace(-1, 1, 4 * 3 * 5 * 5, device=device).view(4, 3, 5, 5).requires_grad_()
        values = run(features, labels, images, x)
        (values[1].sum() + values[2].sum() + values[3].pow(2).sum()).backward()
        results.append([*values, features.grad])
    for value, wanted in zip(results[1], results[0], strict=True):
        assert relative_error(value, wanted) < 1e-6


@needs_native
def test_compiles_in_one_graph(device: torch.device) -> None:
    _compare_compiled(device, "aot_eager")


@needs_native
@pytest.mark.slow
def test_compiles_with_inductor(device: torch.device) -> None:
    _compare_compiled(device, "inductor")


@needs_native
def test_offsets_do_not_recompile() -> None:
    torch.compiler.reset()
    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")

    @torch.compile(fullgraph=True, backend=counter)
    def run(offset: int) -> Tensor:
        return ops.augment(images, seed=1, offset=offset, padding=1)

    for offset in range(2, 12):
        run(offset)
    assert counter.frame_count <= 2  # the first offset, then any


@needs_native
def test_raw_ops_check_what_reaches_memory() -> None:
    raw = torch.ops.pst_fast
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="delta's shape"):
        raw.linf_step_(x, x[:, :2], x, 0.1, 0.1, False, None, None, None)
    with pytest.raises(RuntimeError, match="labels must be"):
        raw.class_channel_stats(x, torch.tensor([0, 7]), 3, 1)
    with pytest.raises(RuntimeError, match="labels must be"):
        raw.class_pixel_sums(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, -1]), 3)
    with pytest.raises(RuntimeError, match="labels must be"):
        raw.class_mean_step_(x, x, torch.tensor([0, 2]), 0.1, 0.1, False, None, None, None, None)
    with pytest.raises(RuntimeError, match="x and out must be given together"):
        raw.class_mean_step_(x, x, torch.tensor([0, 1]), 0.1, 0.1, False, x, None, None, None)
    with pytest.raises(RuntimeError, match="grad must be"):
        raw.class_mean_step_(x, x[..., :2], torch.tensor([0, 1]), 0.1, 0.1, False, None, None, None, None)
    with pytest.raises(RuntimeError, match="labels must be"):
        raw.ar_perturbation(torch.zeros(2, 3, 3, 3), torch.tensor([0, 2]), None, 4, 4, 1.0, 0, 4)
    with pytest.raises(RuntimeError, match="index must be"):
        raw.ar_perturbation(torch.zeros(2, 3, 3, 3), torch.tensor([0, 1]), torch.zeros(1), 4, 4, 1.0, 0, 4)
    with pytest.raises(RuntimeError, match="float32, bfloat16 or float16"):
        raw.grid_pool(x.double(), 4)
    with pytest.raises(RuntimeError, match="uint8"):
        raw.degrade(x, None, torch.zeros(1, 21, dtype=torch.float64), 0, 0)
    bank = torch.zeros(2, 4, 4, 3, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="bank must be"):
        raw.gather_bank(bank.transpose(1, 2), None, 0.1)
    with pytest.raises(RuntimeError, match="delta must be"):
        raw.quantize_bank_(bank, torch.tensor([0]), x, 0.1)
    images = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    for row in ([2, 9], [2, 1, 0, 0], [2, 2, 0, 99], [2, 6, 0, 0.5, 0.25]):  # kind, quality, radius, sides
        table = torch.zeros(1, 21, dtype=torch.float64)
        table[0, : len(row)] = torch.tensor(row)
        with pytest.raises(RuntimeError, match="views"):
            raw.degrade(images, None, table, 0, 0)
    with pytest.raises(RuntimeError, match="uint8"):
        raw.augment(x, None, None, 0, 0, 0, False, 0, 0, 0, 0, 1, 0, None, None, torch.float32)


@pytest.mark.skipif(not LIBRARIES, reason="the native libraries are not built")
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not there")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_uses_the_stable_abi_alone(library: Path) -> None:
    listing = subprocess.run(
        ["nm", "-D", "-C", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split(maxsplit=1)[1] for line in listing.splitlines()]
    unstable = [s for s in symbols if s.startswith(("at::", "c10::", "torch::", "caffe2::", "_Py", "Py"))]
    assert not unstable
    assert any(s.startswith(("aoti_torch_", "torch_")) for s in symbols)
