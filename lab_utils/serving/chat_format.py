"""OpenAI's chat format as the wrapper speaks it: what a request may hold, what an answer holds, what an error is.

Sources: OpenAI's API reference, "Create chat completion" and "Error codes".
"""

from typing import Annotated, Literal

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException


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


class ErrorDetail(BaseModel):
    """What went wrong; `param` is the field it is about, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every answer that isn't a success."""

    error: ErrorDetail


class Usage(BaseModel):
    """Counts of tokens; the end token counts as written, as in vLLM."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One of `n` answers; `length` means cut off."""

    index: int
    message: Answer
    finish_reason: Literal["stop", "length"]


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


_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}


class ApiError(HTTPException):
    """A refusal that becomes OpenAI's error body. `code`: word for programs; `param`: field it is about."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None, headers=None):
        super().__init__(status, message, headers)
        self.code, self.param = code, param


def error_response(error: StarletteHTTPException) -> JSONResponse:
    """`error` as OpenAI writes it; also the framework's own, such as 404 and 405."""
    detail = ErrorDetail(
        message=_printable(str(error.detail)),
        type=_TYPES.get(error.status_code, "invalid_request_error"),
        param=getattr(error, "param", None),
        code=getattr(error, "code", None),
    )
    body = ErrorBody(error=detail).model_dump()
    return JSONResponse(body, error.status_code, headers=error.headers)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def validation_error(error: RequestValidationError) -> ApiError:
    """The first finding of pydantic as a 400: OpenAI has no 422, and clients map 400 to BadRequestError."""
    first = error.errors()[0]
    where = _printable(".".join(map(str, first["loc"][1:]))) or None
    codes = {"missing": "missing_required_parameter", "extra_forbidden": "unsupported_parameter"}
    if first["type"] == "extra_forbidden":
        message = f"这个服务不支持参数 (unsupported parameter)：{where}"
    elif first["type"] == "json_invalid":
        where, message = None, f"请求体不是合法的 JSON (invalid JSON)：第 {first['loc'][-1]} 个字符附近"
    else:
        message = f"参数不对 (invalid request)：{where or '请求体'}：{first['msg']}"
    return ApiError(400, message, codes.get(first["type"], "invalid_value"), where)


def failure() -> ApiError:
    """What a client hears of an error that nobody foresaw; the log has the rest."""
    return ApiError(500, "服务器内部出错 (internal error)。详情在服务器的日志里", "internal_error")
