"""What all tests of exporting need: torch on one thread."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread_for_all(one_thread):
    pass
