"""OpenAI's chat format as the wrapper speaks it: what a request may hold and what an answer holds.

Source: OpenAI's API reference, "Create chat completion".
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _encodable(text: str) -> str:
    """`text`, or ValueError where it holds half a surrogate pair: JSON can write that, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("文字里有不成对的代理字符 (lone surrogate)") from None
    return text


def _whole_number(value: object) -> object:
    """5.0 as 5, for in JSON they are the same number; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_EXACT = 2**53 - 1
"""The largest integer that every reader of JSON keeps exactly."""
_WHOLE = BeforeValidator(_whole_number)
Text = Annotated[str, AfterValidator(_encodable)]
Stop = Annotated[Text, Field(min_length=1)]


class TextPart(BaseModel):
    """One part of a message. Only text: this server sees no pictures."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a conversation; other fields that a client may send along are not used."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "user", "assistant"]
    content: Text | list[TextPart]

    def plain(self) -> dict[str, str]:
        """The turn as chat templates want it."""
        parts = self.content if isinstance(self.content, list) else [TextPart(type="text", text=self.content)]
        return {"role": self.role, "content": "".join(part.text for part in parts)}


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """Body of a request. What this server can't do is refused, not ignored."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: Text
    messages: list[Message] = Field(min_length=1)
    max_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), _WHOLE] | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    n: Annotated[int, Field(ge=1, le=8), _WHOLE] | None = None
    seed: Annotated[int, Field(ge=-_EXACT, le=_EXACT), _WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None


class Usage(BaseModel):
    """Counts of tokens; the end token counts as written, as in vLLM."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """What the assistant writes."""

    role: Literal["assistant"] = "assistant"
    content: str


FinishReason = Literal["stop", "length"]


class Choice(BaseModel):
    """One of `n` answers; `length` means cut off."""

    index: int
    message: AssistantMessage
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The answer to a request without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(BaseModel):
    """A name that requests may give."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lab_utils"
    max_model_len: int


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]
