"""A server of this process: on a free port, in a thread, gone when the block ends."""

import contextlib
import socket
import threading

import uvicorn


@contextlib.contextmanager
def listening(app):
    """`app` on a free port, in a thread; its address. Ends when the block does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
