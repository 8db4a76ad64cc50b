"""The tiny base model, its adapter and their merge, as the tests of exporting make them."""

from tests.export.conftest import adapter, base, merged, one_thread, questions  # noqa: F401
