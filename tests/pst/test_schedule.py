"""The schedule: rates by level, roll-back to the right snapshot, and a state that can be taken up again."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pst_fast.models import create_model
from pst_fast.pst import ProgressiveStagedTraining


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
        self.second = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)))


IMAGES, LABELS = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2


class Scripted:
    """Stands in for the measurement: gives the values that a test has written down."""

    def __init__(self, model: nn.Module, values: list[tuple[float, float]]) -> None:
        from pst_fast.pst import find_stages

        self.stages = find_stages(model)
        self.values = iter(values)

    def __call__(self, *, depth: int) -> dict[str, float]:
        return dict(zip(("first", "second")[:depth], next(self.values), strict=True))


def make(optimizer_type=torch.optim.SGD, values=(), **options):
    torch.manual_seed(3)
    model = Net()
    settings = {"lr": 0.1, "momentum": 0.9} if optimizer_type is torch.optim.SGD else {"lr": 0.01}
    optimizer = optimizer_type(model.parameters(), **settings)
    pst = ProgressiveStagedTraining(
        model, optimizer, IMAGES, LABELS, acm=Scripted(model, list(values)), threshold=(1.0, 1.0), **options
    )
    return model, optimizer, pst


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_level_scales_the_learning_rate_of_its_stage_and_of_no_other(optimizer_type):
    model, optimizer, pst = make(optimizer_type)
    twin = copy.deepcopy(model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [
        {"params": [p], "lr": optimizer.defaults["lr"] * (0.01 if name.startswith("first") else 1.0)}
        for name, p in twin.named_parameters()
    ]
    twin_optimizer = optimizer_type(
        groups, **{k: v for k, v in optimizer.defaults.items() if k in ("momentum",)}
    )
    pst.levels["first"] = 2
    for _ in range(3):
        train_step(model, optimizer)
        train_step(twin, twin_optimizer)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7, msg=lambda m, p=p: f"{names[id(p)]}: {m}")


def test_roll_back_restores_weights_buffers_and_momentum_of_the_snapshot_four_checks_ago():
    good, bad = (0.5, 0.5), (0.5, 1.5)
    model, optimizer, pst = make(values=[good] * 6 + [bad], interval=1)
    kept = []
    for _ in range(6):
        train_step(model, optimizer)
        assert pst.step() is None
        kept.append((copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())))
    train_step(model, optimizer)
    event = pst.step()
    assert event is not None and event.stages == ("first", "second") and event.step == 7
    weights, state = kept[-4]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for index, entry in optimizer.state_dict()["state"].items():
        assert torch.equal(entry["momentum_buffer"], state["state"][index]["momentum_buffer"])
    assert pst.levels == {"first": 1, "second": 1}


def test_only_stages_up_to_the_deepest_bad_one_are_slowed_and_levels_are_capped():
    model, optimizer, pst = make(values=[(2.0, 0.1)] * 4, interval=1, max_level=2)
    events = []
    for _ in range(4):
        train_step(model, optimizer)
        events.append(pst.step())
    assert [e.stages if e else None for e in events] == [("first",), ("first",), None, None]
    assert pst.levels == {"first": 2, "second": 0}


def test_roll_back_with_few_snapshots_goes_to_the_start():
    model, optimizer, pst = make(values=[(2.0, 0.1)], interval=1)
    start = copy.deepcopy(model.state_dict())
    train_step(model, optimizer)
    pst.step()
    assert all(torch.equal(start[name], tensor) for name, tensor in model.state_dict().items())
    assert not optimizer.state_dict()["state"]


def test_a_snapshot_is_not_written_into_by_later_training():
    model, optimizer, pst = make(values=[(0.1, 0.1), (2.0, 0.1), (2.0, 0.1)], interval=1, rollback=1)
    train_step(model, optimizer)
    pst.step()
    kept = copy.deepcopy(model.state_dict())
    for _ in range(2):
        train_step(model, optimizer)
        pst.step()
        assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_without_roll_back_stages_are_slowed_and_nothing_else_happens():
    model, optimizer, pst = make(values=[(2.0, 0.1)], interval=1, rollback=0)
    train_step(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    assert pst.step() and pst.levels == {"first": 1, "second": 0}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_patience_waits_for_a_trap_that_stays_and_checks_again_soon():
    good, bad = (0.5, 0.5), (2.0, 0.1)
    checks = [bad, good, bad, bad]  # after steps 2, 4, 6, and 8, where growth alone would have it at 9
    model, optimizer, pst = make(values=checks, interval=2, growth=2, patience=1, rollback=1)
    calm = None
    for step in range(1, 9):
        train_step(model, optimizer)
        event = pst.step()
        assert (event is not None) == (step == 8)
        if step == 4:
            calm = copy.deepcopy(model.state_dict())
    assert [e.step for e in pst.events] == [8] and pst.levels == {"first": 1, "second": 0}
    assert all(torch.equal(calm[name], tensor) for name, tensor in model.state_dict().items())


def test_schedulers_keep_their_rates():
    model, optimizer, pst = make(interval=100)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    pst.levels["first"] = 1
    train_step(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_resumed_run_ends_with_the_same_weights_as_an_unbroken_one(tmp_path):
    script = [(0.1, 0.1)] * 4 + [(2.0, 0.1)] * 4  # a suspicion is pending when it is saved
    model, optimizer, pst = make(values=script, interval=1, patience=1)
    for step in range(8):
        if step == 5:
            torch.save((model.state_dict(), optimizer.state_dict(), pst.state_dict()), tmp_path / "state")
        train_step(model, optimizer)
        pst.step()
    other, other_optimizer, other_pst = make(values=script[5:], interval=1, patience=1)
    weights, state, schedule = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(weights)
    other_optimizer.load_state_dict(state)
    other_pst.load_state_dict(schedule)
    for _ in range(3):
        train_step(other, other_optimizer)
        other_pst.step()
    assert other_pst.levels == pst.levels and other_pst.events == pst.events
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: torch.compile(DistributedDataParallel(model), backend="eager"),
    ],
    ids=["DataParallel", "compiled", "DistributedDataParallel, compiled"],
)
def test_a_wrapped_network_is_watched_and_slowed_as_it_is_alone(wrap):
    def levels_and_weights(wrap):
        torch.manual_seed(0)
        model = create_model("resnet10", num_classes=2, width=8)
        images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 2
        wrapped = wrap(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
        pst = ProgressiveStagedTraining(wrapped, optimizer, images, labels, threshold=(0.0, 0.0), interval=2)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(images), labels).backward()
            optimizer.step()
            pst.step()
        return pst.levels, [p.detach() for p in model.parameters()]

    levels, weights = levels_and_weights(wrap)
    expected_levels, expected = levels_and_weights(lambda model: model)
    assert levels == expected_levels == {"stem": 2, "layer1": 2, "layer2": 0, "layer3": 0, "layer4": 0}
    torch.testing.assert_close(weights, expected)


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"gamma: expected a factor in \[0,1\], got 1.5"):
        make(gamma=1.5)
    with pytest.raises(ValueError, match="interval: expected at least 1, got 0"):
        make(interval=0)
