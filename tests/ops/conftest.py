"""The ops' tests are many and small: one thread each, but for those that ask for more."""

from collections.abc import Iterator

import pytest

from tests.ops.helpers import threads


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Spares thousands of hand-overs between threads."""
    with threads(1):
        yield
