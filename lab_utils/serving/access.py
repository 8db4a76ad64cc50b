"""Who may enter the wrapper, and with how much."""

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab_utils.serving.api_errors import ApiError, error_response


class Gate:
    """ASGI layer before everything under `/v1`: the key first, then the size of the body.

    A stranger's body isn't even read, and none is read further than `max_body_bytes`.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_body_bytes: int):
        self.app, self.api_key, self.max_body_bytes = app, api_key, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        try:
            self._check_key(dict(scope["headers"]).get(b"authorization", b""))
            body = await self._read(receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, replay, send)

    def _check_key(self, header: bytes) -> None:
        if self.api_key is None:
            return
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self.api_key.encode()):
            refusal = "API 密钥 (API key) 不对或没有给出。请在请求头里写 Authorization: Bearer 密钥"
            raise ApiError(401, refusal, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _read(self, receive: Receive) -> bytes:
        """The body. Raises ApiError 413 as soon as it is too long."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_body_bytes:
                refusal = f"请求体 (request body) 太大：最多 {self.max_body_bytes} 字节"
                raise ApiError(413, refusal, "request_too_large")
        return body
