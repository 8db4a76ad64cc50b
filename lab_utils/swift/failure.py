"""Why a `swift` run failed: from its output to a cause and a remedy in Chinese."""

import re
from dataclasses import dataclass
from pathlib import Path

from lab_utils.errors import LabError, sentence

TAIL_LINES = 15


@dataclass(frozen=True)
class Cause:
    """A known kind of failure: what it is and what to do."""

    kind: str
    explanation: str
    remedy: str


# Looked at in this order; the first match wins, so the specific stands before the general.
PATTERNS: list[tuple[str, Cause]] = [
    (
        r"CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory",
        Cause(
            "gpu_memory",
            "显存不够 (CUDA out of memory)",
            "减小 per_device_train_batch_size 或 max_length；加 gradient_checkpointing=True；"
            "用 QLoRA (quant_method='bnb', quant_bits=4)；先关掉占着显存的其它程序",
        ),
    ),
    (
        r"DefaultCPUAllocator: (can't|not enough|could not) allocate|\bMemoryError\b|Cannot allocate memory",
        Cause(
            "memory",
            "内存不够 (out of memory)",
            "减小批大小或 max_length；关掉其它内核（Kernel → Shut Down）再试",
        ),
    ),
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        Cause("disk", "磁盘满了 (no space left)", "删掉不要的旧训练结果，或把 output_dir 换到空间更大的地方"),
    ),
    (
        r"remaining_argv: (\[.*?\])",
        Cause(
            "flag",
            "命令里有 ms-swift 不认识的参数：{0}",
            "用 lab_utils.swift.command 组命令，它会指出正确的名字；旧命令用 translate 改写",
        ),
    ),
    (
        r"error: argument (--\w+)",
        Cause("value", "参数 {0} 的值不对", "看日志最后一行：它写明能用哪些值"),
    ),
    (
        r"[Aa]ddress already in use|EADDRINUSE|Errno 98",
        Cause("port", "端口被占用 (address already in use)", "换一个端口，或先停掉还在运行的服务"),
    ),
    (
        r"bf16/gpu|[Bb]f16.*(not supported|doesn't support)|doesn't support bf16",
        Cause("bf16", "这台机器上不能用 bfloat16 训练（CPU 会拒绝）", "把 torch_dtype 改成 'float32'"),
    ),
    (
        # the last two: ms-swift stumbles over a data set of which no row was left
        r"num_samples should be a positive integer|n_repeat_sample = dataset_sample|inputs = train_dataset\[0\]",
        Cause(
            "empty",
            "没有一行数据留下来：全部因太长或格式不对被丢弃，或者没有要学习的词元（labels 全是 -100）",
            "用 lab_utils.data.validate.validate_messages 检查数据；把 max_length 调大",
        ),
    ),
    (
        r"KeyError: 'messages'",
        Cause(
            "columns",
            "数据缺少字段 (missing keys)，最常见是没有 messages",
            '每行写成 {{"messages": [{{"role": …, "content": …}}, …]}}',
        ),
    ),
    (
        r"JSONDecodeError|JSON parse error|DatasetGenerationError",
        Cause(
            "json",
            "数据文件不是合法的 JSON Lines (JSON decode error)",
            "用 validate_messages 找出坏的那一行并改正",
        ),
    ),
    (
        r"(?:FileNotFoundError|ValueError).*?([^'\"`\s]+\.(?:jsonl|json|csv|txt))",
        Cause("dataset", "找不到数据文件：{0}", "检查 dataset 的路径；相对路径从当前文件夹算起"),
    ),
    (
        r"path: '(.+?)' not found|model_dir: (\S+)|Incorrect path_or_model_id|"
        r"does not appear to have a file named|no file named (?:model|pytorch_model)",
        Cause(
            "model",
            "找不到模型文件夹，或里面缺文件",
            "检查 model 或 adapters 的路径；检查点用 find_checkpoint 取得",
        ),
    ),
    (
        r"(?:template|model)_type: '\w+' not in|[Pp]lease (?:explicitly )?(?:pass|specify)[^\n]*(?:model_type|template)|"
        r"no suitable `model_type`",
        Cause(
            "template",
            "没有选定模型类型或对话模板 (template)",
            "本地模型要写明 model_type='qwen3', template='chatml'（按你的模型改）",
        ),
    ),
    (
        r"Name or service not known|Temporary failure in name resolution|ConnectionError|NetworkError|"
        r"Max retries exceeded|Network is unreachable|OfflineModeIsEnabled|LocalEntryNotFoundError|ConnectTimeout",
        Cause(
            "network",
            "连不上网络 (network unreachable)，模型或数据要下载",
            "改用本地的模型和数据；或检查网络、代理后重试",
        ),
    ),
    (
        r"No module named '([^']+)'|requires? .* but it is not installed|PackageNotFoundError",
        Cause("package", "缺少 Python 包：{0}", "在课程目录里重新运行 make lab，或 pip install 这个包"),
    ),
]

UNKNOWN = Cause("unknown", "没有认出原因", "从下面日志的最后几行往上找第一处 Error，再对照完整日志")
KILLED = Cause(
    "memory",
    "进程被系统强行终止，通常是内存不够（out of memory，信号 9）",
    "减小批大小或 max_length；关掉其它内核（Kernel → Shut Down）再试",
)
NAN = Cause(
    "nan",
    "训练发散：损失或梯度成了 NaN 或无穷大",
    "降低 learning_rate（例如除以 10）；换成 torch_dtype='float32'；检查数据里有没有极端的长行",
)
TIMEOUT = Cause("timeout", "超过时限，已终止", "把 timeout 调大，或减少 max_steps、数据量")
NO_OUTPUT = Cause(
    "output", "命令说自己成功了，却没有留下应有的结果", "看完整日志；检查 save_steps 与 max_steps"
)


def diagnose(text: str, returncode: int | None = None) -> Cause:
    """The likely cause of a failure from a run's output; `UNKNOWN` when nothing known matches.

    `returncode`: the process's exit status, -9 or 137 meaning it was killed.
    """
    for pattern, cause in PATTERNS:
        if found := re.search(pattern, _errors(text)):
            what = next((g for g in found.groups() if g), "") if found.groups() else ""
            return Cause(cause.kind, cause.explanation.format(what), cause.remedy.format(what))
    return KILLED if returncode in (-9, 137) else UNKNOWN


class SwiftError(LabError, RuntimeError):
    """A `swift` run failed. `cause`: a Cause; `tail`: the last lines; `log_path`: the full log."""

    def __init__(self, message: str, cause: Cause = UNKNOWN, tail: str = "", log_path: Path | None = None):
        super().__init__(message, cause.remedy)
        self.cause, self.tail, self.log_path = cause, tail, log_path

    def __str__(self) -> str:
        lines = [sentence(self.what), f"可能的原因：{sentence(self.cause.explanation)}"]
        lines.append(f"怎么办：{sentence(self.remedy)}")
        if self.tail:
            lines += ["", f"日志的最后 {TAIL_LINES} 行：", self.tail]
        if self.log_path:
            lines += ["", f"完整日志：{self.log_path}"]
        return "\n".join(lines)


def read_output(path: Path) -> str:
    """A run's output as written, carriage returns of progress bars included."""
    return path.read_bytes().decode("utf-8", errors="replace")


def tail(text: str) -> str:
    """Last 15 lines as a terminal would show them: of a progress bar only its final state."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return "\n".join([line[:300] for line in lines if line.strip(" ^~")][-TAIL_LINES:])


def _errors(text: str) -> str:
    """The part of the output worth matching: what follows the last traceback, else the last lines.

    ms-swift prints all its arguments and the whole model first; matching those would find words
    like `dataset` everywhere.
    """
    start = text.rfind("Traceback (most recent call last)")
    return text[start:] if start >= 0 else "\n".join(text.split("\n")[-60:])
