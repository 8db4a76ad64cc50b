"""OpenAI's errors as the wrapper speaks them: a refusal, or what went wrong, as the body that clients know.

Source: OpenAI's API reference, "Error codes".
"""

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException


class ErrorDetail(BaseModel):
    """What went wrong; `param` is the field it is about, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every answer that isn't a success."""

    error: ErrorDetail


_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}


class ApiError(HTTPException):
    """A refusal that becomes OpenAI's error body. `code`: word for programs; `param`: field it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.code, self.param = code, param


def error_body(error: StarletteHTTPException) -> dict:
    """`error` as OpenAI writes it; also the framework's own, such as 404 and 405."""
    detail = ErrorDetail(
        message=_printable(str(error.detail)),
        type=_TYPES.get(error.status_code, "invalid_request_error"),
        param=getattr(error, "param", None),
        code=getattr(error, "code", None),
    )
    return ErrorBody(error=detail).model_dump()


def error_response(error: StarletteHTTPException) -> JSONResponse:
    """The answer to a request that was refused with `error`."""
    return JSONResponse(error_body(error), error.status_code, headers=error.headers)


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
