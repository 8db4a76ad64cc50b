"""Whoever asks a server on this machine asks it directly, whatever proxies the environment names."""

import json

import openai
import pytest

from lab_utils import export
from lab_utils.evaluation.candidate import is_local
from lab_utils.models.generation import Completion
from lab_utils.serving import clients, load
from lab_utils.serving import vllm_server as server
from tests.serving.listening import listening
from tests.serving.proxies import BROKEN_PROXIES

EVENT = {"choices": [{"index": 0, "delta": {"content": "春"}}], "usage": {"completion_tokens": 1}}


async def app(scope, receive, send):
    """What each client expects to hear at its path."""
    if scope["type"] == "lifespan":
        return
    answers = {
        "/tokenize": json.dumps({"tokens": [1, 2]}),
        "/v1/completions": json.dumps({"choices": [{"text": "春", "finish_reason": "stop"}]}),
        "/v1/models": json.dumps({"object": "list", "data": [{"id": "poet"}]}),
        "/v1/chat/completions": f"data: {json.dumps(EVENT)}\n\ndata: [DONE]\n\n",
        "/health": "",
    }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answers[scope["path"]].encode()})


@pytest.fixture
def address(monkeypatch):
    for name, value in BROKEN_PROXIES.items():
        monkeypatch.setenv(name, value)
    with listening(app) as address:
        yield address


def test_every_client_goes_past_the_proxy(address):
    candidate = export.served(address, "poet")
    assert candidate.prompt_ids([{"role": "user", "content": "写诗"}]) == [1, 2]
    assert candidate.greedy([[1], [2]], 4) == [Completion("春", True)] * 2
    assert [model.id for model in clients.connect(f"{address}/v1", "key").models.list()] == ["poet"]
    assert load.measure(f"{address}/v1", "key", "poet", ["写诗"], 1, progress=False).failures == []
    assert server.healthy(int(address.rpartition(":")[2]))


def test_the_proxy_is_one_that_would_have_failed(address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="key", max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.models.list()


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000", True),
        ("http://[::1]:1/", True),
        ("http://10.0.0.1:8000/v1", False),
        ("https://example.com/v1", False),
        ("http://127.0.0.1.evil.org", False),
        ("8000", False),
        ("", False),
    ],
)
def test_only_this_machine_is_local(url, local):
    assert is_local(url) == local
