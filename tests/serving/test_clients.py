"""What clients send and read is what the libraries send and read, and what vLLM's own parser says."""

import argparse
import ast
import json
import re
import shlex
from pathlib import Path

import httpx
import openai
import pytest

from lab_utils import models
from lab_utils.serving import clients
from lab_utils.setup_environment import find_vllm


def _vllm_parser():
    """`human_readable_int` out of the installed vLLM, without importing all of it."""
    python, _ = find_vllm()
    file = next(Path(python).parent.parent.glob("lib/python*/site-packages/vllm/utils/argparse_utils.py"))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    wanted = [node for node in tree.body if getattr(node, "name", "") == "human_readable_int"]
    scope = {"re": re, "argparse": argparse}
    exec(compile(ast.Module(wanted, []), str(file), "exec"), scope)
    return scope["human_readable_int"]


def test_lengths_are_what_vllm_takes_them_for():
    own = _vllm_parser()
    for text in ("32k", "32K", "4096", "25.6k", "0.5k", "1m", "1M", "2g", "2G", "1t", "1T", " 8K ", "0"):
        assert clients.length_tokens(text) == own(text)
    assert (clients.length_tokens("32k"), clients.length_tokens("32K")) == (32_000, 32_768)
    for text in ("0.5K", "k", "", "32kb", "3 2k", "1.5"):
        with pytest.raises(ValueError, match="长度"):
            clients.length_tokens(text)
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            own(text)


def test_the_body_is_what_the_openai_library_sends():
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(500)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http, max_retries=0)
    for thinking in (None, True, False):
        extra = None if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "问"}], max_tokens=5, extra_body=extra
            )
        assert sent[-1] == clients.request_body("m", "问", 5, thinking)


def test_the_curl_command_is_one_word_of_data_and_no_key():
    body = {"model": "m", "messages": [{"role": "user", "content": 'it\'s 春 "x" $HOME'}]}
    words = shlex.split(clients.curl("http://127.0.0.1:1/v1", body).replace("\\\n", ""))
    assert words[0] == "curl" and "http://127.0.0.1:1/v1/chat/completions" in words
    assert json.loads(words[words.index("-d") + 1]) == body
    assert "Authorization: Bearer $OPENAI_API_KEY" in words


def test_stream_text():
    event = {"choices": [{"index": 0, "delta": {"content": "春\n"}}]}
    assert clients.stream_text(f"data: {json.dumps(event)}") == "春\n"
    assert clients.stream_text("data: [DONE]") is None
    for line in ("", ": ping", 'data: {"choices": []}', 'data: {"choices": [{"delta": {"role": "a"}}]}'):
        assert clients.stream_text(line) == ""


def test_template_variables():
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is defined %}x{% endif %}"
    )
    assert clients.template_variables(template) == {"messages", "enable_thinking"}
    assert not clients.template_knows(models.ASSETS / models.SHIPPED, "enable_thinking")
    assert clients.template_knows(models.ASSETS / models.SHIPPED, "messages")
