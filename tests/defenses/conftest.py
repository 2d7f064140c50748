"""The small folders to train on are those of tests/train."""

from tests.train.conftest import clean, trapped

__all__ = ["clean", "trapped"]
