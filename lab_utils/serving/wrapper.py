"""The server of `lab_utils.serving.app` in a process of its own, for as long as a block lasts."""

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab_utils import processes
from lab_utils.serving import clients
from lab_utils.serving.failure import ServerError

KEY = "LAB_WRAPPER_KEY"
"""Environment variable that hands down the key: the words of a command line can be seen by everybody."""


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
    model_folder: str | Path, adapter: str | Path | None = None, start_seconds: float = 120, **settings: Any
) -> Iterator[RunningWrapper]:
    """Run `app.create_app` in a process of its own on a free port of 127.0.0.1, as long as the `with` block lasts.

    The key is drawn at random. The process is ended with the block, and when this process dies. `settings`: as
    for `create_app`. Raises ServerError, with the end of its log, when it doesn't answer within `start_seconds`.
    """
    settings |= {"model_folder": str(model_folder), "adapter": str(adapter) if adapter else None}
    key = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="lab-wrapper-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            number = listener.fileno()
            command = [sys.executable, "-P", "-m", __name__, str(number), json.dumps(settings)]
            process = processes.start(
                command, env={KEY: key}, log=Path(folder, "log"), name="wrapper", pass_fds=(number,)
            )
        with process:
            _wait_for_answer(process, address, start_seconds)
            name = settings.get("name") or Path(adapter or model_folder).name
            yield RunningWrapper(f"{address}/v1", key, name, process.pid)


def _wait_for_answer(process: processes.Process, address: str, seconds: float) -> None:
    """Return when `/health` answers. Raises ServerError."""
    import httpx

    try:
        httpx.get(f"{address}/health", timeout=seconds, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        end = process.output()[-2000:]
        raise ServerError(f"包装服务 (wrapper) 没有起来：{error!r}", f"它的日志末尾：\n{end}") from None


def main() -> None:
    """Serve on the listening socket that was handed down, until killed."""
    import uvicorn

    from lab_utils.serving.app import create_app

    listener = socket.socket(fileno=int(sys.argv[1]))
    app = create_app(**json.loads(sys.argv[2]), api_key=os.environ.pop(KEY))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
