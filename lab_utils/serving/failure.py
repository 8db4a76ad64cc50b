"""Why a server didn't come up: the cause in its log, in Chinese, and what to do."""

import re

from lab_utils.errors import LabError

CAUSES = (
    (r"unrecognized arguments: (.*)", "vLLM 不认识参数 {0}。参数名用 vLLM 自己的写法，见 vllm serve --help"),
    (r"(\S+: error: .*)", "参数不对：{0}"),
    (
        r"(?:No available memory for the cache blocks|larger than the available KV cache memory|KV cache is needed)",
        "KV 缓存放不下一个最长的请求。请减小 max_model_len，或增大 kv_cache_memory_bytes",
    ),
    (
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        "max_model_len={0} 超过了模型的上限 {1}。请改小",
    ),
    (r"CUDA out of memory", "显存不够。请关掉别的内核，或减小 gpu_memory_utilization、max_model_len"),
    (r"Free memory on device|less than desired (?:GPU|CPU) memory utilization", "空闲的显存（内存）比 vLLM 想要的少。请关掉别的内核，或减小 gpu_memory_utilization"),
    (r"Address already in use", "端口被别的程序占用了。请换一个 port"),
    (r"No space left on device", "磁盘或 /dev/shm 满了。请腾出空间"),
    (r"Illegal instruction", "这个 CPU 缺少 vLLM 要的指令 (AVX2)。请换一台机器"),
    (r"LoRA rank (\d+) is greater than max_lora_rank (\d+)", "适配器的秩 {0} 超过了 --max-lora-rank {1}"),
)  # fmt: skip
"""Pattern in the log -> what it means; the first that is found is told."""
ECHOES = ("Engine core initialization failed", "WorkerProc initialization failed", "Executor failed")
"""Errors of a process that only say that another process had one."""


class ServerError(LabError, RuntimeError):
    """The server didn't come up, or answers wrong. The message has the cause."""


class VllmMissing(LabError, RuntimeError):
    """This machine has no vLLM."""


class PortInUse(LabError, OSError):
    """Somebody else listens on the port."""


def explain(log: str) -> str:
    """The cause in a log, and the line that says so; its last lines when none is known."""
    line = last_error(log)
    for pattern, meaning in CAUSES:
        if found := re.search(pattern, log):
            return f"原因：{meaning.format(*found.groups())}。\n日志里的原话：{line or found[0]}"
    if line:
        return f"日志里的原因：{line}"
    return "日志的最后几行：\n" + "\n".join(log.splitlines()[-10:])


def last_error(log: str) -> str | None:
    """The last line that names an exception, but no mere echo of one in another process."""
    lines = [
        re.sub(r"^\(\w+ pid=\d+\) (?:\w+ [\d-]+ [\d:]+ \[\S+\] )?", "", line) for line in log.splitlines()
    ]
    errors = [line for line in lines if re.match(r"(?:\w+\.)*\w*(?:Error|Exception)\b: ", line)]
    causes = [line for line in errors if not any(echo in line for echo in ECHOES)]
    return causes[-1] if causes else errors[-1] if errors else None
