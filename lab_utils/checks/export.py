"""Checks of lab 10: what a folder is, merging by hand, drift, the first difference, ChatML, missing shards."""

from random import Random

import torch

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal64
from lab_utils.evaluation import drift as drifts
from lab_utils.export import first_difference as _first_difference

PREFIX = "base_model.model."


def kind_of(names: list[str]) -> str:
    """`adapter`, `model`, `run` or `incomplete`, from the names of a folder's files and subfolders."""
    if {"adapter_config.json", "adapter_model.safetensors"} <= set(names):
        return "adapter"
    weights = any(name.startswith("model") and name.endswith(".safetensors") for name in names)
    if {"config.json", "tokenizer.json"} <= set(names) and weights:
        return "model"
    if any(name.startswith("checkpoint-") and name[11:].isdigit() for name in names):
        return "run"
    return "incomplete"


def merge_state(
    base: dict[str, torch.Tensor], adapter: dict[str, torch.Tensor], r: int, lora_alpha: float
) -> dict[str, torch.Tensor]:
    """Weights of `base` with the update (α/r)·BA of `adapter` added where it has one."""
    merged = dict(base)
    for name, a in adapter.items():
        if name.endswith(".lora_A.weight"):
            b = adapter[name.replace("lora_A", "lora_B")]
            target = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
            merged[target] = base[target] + lora_alpha / r * b @ a
    return merged


def drift(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """`(max_abs, kl)` of logits, both (tokens, vocab): the largest difference, and the mean KL in nats."""
    found = drifts.drift(reference, other)
    return found.max_abs, found.kl


def first_difference(a: list[int], b: list[int]) -> int | None:
    """First place at which two lists of token ids differ, None when they are equal."""
    return _first_difference(a, b)


def chatml(messages: list[dict]) -> str:
    """A conversation in ChatML, up to where the assistant begins."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def missing_shards(index: dict, names: list[str]) -> list[str]:
    """Weight files that `index` names and that aren't among `names`, sorted, each once."""
    return sorted(set(index["weight_map"].values()) - set(names))


_ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
_MODEL = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
]
_SHARDS = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
]


def _by_first_match(*rules):
    """A classifier by rules `(test, kind)`, the first that holds; else incomplete."""
    return lambda names: next((kind for test, kind in rules if test(names)), "incomplete")


def _weights(names) -> bool:
    return any(n.startswith("model") and n.endswith(".safetensors") for n in names)


def _run(names) -> bool:
    return any(n.startswith("checkpoint-") and n[11:].isdigit() for n in names)


def _draw_folder(rng: Random) -> tuple:
    """A folder of some kind with a few files more that say nothing, in any order."""
    shards, step = rng.randint(2, 60), rng.randint(2, 9000)
    weights = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    names = rng.choice(
        (
            [*_ADAPTER, "trainer_state.json", "optimizer.pt"],
            [*_ADAPTER, *_MODEL],
            ["adapter_config.json", "optimizer.pt", "args.json"],
            ["config.json", "tokenizer.json", "generation_config.json", *weights],
            ["config.json", "tokenizer.json", "vocab.json"],
            ["config.json", "tokenizer.json", f"{weights[0]}.part"],
            ["config.json", *weights],
            ["args.json", "logging.jsonl", f"checkpoint-{step}", "val_dataset.jsonl"],
            ["args.json", "logging.jsonl", f"checkpoint-{step}-merged", f"old-checkpoint-{step}"],
            ["args.json", "logging.jsonl", "images"],
        )
    )
    more = ["README.md", "merges.txt", "special_tokens_map.json", f"{rng.randrange(10**6)}.log"]
    names = [*names, *rng.sample(more, k=rng.randint(1, 3)), f"events.out.tfevents.{rng.randrange(10**9)}"]
    return (rng.sample(names, len(names)),)


KIND_OF = Check(
    "kind_of",
    kind_of,
    draw=_draw_folder,
    cases=(
        Case("适配器", ([*_ADAPTER, "README.md"],), "适配器的两个文件都在"),
        Case("训练中保存的检查点", ([*_ADAPTER, "args.json", "optimizer.pt", "trainer_state.json"],), "多出来的训练记录不改变它是什么"),
        Case("完整的模型", (_MODEL,), "配置、分词器、权重都在"),
        Case("分片的模型", ([*_MODEL[:-1], *_SHARDS],), "权重可能分成几片，名字不一定正好是 model.safetensors"),
        Case("训练的文件夹", (["args.json", "checkpoint-159", "logging.jsonl", "run.json"],), "检查点在它的子文件夹里"),
        Case("适配器没有权重", (["adapter_config.json", "README.md"],), "只有配置，没有 adapter_model.safetensors"),
        Case("模型没有分词器", (["config.json", "model.safetensors"],), "没有分词器就没法把文字变成词元"),
        Case("模型没有权重", (_MODEL[:-1],), "权重是最要紧的"),
        Case("空文件夹", ([],), "什么都没有", edge=True),
        Case("一篇笔记", (["checkpoint-notes.md"],), "checkpoint- 后面要全是数字", edge=True),
    ),
    mistakes=(
        Mistake("适配器只看配置", _by_first_match((lambda n: "adapter_config.json" in n, "adapter"), (lambda n: {"config.json", "tokenizer.json"} <= set(n) and _weights(n), "model"), (_run, "run")), "保存到一半时，只有 adapter_config.json 而没有权重"),
        Mistake("模型不看分词器", _by_first_match((lambda n: set(_ADAPTER) <= set(n), "adapter"), (lambda n: "config.json" in n and _weights(n), "model"), (_run, "run")), "没有分词器的模型，加载不了，也部署不了"),
        Mistake("不认分片", _by_first_match((lambda n: set(_ADAPTER) <= set(n), "adapter"), (lambda n: {"config.json", "tokenizer.json", "model.safetensors"} <= set(n), "model"), (_run, "run")), "大模型的权重分成几片：model-00001-of-00002.safetensors"),
        Mistake("模型不看权重", _by_first_match((lambda n: set(_ADAPTER) <= set(n), "adapter"), (lambda n: {"config.json", "tokenizer.json"} <= set(n), "model"), (_run, "run")), "有配置和分词器、没有权重的文件夹是不完整的"),
        Mistake("有训练记录就是 run", _by_first_match((lambda n: "args.json" in n, "run"), (lambda n: set(_ADAPTER) <= set(n), "adapter"), (lambda n: {"config.json", "tokenizer.json"} <= set(n) and _weights(n), "model")), "检查点里也有 args.json；训练文件夹的标志是里面有 checkpoint-数字"),
        Mistake("checkpoint- 开头就算", _by_first_match((lambda n: set(_ADAPTER) <= set(n), "adapter"), (lambda n: {"config.json", "tokenizer.json"} <= set(n) and _weights(n), "model"), (lambda n: any(x.startswith("checkpoint-") for x in n), "run")), "checkpoint- 后面要是步数，别的名字不算"),
        Mistake("不完整返回 None", lambda n: None if kind_of(n) == "incomplete" else kind_of(n), "都不满足时返回字符串 'incomplete'"),
    ),
)  # fmt: skip


def _adapter_of(*layers: tuple[str, int, int, int]) -> dict[str, torch.Tensor]:
    """A and B in peft's names for layers `(name, d_out, d_in, r)`."""
    state = {}
    for seed, (name, d_out, d_in, r) in enumerate(layers, 10):
        state[f"{PREFIX}{name}.lora_A.weight"] = normal64(seed, r, d_in)
        state[f"{PREFIX}{name}.lora_B.weight"] = normal64(seed + 50, d_out, r)
    return state


_Q = "model.layers.0.self_attn.q_proj"
_DOWN = "model.layers.0.mlp.down_proj"
_BASE = {
    f"{_Q}.weight": normal64(1, 4, 4),
    f"{_DOWN}.weight": normal64(2, 4, 6),
    "model.norm.weight": normal64(3, 4),
}


def _merged_with(update, keep=True):
    """A wrong merge: `update(a, b, r, alpha)` in place of (α/r)·BA; `keep`: the untouched layers too."""

    def answer(base, adapter, r, lora_alpha):
        merged = dict(base) if keep else {}
        for name, a in adapter.items():
            if name.endswith(".lora_A.weight"):
                target = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
                merged[target] = base[target] + update(
                    a, adapter[name.replace("lora_A", "lora_B")], r, lora_alpha
                )
        return merged

    return answer


def _merged_in_place(base, adapter, r, lora_alpha):
    for name, tensor in merge_state(base, adapter, r, lora_alpha).items():
        base[name].copy_(tensor)
    return base


def _draw_adapter(rng: Random) -> tuple:
    """A model of one to three layers; the second layer has no adapter."""
    r, base, layers = rng.randint(2, 5), {"model.norm.weight": normal64(rng, 4)}, []
    for number in range(rng.randint(1, 3)):
        name, d_out, d_in = f"model.layers.{number}.mlp.up_proj", rng.randint(3, 7), rng.randint(3, 7)
        base[f"{name}.weight"] = normal64(rng, d_out, d_in)
        if number != 1:
            layers.append((name, d_out, d_in, r))
    return base, _adapter_of(*layers), r, rng.uniform(1.0, 32.0)


MERGE_STATE = Check(
    "merge_state",
    merge_state,
    draw=_draw_adapter,
    cases=(
        Case("一层，r=2，α=4", (_BASE, _adapter_of((_Q, 4, 4, 2)), 2, 4.0), "W = W₀ + (α/r)·BA"),
        Case("两层，其中一层不是方阵", (_BASE, _adapter_of((_Q, 4, 4, 3), (_DOWN, 4, 6, 3)), 3, 6.0), "B 是 (d_out, r)，A 是 (r, d_in)，乘起来才是 W 的形状"),
        Case("α 小于 r", (_BASE, _adapter_of((_DOWN, 4, 6, 4)), 4, 1.0), "缩放是 α/r，可以小于 1"),
        Case("r=1", (_BASE, _adapter_of((_Q, 4, 4, 1)), 1, 8.0), "秩为 1 时 BA 仍是一个矩阵"),
    ),
    mistakes=(
        Mistake("忘了缩放", _merged_with(lambda a, b, r, alpha: b @ a), "还要乘 α/r"),
        Mistake("只乘 α", _merged_with(lambda a, b, r, alpha: alpha * b @ a), "缩放是 α/r，r 也要除"),
        Mistake("缩放写反", _merged_with(lambda a, b, r, alpha: r / alpha * b @ a), "是 α/r，不是 r/α"),
        Mistake("只返回改过的层", _merged_with(lambda a, b, r, alpha: alpha / r * b @ a, keep=False), "没有适配器的层（例如 norm）也要原样放进结果，否则存下来的模型缺权重"),
        Mistake("减去", _merged_with(lambda a, b, r, alpha: -alpha / r * b @ a), "合并是加上更新；减去是拆开 (unmerge)"),
        Mistake("AB 写反", _merged_with(lambda a, b, r, alpha: alpha / r * a @ b), "是 B@A，不是 A@B：看看两个矩阵的形状"),
        Mistake("rsLoRA 的缩放", _merged_with(lambda a, b, r, alpha: alpha / r**0.5 * b @ a), "α/√r 是 rsLoRA；这里的适配器用的是 α/r"),
        Mistake("多留了 A 和 B", lambda base, adapter, r, alpha: merge_state(base, adapter, r, alpha) | adapter, "合并后不再需要 A 和 B，结果里只有底座的那些名字"),
    ),
)  # fmt: skip


def _kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def _log(x, dim=-1):
    return x.double().log_softmax(dim)


def _max_abs(a, b) -> float:
    return (a - b).abs().max().item()


_LOGITS = normal64(21, 5, 8)


def _draw_logits(rng: Random) -> tuple:
    rows, vocab = rng.randint(2, 6), rng.randint(4, 9)
    reference = 2 * normal64(rng, rows, vocab)
    return reference, reference + rng.choice((0.05, 0.5, 2.0)) * normal64(rng, rows, vocab)


DRIFT = Check(
    "drift",
    drift,
    draw=_draw_logits,
    cases=(
        Case("差一点", (_LOGITS, _LOGITS + 0.1 * normal64(22, 5, 8)), "先各自 log_softmax，再按行求 KL，最后对词元求平均"),
        Case("差很多", (2 * normal64(23, 3, 6), 2 * normal64(24, 3, 6)), "KL(reference ‖ other)：前面乘的是 reference 的概率"),
        Case("最大偏差是负的", (_LOGITS, _LOGITS + torch.eye(5, 8, dtype=torch.float64) * 3), "最大偏差看绝对值"),
        Case("完全相同", (_LOGITS, _LOGITS.clone()), "两个数都应为 0"),
        Case("整体平移", (_LOGITS, _LOGITS + 1.5), "所有 logit 加同一个数，概率不变", edge=True),
    ),
    mistakes=(
        Mistake("KL 的方向反了", lambda p, q: (_max_abs(p, q), _kl(_log(q), _log(p)).mean().item()), "KL 不对称：KL(reference ‖ other) 用 reference 的概率加权"),
        Mistake("KL 没有平均", lambda p, q: (_max_abs(p, q), _kl(_log(p), _log(q)).sum().item()), "对词元求平均，不是求和"),
        Mistake("对所有元素平均", lambda p, q: (_max_abs(p, q), (_log(p).exp() * (_log(p) - _log(q))).mean().item()), "先对词表 (最后一维) 求和，再对词元求平均"),
        Mistake("没有绝对值", lambda p, q: ((p - q).max().item(), drift(p, q)[1]), "差可能是负的，先取绝对值再取最大"),
        Mistake("平均偏差", lambda p, q: ((p - q).abs().mean().item(), drift(p, q)[1]), "要的是最大偏差，不是平均偏差"),
        Mistake("softmax 的维度错了", lambda p, q: (_max_abs(p, q), _kl(_log(p, 0), _log(q, 0)).mean().item()), "softmax 是对词表那一维做的 (dim=-1)"),
        Mistake("没有归一化", lambda p, q: (_max_abs(p, q), _kl(p.double(), q.double()).mean().item()), "logits 不是对数概率，要先 log_softmax"),
    ),
)  # fmt: skip


def _zip_only(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _draw_token_lists(rng: Random) -> tuple:
    """Two lists that are equal, part ways, or of which one goes on; tokens may come twice."""
    same, rest = (rng.choices(range(150_000), k=rng.randint(2, 8)) for _ in range(2))
    same += rng.choices(same, k=2)
    other = [token + 1 for token in rest]
    return rng.choice(
        ((same + rest, same + other), (same, same + rest), (same + rest, same), (same, list(same)))
    )


FIRST_DIFFERENCE = Check(
    "first_difference",
    first_difference,
    draw=_draw_token_lists,
    cases=(
        Case("中间不同", ([5, 6, 7, 8], [5, 6, 9, 8]), "位置从 0 数"),
        Case("开头就不同", ([1, 2, 3], [4, 2, 3]), "第一个位置是 0"),
        Case("两处不同", ([1, 2, 3, 4], [1, 0, 3, 0]), "要的是最早的一处"),
        Case("完全相同", ([3, 1, 2], [3, 1, 2]), "相同时返回 None"),
        Case("一边多出一截", ([7, 8], [7, 8, 9]), "前面全同、长度不同，也是不同：差别在短的那边结束的地方"),
        Case("另一边多出一截", ([7, 8, 9, 1], [7, 8]), "反过来也一样", edge=True),
        Case("都是空的", ([], []), "两个空列表相同", edge=True),
    ),
    mistakes=(
        Mistake("zip 忽略了长度", _zip_only, "zip 在短的那边用完就停：多出来的部分没有比"),
        Mistake("相同返回 -1", lambda a, b: -1 if a == b else first_difference(a, b), "没有差别时返回 None，不是 -1"),
        Mistake("从 1 数", lambda a, b: None if a == b else first_difference(a, b) + 1, "位置从 0 数起"),
        Mistake("返回词元", lambda a, b: None if a == b else ([*a, None])[first_difference(a, b)], "要的是位置，不是那里的词元"),
        Mistake("最后一处", lambda a, b: max((i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1]), default=None), "要最早的一处：后面的差别往往只是它引起的"),
        Mistake("长度不同就是 0", lambda a, b: None if a == b else (0 if len(a) != len(b) else first_difference(a, b)), "长度不同时，前面相同的部分也要比"),
        Mistake("返回真假", lambda a, b: a != b, "要位置（整数），或 None"),
    ),
)  # fmt: skip

_USER = {"role": "user", "content": "写一首五言绝句，题目：秋夜"}
_ANSWER = {"role": "assistant", "content": "秋夜月初上，\n独坐思悠悠。"}


def _turns(messages, turn, end="<|im_start|>assistant\n", start=""):
    return start + "".join(turn.format(role=m["role"], content=m["content"]) for m in messages) + end


_TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"


def _draw_conversation(rng: Random) -> tuple:
    """Turns that begin and end with the user, after a system prompt or none."""
    words = ("你好", "写一首诗", "1+1=?", "第一行\n第二行", " 空格 ", "{秋夜}", "《松》", '"引号"')
    roles = ["system"] * rng.randint(0, 1) + ["user", "assistant"] * rng.randint(0, 2) + ["user"]
    return ([{"role": role, "content": rng.choice(words) + str(rng.randrange(10**9))} for role in roles],)


CHATML = Check(
    "chatml",
    chatml,
    draw=_draw_conversation,
    cases=(
        Case("一句提问", ([_USER],), "每一轮：<|im_start|>角色、换行、内容、<|im_end|>、换行"),
        Case("有系统提示", ([{"role": "system", "content": "你是诗人。"}, _USER],), "system 和别的角色写法相同"),
        Case("多轮对话", ([_USER, _ANSWER, _USER],), "助手说过的话也是一轮；内容里的换行照抄"),
        Case("内容首尾有空格", ([{"role": "user", "content": " 一 "}],), "内容一个字符都不能动", edge=True),
    ),
    mistakes=(
        Mistake("没有开头的 assistant", lambda m: _turns(m, _TURN, ""), "末尾要写出 <|im_start|>assistant 和换行，模型才知道轮到它回答"),
        Mistake("assistant 后没有换行", lambda m: _turns(m, _TURN, "<|im_start|>assistant"), "角色名后面的换行也是模板的一部分，少了它第一个词元就变了"),
        Mistake("没有结束符", lambda m: _turns(m, "<|im_start|>{role}\n{content}\n"), "每一轮要用 <|im_end|> 结束"),
        Mistake("结束符后没有换行", lambda m: _turns(m, "<|im_start|>{role}\n{content}<|im_end|>"), "<|im_end|> 后面还有一个换行"),
        Mistake("角色后用空格", lambda m: _turns(m, "<|im_start|>{role} {content}<|im_end|>\n"), "角色和内容之间是换行，不是空格"),
        Mistake("去掉了空白", lambda m: _turns([x | {"content": x["content"].strip()} for x in m], _TURN), "不要 strip：内容原样照抄，词元才会一样"),
        Mistake("加了默认的系统提示", lambda m: chatml(m) if m[0]["role"] == "system" else _turns(m, _TURN, start="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"), "训练时没有的系统提示，部署时也不能有"),
        Mistake("结束了助手的一轮", lambda m: chatml(m) + "<|im_end|>\n", "助手的一轮要留着不结束，让模型接着写"),
    ),
)  # fmt: skip

_INDEX = {
    "metadata": {"total_size": 48},
    "weight_map": {
        "lm_head.weight": "model-00003-of-00003.safetensors",
        "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
        "model.layers.0.mlp.up_proj.weight": "model-00001-of-00003.safetensors",
        "model.layers.1.mlp.up_proj.weight": "model-00002-of-00003.safetensors",
        "model.norm.weight": "model-00003-of-00003.safetensors",
    },
}
_NAMES = [
    "config.json",
    "model.safetensors.index.json",
    *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
]


def _without(*gone: str) -> list[str]:
    return [name for name in _NAMES if not any(f"-0000{i}-" in name for i in gone)]


def _draw_index(rng: Random) -> tuple:
    """An index whose shards hold several tensors each, and the files of a folder in which some are missing."""
    shards = rng.randint(3, 12)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    tensors = {
        f"model.layers.{i}.{kind}.weight": files[i % shards]
        for i in range(2 * shards)
        for kind in ("up", "down")
    }
    there = [file for file in files if rng.random() < 0.6]
    index = {"metadata": {"total_size": rng.randint(10**6, 10**11)}, "weight_map": tensors}
    return index, ["config.json", *reversed(there)]


MISSING_SHARDS = Check(
    "missing_shards",
    missing_shards,
    draw=_draw_index,
    cases=(
        Case("缺最后一片", (_INDEX, _without("3")), "索引 weight_map 的值是文件名"),
        Case("缺两片", (_INDEX, _without("1", "3")), "每片只报一次，按名字排序"),
        Case("一片不缺", (_INDEX, _NAMES), "都在时返回空列表"),
        Case("文件夹是空的", (_INDEX, []), "所有分片都缺"),
        Case("有多余的文件", (_INDEX, [*_without("2"), "model-00009-of-00003.safetensors"]), "多出来的文件不算缺", edge=True),
    ),
    mistakes=(
        Mistake("返回张量名", lambda index, names: sorted(t for t, f in index["weight_map"].items() if f not in names), "要文件名 (weight_map 的值)，不是张量名"),
        Mistake("没有去重", lambda index, names: sorted(f for f in index["weight_map"].values() if f not in names), "一片里有许多张量，文件名会重复，用 set"),
        Mistake("返回多余的", lambda index, names: sorted(set(names) ^ set(index["weight_map"].values())), "只要索引里有、文件夹里没有的；反过来的不算缺"),
        Mistake("没有排序", lambda index, names: sorted(missing_shards(index, names), reverse=True), "按名字从小到大排序"),
        Mistake("返回个数", lambda index, names: len(missing_shards(index, names)), "要名字的列表，不是个数"),
        Mistake("返回已有的", lambda index, names: sorted(set(index["weight_map"].values()) & set(names)), "这是已有的分片，要的是缺少的"),
    ),
)  # fmt: skip
