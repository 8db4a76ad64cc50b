"""The manifest of the course: which labs exist, what they cost, and where their files are.

Titles, times, memory and points are written once, here; the opening card of a lab and the
table in the README are made from it. Standard library only.
"""

import json
import math
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lab_utils.files import write_atomic


@dataclass(frozen=True)
class Lab:
    """One lab. `title` and `goals` are Chinese; `summary` says in one line what it teaches (zh, en)."""

    number: str
    slug: str
    title: str
    title_en: str
    summary: dict[str, str]
    goals: tuple[str, ...]
    minutes: dict[str, int]
    """Minutes of a headless run, by profile."""
    memory_gib: dict[str, float]
    """Peak memory: main memory on `cpu`, GPU memory on `gpu`."""
    difficulty: str
    """入门, 进阶 or 挑战."""
    requires: tuple[str, ...]
    """Numbers of the labs to do first."""
    points: dict[str, int]
    """Exercise name -> points."""

    @property
    def name(self) -> str:
        """Stem of the lab's files, e.g. `05_swift_qlora`."""
        return f"{self.number}_{self.slug}"


LABS: tuple[Lab, ...] = (
    Lab(
        number="00",
        slug="quickstart",
        title="五分钟看懂微调",
        title_en="Fine-tuning in five minutes",
        summary={
            "zh": "体检这台机器；同一句话问基座模型和微调后的模型，看“续写”和“照做”的差别",
            "en": "Check the machine; one prompt to the base and the tuned model: continuing against obeying",
        },
        goals=(
            "读懂这台机器的体检报告，知道每一条红字怎么修",
            "知道自己用的是哪一档配置 (profile)、哪个模型",
            "亲眼看到“接着写”和“按要求做”的差别，并用程序判定",
        ),
        minutes={"cpu": 1, "gpu": 1},
        memory_gib={"cpu": 1.5, "gpu": 0.0},
        difficulty="入门",
        requires=(),
        points={"line_lengths": 2, "is_quatrain": 1, "pass_rate": 1, "weight_gib": 1},
    ),
    Lab(
        number="01",
        slug="parameters",
        title="参数从哪里来",
        title_en="Where the parameters are",
        summary={
            "zh": "从一层线性层数到 7B 模型：自己写出的公式与真实总数一个不差，再看每一部分占多少",
            "en": "From one linear layer to 7B: your own formula meets the real totals, part by part",
        },
        goals=(
            "说清什么是参数，亲手做一步“损失 → 反向传播 → 更新”，与 autograd 一致",
            "从一份配置 (config) 写出解码器每一部分的参数量，与真实模型的总数完全相等",
            "看懂 GQA、SwiGLU、共享嵌入和混合专家 (MoE) 各省了或加了多少参数",
        ),
        minutes={"cpu": 1, "gpu": 1},
        memory_gib={"cpu": 0.5, "gpu": 0.0},
        difficulty="入门",
        requires=("00",),
        points={
            "linear_params": 1,
            "hand_step": 3,
            "attention_params": 2,
            "ffn_params": 1,
            "decoder_params": 3,
            "moe_params": 2,
        },
    ),
    Lab(
        number="02",
        slug="lora_math",
        title="LoRA 的数学",
        title_en="The mathematics of LoRA",
        summary={
            "zh": "从 SVD、矩阵分解到真实的 ΔW：低秩为什么够用；再亲手写 LoRALinear，与 peft 相等",
            "en": "From SVD to a real weight change: why low rank is enough; write LoRALinear, equal to peft's",
        },
        goals=(
            "用 SVD 压缩、ALS 矩阵分解和真实的 ΔW 三个例子说清“低秩”",
            "写出 LoRALinear：注入、训练、合并、拆分，每一步与 peft 数值相等",
            "知道秩、α、rsLoRA、DoRA 各改变了什么，代价是多少",
        ),
        minutes={"cpu": 2, "gpu": 2},
        memory_gib={"cpu": 1.5, "gpu": 2.0},
        difficulty="进阶",
        requires=("01",),
        points={
            "rank_k": 1,
            "rank_for_energy": 2,
            "als_user": 2,
            "lora_forward": 3,
            "lora_parameters": 1,
            "merged_weight": 2,
            "dora_weight": 2,
        },
    ),
    Lab(
        number="03",
        slug="quantization",
        title="量化与 QLoRA",
        title_en="Quantization and QLoRA",
        summary={
            "zh": "从 absmax 到 NF4、分块和双重量化，与 bitsandbytes 逐码相等；再算清训练要多少显存",
            "en": "From absmax to NF4 and double quantization, code for code; then what training costs in memory",
        },
        goals=(
            "亲手写 int8/int4 与 NF4 量化，在真实权重上与 bitsandbytes 逐码相等",
            "说清分块 (block-wise) 和双重量化各省下多少位，误差换来了什么",
            "算出全参、LoRA、QLoRA 训练各要多少内存，并与实测对照",
        ),
        minutes={"cpu": 1, "gpu": 2},
        memory_gib={"cpu": 2.0, "gpu": 2.0},
        difficulty="进阶",
        requires=("01", "02"),
        points={
            "absmax_quantize": 2,
            "block_absmax": 1,
            "normal_levels": 3,
            "nearest_codes": 2,
            "pack_nibbles": 1,
            "unpack_nibbles": 1,
            "bits_per_parameter": 2,
            "training_parts": 2,
        },
    ),
    Lab(
        number="05",
        slug="swift_qlora",
        title="用 SWIFT 做 QLoRA 微调",
        title_en="QLoRA fine-tuning with SWIFT",
        summary={
            "zh": "搭一条真正的 swift sft 命令，看着它训练，再用分数和置信区间比较微调前后",
            "en": "Build and run a real swift sft command, then compare before and after with an interval",
        },
        goals=(
            "拼出、读懂并运行一条真正的 `swift sft` QLoRA 命令",
            "看懂训练日志里的损失、学习率和梯度范数",
            "用 `swift infer` 加载适配器，在没见过的提示上打分，并给出置信区间",
            "认出常见故障：数据有坏行、没有要学的标签、参数写错、显存不足、模板不对",
        ),
        minutes={"cpu": 3, "gpu": 15},
        memory_gib={"cpu": 2.0, "gpu": 20.0},
        difficulty="进阶",
        requires=("00",),
        points={
            "make_labels": 3,
            "rows_without_labels": 1,
            "qlora_flags": 2,
            "optimizer_steps": 1,
            "learning_rate_at": 2,
            "paired_interval": 3,
        },
    ),
    Lab(
        number="08",
        slug="dpo",
        title="偏好对齐",
        title_en="Preference alignment",
        summary={
            "zh": "真的跑一遍奖励模型、PPO 和 DPO：损失与 TRL 相等，TRL 与 SWIFT 结果相同，再采样考一次",
            "en": "Reward model, PPO and DPO for real: TRL and SWIFT agree, and sampled poems are marked again",
        },
        goals=(
            "说清 RLHF 的三个阶段，各跑一次小的：奖励模型、PPO、KL",
            "推导 DPO，写出它的损失；解释第 0 步为什么是 ln 2、参考模型在哪里",
            "用 TRL 和 SWIFT 在同样的数据上训练，读懂差、准确率和两条对数概率曲线",
            "知道 β 以及 ORPO、KTO、SimPO 各改变了什么，用采样的考试而不是准确率下结论",
        ),
        minutes={"cpu": 6, "gpu": 8},
        memory_gib={"cpu": 3.0, "gpu": 4.0},
        difficulty="挑战",
        requires=("05",),
        points={
            "bradley_terry_loss": 1,
            "kl_k3": 1,
            "ppo_clip_loss": 2,
            "sequence_logps": 3,
            "dpo_loss": 3,
            "reward_stats": 1,
        },
    ),
    Lab(
        number="09",
        slug="grpo",
        title="用奖励学推理",
        title_en="Learning from rewards",
        summary={
            "zh": "写出可验证的奖励和组内优势，用 GRPO 真的把奖励练上去；再看模型怎样钻空子、怎样补上",
            "en": "Verifiable rewards and group advantages; GRPO really raises one; reward hacking found and fixed",
        },
        goals=(
            "写出分层的、可验证的奖励 (verifiable reward)，每一条都有数，没有 None 和 NaN",
            "亲手算组内优势和 GRPO 的损失，知道什么时候“在训练却什么也没学”",
            "用 TRL 和 `swift rlhf --rlhf_type grpo` 训练，在没见过的题目上证明奖励提高了",
            "亲眼看到奖励作弊 (reward hacking)，并把奖励补好",
        ),
        minutes={"cpu": 3, "gpu": 5},
        memory_gib={"cpu": 3.0, "gpu": 2.0},
        difficulty="挑战",
        requires=("05", "08"),
        points={
            "correctness_reward": 2,
            "format_reward": 2,
            "as_rewards": 1,
            "group_advantages": 3,
            "frac_reward_zero_std": 1,
            "prompts_per_step": 1,
            "grpo_loss": 3,
        },
    ),
    Lab(
        number="10",
        slug="export",
        title="合并、导出、发布",
        title_en="Merge, export, publish",
        summary={
            "zh": "把适配器合并成能发布的模型，量出漂移；一道会说“差在哪里”的闸门；GGUF、Modelfile 和发布前检查",
            "en": "Merge an adapter, measure the drift, prove it is the same model; GGUF; a pre-flight before publishing",
        },
        goals=(
            "分清适配器、合并后的模型、训练文件夹和不完整的文件夹",
            "亲手合并一个适配器文件，量出合并进全精度与合并进 4 位各漂移多少",
            "用闸门 (parity gate) 证明部署的就是训练出来的模型，并看懂它报告的差别",
            "转成 GGUF 和 Modelfile，写好模型卡片，通过发布前检查",
        ),
        minutes={"cpu": 2, "gpu": 2},
        memory_gib={"cpu": 2.0, "gpu": 2.0},
        difficulty="进阶",
        requires=("05",),
        points={
            "kind_of": 1,
            "merge_state": 3,
            "drift": 2,
            "first_difference": 1,
            "chatml": 2,
            "missing_shards": 1,
        },
    ),
    Lab(
        number="11",
        slug="serving",
        title="用 vLLM 部署",
        title_en="Serving with vLLM",
        summary={
            "zh": "起一个真的 vLLM 服务：底座和适配器并排、客户端、证明没有走样、一定停得掉；再量快慢，弄懂为什么",
            "en": "A real vLLM server: base and adapter side by side, clients, proof of parity, a load test and the why",
        },
        goals=(
            "用 vLLM 部署底座和适配器：等健康、验答案、带密钥、停得干净",
            "写对请求：流式、结构化输出、`enable_thinking` 放在哪里，并知道它有没有用",
            "用闸门证明：服务里的适配器、合并后的模型与 transformers 一字不差",
            "测出 1、8、32 个请求时的吞吐和延迟，说清连续批处理和分页的 KV 缓存为什么快",
        ),
        minutes={"cpu": 3, "gpu": 4},
        memory_gib={"cpu": 3.0, "gpu": 4.0},
        difficulty="进阶",
        requires=("05", "10"),
        points={
            "request_body": 2,
            "stream_text": 2,
            "length_tokens": 1,
            "first_and_gap": 2,
            "percentile": 2,
            "continuous_steps": 3,
            "kv_bytes_per_token": 1,
            "blocks_needed": 1,
        },
    ),
)


def lab(number_or_name: str) -> Lab:
    """The lab with this number ("05"), slug or name ("05_swift_qlora").

    Raises ValueError, listing the labs, when there is none.
    """
    wanted = str(number_or_name)
    for entry in LABS:
        if wanted in (entry.number, entry.slug, entry.name):
            return entry
    known = "、".join(entry.name for entry in LABS)
    raise ValueError(f"没有编号或名字是 {wanted!r} 的实验 (lab)。现有：{known}")


def root() -> Path:
    """The course's folder, the one that holds `datasets/` and `labs/` or `solutions/`.

    It is `$LAB_ROOT`, else the nearest such folder from the working directory upwards, else
    the checkout this package is installed from. Raises FileNotFoundError when there is none.
    """
    named = os.environ.get("LAB_ROOT")
    if named:
        folder = Path(named).expanduser().resolve()
        if _is_root(folder):
            return folder
        raise FileNotFoundError(
            f"LAB_ROOT 指向 {folder}，但那里不是课程文件夹：里面要有 datasets/，以及 labs/ 或 solutions/。"
            "请改正或取消这个环境变量 (unset LAB_ROOT)。"
        )
    here = Path.cwd().resolve()
    checkout = Path(__file__).resolve().parent.parent
    for folder in (here, *here.parents, checkout):
        if _is_root(folder):
            return folder
    raise FileNotFoundError(
        f"从 {here} 往上找不到课程文件夹（含 datasets/，以及 labs/ 或 solutions/）。"
        "请先 cd 到课程的仓库里，或设环境变量：export LAB_ROOT=课程文件夹的路径"
    )


def dataset(name: str) -> Path:
    """Folder of the course's data set `name`: `root()/datasets/name`.

    Raises FileNotFoundError, listing what exists, when there is no such folder.
    """
    home = root() / "datasets"
    names = sorted(folder.name for folder in home.iterdir() if folder.is_dir())
    if name in names:
        return home / name
    near = get_close_matches(name, names, n=1)
    hint = f"是不是 {near[0]!r}？" if near else ""
    raise FileNotFoundError(
        f"{home} 里没有数据集 (dataset) {name!r}。{hint}现有：{'、'.join(names) or '（空）'}"
    )


def output(number_or_name: str) -> Path:
    """Scratch folder for the runs of a lab, created: `$LAB_OUTPUT/<name>` or `root()/build/labs/<name>`."""
    named = os.environ.get("LAB_OUTPUT")
    base = Path(named).expanduser().resolve() if named else root() / "build" / "labs"
    folder = base / lab(number_or_name).name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record(**figures) -> None:
    """Merge measured figures into the JSON file `$LAB_FIGURES`; does nothing more when it isn't set.

    Values: numbers, strings, booleans, None, lists and dicts of these; numpy scalars and arrays
    are converted. A figure recorded again replaces the earlier one. Raises ValueError for NaN,
    infinity, a value JSON can't hold, or a file that isn't a JSON object; the file is then untouched.
    """
    plain = {name: _plain(value, name) for name, value in figures.items()}
    target = os.environ.get("LAB_FIGURES")
    if not target:
        return
    path = Path(target)
    merged = _read_figures(path) | plain
    write_atomic(path, json.dumps(merged, ensure_ascii=False, indent=1, allow_nan=False))


def card(number_or_name: str) -> str:
    """Opening card of a lab in Markdown: 目标, 预计时间, 显存或内存, 难度, 前置."""
    entry = lab(number_or_name)
    before = "、".join(f"{lab(n).number} {lab(n).title}" for n in entry.requires) or "无"
    goals = "\n".join(f"- {goal}" for goal in entry.goals)
    gpu = f"显存约 {entry.memory_gib['gpu']:g} GiB（估计）" if entry.memory_gib["gpu"] else "不需要"
    rows = (
        ("预计时间", f"CPU 约 {entry.minutes['cpu']} 分钟；GPU 约 {entry.minutes['gpu']} 分钟（估计）"),
        (
            "显存或内存",
            f"CPU：内存约 {entry.memory_gib['cpu']:g} GiB；GPU：{gpu}",
        ),
        ("难度", entry.difficulty),
        ("前置", before),
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# {entry.number} {entry.title}\n\n**目标**\n\n{goals}\n\n| 项目 | 说明 |\n| --- | --- |\n{table}\n"
    )


def readme_table(lang: str) -> str:
    """The README's table of labs in Markdown. `lang`: "zh" or "en"; ValueError for anything else."""
    heads = {
        "zh": ("编号", "实验", "学什么", "时间 CPU / GPU", "内存 / 显存"),
        "en": ("No.", "Lab", "What", "Time CPU / GPU", "RAM / GPU memory"),
    }
    if lang not in heads:
        raise ValueError(f"readme_table 只有 'zh' 和 'en' 两种语言，收到 {lang!r}")
    minute = {"zh": "分钟", "en": "min"}[lang]
    lines = ["| " + " | ".join(heads[lang]) + " |", "| --- | --- | --- | --- | --- |"]
    for entry in LABS:
        title = entry.title if lang == "zh" else entry.title_en
        cells = (
            entry.number,
            f"[{title}](labs/{entry.name}.ipynb)",
            entry.summary[lang],
            f"{entry.minutes['cpu']} / {entry.minutes['gpu']} {minute}",
            f"{entry.memory_gib['cpu']:g} / {entry.memory_gib['gpu']:g} GiB",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _is_root(folder: Path) -> bool:
    """Whether `folder` holds the course's data sets and its notebooks."""
    return (folder / "datasets").is_dir() and ((folder / "labs").is_dir() or (folder / "solutions").is_dir())


def _read_figures(path: Path) -> dict:
    """The figures recorded so far; empty when the file doesn't exist. ValueError when it isn't a JSON object."""
    if not path.exists():
        return {}
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} 不是完整的 JSON（{error}）。请删掉它再运行。") from error
    if not isinstance(figures, dict):
        raise ValueError(
            f"{path} 里应该是一个 JSON 对象 (object)，却是 {type(figures).__name__}。请删掉它再运行。"
        )
    return figures


def _plain(value, where: str):
    """`value` as plain JSON data; ValueError naming `where` when it can't be."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(
                f"record：{where} 是 {value}，JSON 不能存 NaN 或无穷大。请先找出它是怎么算出来的。"
            )
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(
                    f"record：{where} 的键 {key!r} 不是字符串 (str)，JSON 存不了。请先转换：str(键)"
                )
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise ValueError(
        f"record：{where} 的类型是 {type(value).__name__}，JSON 存不了。请先变成数、字符串或它们的列表。"
    )
