"""Batches of the surrogate, and PyTorch's global random state around it."""

import numpy as np
import pytest
import torch

from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded


def test_an_epoch_meets_every_sample_at_most_once():
    order = BatchOrder(num_samples=23, batch_size=5, seed=1)
    epoch = np.concatenate([order[number] for number in range(4)])
    assert len(np.unique(epoch)) == 20
    assert not np.array_equal(order[0], order[4])
    assert np.array_equal(order[7], BatchOrder(23, 5, 1)[7])
    assert not np.array_equal(order[0], BatchOrder(23, 5, 2)[0])


def test_a_batch_is_never_larger_than_the_set():
    assert sorted(BatchOrder(3, 512, 0)[9]) == [0, 1, 2]


def test_seeded_restores_the_global_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1, torch.device("cpu")):
        first = torch.rand(3)
    with seeded(1, torch.device("cpu")):
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_state_goes_through_a_file(image_set, make_task):
    task = make_task(image_set())
    inputs, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 2

    def surrogate():
        return Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)

    whole = surrogate()
    whole.train_step(inputs, labels)
    save_state(task.folder / "state.pt", whole.state())
    whole.train_step(inputs, labels)
    resumed = surrogate()
    resumed.restore(load_state(task.folder / "state.pt"))
    resumed.train_step(inputs, labels)
    for one, two in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert load_state(task.folder / "absent.pt") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeded_on_cuda():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state(device)
    with seeded(1, device):
        first = torch.rand(3, device=device)
    with seeded(1, device):
        assert torch.equal(first, torch.rand(3, device=device))
    assert torch.equal(before, torch.cuda.get_rng_state(device))
