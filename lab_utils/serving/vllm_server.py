"""A real vLLM server for as long as it is wanted: started, waited for, asked a known answer, stopped for sure."""

import contextlib
import os
import secrets
import shlex
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab_utils import processes, profile
from lab_utils.artifacts import model_folder
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.candidate import Served, served
from lab_utils.serving import clients, known_answer
from lab_utils.serving.adapter import Adapter, max_lora_rank, preflight
from lab_utils.serving.failure import PortInUse, ServerError, VllmMissing, explain
from lab_utils.setup_environment import find_vllm, vllm_remedy

HOST = "127.0.0.1"
KEY = "VLLM_API_KEY"
"""Environment variable of the key: others can see what words processes are started with."""
START_SECONDS = 300.0
KV_CACHE_BYTES = 512 * 2**20
"""Memory for keys and values on a CPU; on a GPU vLLM takes what `gpu_memory_utilization` leaves."""
STAGES = {
    "Resolved architecture": "读配置",
    "Starting to load model": "装载权重",
    "KV cache size": "分配 KV 缓存",
    "Starting vLLM server": "打开接口",
}
"""What vLLM's log says -> what it is about to do."""


class Server:
    """A running server in OpenAI's format. Use it in a `with` block, or call `stop`; the end of this process,
    however it comes, ends the server too.

    `base_url` ends in /v1; `names`: what models it serves, the base first; `dtype`: that of its weights;
    `command`: how it was started, to be read; `process`: what runs it; `log`: file of all that it printed,
    kept; `seconds`: what the start took.
    """

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        port: int,
        names: list[str],
        dtype: str,
        log: str | Path | None = None,
    ):
        self.base_url, self.port = f"http://{HOST}:{port}/v1", port
        self.api_key = env[KEY]
        self.names, self.dtype = names, dtype
        self.command = as_typed({name: value for name, value in env.items() if name != KEY}, argv)
        self.seconds = 0.0
        self.process = processes.start(argv, env=env, log=log, name="vllm")
        self.log = self.process.log_path

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "运行中" if self.running else "已停止"
        return f"<Server {self.base_url} {'、'.join(self.names)} {self.dtype} {state}>"

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process.running

    @property
    def pid(self) -> int:
        """Process id of its guard, which is the id of the session of all its processes."""
        return self.process.pid

    def client(self, **options):
        """An `openai.OpenAI` for it, past any proxy of the environment."""
        return clients.connect(self.base_url, self.api_key, **options)

    def candidate(self, name: str) -> Served:
        """What it serves as `name`, for `export.parity`."""
        return served(self.base_url, name, self.api_key)

    def candidates(self) -> dict[str, Served]:
        """All that it serves, by name."""
        return {name: self.candidate(name) for name in self.names}

    def stop(self) -> None:
        """End every process of the server and free its port; does nothing when that is done already."""
        self.process.stop()

    def wait(self) -> int:
        """Wait until it ends by itself; the exit status."""
        return self.process.wait()


def serve(
    model: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    *,
    name: str | None = None,
    port: int | None = None,
    api_key: str | None = None,
    dtype: str | None = None,
    log: str | Path | None = None,
    start_seconds: float = START_SECONDS,
    check: bool = True,
    **flags,
) -> Server:
    """Start vLLM with `model` and LoRA `adapters` (name -> adapter or run folder); return when it answers right.

    `model`: a folder, a run folder of a full training, or a name of `lab_utils.models`; it is served as
    `name`, by default the folder's. `port`: a free one by default. `api_key`: a random one by default.
    `dtype`: by default that of the profile, and float32 instead should its answers be wrong. `log`: file for what
    vLLM prints. `check`: compare its answers with those of transformers. `flags`: vLLM's, as `max_model_len=1024`.

    Raises VllmMissing; AdapterError for an adapter that can't be served; PortInUse; InvalidValue for two models
    of one name; ServerError with the cause from the log when it doesn't come up within `start_seconds`, and when
    its answers are wrong. Whatever is raised, KeyboardInterrupt included, nothing is left running.
    """
    python, version = require_vllm()
    folder = model_folder(model)
    name = name or folder.name
    passed = {nickname: preflight(source, folder) for nickname, source in (adapters or {}).items()}
    if name in passed:
        raise InvalidValue(f"底座和适配器都叫 {name!r}，而请求用名字选模型", "请给适配器换个名字")
    require_free(port)
    env = vllm_environment(version) | {KEY: api_key or secrets.token_urlsafe(16)}
    for kind in dict.fromkeys([dtype] if dtype else [profile.current().torch_dtype, "float32"]):
        chosen_port = port or free_port()
        argv = vllm_argv(python, version, folder, name, passed, kind, chosen_port, flags)
        server = Server(argv, env, chosen_port, [name, *passed], kind, log)
        try:
            wait_until_healthy(server, start_seconds)
            wrong = known_answer.compare(server.candidates(), folder, passed, kind) if check else None
        except BaseException:
            server.stop()
            raise
        if wrong is None:
            return server
        server.stop()
        print(f"❌ {kind} 的回答不对：{wrong}", flush=True)
    raise ServerError(
        f"vLLM 以 {kind} 运行时，回答与 transformers 不一致，已经停掉它。\n{wrong}",
        "请换一种 dtype，例如 dtype='float32'",
    )


def require_vllm() -> tuple[Path, str]:
    """`(python, version)` of the vLLM here. Raises VllmMissing, with what to do."""
    if vllm := find_vllm():
        return vllm
    if remedy := vllm_remedy():
        raise VllmMissing("这台机器上没有找到 vLLM", f"请在课程文件夹里运行：{remedy}")
    raise VllmMissing(
        "这个平台上装不了 vLLM：它的 CPU 版只有 Linux x86-64 的安装包",
        "请换一台 Linux 机器或云端笔记本；不需要 vLLM 的部分可以照常做",
    )


def vllm_argv(
    python: Path,
    version: str,
    folder: Path,
    name: str,
    adapters: Mapping[str, Adapter],
    dtype: str,
    port: int,
    flags: Mapping[str, Any],
) -> list[str]:
    """The command line of the server. The key isn't in it."""
    on_cpu = version.endswith("+cpu")
    start = (
        ["-P", str(Path(__file__).with_name("vllm_launch.py"))]  # its folder is no place to import from
        if on_cpu
        else ["-P", "-m", "vllm.entrypoints.openai.api_server"]
    )
    chosen: dict[str, Any] = {
        "model": folder,
        "served_model_name": name,
        "host": HOST,
        "port": port,
        "dtype": dtype,
    }
    if on_cpu:
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}
    if adapters:
        ranks = [adapter.rank for adapter in adapters.values()]
        chosen |= {"enable_lora": True, "max_lora_rank": max_lora_rank(ranks), "max_loras": len(adapters)}
        chosen["lora_modules"] = [f"{nickname}={adapter.folder}" for nickname, adapter in adapters.items()]
    return [str(python), *start, *words(chosen | dict(flags))]


def words(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line: True is the flag alone, False its `--no-` form, None nothing."""
    line = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            several = value if isinstance(value, (list, tuple)) else [value]
            line += [f"--{flag}", *map(str, several)]
    return line


def vllm_environment(version: str) -> dict[str, str]:
    """Environment variables: no network, no usage report, no plugins.

    On a CPU as many threads as OMP_NUM_THREADS says here, else as there are cores; and nothing is compiled:
    all that vLLM would compile in eager mode is one comparison, and torch's compiler needs g++ and fails
    where the environment's path holds a blank.
    """
    always = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
        "PYTHONWARNINGS": "ignore",
    }
    if not version.endswith("+cpu"):
        return always
    return always | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0))),
        "TORCHDYNAMO_DISABLE": "1",
    }


def as_typed(env: Mapping[str, str], argv: list[str]) -> str:
    """A command as text for a shell: environment, then a line for each flag; paths from the current folder
    where that is shorter."""
    lines = [[f"{name}={shlex.quote(value)}" for name, value in env.items()], []]
    for word in argv:
        if word.startswith("--"):
            lines.append([])
        name, equals, value = word.rpartition("=")
        near = os.path.relpath(value) if os.path.isabs(value) else value
        lines[-1].append(shlex.quote(name + equals + min(near, value, key=len)))
    return " \\\n    ".join(" ".join(line) for line in lines)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


def require_free(port: int | None) -> None:
    """Raise PortInUse, naming the process if it can be seen, when `port` is in use."""
    if port is None:
        return
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise PortInUse(
            f"端口 (port) {port} 用不了：{owner_of(port) or error.strerror}",
            "请先停掉它，或换一个端口；不写 port 就会自动找一个空闲的",
        ) from None


def owner_of(port: int) -> str | None:
    """Who listens on `port`, in words, as far as this user may see."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                return f"进程 {process.pid}（{' '.join(process.cmdline()).strip()[:80]}）正在用它"
    return None


def wait_until_healthy(server: Server, seconds: float) -> None:
    """Return when the server answers `/health`, saying on the way what it does. Raises ServerError."""
    began = time.monotonic()
    print("vLLM 启动中：导入 vLLM", end="", flush=True)
    log, waiting = "", dict(STAGES)
    for text in server.process.follow():
        log += text
        for mark in [mark for mark in waiting if mark in log]:
            print(f" → {waiting.pop(mark)}", end="", flush=True)
        server.seconds = time.monotonic() - began
        if healthy(server.port):
            print(f" → 就绪，用时 {server.seconds:.0f} 秒", flush=True)
            return
        if server.seconds > seconds:
            break
    print(flush=True)
    limit = f"超过 {seconds:g} 秒还没有就绪，已停掉。" if server.running else ""
    raise ServerError(f"vLLM 没有启动成功。{limit}{explain(log)}", f"完整的日志在 {server.log} 里")


def healthy(port: int) -> bool:
    """Whether `/health` on this port answers 200."""
    import httpx

    try:
        return httpx.get(f"http://{HOST}:{port}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
