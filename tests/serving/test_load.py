"""The load test against a real server, and against servers that answer slowly, badly or not at all."""

import asyncio
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from lab_utils import models
from lab_utils.serving import load
from lab_utils.serving.app import create_app
from lab_utils.serving.load import LoadTest, Trace
from tests.serving.listening import listening
from tests.waiting import PATIENCE

PROMPTS = [f"写一首五言绝句，题目是第{i}首" for i in range(6)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_qwen3, tokenizer):
    folder = tmp_path_factory.mktemp("load") / "tiny"
    tiny_qwen3().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine_and_url(tiny):
    app = create_app(tiny, api_key="key", queue_size=4)
    with listening(app) as address:
        yield app.state.engine, f"{address}/v1"


@pytest.fixture(scope="module")
def base_url(engine_and_url):
    return engine_and_url[1]


def measure(base_url: str, concurrency: int = 1, prompts=PROMPTS, model: str = "tiny", **options) -> LoadTest:
    return load.measure(
        base_url, "key", model, prompts, concurrency, **{"max_tokens": 10, "progress": False, **options}
    )


def test_every_request_is_timed_and_its_tokens_are_the_servers(base_url):
    begin = time.perf_counter()
    test = measure(base_url, 2)
    wall = time.perf_counter() - begin
    assert (len(test.traces), test.failures, test.tokens) == (6, [], 60)
    assert 0 < test.seconds < wall
    for trace in test.traces:
        assert trace.sent < trace.pieces[0] <= trace.pieces[-1] <= trace.done
        assert trace.ttft + sum(trace.gaps) <= trace.done - trace.sent
        assert 1 <= len(trace.pieces) <= trace.tokens
    assert test.summary()["tokens_per_second"] == test.tokens / test.seconds


def test_the_texts_are_those_of_the_batch_and_the_batch_hands_over_at_once(base_url, tiny):
    """Left padding, end tokens and counts are right: six prompts of two lengths give the same in one batch."""
    prompts = [*PROMPTS[:5], "很短"]
    served = measure(base_url, prompts=prompts)
    batched = load.measure_batches(*models.load(str(tiny)), prompts, 6, max_tokens=10, progress=False)
    assert [t.text for t in batched.traces] == [t.text for t in served.traces]
    assert [t.tokens for t in batched.traces] == [t.tokens for t in served.traces]
    assert {t.ttft for t in batched.traces} == {batched.seconds}
    assert math.isnan(batched.summary()["gap_p50"])


def test_batches_of_a_model_that_ends_count_the_end_token_and_no_padding():
    model, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    prompts = ["写一首五言绝句，题目是《春》。", "写一首七言律诗，题目是《秋江晚望》。"]
    together = load.measure_batches(model, tokenizer, prompts, 2, max_tokens=96, progress=False)
    alone = load.measure_batches(model, tokenizer, prompts, 1, max_tokens=96, progress=False)
    assert [t.tokens for t in together.traces] == [t.tokens for t in alone.traces]
    for trace in alone.traces:
        assert trace.tokens == len(tokenizer(trace.text, add_special_tokens=False).input_ids) + 1
    assert alone.traces[1].sent >= alone.traces[0].done


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_than_so_many_at_a_time(base_url, concurrency):
    test = measure(base_url, concurrency)
    for trace in test.traces:
        running = [other for other in test.traces if other.sent <= trace.sent < other.done]
        assert len(running) <= concurrency
    assert len([t for t in test.traces if t.sent < min(t.done for t in test.traces)]) == concurrency


def test_refused_requests_are_counted_and_kept(engine_and_url, monkeypatch):
    """Four places, six at a time: two are told to come back. Nothing is written until they have been told."""
    engine, base_url = engine_and_url
    refused = threading.Semaphore(0)
    for _ in range(2):
        engine.worker.submit(refused.acquire)
    update = load.tqdm.update
    monkeypatch.setattr(load.tqdm, "update", lambda bar, n=1: (refused.release(), update(bar, n)))
    test = measure(base_url, 6)
    assert len(test.traces) == 6
    assert len(test.failures) == 2
    assert all("429" in failure for failure in test.failures)
    assert test.summary()["failed"] == 2
    assert test.tokens == 40
    assert load.table([test])["失败"].tolist() == [2]


def test_a_wrong_model_fails_every_request_and_says_why(base_url):
    test = measure(base_url, 3, model="none")
    assert len(test.failures) == 6
    assert all("404" in failure and "model_not_found" in failure for failure in test.failures)
    summary = test.summary()
    assert summary["tokens"] == 0
    assert math.isnan(summary["ttft_p50"])


def test_nobody_there_is_a_failure_of_every_request():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    test = measure(f"http://127.0.0.1:{port}/v1", 2)
    assert len(test.failures) == 6
    assert all("ConnectError" in failure for failure in test.failures)


def event(text: str | None, **more) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def saying(*steps: bytes | Callable):
    """An ASGI server that streams these bytes, and calls and awaits what else stands between them."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for step in steps:
            if isinstance(step, bytes):
                await send({"type": "http.response.body", "body": step, "more_body": True})
            else:
                await step()
        await send({"type": "http.response.body", "body": b""})

    return app


USAGE = event(None, usage={"completion_tokens": 7})
DONE = b"data: [DONE]\n\n"


async def forever() -> None:
    await asyncio.sleep(3600)


class Clock:
    """A clock that the server turns on, when the client has looked at it so many times."""

    def __init__(self):
        self.now, self.looks = 0.0, 0

    def perf_counter(self) -> float:
        self.looks += 1
        return self.now

    def turn_on(self, seconds: float, looks: int):
        async def step() -> None:
            while self.looks < looks:
                await asyncio.sleep(0.001)
            self.now += seconds

        return step


def test_times_are_those_of_the_server(monkeypatch):
    """The client looks when the test begins, when it sends, at each piece of text, and at the end."""
    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    first = event("") + event("床")  # a piece without text is no first token
    steps = (
        event(""),
        clock.turn_on(0.3, 2),
        first,
        clock.turn_on(0.1, 3),
        event("前"),
        clock.turn_on(0.2, 4),
    )
    with listening(saying(*steps, event("明"), clock.turn_on(0.25, 5), USAGE, DONE)) as address:
        trace = measure(f"{address}/v1", prompts=["静夜思"]).traces[0]
    assert trace.ttft == pytest.approx(0.3)
    assert trace.gaps == pytest.approx([0.1, 0.2])
    assert trace.done - trace.sent == pytest.approx(0.85)
    assert (trace.tokens, trace.text, trace.error) == (7, "床前明", None)


def test_events_may_be_cut_anywhere():
    whole = event("床") + event("前") + b": a comment\n\n" + USAGE + DONE
    with listening(saying(*(whole[i : i + 7] for i in range(0, len(whole), 7)))) as address:
        trace = measure(f"{address}/v1", prompts=["静夜思"]).traces[0]
    assert (trace.text, trace.tokens, trace.error) == ("床前", 7, None)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((event("床"), USAGE), "truncated"),
        ((event("床"), b'data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        ((event("床"), b"data: {broken\n\n", DONE), "unreadable"),
        ((b'data: {"choices": [{}]}\n\n', DONE), "unreadable"),
        ((event("床"), DONE), "usage"),
    ],
)
def test_a_stream_that_goes_wrong_is_a_failure_without_tokens(steps, reason):
    with listening(saying(*steps)) as address:
        test = measure(f"{address}/v1", prompts=["静夜思"])
    assert len(test.failures) == 1
    assert reason in test.failures[0]
    assert test.tokens == 0


def test_a_server_that_falls_silent_is_given_up():
    with listening(saying(event("床"), forever, DONE)) as address:
        test = measure(f"{address}/v1", prompts=["静夜思"], timeout=0.2)
    assert len(test.failures) == 1 and "ReadTimeout" in test.failures[0]
    assert test.tokens == 0


@pytest.mark.parametrize(
    "url", ["http://example.com/v1", "http://10.0.0.1:8000/v1", "http://127.0.0.1.evil.org/v1", "8000", ""]
)
def test_only_this_machine_is_tested(url):
    with pytest.raises(ValueError, match="本机"):
        measure(url)


@pytest.mark.parametrize(("prompts", "concurrency"), [([], 1), (["x"], 0)])
def test_nothing_to_do_is_refused(prompts, concurrency):
    with pytest.raises(ValueError, match="并发"):
        measure("http://127.0.0.1:1/v1", concurrency, prompts)


def test_it_works_where_an_event_loop_is_running(base_url):
    async def cell():
        return measure(base_url, prompts=PROMPTS[:1])

    assert asyncio.run(cell()).failures == []


def test_an_interrupt_ends_the_test_at_once():
    """It comes when the server has the request, to which it would never answer."""
    asked = threading.Event()

    async def note() -> None:
        asked.set()

    def interrupt() -> None:
        asked.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    with listening(saying(note, event("床"), forever, DONE)) as address:
        thread = threading.Thread(target=interrupt)
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background jobs ignore it
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                measure(f"{address}/v1", timeout=3600)
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()


def test_a_bar_counts_every_request_and_can_be_left_out(base_url, capsys):
    measure(base_url, 2)
    assert capsys.readouterr() == ("", "")
    measure(base_url, 2, progress=True)
    out, err = capsys.readouterr()
    assert "6/6" in out and err == ""


def test_the_summary_by_hand():
    traces = (
        Trace(0.0, (1.0, 1.5, 3.0), 3.0, 3, "甲乙丙"),
        Trace(1.0, (5.0,), 6.0, 2, "丁"),
        Trace(0.5, (0.75,), 9.0, 0, "戊", "HTTP 500"),
    )
    summary = LoadTest("手算", 2, traces).summary()
    assert summary == {
        "requests": 3,
        "failed": 1,
        "tokens": 5,
        "pieces": 4,
        "seconds": 9.0,
        "tokens_per_second": 5 / 9,
        "ttft_p50": 1.0,
        "ttft_p95": 4.0,
        "gap_p50": 0.5,
        "gap_p95": 1.5,
    }
    row = load.table([LoadTest("手算", 2, traces)]).iloc[0]
    assert (row["服务"], row["TTFT p95 (ms)"], row["词元间隔 p50 (ms)"]) == ("手算", 4000, 500)


@pytest.mark.parametrize("q", [1, 50, 90, 95, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 20, 100])
def test_a_percentile_is_the_least_value_that_covers(q, count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    found = load.percentile(values, q)
    covers = [value for value in values if sum(other <= value for other in values) >= q / 100 * count]
    assert found == min(covers)


@pytest.mark.parametrize("q", [0, -1, 101])
def test_a_percentile_that_is_none(q):
    with pytest.raises(ValueError, match="百分位"):
        load.percentile([1.0], q)
