import pytest
import torch


@pytest.fixture(autouse=True)
def eager():
    """bitsandbytes compiles its dequantization of odd shapes and large blocks; it is right without, and sooner."""
    with torch.compiler.set_stance("force_eager"):
        yield
