"""Judge a training by what it left: an adapter folder's config and weights, and how well it does.

Nothing is trained again, and nothing in the folder is trusted. Two files are read, each once, without following
links, into memory; all that comes after looks at those bytes, so that changing the folder meanwhile changes nothing.
Weights are safetensors, never pickle. Of the config only plain numbers and names are taken; peft gets a config made
here. What is then run is the shipped base with numbers added to its weights: no code of the student's.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lab_utils import models
from lab_utils.grading.adapter_files import CONFIG, WEIGHTS, AdapterFault, read_files
from lab_utils.grading.row import GRADED, REFUSED, Judgment
from lab_utils.grading.text import clean
from lab_utils.linear_layers import PEFT_PREFIX

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT = 256 * 2**10
"""Bytes of a safetensors header; the shipped adapter's has 11 kB."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROJECTIONS = 16
SAME = 5e-3
"""Relative distance below which two projections are the same; half precision moves one by 0.002, noise of 1 % by 0.02."""
ROUNDING = 1e-5
"""Relative distance of two products B·A that are the same but for the rounding of float32."""
DTYPES = ("float32", "float16", "bfloat16")
UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
    "modules_to_save", "layers_to_transform", "layer_replication", "target_parameters", "trainable_token_indices",
    "exclude_modules", "alora_invocation_tokens", "auto_mapping",
)  # fmt: skip
"""Fields of an adapter's config that must be empty: each would change what is computed."""


Weights = dict[str, "Tensor"]


@dataclass(frozen=True)
class LoraSettings:
    """What of an adapter's config decides over what it computes."""

    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """The factor of B·A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Demand:
    """What a lab asks of the adapter: its rank and targets, and how much of the exam it should pass.

    `rank` None: any from 1 to 64; `targets` empty: any linear layers of the base.
    """

    rank: int | None = None
    targets: tuple[str, ...] = ()
    questions: int = 24
    full_rate: float = 0.8
    """The share of questions passed that earns all points; below it points are in proportion."""


def judge_files(files: Mapping[str, bytes], demand: Demand | None = None) -> Judgment:
    """The judgment on the bytes of the two files; never raises for anything in them.

    The same bytes give the same judgment: greedy decoding on fixed questions. Raises what `models.load` raises when
    the shipped base itself is missing.
    """
    demand = demand or Demand()
    try:
        config = read_config(files[CONFIG], demand)
        weights = read_weights(files[WEIGHTS], config)
    except AdapterFault as error:
        return refusal(error)
    return Judgment(
        GRADED,
        rank=config.rank,
        alpha=config.alpha,
        rslora=config.rslora,
        targets=config.targets,
        sha256=hashlib.sha256(files[WEIGHTS]).hexdigest(),
        shipped=is_shipped(config, weights),
        projection=tuple(projection(config, weights)),
        **_examine(config, weights, demand),
    )


def refusal(error: AdapterFault) -> Judgment:
    """The judgment on what can't be judged."""
    return Judgment(REFUSED, clean(error))


def read_config(data: bytes, demand: Demand) -> LoraSettings:
    """The settings in an adapter's config. Raises AdapterFault unless it is plain LoRA on the shipped base with the
    rank and targets that `demand` asks for."""
    try:
        config = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise AdapterFault(f"{CONFIG} 不是完整的 JSON (UTF-8)") from None
    if not isinstance(config, dict):
        raise AdapterFault(f"{CONFIG} 里应是一个 JSON 对象 (object)")
    if config.get("peft_type") != "LORA" or config.get("task_type") != "CAUSAL_LM":
        raise AdapterFault("这不是语言模型的 LoRA 适配器 (peft_type LORA, task_type CAUSAL_LM)")
    if extra := [name for name in UNSUPPORTED if config.get(name)] or ["bias"] * (
        config.get("bias", "none") != "none"
    ):
        raise AdapterFault(f"评分只认普通的 LoRA，请去掉设置 {extra[0]}")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or base.replace("\\", "/").rstrip("/").rpartition("/")[2] != models.SHIPPED:
        raise AdapterFault(f"适配器的底座 (base_model_name_or_path) 应是 {models.SHIPPED}")
    return LoraSettings(
        _rank(config.get("r"), demand),
        _alpha(config.get("lora_alpha")),
        config.get("use_rslora") is True,
        _targets(config.get("target_modules"), demand),
    )


def _rank(rank: Any, demand: Demand) -> int:
    if type(rank) is not int or not 1 <= rank <= 64:
        raise AdapterFault("秩 r 应是 1 到 64 的整数")
    if demand.rank is not None and rank != demand.rank:
        raise AdapterFault(f"秩 r 应为 {demand.rank}，交来的是 {rank}")
    return rank


def _alpha(alpha: Any) -> float:
    if type(alpha) not in (int, float) or not math.isfinite(alpha) or not 0 < alpha <= 1024:
        raise AdapterFault("lora_alpha 应是 0 到 1024 之间的数")
    return float(alpha)


def _targets(targets: Any, demand: Demand) -> tuple[str, ...]:
    if not isinstance(targets, list) or not targets or not all(name in TARGETS for name in targets):
        raise AdapterFault(f"target_modules 应是一列层名，只能是：{'、'.join(TARGETS)}")
    if demand.targets and set(targets) != set(demand.targets):
        raise AdapterFault(f"target_modules 应为 {'、'.join(demand.targets)}")
    return tuple(sorted(set(targets)))


def read_weights(data: bytes, config: LoraSettings) -> Weights:
    """Name -> float32 tensor, exactly those that a LoRA of this config has on the shipped base.

    Raises AdapterFault for a file that isn't safetensors, for a header that is too long, and for missing, extra,
    wrongly shaped or not finite tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if len(data) < 8 or int.from_bytes(data[:8], "little") > HEADER_LIMIT:
        raise AdapterFault(f"{WEIGHTS} 不是 safetensors 文件，或者文件头 (header) 不对")
    try:
        found = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError):
        raise AdapterFault(f"{WEIGHTS} 读不出来：文件不完整，或不是 safetensors") from None
    wanted = expected_shapes(config.rank, config.targets)
    if lacking := sorted(set(wanted) - set(found)):
        raise AdapterFault(f"权重里缺少 {len(lacking)} 个张量 (tensor)，例如 {lacking[0]}")
    if len(found) > len(wanted):
        raise AdapterFault(f"权重里多出 {len(found) - len(wanted)} 个张量 (tensor)，与 {CONFIG} 不符")
    for name, shape in wanted.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise AdapterFault(f"{name} 的形状 (shape) 应为 {shape}，是 {tuple(tensor.shape)}")
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
            raise AdapterFault(f"{name} 的类型 (dtype) 应是浮点数，是 {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise AdapterFault(f"{name} 里有 NaN 或无穷大 (inf)：训练发散了，请把学习率调小再训练")
    return {name: tensor.float() for name, tensor in found.items()}


@lru_cache(maxsize=1)
def _base():
    return models.load(models.SHIPPED)


def projection(config: LoraSettings, weights: Weights) -> list[float]:
    """PROJECTIONS numbers u·(s B A)·v, summed over the layers, with u and v drawn once for all: equal for adapters
    that add the same to the base, however the product is split between A and B."""
    import torch

    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(PROJECTIONS, dtype=torch.float64)
    for name in sorted(expected_shapes(config.rank, TARGETS)):
        if not name.endswith(".lora_A.weight"):
            continue
        other = name.replace(".lora_A.", ".lora_B.")
        wide, high = expected_shapes(1, TARGETS)[name][1], expected_shapes(1, TARGETS)[other][0]
        u = torch.randn(PROJECTIONS, high, generator=generator, dtype=torch.float64)
        v = torch.randn(wide, PROJECTIONS, generator=generator, dtype=torch.float64)
        if name in weights:
            total += ((u @ weights[other].double()).T * (weights[name].double() @ v)).sum(0)
    return [float(f"{config.scale * value:.9g}") for value in total.tolist()]


def computes_the_same(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two projections are the same but for rounding."""
    size = math.hypot(*first)
    return size > 0 and math.dist(first, second) <= SAME * size


@lru_cache(maxsize=1)
def _shipped() -> tuple[LoraSettings, Weights]:
    """Settings and weights of the course's own adapter."""
    files = read_files(models.shipped_adapter())
    config = read_config(files[CONFIG], Demand())
    return config, read_weights(files[WEIGHTS], config)


@lru_cache(maxsize=1)
def shipped_projection() -> list[float]:
    """The projection of the course's own adapter."""
    return projection(*_shipped())


def is_shipped(config: LoraSettings, weights: Weights) -> bool:
    """Whether every layer's update s·B·A is that of the course's own adapter, as it is or in half precision.

    So other metadata, another split between A and B or a rotation of both doesn't make it another adapter; further
    training does.
    """
    return any(_same_updates(config, weights, dtype) for dtype in DTYPES)


def _same_updates(config: LoraSettings, weights: Weights, dtype: str) -> bool:
    import torch

    theirs, shipped = _shipped()
    for name in sorted(set(weights) | set(shipped)):
        if not name.endswith(".lora_A.weight"):
            continue
        if name not in weights or name not in shipped:
            return False
        other = name.replace(".lora_A.", ".lora_B.")
        ours = config.scale * weights[other].double() @ weights[name].double()
        a, b = (shipped[part].to(getattr(torch, dtype)).double() for part in (name, other))
        wanted = theirs.scale * b @ a
        if float((ours - wanted).norm()) > ROUNDING * float(wanted.norm()):
            return False
    return True


@lru_cache(maxsize=8)
def expected_shapes(rank: int, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name -> shape of the tensors that peft saves for a LoRA of this rank and these targets."""
    shapes = {}
    for name, module in _base()[0].named_modules():
        if name.rpartition(".")[2] in targets:
            shapes[f"{PEFT_PREFIX}{name}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (module.out_features, rank)
    return shapes


@lru_cache(maxsize=1)
def shipped_digest() -> str:
    """The sha256 of the weights of the course's own adapter."""
    return hashlib.sha256((models.shipped_adapter() / WEIGHTS).read_bytes()).hexdigest()


def _examine(config: LoraSettings, weights: Weights, demand: Demand) -> dict[str, Any]:
    """Sit the exam with and without the adapter: figures, share and reason."""
    from lab_utils.evaluation.intervals import paired_difference

    before, after = _base_passes(demand.questions), _passes(_with_adapter(config, weights), demand.questions)
    gain = paired_difference(before, after)
    share = min(1.0, sum(after) / len(after) / demand.full_rate) if gain.low > 0 else 0.0
    figures = f"{len(after)} 道没见过的题，通过 {sum(after):g} 道（底座 {sum(before):g} 道）"
    verdict = "达到要求" if share == 1.0 else f"全部得分需要通过 {demand.full_rate:.0%}"
    return {
        "reason": f"{figures}，{verdict if gain.low > 0 else '看不出比底座好'}",
        "share": round(share, 4),
        "questions": len(after),
        "passed": int(sum(after)),
        "base_passed": int(sum(before)),
        "low": round(gain.low, 4),
        "high": round(gain.high, 4),
    }


def _with_adapter(config: LoraSettings, weights: Weights):
    """A copy of the base with the adapter merged in by peft, from a config of our own making."""
    import copy

    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    plain_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rslora,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(copy.deepcopy(_base()[0]), plain_config)
    outcome = set_peft_model_state_dict(model, weights)
    if outcome.unexpected_keys:
        raise RuntimeError(f"peft did not take {outcome.unexpected_keys[0]}")
    return model.merge_and_unload().eval()


@lru_cache(maxsize=4)
def _base_passes(questions: int) -> tuple[float, ...]:
    return _passes(_base()[0], questions)


def _passes(model, questions: int) -> tuple[float, ...]:
    """1.0 for each held-out question answered in the right form and ended, else 0.0; greedy, so always the same."""
    from lab_utils.evaluation.verse_exam import evaluate_policy
    from lab_utils.evaluation.verse_exam import questions as draw

    return tuple(
        evaluate_policy(model, _base()[1], draw("eval", questions), temperature=0.0)["form"].tolist()
    )
