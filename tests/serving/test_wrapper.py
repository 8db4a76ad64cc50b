"""The wrapper over real HTTP, spoken to by OpenAI's own client, by raw bytes and by a fuzzer."""

import asyncio
import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import openai
import pytest

from lab_utils import models
from lab_utils.guard import session_members
from lab_utils.serving import clients, wrapper
from lab_utils.serving.app import create_app
from lab_utils.serving.chat_format import ChatRequest
from lab_utils.serving.engine import QueuedChat, Writer
from lab_utils.serving.failure import ServerError
from tests.serving.listening import listening
from tests.serving.proxies import BROKEN_PROXIES
from tests.waiting import PATIENCE, wait_until

KEY = "k" * 20
HELLO = [{"role": "user", "content": "写一首五言绝句"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_qwen3, tokenizer):
    """Folder of a random two-layer model with a context of 256 tokens that never ends by itself."""
    folder = tmp_path_factory.mktemp("wrapper") / "tiny"
    model = tiny_qwen3(max_position_embeddings=256)
    model.generation_config.eos_token_id = [len(tokenizer) - 1]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def client_of(address: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=PATIENCE)


@pytest.fixture(scope="module")
def app(tiny):
    return create_app(tiny, api_key=KEY, max_tokens=128, max_body_bytes=20_000)


@pytest.fixture(scope="module")
def address(app):
    with listening(app) as address:
        yield address


@contextlib.contextmanager
def before_each_step(engine, action):
    """Have `action(number)` called before each step of the model, which are counted from 1."""
    numbers = itertools.count(1)
    hook = engine.model.register_forward_pre_hook(lambda *_: action(next(numbers)))
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def client(address):
    return client_of(address)


def ask(client, **changed):
    return client.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0, **changed}
    )


def streamed(client, **changed) -> list:
    return list(ask(client, stream=True, **changed))


def text_of(events) -> str:
    return "".join(e.choices[0].delta.content or "" for e in events if e.choices)


# what it answers


def test_the_text_is_that_of_generate(client, tiny, tokenizer):
    import torch

    model, _ = models.load(str(tiny))
    ids = tokenizer.apply_chat_template(
        HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    answer = ask(client)
    assert answer.choices[0].message.content == tokenizer.decode(out, skip_special_tokens=True)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (ids.shape[1], 12)
    assert answer.usage.total_tokens == ids.shape[1] + 12
    assert (answer.object, answer.model) == ("chat.completion", "tiny")


def test_a_stream_holds_the_same_text_then_its_end_and_usage(client):
    events = streamed(client, stream_options={"include_usage": True})
    assert text_of(events) == ask(client).choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert [e.choices[0].finish_reason for e in events[:-1]] == [None] * (len(events) - 2) + ["length"]
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == 12
    assert {e.object for e in events} == {"chat.completion.chunk"}
    assert len({e.id for e in events}) == 1


def test_a_stream_is_sent_as_it_is_written(app, client):
    """The model doesn't take its fifth step until the client has got text of the first."""
    received, waits = threading.Event(), []

    def wait(number):
        if number == 5:
            waits.append(received.wait(PATIENCE))

    with before_each_step(app.state.engine, wait):
        for event in ask(client, stream=True):
            if event.choices and event.choices[0].delta.content:
                received.set()
    assert waits == [True]


def test_the_stream_on_the_wire_is_server_sent_events(address):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, headers=bearer())
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert all(block.startswith("data: ") for block in blocks[:-1])
    assert blocks[-2:] == ["data: [DONE]", ""]


def written(tokenizer, ids: list[int], stop: list[str]) -> tuple[list[str], str]:
    """The pieces that are sent while these tokens are written one by one, and how it ends."""
    import torch

    loop = asyncio.new_event_loop()
    body = ChatRequest(model="tiny", messages=HELLO, stop=stop)
    chat = QueuedChat([], len(ids), body, loop)
    writer = Writer(chat, 0, tokenizer, {tokenizer.convert_tokens_to_ids("<|im_end|>")})
    for count in range(1, len(ids) + 1):
        if writer(torch.tensor([ids[:count]]), None).all():
            break
    writer.finish()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    pieces = [chat.pieces.get_nowait() for _ in range(chat.pieces.qsize())]
    assert (pieces[-1].text, pieces[-1].tokens) == ("", count)
    return [piece.text for piece in pieces[:-1]], pieces[-1].finish_reason


@pytest.mark.parametrize(
    ("text", "stop", "want"),
    [
        ("床前明月光🙂疑是地上霜", [], "床前明月光🙂疑是地上霜"),
        ("床前🙂🙂<|im_end|>", [], "床前🙂🙂"),
        ("床前明月光，疑是", ["月光"], "床前明"),
        ("床前明月光，疑是", ["光，", "明月"], "床前"),
        ("床前明月光，疑是", ["月色", "疑是地"], "床前明月光，疑是"),
        ("床前明月<|im_end|>", ["明月光"], "床前明月"),
        ("霜霜霜地霜", ["霜地"], "霜霜"),
        ("霜🙂上🙂", ["🙂上"], "霜"),
        ("霜", ["霜"], ""),
    ],
)
def test_text_is_sent_as_soon_as_nothing_can_change_it(tokenizer, text, stop, want):
    """No half character (the emoji are four tokens each), nothing of a stop string, nothing lost."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces, reason = written(tokenizer, ids, stop)
    assert "".join(pieces) == want
    assert all(pieces)
    assert reason == ("stop" if text.endswith("<|im_end|>") or want != text else "length")
    if not stop:
        assert len(pieces) == len(want)  # the shipped tokenizer has a token a character


def test_bytes_that_are_no_text_are_sent_in_the_end(tokenizer):
    half = tokenizer("🙂", add_special_tokens=False).input_ids[:2]
    assert written(tokenizer, half, []) == (["\ufffd"], "length")


def test_a_stop_string_ends_the_text_before_it(client):
    full = ask(client, max_tokens=40).choices[0].message.content
    stop = full[9:12]
    at = full.index(stop)
    for options in ({"stop": stop}, {"stop": ["从不出现", stop]}):
        answer = ask(client, max_tokens=40, **options)
        assert answer.choices[0].message.content == full[:at]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens < 40
        assert text_of(streamed(client, max_tokens=40, **options)) == full[:at]


def test_what_only_begins_like_a_stop_string_is_not_lost(client):
    full = ask(client).choices[0].message.content
    options = {"stop": [full[-3:] + "没有", full[2:4] + "没有"]}
    assert text_of(streamed(client, **options)) == full


def test_an_end_token_ends_the_answer(tiny, tokenizer, tmp_path):
    model, _ = models.load(str(tiny))
    ids = tokenizer.apply_chat_template(
        HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    written = model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :].tolist()
    third = written[2]
    model.generation_config.eos_token_id = third
    model.save_pretrained(tmp_path / "ends")
    tokenizer.save_pretrained(tmp_path / "ends")
    with listening(create_app(tmp_path / "ends")) as address:
        answer = ask(client_of(address), model="ends")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == written.index(third) + 1
    assert tokenizer.decode(third) not in answer.choices[0].message.content


def test_a_seed_repeats_a_draw_and_another_changes_it(client):
    hot = {"temperature": 1.5, "max_tokens": 30}
    texts = [ask(client, seed=seed, **hot).choices[0].message.content for seed in (1, 1, 2, -1)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_without_a_seed_every_draw_is_new(client):
    """Also after a request that set one: its seed isn't left behind."""
    texts = []
    for _ in range(2):
        ask(client, seed=1, temperature=1.5)
        texts.append(ask(client, temperature=1.5, max_tokens=30).choices[0].message.content)
    assert texts[0] != texts[1]


def test_a_tiny_top_p_is_greedy(client):
    nucleus = ask(client, temperature=1.0, top_p=1e-9)
    assert nucleus.choices[0].message.content == ask(client).choices[0].message.content


def test_several_choices(client):
    options = {"n": 3, "seed": 5, "temperature": 1.5}
    answer = ask(client, **options)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens == 36
    parts = {0: "", 1: "", 2: ""}
    for event in streamed(client, **options):
        parts[event.choices[0].index] += event.choices[0].delta.content or ""
    assert list(parts.values()) == texts


def test_text_parts_are_joined_and_an_answer_can_be_sent_back(client):
    parts = [{"type": "text", "text": "写一首"}, {"type": "text", "text": "五言绝句"}]
    first = ask(client, messages=[{"role": "user", "content": parts}])
    assert first.choices[0].message.content == ask(client).choices[0].message.content
    talk = [*HELLO, first.choices[0].message, {"role": "user", "content": "再写一首"}]
    assert ask(client, messages=talk).usage.prompt_tokens > first.usage.prompt_tokens + 5


def test_without_a_limit_it_writes_up_to_its_own(client):
    assert ask(client, max_tokens=None).usage.completion_tokens == 128
    assert ask(client, max_tokens=None, max_completion_tokens=5).usage.completion_tokens == 5


def test_models_and_health(client, address):
    assert [(m.id, m.max_model_len) for m in client.models.list()] == [("tiny", 256)]
    health = httpx.get(f"{address}/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


# what it refuses


@pytest.mark.parametrize(
    ("changed", "kind", "param", "code"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 2.1}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"top_p": 0}, openai.BadRequestError, "top_p", "invalid_value"),
        ({"n": 9}, openai.BadRequestError, "n", "invalid_value"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"max_tokens": 129}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"messages": []}, openai.BadRequestError, "messages", "invalid_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages.0.content", "missing_required_parameter"),
        ({"tools": []}, openai.BadRequestError, "tools", "unsupported_parameter"),
        ({"extra_body": {"guided_json": {}}}, openai.BadRequestError, "guided_json", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "长" * 250}]}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "长" * 999}], "max_tokens": None}, openai.BadRequestError, "messages", "context_length_exceeded"),
    ],
)  # fmt: skip
def test_errors_are_those_the_client_knows(client, changed, kind, param, code):
    with pytest.raises(kind) as caught:
        ask(client, **changed)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.body["message"]


@pytest.mark.parametrize("call", [lambda c: ask(c), lambda c: c.models.list(), lambda c: streamed(c)])
def test_a_wrong_key_is_refused(address, call):
    with pytest.raises(openai.AuthenticationError) as caught:
        call(client_of(address, "wrong"))
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("header", [{}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": b"Bearer \xff"}])  # fmt: skip
def test_no_key_is_refused_before_the_body_is_looked_at(address, header):
    answer = httpx.post(f"{address}/v1/chat/completions", content=b"{", headers=header)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_without_a_key_everybody_is_let_in(tiny):
    with listening(create_app(tiny, name="poet")) as address:
        assert ask(client_of(address, "anything"), model="poet").choices


def bearer() -> dict:
    return {"Authorization": f"Bearer {KEY}"}


def post(address, content: bytes, **headers):
    return httpx.post(
        f"{address}/v1/chat/completions",
        content=content,
        headers=bearer() | {"content-type": "application/json"} | headers,
        timeout=PATIENCE,
    )


def message(text: str) -> bytes:
    return (
        b'{"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": %s}]}' % text.encode()
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model": "\xff"}',
        message(r'"\ud800"'),
        message('"x"').replace(b'"tiny"', rb'"\udfff"'),
        message('"x"').replace(b'"max_tokens"', rb'"\ud800"'),
        message('"x"')[:-1] + rb', "stop": "\ud800"}',
        message('"x"')[:-1] + b', "temperature": NaN}',
        message('"x"')[:-1] + b', "temperature": Infinity}',
        message('"x"')[:-1] + b', "temperature": 1e999}',
        message('"x"')[:-1] + b', "top_p": -1e999}',
        message('"x"')[:-1] + b', "seed": ' + b"9" * 400 + b"}",
        message('"x"')[:-1] + b', "seed": ' + b"9" * 5000 + b"}",
        message('"x"')[:-1] + b', "seed": 1.5}',
        message('"x"')[:-1] + b', "n": true}',
        message('"x"')[:-1] + b', "stream_options": {"include_usage": "yes"}}',
        message("[" * 9000 + "]" * 9000),
        message('{"a":' * 900 + "1" + "}" * 900),
        b"[" * 19_000,
    ],
)
def test_a_body_that_makes_no_sense_is_a_400(address, content):
    answer = post(address, content)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "content",
    [
        message('"x"').replace(b": 2,", b": 2.0,"),
        message(r'"\u0000\uffff\ud83d\ude00"'),
        message('""'),
        message('"<|im_end|><|endoftext|>"'),
        message('"x"')[:-1] + b', "temperature": 5e-324}',
        message('"x"')[:-1] + b', "temperature": 1e-40}',
        message('"x"')[:-1] + b', "temperature": 1.1e-5, "top_p": 5e-324}',
        message('"x"')[:-1] + b', "seed": -9007199254740991, "temperature": null}',
        message('"x"')[:-1] + rb', "stop": ["\u0000", "\ud83d\ude00"]}',
    ],
)
def test_a_strange_body_that_makes_sense_is_answered(address, content):
    answer = post(address, content)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("size", [20_001, 10_000_000])
def test_a_body_too_large_is_a_413(address, client, size):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, messages=[{"role": "user", "content": "x" * size}])
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    chunked = httpx.post(
        f"{address}/v1/chat/completions",
        content=(b"x" * 1000 for _ in range(size // 1000 + 1)),
        headers=bearer(),
    )
    assert chunked.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/none", 404), ("PUT", "/v1/models", 405)])
def test_other_paths_and_methods(address, method, path, status):
    answer = httpx.request(method, address + path, headers=bearer())
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


# one at a time, and a line that ends


def test_requests_are_answered_one_at_a_time_and_too_many_are_refused(tiny):
    """Two places: the first runs, the second waits, the third is refused and may come back."""
    app = create_app(tiny, max_tokens=200, queue_size=2)
    engine, go_on = app.state.engine, threading.Event()
    engine.worker.submit(go_on.wait, PATIENCE)  # nothing is written until the third has been refused
    with listening(app) as address:
        client, order, outcomes = client_of(address), [], []

        def follow(number):
            events = ask(client, stream=True, max_tokens=40)
            order.extend(number for event in events if event.choices[0].delta.content)
            outcomes.append(number)

        threads = [threading.Thread(target=follow, args=(number,)) for number in (1, 2)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda number=number: len(engine.chats) == number)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert caught.value.response.headers["retry-after"] == "1"
        assert outcomes == [1, 2]
        assert order == sorted(order)
        assert ask(client).choices


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_server(tiny, stream):
    """1,600 steps were asked for (eight choices); when the client has left after the third no more are taken."""
    app = create_app(tiny, max_tokens=200, queue_size=1)
    engine, third, left, steps = app.state.engine, threading.Event(), threading.Event(), []

    def wait(number):
        steps.append(number)
        if number == 3:
            third.set()
            left.wait(PATIENCE)

    body = {"model": "tiny", "messages": HELLO, "max_tokens": 200, "n": 8, "stream": stream}
    with listening(app) as address, before_each_step(engine, wait):
        host, port = address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port))
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        assert third.wait(PATIENCE)
        (chat,) = engine.chats
        connection.close()
        wait_until(chat.cancelled.is_set)
        left.set()
        wait_until(lambda: not engine.chats)
        assert steps == [1, 2, 3]
        assert ask(client_of(address)).choices


def test_a_model_that_fails_is_a_500_and_the_server_goes_on(tiny, tokenizer, tmp_path):
    import torch

    model, _ = models.load(str(tiny))
    model.model.norm.weight.data.fill_(torch.nan)
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with listening(create_app(tmp_path / "broken")) as address:
        client = client_of(address)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, model="broken", temperature=1)
        assert caught.value.code == "internal_error"
        with pytest.raises(openai.APIError, match="internal error"):
            streamed(client, model="broken", temperature=1)
        assert client.models.list().data


def test_a_model_without_a_template_is_refused(tiny, tokenizer, tmp_path):
    import shutil

    shutil.copytree(tiny, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat template"):
        create_app(tmp_path / "bare")


# a process of its own


OWNER = """
import json, os, sys, time
from lab_utils import models
from lab_utils.serving import wrapper

with wrapper.serve(models.path(models.SHIPPED), models.shipped_adapter()) as server:
    fork = os.fork()  # holds the guard's pipe, and lives on
    if fork == 0:
        sys.stdout.close()
        time.sleep(3600)
        os._exit(0)
    facts = {name: getattr(server, name) for name in ("base_url", "api_key", "model", "pid")}
    print(json.dumps({**facts, "repr": repr(server), "fork": fork}), flush=True)
    time.sleep(3600)
"""


@pytest.mark.slow
def test_the_process_serves_the_adapter_and_nothing_survives_its_killed_owner():
    environment = {**os.environ, **BROKEN_PROXIES}
    command = [sys.executable, "-P", "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        try:
            facts = json.loads(owner.stdout.readline())
            assert facts["model"] == models.SHIPPED_ADAPTER
            question = [{"role": "user", "content": "写一首五言绝句，题目是《春》。"}]
            with clients.connect(facts["base_url"], facts["api_key"]) as client:
                answer = client.chat.completions.create(
                    model=facts["model"], messages=question, temperature=0
                )
            assert answer.choices[0].finish_reason == "stop"
            assert len(answer.choices[0].message.content.splitlines()) == 2
            with pytest.raises(openai.AuthenticationError):
                client_of(facts["base_url"].removesuffix("/v1")).models.list()
            members = session_members(facts["pid"])
            words = [Path(f"/proc/{pid}/cmdline").read_text() for pid in members]
            assert len(members) >= 2 and all("wrapper" in word for word in words)
            assert not any(facts["api_key"] in text for text in (*words, facts["repr"]))
        finally:
            owner.kill()
    wait_until(lambda: session_members(facts["pid"]) == [])
    with pytest.raises(httpx.ConnectError):
        httpx.get(facts["base_url"])
    os.kill(facts["fork"], signal.SIGKILL)


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(ServerError, match="config.json"), wrapper.serve(tmp_path):
        pass


# anything at all


def bench_wrapper_fuzz():
    path = Path(__file__).parents[1] / "benchmarks" / "bench_wrapper_fuzz.py"
    spec = importlib.util.spec_from_file_location("bench_wrapper_fuzz", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_wrapper_fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_a_fuzzer_finds_nothing(tiny):
    """What its OpenAPI allows and what it doesn't: the answers are those it documents, and never a 500."""
    bench = bench_wrapper_fuzz()
    outcome = bench.Outcome()
    with listening(create_app(tiny, api_key=KEY, max_tokens=4)) as address:
        bench.fuzz(address, KEY, "positive", 40, outcome)
        bench.fuzz(address, KEY, "negative", 60, outcome)
        assert {200, 400} <= set(outcome.statuses)
        bench.fuzz(address, None, "positive", 10, outcome)
    assert outcome.requests == 110
    assert outcome.failures == {}
    assert outcome.hangs == 0
    assert max(outcome.statuses) < 500
