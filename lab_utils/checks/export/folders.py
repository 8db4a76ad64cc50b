"""Checks of folders: what they hold and what is missing."""

from random import Random

from lab_utils.checks.frame import Case, Check, Mistake

__all__ = ["KIND_OF", "MISSING_SHARDS", "kind_of", "missing_shards"]


def kind_of(names: list[str]) -> str:
    """`adapter`, `model`, `run` or `incomplete`, from the names of a folder's files and subfolders."""
    if _is_adapter(names):
        return "adapter"
    if _is_model(names):
        return "model"
    return "run" if _is_run(names) else "incomplete"


def _is_adapter(names: list[str]) -> bool:
    return set(_ADAPTER) <= set(names)


def _is_model(names: list[str]) -> bool:
    return set(_CONFIGS) <= set(names) and _weights(names)


def _weights(names: list[str]) -> bool:
    return any(name.startswith("model") and name.endswith(".safetensors") for name in names)


def _is_run(names: list[str]) -> bool:
    return any(name.startswith("checkpoint-") and name[11:].isdigit() for name in names)


def missing_shards(index: dict, names: list[str]) -> list[str]:
    """Weight files that `index` names and that aren't among `names`, sorted, each once."""
    return sorted(set(index["weight_map"].values()) - set(names))


_ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
_CONFIGS = ["config.json", "tokenizer.json"]
_MODEL = [*_CONFIGS, "generation_config.json", "tokenizer_config.json", "model.safetensors"]
_SHARDS = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
]


def _classifier(adapter=_is_adapter, model=_is_model, run=_is_run):
    """`kind_of` with another test for one of the kinds."""
    rules = (("adapter", adapter), ("model", model), ("run", run))
    return lambda names: next((kind for kind, test in rules if test(names)), "incomplete")


def _draw_folder(rng: Random) -> tuple:
    """A folder, as often of one kind as of another, with a few files more that say nothing, in any order."""
    shards, step = rng.randint(2, 60), rng.randint(2, 9000)
    weights = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    run = ["args.json", "logging.jsonl"]
    adapters = ([*_ADAPTER, "trainer_state.json", "optimizer.pt"], [*_ADAPTER, *_MODEL])
    models = (_MODEL, [*_CONFIGS, "generation_config.json", *weights])
    runs = ([*run, f"checkpoint-{step}"], [*run, "val_dataset.jsonl", f"checkpoint-{step}", "images"])
    incomplete = (
        [_ADAPTER[0], "optimizer.pt", "args.json"],
        [*_CONFIGS, "vocab.json"],
        [*_CONFIGS, f"{weights[0]}.part"],
        ["config.json", *weights],
        [*run, f"checkpoint-{step}-merged", f"old-checkpoint-{step}"],
        [*run, "images"],
    )
    names = rng.choice(rng.choice((adapters, models, runs, incomplete)))
    more = ["README.md", "merges.txt", "special_tokens_map.json", f"{rng.randrange(10**6)}.log"]
    names = [*names, *rng.sample(more, k=rng.randint(1, 3)), f"events.out.tfevents.{rng.randrange(10**9)}"]
    return (rng.sample(names, len(names)),)


KIND_OF = Check(
    "kind_of",
    kind_of,
    draw=_draw_folder,
    cases=(
        Case("适配器", ([*_ADAPTER, "README.md"],), "适配器的两个文件都在"),
        Case(
            "训练中保存的检查点",
            ([*_ADAPTER, "args.json", "optimizer.pt", "trainer_state.json"],),
            "多出来的训练记录不改变它是什么",
        ),
        Case("完整的模型", (_MODEL,), "配置、分词器、权重都在"),
        Case(
            "分片的模型", ([*_MODEL[:-1], *_SHARDS],), "权重可能分成几片，名字不一定正好是 model.safetensors"
        ),
        Case(
            "训练的文件夹",
            (["args.json", "checkpoint-159", "logging.jsonl", "run.json"],),
            "检查点在它的子文件夹里",
        ),
        Case(
            "适配器没有权重",
            (["adapter_config.json", "README.md"],),
            "只有配置，没有 adapter_model.safetensors",
        ),
        Case("模型没有分词器", (["config.json", "model.safetensors"],), "没有分词器就没法把文字变成词元"),
        Case("模型没有权重", (_MODEL[:-1],), "权重是最要紧的"),
        Case("空文件夹", ([],), "什么都没有", edge=True),
        Case("一篇笔记", (["checkpoint-notes.md"],), "checkpoint- 后面要全是数字", edge=True),
    ),
    mistakes=(
        Mistake(
            "适配器只看配置",
            _classifier(adapter=lambda names: "adapter_config.json" in names),
            "保存到一半时，只有 adapter_config.json 而没有权重",
        ),
        Mistake(
            "模型不看分词器",
            _classifier(model=lambda names: "config.json" in names and _weights(names)),
            "没有分词器的模型，加载不了，也部署不了",
        ),
        Mistake(
            "不认分片",
            _classifier(model=lambda names: {*_CONFIGS, "model.safetensors"} <= set(names)),
            "大模型的权重分成几片：model-00001-of-00002.safetensors",
        ),
        Mistake(
            "模型不看权重",
            _classifier(model=lambda names: set(_CONFIGS) <= set(names)),
            "有配置和分词器、没有权重的文件夹是不完整的",
        ),
        Mistake(
            "有训练记录就是 run",
            lambda names: "run" if "args.json" in names else kind_of(names),
            "检查点里也有 args.json；训练文件夹的标志是里面有 checkpoint-数字",
        ),
        Mistake(
            "checkpoint- 开头就算",
            _classifier(run=lambda names: any(name.startswith("checkpoint-") for name in names)),
            "checkpoint- 后面要是步数，别的名字不算",
        ),
        Mistake(
            "不完整返回 None",
            lambda n: None if kind_of(n) == "incomplete" else kind_of(n),
            "都不满足时返回字符串 'incomplete'",
        ),
    ),
)


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
    """An index whose shards hold several tensors each, and a folder in which some of them are missing."""
    shards = rng.randint(5, 14)
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
        Case(
            "有多余的文件",
            (_INDEX, [*_without("2"), "model-00009-of-00003.safetensors"]),
            "多出来的文件不算缺",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake(
            "返回张量名",
            lambda index, names: sorted(t for t, f in index["weight_map"].items() if f not in names),
            "要文件名 (weight_map 的值)，不是张量名",
        ),
        Mistake(
            "没有去重",
            lambda index, names: sorted(f for f in index["weight_map"].values() if f not in names),
            "一片里有许多张量，文件名会重复，用 set",
        ),
        Mistake(
            "返回多余的",
            lambda index, names: sorted(set(names) ^ set(index["weight_map"].values())),
            "只要索引里有、文件夹里没有的；反过来的不算缺",
        ),
        Mistake(
            "没有排序",
            lambda index, names: sorted(missing_shards(index, names), reverse=True),
            "按名字从小到大排序",
        ),
        Mistake("返回个数", lambda index, names: len(missing_shards(index, names)), "要名字的列表，不是个数"),
        Mistake(
            "返回已有的",
            lambda index, names: sorted(set(index["weight_map"].values()) & set(names)),
            "这是已有的分片，要的是缺少的",
        ),
    ),
)
