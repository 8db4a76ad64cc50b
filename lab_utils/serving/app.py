"""A server in OpenAI's format over transformers: what everybody writes first, done with care.

It answers `POST /v1/chat/completions`, `GET /v1/models` and `GET /health`, streams, and fails with the
bodies and codes that OpenAI's clients know. It writes one answer at a time: that is what lab 11 measures.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from lab_utils.serving.access import Gate
from lab_utils.serving.api_errors import (
    ApiError,
    ErrorBody,
    error_body,
    error_response,
    failure,
    validation_error,
)
from lab_utils.serving.chat_format import (
    AssistantMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    Model,
    ModelList,
    Usage,
)
from lab_utils.serving.engine import Engine, QueuedChat

Responses = dict[int | str, dict[str, Any]]
"""Status -> what the OpenAPI document says of an answer with it."""


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
    `api_key` everybody is let in. Raises what `models.load` raises; InvalidValue for a model without a chat
    template.
    """
    engine = Engine(model_folder, adapter, max_tokens, queue_size)
    name = name or Path(adapter or model_folder).name

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="transformers, one request at a time", lifespan=lifespan)
    app.state.engine = engine
    app.add_middleware(Gate, api_key=api_key, max_body_bytes=max_body_bytes)
    app.add_exception_handler(StarletteHTTPException, lambda _, error: error_response(error))
    app.add_exception_handler(
        RequestValidationError, lambda _, error: error_response(validation_error(error))
    )
    app.add_exception_handler(Exception, lambda *_: error_response(failure()))
    _add_routes(app, engine, name, secured=api_key is not None)
    _document(app, name, max_tokens)
    return app


def _add_routes(app: FastAPI, engine: Engine, name: str, secured: bool) -> None:
    """What the server answers; `secured`: its OpenAPI document says that a key is asked for."""
    created = int(time.time())
    refusals: Responses = {"4XX": {"model": ErrorBody}}
    stream: Responses = {200: {"content": {"text/event-stream": {}}}}
    key = [Security(HTTPBearer(auto_error=False))] if secured else []

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models", responses=refusals, dependencies=key)
    def list_models() -> ModelList:
        return ModelList(data=[Model(id=name, created=created, max_model_len=engine.context)])

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=refusals | stream,
        dependencies=key,
    )
    async def chat_completions(body: ChatRequest, request: Request):
        if body.model != name:
            message = f"没有叫 {body.model!r} 的模型 (model not found)。这里只有 {name!r}"
            raise ApiError(404, message, "model_not_found", "model")
        chat = engine.submit(body)
        chat.watch = asyncio.create_task(chat.cancel_when_gone(request))
        if body.stream:
            return StreamingResponse(_events(chat), media_type="text/event-stream")
        return await _whole(chat)


def _document(app: FastAPI, name: str, max_tokens: int) -> None:
    """Put into the app's OpenAPI what only this server knows: the model's name and the limit."""
    fields = app.openapi()["components"]["schemas"]["ChatRequest"]["properties"]
    fields["model"]["enum"] = [name]
    for field_name in ("max_tokens", "max_completion_tokens"):
        fields[field_name]["anyOf"][0]["maximum"] = max_tokens


def _head() -> dict:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}


def _usage(chat: QueuedChat, written: int) -> Usage:
    prompt = len(chat.prompt_ids)
    return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


async def _whole(chat: QueuedChat) -> ChatCompletion:
    """All choices in one answer."""
    texts = [""] * (chat.body.n or 1)
    choices, written = [], 0
    async for piece in chat.read():
        texts[piece.choice] += piece.text
        if piece.finish_reason:
            message = AssistantMessage(content=texts[piece.choice])
            choices.append(Choice(index=piece.choice, message=message, finish_reason=piece.finish_reason))
            written += piece.tokens
    usage = _usage(chat, written)
    return ChatCompletion(**_head(), model=chat.body.model, choices=choices, usage=usage)


async def _events(chat: QueuedChat) -> AsyncIterator[str]:
    """The pieces as server-sent events, the usage if asked for, and `[DONE]`; an error takes their place."""
    common = {**_head(), "object": "chat.completion.chunk", "model": chat.body.model}
    started: set[int] = set()
    written = 0
    try:
        async for piece in chat.read():
            delta = {"content": piece.text} if piece.text else {}
            if piece.choice not in started:
                started.add(piece.choice)
                delta = {"role": "assistant", "content": piece.text}
            written += piece.tokens
            choice = {"index": piece.choice, "delta": delta, "finish_reason": piece.finish_reason}
            yield _event({**common, "choices": [choice]})
    except ApiError as error:
        yield _event(error_body(error))
        return
    if chat.body.stream_options and chat.body.stream_options.include_usage:
        yield _event({**common, "choices": [], "usage": _usage(chat, written).model_dump()})
    yield "data: [DONE]\n\n"


def _event(data: dict) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
