"""A real vLLM server for as long as it is wanted: started, waited for, asked a known answer, stopped for sure."""

import atexit
import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from lab_utils import profile
from lab_utils.artifacts import model_folder
from lab_utils.evaluation.candidate import Served, served
from lab_utils.serving import clients, known_answer
from lab_utils.serving.adapter import Adapter, max_lora_rank, preflight
from lab_utils.serving.failure import ServerError, explain, read_log
from lab_utils.serving.guard import end_session
from lab_utils.setup_environment import find_vllm, vllm_remedy

HOST = "127.0.0.1"
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


class VllmMissing(RuntimeError):
    """This machine has no vLLM; the message says what to do, in Chinese."""


class Server:
    """A running server in OpenAI's format. Use it in a `with` block, or call `stop`; its end of this
    process, however it comes, ends the server too.

    `base_url` ends in /v1; `names`: what models it serves, the base first; `dtype`: that of its
    weights; `log`: file of all that it printed, kept; `command`: how it was started, to be read;
    `seconds`: what the start took.
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], port: int, names: list[str], dtype: str, log: Path
    ):
        self.base_url, self.port = f"http://{HOST}:{port}/v1", port
        self.api_key = env["VLLM_API_KEY"]
        self.names, self.dtype, self.log = names, dtype, log
        self.command = shown({name: value for name, value in env.items() if name != "VLLM_API_KEY"}, argv)
        self.seconds = 0.0
        self._scratch = tempfile.mkdtemp(prefix="vllm-")
        guard = Path(__file__).with_name("guard.py")
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(guard), self._scratch, *argv],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **env, "TMPDIR": self._scratch},
            )
        atexit.register(self.stop)

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
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the guard, which is the id of the session of all its processes."""
        return self._process.pid

    def client(self, **options):
        """An `openai.OpenAI` for it, past any proxy of the environment."""
        return clients.connect(self.base_url, self.api_key, **options)

    def candidate(self, name: str) -> Served:
        """What it serves as `name`, for `export.parity`."""
        return served(self.base_url, name, self.api_key)

    def stop(self) -> None:
        """End every process of the server and free its port; does nothing when that is done already."""
        atexit.unregister(self.stop)
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the guard takes this as the sign to end
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        end_session(self.pid)
        self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def wait(self) -> int:
        """Wait until it ends by itself; the exit status."""
        return self._process.wait()


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
    """Start vLLM with `model`, and LoRA `adapters` beside it (name -> adapter or run folder); return when it
    answers, and answers right.

    `model`: a folder, a run folder of a full training, or a name of `lab_utils.models`; it is served as
    `name`, by default the folder's. `port`: a free one by default. `api_key`: a random one by default.
    `dtype`: by default that of the profile, and float32 instead should its answers be wrong. `log`: file
    for what vLLM prints. `check`: compare its answers with those of transformers, `known_answer.test`.
    `flags` are vLLM's own, with underscores: `max_model_len=1024`.

    Raises VllmMissing; AdapterError for an adapter that can't be served; OSError for a port in use;
    ServerError with the cause from the log when it doesn't come up within `start_seconds`, and when its
    answers are wrong. Whatever is raised, KeyboardInterrupt included, nothing is left running.
    """
    python, version = require_vllm()
    folder = model_folder(model)
    name = name or folder.name
    found = {own: preflight(where, folder) for own, where in (adapters or {}).items()}
    if name in found:
        raise ValueError(f"底座和适配器都叫 {name!r}：请求用名字选模型，名字不能重复。请给适配器换个名字。")
    require_free(port)
    key = api_key or secrets.token_urlsafe(16)
    setting = profile.current()
    for kind in dict.fromkeys([dtype] if dtype else [setting.torch_dtype, "float32"]):
        free = port or free_port()
        argv = vllm_argv(python, version, folder, name, found, kind, free, flags)
        where = Path(log) if log else Path(tempfile.gettempdir()) / f"vllm-{free}.log"
        where.parent.mkdir(parents=True, exist_ok=True)
        env = vllm_environment(version) | {"VLLM_API_KEY": key}
        server = Server(argv, env, free, [name, *found], kind, where)
        try:
            wait_until_healthy(server, start_seconds)
            wrong = known_answer.test(server, folder, found) if check else None
        except BaseException:
            server.stop()
            raise
        if wrong is None:
            return server
        server.stop()
        print(f"❌ {kind} 的回答不对：{wrong}", flush=True)
    raise ServerError(
        f"vLLM 以 {kind} 运行时，回答与 transformers 不一致，已经停掉它。\n{wrong}\n请换一种 dtype，例如 dtype='float32'。"
    )


def require_vllm() -> tuple[Path, str]:
    """`(python, version)` of the vLLM here. Raises VllmMissing, with what to do."""
    if found := find_vllm():
        return found
    remedy = vllm_remedy()
    if remedy:
        raise VllmMissing(f"这台机器上没有找到 vLLM。请在课程文件夹里运行：{remedy}")
    raise VllmMissing(
        "这个平台上装不了 vLLM：它的 CPU 版只有 Linux x86-64 的安装包。请换一台 Linux 机器或云端笔记本；"
        "不需要 vLLM 的部分可以照常做。"
    )


def vllm_argv(
    python: Path,
    version: str,
    folder: Path,
    name: str,
    adapters: Mapping[str, Adapter],
    dtype: str,
    port: int,
    flags: Mapping,
) -> list[str]:
    """The command line of the server. The key isn't in it: others can see what processes are started with."""
    on_cpu = version.endswith("+cpu")
    start = (
        ["-P", str(Path(__file__).with_name("launch.py"))]  # its folder is no place to import from
        if on_cpu
        else ["-m", "vllm.entrypoints.openai.api_server"]
    )
    chosen = {"model": folder, "served_model_name": name, "host": HOST, "port": port, "dtype": dtype}
    if on_cpu:
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}
    if adapters:
        ranks = [adapter.rank for adapter in adapters.values()]
        chosen |= {"enable_lora": True, "max_lora_rank": max_lora_rank(ranks), "max_loras": len(adapters)}
        chosen["lora_modules"] = [f"{own}={adapter.folder}" for own, adapter in adapters.items()]
    return [str(python), *start, *words(chosen | dict(flags))]


def words(flags: Mapping) -> list[str]:
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
    """Environment variables: no network, no usage report, no plugins; on a CPU every core the machine has."""
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
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }


def shown(env: Mapping[str, str], argv: list[str]) -> str:
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
    """Raise OSError, naming the process if it can be seen, when `port` is in use."""
    if port is None:
        return
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise OSError(
            f"端口 (port) {port} 用不了：{owner_of(port) or error.strerror}。请先停掉它，或换一个端口；"
            "不写 port 就会自动找一个空闲的。"
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
    said = ["导入 vLLM"]
    print(f"vLLM 启动中：{said[0]}", end="", flush=True)
    while not healthy(server.port):
        text = read_log(server.log)
        for mark, stage in STAGES.items():
            if mark in text and stage not in said:
                said.append(stage)
                print(f" → {stage}", end="", flush=True)
        gone = not server.running
        if gone or time.monotonic() - began > seconds:
            print(flush=True)
            limit = "" if gone else f"超过 {seconds:g} 秒还没有就绪，已停掉。"
            raise ServerError(
                f"vLLM 没有启动成功。{limit}{explain(read_log(server.log))}\n完整的日志：{server.log}"
            )
        time.sleep(0.2)
    server.seconds = time.monotonic() - began
    print(f" → 就绪，用时 {server.seconds:.0f} 秒", flush=True)


def healthy(port: int) -> bool:
    """Whether `/health` on this port answers 200."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{HOST}:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
