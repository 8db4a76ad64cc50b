"""One model, one worker: chats wait in line, one at a time is written, and its text is sent as it comes."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request

from lab_utils import models
from lab_utils.errors import InvalidValue
from lab_utils.models import generation
from lab_utils.serving.api_errors import ApiError, failure
from lab_utils.serving.chat_format import ChatRequest, FinishReason

_LOG = logging.getLogger(__name__)
_GREEDY_BELOW = 1e-5
"""A temperature below this is taken as 0: dividing by it would overflow."""


@dataclass(frozen=True)
class Piece:
    """Some more text of one choice; the last piece of a choice has a `finish_reason` and its token count."""

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    tokens: int = 0


@dataclass(eq=False)
class QueuedChat:
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

    def __init__(self, chat: QueuedChat, choice: int, tokenizer: Any, end_ids: set[int]):
        self.chat, self.choice, self.tokenizer, self.end_ids = chat, choice, tokenizer, end_ids
        stop = chat.body.stop or []
        self.stops = [stop] if isinstance(stop, str) else stop
        self.ids: list[int] = []
        self.tokens = self.sent = 0
        self.finish_reason: FinishReason = "length"
        self.cut = False

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """input_ids: (1, tokens) with the new one last; whether to stop, (1,) bool."""
        import torch

        self.tokens += 1
        token = int(input_ids[0, -1])
        if token in self.end_ids:
            self.finish_reason = "stop"
        else:
            self.ids.append(token)
            self._advance(last=False)
        return torch.full((1,), self.finish_reason == "stop" or self.chat.cancelled.is_set())

    def finish(self) -> None:
        """Send what was held back, and how it ended."""
        if not self.cut:
            self._advance(last=True)
        self.chat.send(Piece(self.choice, "", self.finish_reason, self.tokens))

    def _advance(self, last: bool) -> None:
        """Send the text that later tokens can't change: no half character, no beginning of a stop string."""
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        places = [at for stop in self.stops if (at := text.find(stop, self.sent)) >= 0]
        if places:
            self.finish_reason, self.cut, safe = "stop", True, min(places)
        elif last:
            safe = len(text)
        else:
            whole = text.rstrip("\ufffd")
            safe = len(whole) - max((_overlap(whole, stop) for stop in self.stops), default=0)
        if safe > self.sent:
            self.chat.send(Piece(self.choice, text[self.sent : safe]))
            self.sent = safe


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((k for k in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:k])), 0)


class Engine:
    """One model and one worker thread: requests wait in line, and one at a time is answered.

    `max_tokens`: most tokens of an answer; `queue_size`: requests taken in at a time, the running one included;
    `chats`: those that are taken in now.
    """

    def __init__(
        self, model_folder: str | Path, adapter: str | Path | None, max_tokens: int, queue_size: int
    ):
        self.model, self.tokenizer = models.load(str(model_folder), adapter=adapter)
        if not self.tokenizer.chat_template:
            raise InvalidValue(
                f"{model_folder} 没有对话模板 (chat template)，不能用来对话", "请先给分词器设好模板"
            )
        self.end_ids = set(generation.end_ids(self.model.generation_config.eos_token_id))
        self.context, self.max_tokens = self.model.config.max_position_embeddings, max_tokens
        self.queue_size = queue_size
        self.chats: set[QueuedChat] = set()
        self.worker = ThreadPoolExecutor(1, "generate")
        self.running: QueuedChat | None = None

    def submit(self, body: ChatRequest) -> QueuedChat:
        """Put a request in line. Raises ApiError when it can't be answered or the line is full."""
        prompt_ids = self._prompt(body)
        chat = QueuedChat(prompt_ids, self._length(body, len(prompt_ids)), body, asyncio.get_running_loop())
        if len(self.chats) >= self.queue_size:
            message = "排队的请求太多 (queue full)。请过一会儿再试"
            raise ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": "1"})
        self.chats.add(chat)
        self.worker.submit(self._work, chat)
        return chat

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
        wanted, room = getattr(body, param), self.context - prompt_tokens
        if wanted is not None and wanted > self.max_tokens:
            message = f"{param} 太大：最多 {self.max_tokens}，给出了 {wanted}"
            raise ApiError(400, message, "invalid_value", param)
        if room < (wanted or 1):
            message = (
                f"太长了：模型的上下文 (context length) 是 {self.context} 个词元，"
                f"提示 {prompt_tokens} 个，要写 {wanted or 1} 个。请缩短对话或减小 {param}"
            )
            raise ApiError(400, message, "context_length_exceeded", "messages")
        return wanted or min(room, self.max_tokens)

    def _work(self, chat: QueuedChat) -> None:
        """In the worker's thread: write every choice of `chat`."""
        import torch

        self.running = chat
        try:
            if chat.body.seed is None:
                torch.seed()
            else:
                torch.manual_seed(chat.body.seed)
            for choice in range(chat.body.n or 1):
                if not chat.cancelled.is_set():
                    self._write(chat, choice)
        except Exception:  # whatever a model may raise: the client hears of it, the server goes on
            _LOG.exception("generation failed")
            chat.send(failure())
        finally:
            self.running = None
            self.chats.discard(chat)
            chat.send(None)

    def _write(self, chat: QueuedChat, choice: int) -> None:
        import torch

        temperature = 1.0 if chat.body.temperature is None else chat.body.temperature
        top_p = 1.0 if chat.body.top_p is None else chat.body.top_p
        options = generation.decoding(temperature if temperature >= _GREEDY_BELOW else 0.0, top_p)
        writer = Writer(chat, choice, self.tokenizer, self.end_ids)
        ids = torch.tensor([chat.prompt_ids])
        with torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=chat.max_tokens,
                stopping_criteria=[writer],
                **options,
            )
        writer.finish()

    def close(self) -> None:
        """Stop the running request at its next token and drop the waiting ones."""
        if chat := self.running:
            chat.cancelled.set()
        self.worker.shutdown(cancel_futures=True)
