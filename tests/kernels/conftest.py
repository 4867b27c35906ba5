"""The native kernels, as the tests of steps and of attention use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from native_ops import loaded


@pytest.fixture
def kernels() -> Iterator[Any]:
    """With two threads."""
    found = loaded()
    if found is None:
        pytest.skip("there are no native kernels here")
    found.hb_set_threads(2)
    yield found
    found.hb_set_threads(0)
