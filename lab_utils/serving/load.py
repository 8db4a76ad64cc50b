"""A load test: many requests at a time to a server in OpenAI's format, every one timed and accounted for.

Words, as vLLM's own benchmark uses them. TTFT (time to first token): from sending a request to its first
piece of text. Inter-token latency: time between a piece of text and the one before it. Throughput: tokens
written by all requests, by the seconds from the first request sent to the last one answered.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from tqdm import tqdm

from lab_utils.errors import InvalidValue
from lab_utils.evaluation.candidate import is_local
from lab_utils.models.generation import Completion, chat_prompt, complete_batch, decoding

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Trace:
    """One request: when it was sent and when each piece of its text came, in seconds since the test began.

    `tokens` is the server's own count of what it wrote; `error` says why a request failed, which then
    has no tokens. `done` is when it was over, well or not.
    """

    sent: float
    pieces: tuple[float, ...]
    done: float
    tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Seconds to the first piece of text; NaN when there was none."""
        return self.pieces[0] - self.sent if self.pieces else float("nan")

    @property
    def gaps(self) -> list[float]:
        """Seconds between each piece of text and the one before it."""
        return [float(gap) for gap in np.diff(self.pieces)]


@dataclass(frozen=True)
class LoadTest:
    """What one contestant did under one load."""

    name: str
    concurrency: int
    traces: tuple[Trace, ...]

    @property
    def failures(self) -> list[str]:
        """Why requests failed; empty when none did."""
        return [trace.error for trace in self.traces if trace.error]

    @property
    def seconds(self) -> float:
        """From the first request sent to the last one over."""
        return max(trace.done for trace in self.traces) - min(trace.sent for trace in self.traces)

    @property
    def tokens(self) -> int:
        """Tokens written by all requests; those of a failed request don't count."""
        return sum(trace.tokens for trace in self.traces)

    def summary(self) -> dict[str, float]:
        """The figures of the table; latencies in seconds, over the requests that didn't fail."""
        good = [trace for trace in self.traces if not trace.error]
        first = [trace.ttft for trace in good if trace.pieces]
        gaps = [gap for trace in good for gap in trace.gaps]
        return {
            "requests": len(self.traces),
            "failed": len(self.failures),
            "tokens": self.tokens,
            "pieces": sum(len(trace.pieces) for trace in good),
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "ttft_p50": percentile(first, 50),
            "ttft_p95": percentile(first, 95),
            "gap_p50": percentile(gaps, 50),
            "gap_p95": percentile(gaps, 95),
        }


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest of `values` that at least `q` per cent of them don't exceed (nearest rank); NaN for none.

    It is always a value that was measured. Raises InvalidValue unless 0 < q <= 100.
    """
    if not 0 < q <= 100:
        raise InvalidValue(f"百分位 (percentile) q={q} 不对", "要大于 0、不超过 100")
    if not len(values):
        return float("nan")
    return float(np.percentile(values, q, method="inverted_cdf"))


def table(tests: Sequence[LoadTest]) -> "DataFrame":
    """One row a test: a DataFrame with Chinese column names, latencies in milliseconds."""
    import pandas as pd

    rows = []
    for test in tests:
        s = test.summary()
        rows.append(
            {
                "服务": test.name,
                "并发": test.concurrency,
                "请求": s["requests"],
                "失败": s["failed"],
                "词元": s["tokens"],
                "秒": round(s["seconds"], 2),
                "词元/秒": round(s["tokens_per_second"], 1),
                "TTFT p50 (ms)": 1000 * s["ttft_p50"],
                "TTFT p95 (ms)": 1000 * s["ttft_p95"],
                "词元间隔 p50 (ms)": 1000 * s["gap_p50"],
                "词元间隔 p95 (ms)": 1000 * s["gap_p95"],
            }
        )
    return pd.DataFrame(rows).round(1)


def measure(
    base_url: str,
    api_key: str,
    model: str,
    prompts: Sequence[str],
    concurrency: int,
    max_tokens: int = 64,
    name: str | None = None,
    timeout: float = 120,
    progress: bool = True,
) -> LoadTest:
    """Send every prompt once as a chat, `concurrency` at a time, greedy and streamed; a failure is a result.

    As soon as a request is over the next is sent. `timeout`: seconds without a sign of life after which a
    request has failed. `progress`: show a bar. Works in a notebook, where an event loop is running already.

    Raises InvalidValue for no prompts, a concurrency below 1, or an address that isn't on this machine: a
    load test of somebody else's server is an attack.
    """
    if not prompts or concurrency < 1:
        raise InvalidValue(
            f"收到 {len(prompts)} 个提示、并发 (concurrency) {concurrency}", "至少要一个提示，并发至少为 1"
        )
    if not is_local(base_url):
        raise InvalidValue(
            f"{base_url!r} 不在本机",
            "压力测试 (load test) 只能对本机的服务做，地址形如 http://127.0.0.1:8000/v1",
        )
    ask = _Asker(base_url, api_key, model, max_tokens, timeout)
    with _bar(len(prompts), progress) as bar:
        traces = _await(_all(ask, prompts, concurrency, bar))
    return LoadTest(name or model, concurrency, tuple(traces))


def measure_batches(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    concurrency: int,
    max_tokens: int = 64,
    name: str = "transformers 批处理",
    progress: bool = True,
) -> LoadTest:
    """The same work without a server: `generate` on batches of `concurrency` padded prompts, greedy.

    All of a batch is handed over when its longest answer is written, so that is when the first piece of
    text comes: TTFT is the time of the whole batch, and there are no gaps.
    """
    traces: list[Trace] = []
    begin = time.perf_counter()
    with _bar(len(prompts), progress) as bar:
        for start in range(0, len(prompts), concurrency):
            sent = time.perf_counter() - begin
            answers = _answer_batch(model, tokenizer, prompts[start : start + concurrency], max_tokens)
            done = time.perf_counter() - begin
            traces += [Trace(sent, (done,), done, answer.tokens or 0, answer.text) for answer in answers]
            bar.update(len(answers))
    return LoadTest(name, concurrency, tuple(traces))


def _bar(total: int, shown: bool) -> tqdm:
    """A bar of so many requests on standard output: in a notebook it stays with the cell."""
    return tqdm(total=total, unit="个请求", disable=not shown, file=sys.stdout)


def _answer_batch(model: Any, tokenizer: Any, prompts: Sequence[str], max_tokens: int) -> list[Completion]:
    """The answer to each prompt, by one `generate`."""
    texts = [chat_prompt(tokenizer, prompt) for prompt in prompts]  # tokenized apart: the template pads right
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(model.device)
    return complete_batch(model, tokenizer, inputs, max_tokens, **decoding())


@dataclass(frozen=True)
class _Asker:
    """What every request of a test has in common."""

    base_url: str
    api_key: str
    model: str
    max_tokens: int
    timeout: float

    def body(self, prompt: str) -> dict:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class _Failed(Exception):
    """A request that wasn't answered in full."""


async def _all(ask: _Asker, prompts: Sequence[str], concurrency: int, bar: tqdm) -> list[Trace]:
    """A trace for every prompt, in their order."""
    todo = iter(range(len(prompts)))
    traces: dict[int, Trace] = {}
    begin = time.perf_counter()
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Authorization": f"Bearer {ask.api_key}"}
    async with httpx.AsyncClient(
        headers=headers, timeout=ask.timeout, limits=limits, trust_env=False
    ) as client:

        async def send_one_after_the_other() -> None:
            for number in todo:
                traces[number] = await _trace(client, ask, prompts[number], begin)
                bar.update()

        await asyncio.gather(*(send_one_after_the_other() for _ in range(min(concurrency, len(prompts)))))
    return [traces[number] for number in range(len(prompts))]


async def _trace(client: httpx.AsyncClient, ask: _Asker, prompt: str, begin: float) -> Trace:
    """Send one request and follow its stream to the end."""
    pieces: list[float] = []
    texts: list[str] = []
    sent, tokens, error = time.perf_counter() - begin, 0, None
    try:
        async with client.stream("POST", f"{ask.base_url}/chat/completions", json=ask.body(prompt)) as answer:
            if answer.status_code != 200:
                raise _Failed(f"HTTP {answer.status_code}: {(await answer.aread())[:200]!r}")
            async for text, counted in _chunks(answer):
                if text:
                    pieces.append(time.perf_counter() - begin)
                    texts.append(text)
                tokens = counted or tokens
            if not tokens:
                raise _Failed("服务器没有说写了几个词元 (no usage)")
    except (httpx.HTTPError, _Failed) as reason:
        error, tokens = f"{type(reason).__name__}: {reason}".removeprefix("_Failed: "), 0
    return Trace(sent, tuple(pieces), time.perf_counter() - begin, tokens, "".join(texts), error)


async def _chunks(answer: httpx.Response) -> AsyncIterator[tuple[str, int]]:
    """`(text, tokens)` of each event of a stream; tokens is 0 but where the server counts them.

    Raises _Failed for an error in the stream, for one that can't be read, and without `[DONE]` at its end.
    """
    finished = False
    async for line in answer.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if data == "[DONE]":
            finished = True
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                raise _Failed(f"流中报错 (error in the stream)：{event['error']}")
            text = event["choices"][0]["delta"].get("content") if event["choices"] else None
            tokens = event["usage"]["completion_tokens"] if event.get("usage") else 0
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Failed(f"看不懂的事件 (unreadable event)：{data[:200]!r}") from None
        yield text or "", tokens
    if not finished:
        raise _Failed("流没有以 [DONE] 结束 (truncated stream)")


def _await(work: Coroutine) -> list[Trace]:
    """Run `work` to its end in an event loop in a thread of its own; an interrupt cancels it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run() -> list[Trace]:
        try:
            return loop.run_until_complete(task)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(run).result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            raise
