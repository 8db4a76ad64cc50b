"""A server in OpenAI's format over transformers: what everybody writes first, done with care.

It answers `POST /v1/chat/completions`, `GET /v1/models` and `GET /health`, streams, and fails with the
bodies and codes that OpenAI's clients know. It writes one answer at a time: that is what lab 11 measures.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from lab_utils import models
from lab_utils.models import generation
from lab_utils.serving import clients
from lab_utils.serving.chat_format import (
    Answer,
    ApiError,
    ChatCompletion,
    ChatRequest,
    Choice,
    ErrorBody,
    Model,
    ModelList,
    Usage,
    error_response,
    failure,
    validation_error,
)

_LOG = logging.getLogger(__name__)
_GREEDY_BELOW = 1e-5
"""A temperature below this is taken as 0: dividing by it would overflow."""


class Gate:
    """ASGI layer before everything under `/v1`: the key first, then the size of the body.

    A stranger's body isn't even read, and none is read further than `max_body_bytes`.
    """

    def __init__(self, app, api_key: str | None, max_body_bytes: int):
        self.app, self.api_key, self.max_body_bytes = app, api_key, max_body_bytes

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            return await self.app(scope, receive, send)
        try:
            self._check_key(dict(scope["headers"]).get(b"authorization", b""))
            body = await self._read(receive)
        except ApiError as error:
            return await error_response(error)(scope, receive, send)
        first = {"type": "http.request", "body": body, "more_body": False}

        async def replay():
            nonlocal first
            message, first = first, None
            return message or await receive()

        await self.app(scope, replay, send)

    def _check_key(self, header: bytes) -> None:
        if self.api_key is None:
            return
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self.api_key.encode()):
            message = "API 密钥 (API key) 不对或没有给出。请在请求头里写 Authorization: Bearer 密钥"
            raise ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _read(self, receive) -> bytes:
        """The body. Raises ApiError 413 as soon as it is too long."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_body_bytes:
                message = f"请求体 (request body) 太大：最多 {self.max_body_bytes} 字节"
                raise ApiError(413, message, "request_too_large")
        return body


@dataclass(frozen=True)
class Piece:
    """Some more text of one choice; the last piece of a choice has a `finish_reason` and its token count."""

    choice: int
    text: str
    finish_reason: str | None = None
    tokens: int = 0


@dataclass
class Job:
    """One request on its way through the worker. `pieces` ends with None; an ApiError means failure."""

    prompt_ids: list[int]
    max_tokens: int
    body: ChatRequest
    loop: asyncio.AbstractEventLoop
    cancelled: threading.Event = field(default_factory=threading.Event)
    pieces: asyncio.Queue = field(default_factory=asyncio.Queue)
    watch: asyncio.Task | None = None

    def send(self, piece: Piece | ApiError | None) -> None:
        """Hand `piece` from the worker's thread to the request."""
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    async def read(self) -> AsyncIterator[Piece]:
        """The pieces as they come. Raises the ApiError that stopped the worker."""
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, ApiError):
                raise piece
            yield piece

    async def cancel_when_gone(self, request: Request) -> None:
        """Wait until the client has left or been answered, and stop the worker: nobody reads on."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.cancelled.set()


class Writer:
    """The stopping criterion of one `generate`: called after each token, it makes text and says when to stop."""

    def __init__(self, job: Job, choice: int, tokenizer, end_ids: set[int]):
        self.job, self.choice, self.tokenizer, self.end_ids = job, choice, tokenizer, end_ids
        stop = job.body.stop or []
        self.stops = [stop] if isinstance(stop, str) else stop
        self.ids: list[int] = []
        self.tokens = self.sent = 0
        self.finish_reason, self.cut = "length", False

    def __call__(self, input_ids, scores, **_):
        """input_ids: (1, tokens) with the new one last; whether to stop, (1,) bool."""
        import torch

        self.tokens += 1
        token = int(input_ids[0, -1])
        if token in self.end_ids:
            self.finish_reason = "stop"
        else:
            self.ids.append(token)
            self._advance(last=False)
        return torch.full((1,), self.finish_reason == "stop" or self.job.cancelled.is_set())

    def finish(self) -> None:
        """Send what was held back, and how it ended."""
        if not self.cut:
            self._advance(last=True)
        self.job.send(Piece(self.choice, "", self.finish_reason, self.tokens))

    def _advance(self, last: bool) -> None:
        """Send the text that later tokens can't change: no half character, no beginning of a stop string."""
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        found = [at for stop in self.stops if (at := text.find(stop, self.sent)) >= 0]
        if found:
            self.finish_reason, self.cut, safe = "stop", True, min(found)
        elif last:
            safe = len(text)
        else:
            whole = text.rstrip("\ufffd")
            safe = len(whole) - max((_overlap(whole, stop) for stop in self.stops), default=0)
        if safe > self.sent:
            self.job.send(Piece(self.choice, text[self.sent : safe]))
            self.sent = safe


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((k for k in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:k])), 0)


class Engine:
    """One model and one worker thread: requests wait in line, and one at a time is answered.

    `max_tokens`: most tokens of an answer; `queue_size`: requests taken in at a time, the running one included.
    """

    def __init__(
        self, model_folder: str | Path, adapter: str | Path | None, max_tokens: int, queue_size: int
    ):
        self.model, self.tokenizer = models.load(str(model_folder), adapter=adapter)
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"{model_folder} 没有对话模板 (chat template)，不能用来对话。请先给分词器设好模板。"
            )
        self.end_ids = set(generation.end_ids(self.model.generation_config.eos_token_id))
        self.context, self.max_tokens = self.model.config.max_position_embeddings, max_tokens
        self.places = threading.BoundedSemaphore(queue_size)
        self.worker = ThreadPoolExecutor(1, "generate")
        self.running: Job | None = None

    def submit(self, body: ChatRequest) -> Job:
        """Put a request in line. Raises ApiError when it can't be answered or the line is full."""
        prompt_ids = self._prompt(body)
        job = Job(prompt_ids, self._length(body, len(prompt_ids)), body, asyncio.get_running_loop())
        if not self.places.acquire(blocking=False):
            message = "排队的请求太多 (queue full)。请过一会儿再试"
            raise ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": "1"})
        self.worker.submit(self._work, job)
        return job

    def _prompt(self, body: ChatRequest) -> list[int]:
        from jinja2 import TemplateError

        turns = [message.plain() for message in body.messages]
        try:
            return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            message = f"对话模板 (chat template) 不接受这样的对话：{error}"
            raise ApiError(400, message, "invalid_value", "messages") from None

    def _length(self, body: ChatRequest, prompt_tokens: int) -> int:
        """Most tokens to write. Raises ApiError when the answer, or the prompt with it, would be too long."""
        param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        asked, room = getattr(body, param), self.context - prompt_tokens
        if asked is not None and asked > self.max_tokens:
            message = f"{param} 太大：最多 {self.max_tokens}，给出了 {asked}"
            raise ApiError(400, message, "invalid_value", param)
        if room < (asked or 1):
            message = (
                f"太长了：模型的上下文 (context length) 是 {self.context} 个词元，"
                f"提示 {prompt_tokens} 个，要写 {asked or 1} 个。请缩短对话或减小 {param}"
            )
            raise ApiError(400, message, "context_length_exceeded", "messages")
        return asked or min(room, self.max_tokens)

    def _work(self, job: Job) -> None:
        """In the worker's thread: write every choice of `job`."""
        import torch

        self.running = job
        try:
            if job.body.seed is None:
                torch.seed()
            else:
                torch.manual_seed(job.body.seed)
            for choice in range(job.body.n or 1):
                if not job.cancelled.is_set():
                    self._write(job, choice)
        except Exception:  # whatever a model may raise: the client hears of it, the server goes on
            _LOG.exception("generation failed")
            job.send(failure())
        finally:
            self.running = None
            self.places.release()
            job.send(None)

    def _write(self, job: Job, choice: int) -> None:
        import torch

        temperature = 1.0 if job.body.temperature is None else job.body.temperature
        top_p = 1.0 if job.body.top_p is None else job.body.top_p
        how = generation.decoding(temperature if temperature >= _GREEDY_BELOW else 0.0, top_p)
        writer = Writer(job, choice, self.tokenizer, self.end_ids)
        ids = torch.tensor([job.prompt_ids])
        with torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=job.max_tokens,
                stopping_criteria=[writer],
                **how,
            )
        writer.finish()

    def close(self) -> None:
        """Stop the running request at its next token and drop the waiting ones."""
        if job := self.running:
            job.cancelled.set()
        self.worker.shutdown(cancel_futures=True)


def create_app(
    model_folder: str | Path,
    adapter: str | Path | None = None,
    api_key: str | None = None,
    name: str | None = None,
    max_tokens: int = 512,
    queue_size: int = 64,
    max_body_bytes: int = 65_536,
) -> FastAPI:
    """The server as an ASGI application; the model is loaded here, float32 on the CPU.

    `name` is what clients call the model; by default the adapter's folder's name, or the model's. Without
    `api_key` everybody is let in. Raises what `models.load` raises; ValueError for a model without a chat
    template.
    """
    engine = Engine(model_folder, adapter, max_tokens, queue_size)
    name = name or Path(adapter or model_folder).name
    created = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        engine.close()

    app = FastAPI(title="transformers, one request at a time", lifespan=lifespan)
    app.add_middleware(Gate, api_key=api_key, max_body_bytes=max_body_bytes)
    app.add_exception_handler(StarletteHTTPException, lambda _, error: error_response(error))
    app.add_exception_handler(
        RequestValidationError, lambda _, error: error_response(validation_error(error))
    )
    app.add_exception_handler(Exception, lambda *_: error_response(failure()))
    refusals = {"4XX": {"model": ErrorBody}}
    secured = {"dependencies": [Security(HTTPBearer(auto_error=False))]} if api_key else {}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models", responses=refusals, **secured)
    def list_models() -> ModelList:
        return ModelList(data=[Model(id=name, created=created, max_model_len=engine.context)])

    stream = {200: {"content": {"text/event-stream": {}}}}

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=refusals | stream, **secured)
    async def chat_completions(body: ChatRequest, request: Request):
        if body.model != name:
            message = f"没有叫 {body.model!r} 的模型 (model not found)。这里只有 {name!r}"
            raise ApiError(404, message, "model_not_found", "model")
        job = engine.submit(body)
        job.watch = asyncio.create_task(job.cancel_when_gone(request))
        if body.stream:
            return StreamingResponse(_events(job), media_type="text/event-stream")
        return await _whole(job)

    _document(app, name, max_tokens)
    return app


def _document(app: FastAPI, name: str, max_tokens: int) -> None:
    """Put into the app's OpenAPI what only this server knows: the model's name and the limit."""
    fields = app.openapi()["components"]["schemas"]["ChatRequest"]["properties"]
    fields["model"]["enum"] = [name]
    for field_name in ("max_tokens", "max_completion_tokens"):
        fields[field_name]["anyOf"][0]["maximum"] = max_tokens


def _head() -> dict:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}


def _usage(job: Job, written: int) -> Usage:
    prompt = len(job.prompt_ids)
    return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


async def _whole(job: Job) -> ChatCompletion:
    """All choices in one answer."""
    texts = [""] * (job.body.n or 1)
    ends: list[Piece] = []
    async for piece in job.read():
        texts[piece.choice] += piece.text
        if piece.finish_reason:
            ends.append(piece)
    choices = [
        Choice(index=e.choice, message=Answer(content=texts[e.choice]), finish_reason=e.finish_reason)
        for e in ends
    ]
    usage = _usage(job, sum(end.tokens for end in ends))
    return ChatCompletion(**_head(), model=job.body.model, choices=choices, usage=usage)


async def _events(job: Job) -> AsyncIterator[str]:
    """The pieces as server-sent events, the usage if asked for, and `[DONE]`; an error takes their place."""
    common = {**_head(), "object": "chat.completion.chunk", "model": job.body.model}
    started, written = set(), 0
    try:
        async for piece in job.read():
            delta = {"content": piece.text} if piece.text else {}
            if piece.choice not in started:
                started.add(piece.choice)
                delta = {"role": "assistant", "content": piece.text}
            written += piece.tokens
            choice = {"index": piece.choice, "delta": delta, "finish_reason": piece.finish_reason}
            yield _event({**common, "choices": [choice]})
    except ApiError as error:
        yield f"data: {error_response(error).body.decode()}\n\n"
        return
    if job.body.stream_options and job.body.stream_options.include_usage:
        yield _event({**common, "choices": [], "usage": _usage(job, written).model_dump()})
    yield "data: [DONE]\n\n"


def _event(data: dict) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


@dataclass(frozen=True)
class RunningWrapper:
    """A wrapper that answers at `base_url`; `model` is the name it answers to, `pid` its process."""

    base_url: str
    api_key: str = field(repr=False)
    model: str
    pid: int

    def client(self, **options):
        """An `openai.OpenAI` for it, past any proxy of the environment."""
        return clients.connect(self.base_url, self.api_key, **options)


@contextlib.contextmanager
def serve(
    model_folder: str | Path, adapter: str | Path | None = None, start_seconds: float = 120, **settings
) -> Iterator[RunningWrapper]:
    """Run `create_app` in a process of its own on a free port of 127.0.0.1, as long as the `with` block lasts.

    The key is drawn at random. The process is killed at the end of the block, and ends by itself when this
    process dies. `settings`: as for `create_app`.

    Raises RuntimeError, with the end of its log, when it doesn't answer within `start_seconds`.
    """
    settings |= {"model_folder": str(model_folder), "adapter": str(adapter) if adapter else None}
    settings |= {"api_key": secrets.token_urlsafe(16)}
    with tempfile.TemporaryFile("w+") as log:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                pass_fds=(listener.fileno(),),
            )
        try:
            try:
                print(json.dumps(settings), file=process.stdin, flush=True)
                httpx.get(f"{address}/health", timeout=start_seconds, trust_env=False).raise_for_status()
            except (httpx.HTTPError, OSError) as error:
                log.seek(0)
                end = log.read()[-2000:]
                raise RuntimeError(f"包装服务 (wrapper) 没有起来：{error!r}\n它的日志末尾：\n{end}") from None
            name = settings.get("name") or Path(adapter or model_folder).name
            yield RunningWrapper(f"{address}/v1", settings["api_key"], name, process.pid)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()


def main() -> None:
    """Serve on the listening socket that was handed down, until killed or until the parent is gone."""
    import uvicorn

    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    listener = socket.socket(fileno=int(sys.argv[1]))
    app = create_app(**settings)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _leave_with_parent() -> None:
    """The parent holds the other end of our input: it is closed when the parent dies, however it dies."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
