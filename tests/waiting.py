"""Wait for what will come true, on a machine however busy."""

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds. Only a test that fails waits so long."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when `condition()` is true; fail when it hasn't come true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
