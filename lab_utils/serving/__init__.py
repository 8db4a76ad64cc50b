"""From a folder to an address that answers: a managed vLLM server, its clients, a wrapper, a load test.

`serve` starts vLLM and gives a `Server`; `preflight` says beforehand whether an adapter can be served. Beside
them: `clients` (what is sent and read), `wrapper` (a server of our own, made of `app`, `access`, `engine`), `load`
(how fast), `scheduling` (why). Errors: AdapterError, PortInUse, ServerError, VllmMissing.

>>> from lab_utils import serving
>>> with serving.serve("xiaoshi-base", adapters={"poet": folder}) as server:
...     server.client().chat.completions.create(model="poet", messages=[…])
"""

from lab_utils.serving.adapter import AdapterError, preflight
from lab_utils.serving.failure import PortInUse, ServerError, VllmMissing
from lab_utils.serving.vllm_server import Server, healthy, serve

__all__ = [
    "AdapterError",
    "PortInUse",
    "Server",
    "ServerError",
    "VllmMissing",
    "healthy",
    "preflight",
    "serve",
]
