"""A model, a method and a setting, checked: what the memory is computed from."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lab_utils import params
from lab_utils.errors import InvalidValue
from lab_utils.params.outline import LinearShape, Outline, outline
from lab_utils.vram.kv_cache import attention_widths, size_of
from lab_utils.vram.setting import BYTES, METHODS, Setting, make_setting, require_choice

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lab_utils.params.configs import Source

NOT_TEXT = ("vision", "audio")
"""Components beside the decoder."""


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What of a configuration decides the memory. Widths are floats a token."""

    title: str
    family: str
    components: dict[str, int]
    """Parameters by component."""
    linears: list[LinearShape]
    """The linear layers but the head."""
    layers: int
    hidden: int
    vocab: int
    positions: int | None
    heads: int
    kv_heads: int
    query: int
    key: int
    value: int
    attended: int
    """Output of attention, before its projection."""
    cached: int
    """What a layer keeps of a token in the cache."""
    inner: int
    """Inner width of the feed-forward network, or of one expert."""
    gated: bool
    """Whether that network is down(act(gate) · up), Shazeer 2020 (arXiv:2002.05202), or down(act(up))."""
    experts: int = 0
    routed: int = 0
    """Experts that a token is sent to; 0 in a dense model."""
    shared: int = 0
    """Inner width of the experts that all tokens are sent to."""

    @property
    def tied(self) -> bool:
        """Whether output layer and embeddings are one tensor."""
        return "lm_head" not in self.components


@dataclass(frozen=True)
class Workload:
    """A model, a method and a setting, checked."""

    model: DecoderShape
    method: str
    setting: Setting
    targets: list[LinearShape]
    """The layers with LoRA; empty for other methods."""
    trained: int
    """Trained parameters."""

    @property
    def tokens(self) -> int:
        return self.setting.batch_size * self.setting.seq_len

    @property
    def c(self) -> int:
        """Bytes of one number in the computation, and of a weight that isn't quantized."""
        return BYTES[self.setting.dtype]

    @property
    def quantization(self) -> str | None:
        return "nf4" if self.method == "qlora" else self.setting.quantization

    @property
    def trained_bytes(self) -> int:
        """Bytes of one trained weight: adapters are float32."""
        return 4 if self.targets else self.c

    @property
    def adapter_bytes(self) -> int:
        """Bytes of one number that an adapter computes."""
        return self.c if self.setting.autocast else 4

    @property
    def copies(self) -> bool:
        """Whether each adapter keeps a copy of its input: peft casts it to the adapter's float32, autocast
        back again. In 4-bit layers peft leaves the cast to autocast, when that is on."""
        return self.c != 4 and not (self.method == "qlora" and self.setting.autocast)

    @property
    def on_experts(self) -> bool:
        """Whether LoRA is also on experts, which are no linear layers."""
        on_linears = sum(self.setting.r * (layer.d_in + layer.d_out) for layer in self.targets)
        return bool(self.targets) and self.trained > on_linears

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's states, wherever they are."""
        if self.setting.optimizer == "sgd" or self.method == "inference":
            return 0
        if self.setting.optimizer.endswith("8bit"):  # both moments in int8, a float32 scale for each 256
            return 2 * (self.trained + 4 * -(-self.trained // 256))
        return 2 * self.trained * self.trained_bytes

    @property
    def paged_bytes(self) -> int:
        return self.state_bytes if self.setting.optimizer.startswith("paged") else 0


def make_workload(source: "Source", method: str, setting: dict) -> Workload:
    """Check what `estimate` is given and look up what it means for this model."""
    require_choice("方法 (method)", method, METHODS)
    chosen = make_setting(setting)
    if chosen.quantization and method != "inference":
        raise InvalidValue(
            f"quantization 只用于推理 (inference)，方法是 {method!r}", "量化后训练请用 'qlora'"
        )
    config = params.load_config(source)
    model = _decoder_shape(config, params.model_title(source, config), outline(config))
    if method not in ("lora", "qlora"):
        return Workload(model, method, chosen, [], sum(model.components.values()) if method == "full" else 0)
    trained = params.lora_count(config, chosen.r, chosen.targets)
    return Workload(model, method, chosen, params.target_layers(config, chosen.targets), trained)


def _decoder_shape(config: "PretrainedConfig", title: str, parts: Outline) -> DecoderShape:
    """The sizes in `config`. Raises InvalidValue when it doesn't describe a Transformer decoder."""
    text = config.get_text_config()
    linears = [layer for layer in parts.linears if layer.component != "lm_head"]
    inner, gated = _feed_forward(text, linears)
    sizes: dict[str, Any] = {"inner": inner, "gated": gated} | asdict(attention_widths(text))
    if "experts" in parts.by_component:
        sizes |= _experts_sizes(text)
    return DecoderShape(
        title=title,
        family=text.model_type,
        components=parts.by_component,
        linears=linears,
        layers=size_of(text, "num_hidden_layers"),
        hidden=size_of(text, "hidden_size"),
        vocab=size_of(text, "vocab_size"),
        positions=getattr(text, "max_position_embeddings", None),
        **sizes,
    )


def _feed_forward(text: "PretrainedConfig", linears: list[LinearShape]) -> tuple[int, bool]:
    """Inner width of the feed-forward network, and whether it is gated: twice that width leads in."""
    ffn = [layer for layer in linears if layer.component == "ffn"]
    down = next((layer for layer in reversed(ffn) if layer.d_out == text.hidden_size != layer.d_in), None)
    if down is None:
        return getattr(text, "intermediate_size", None) or 4 * size_of(text, "hidden_size"), True
    block = down.name.rpartition(".")[0] + "."
    into = sum(layer.d_out for layer in ffn if layer.name.startswith(block) and layer is not down)
    return down.d_in, into == 2 * down.d_in


def _experts_sizes(text: "PretrainedConfig") -> dict[str, Any]:
    inner = getattr(text, "moe_intermediate_size", None) or size_of(text, "intermediate_size")
    shared = getattr(text, "shared_expert_intermediate_size", None)
    return {
        "experts": size_of(text, "num_experts", "num_local_experts", "n_routed_experts"),
        "routed": size_of(text, "num_experts_per_tok", "top_k_experts", "moe_topk"),
        "inner": inner,
        "gated": True,
        "shared": shared or inner * (getattr(text, "n_shared_experts", None) or 0),
    }
