import pytest


@pytest.fixture(autouse=True)
def somebody_there(monkeypatch):
    monkeypatch.delenv("LAB_HEADLESS", raising=False)
