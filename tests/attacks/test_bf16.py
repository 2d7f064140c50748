"""Every attack that asks a network, where the device computes in bf16."""

import numpy as np
import pytest

from pst_fast.attacks.base import ATTACKS

NAMES = [name for name in ATTACKS.names() if ATTACKS[name].uses_model]


@pytest.mark.parametrize("name", NAMES)
def test_crafts_within_its_budget(name, image_set, make_task, monkeypatch):
    monkeypatch.setenv("PST_FAST_BF16", "1")
    attack = ATTACKS[name]()
    steps = np.asarray(attack.craft(make_task(image_set(24, num_classes=3))))
    assert 0 < np.abs(steps).max() <= round(attack.epsilon * 255)


def test_em_still_teaches_random_labels(image_set, make_task, monkeypatch):
    monkeypatch.setenv("PST_FAST_BF16", "1")
    task = make_task(image_set(96, num_classes=4), epsilon=16 / 255)
    ATTACKS["em"]().craft(task)
    assert task.facts["train_error"] < 0.3
