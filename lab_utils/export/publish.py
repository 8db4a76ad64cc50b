"""Publish a model on ModelScope: a pre-flight that finds what is wrong before others do, then the push."""

import glob
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from lab_utils import models
from lab_utils.artifacts.folder_kinds import MERGE_RECORD, broken_weights, classify, read_json
from lab_utils.errors import InvalidValue, LabError
from lab_utils.export.card import CARD, CONFIGURATION, front_matter
from lab_utils.models.generation import end_ids

WANTED = (
    "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "preprocessor_config.json",
    "*.gguf", "Modelfile", CARD, CONFIGURATION, MERGE_RECORD, "LICENSE*",
)  # fmt: skip
"""Files that a published model consists of; nothing else is sent."""
TRAINING_STATE = ("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*", "global_step*", "*.distcp")
SECRET_FILES = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    "credentials*",
    "cookies",
    "git_token",
)
SECRETS = {
    "Hugging Face 的访问令牌 (token)": r"\bhf_[A-Za-z0-9]{30,}",
    "ModelScope 的访问令牌 (token)": r"\bms-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "GitHub 的访问令牌 (token)": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "API 密钥 (key)": r"\b(sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|LTAI[A-Za-z0-9]{12,})",
    "私钥 (private key)": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "这台机器上的路径 (absolute path)": r"(?<![\w./:])(/(home|root|Users|mnt)/|[A-Z]:\\+Users\\+)[\w.-]+"
    r'|"(/[\w.@+-]+){3,}',
}
"""What must not be published -> pattern."""
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "*.index.json")
_TEXT_BYTES = 5_000_000


class NoToken(LabError, PermissionError):
    """An upload without an access token; also a PermissionError."""


@dataclass(frozen=True)
class Obstacle:
    """One reason not to publish: `where` (a file, or the folder), `what` is wrong, what to do about it."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}：{self.what}。{self.remedy}。"


@dataclass(frozen=True)
class Push:
    """What a push sends: `files`, name and bytes; `left_out`, name and reason; `problems` that forbid it.
    `sent` is True when it was really done."""

    model_id: str
    files: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, str], ...]
    problems: tuple[Obstacle, ...]
    sent: bool = False

    def __str__(self) -> str:
        total = sum(size for _, size in self.files)
        head = "已上传到" if self.sent else "演练 (dry run)，没有联网。将上传到"
        lines = [f"{head} {self.model_id}：{len(self.files)} 个文件，共 {total / 1e6:.1f} MB"]
        lines += [f"  ↑ {name}（{size:,} 字节）" for name, size in self.files]
        lines += [f"  ✗ {name}：{why}" for name, why in self.left_out]
        if self.problems:
            lines += ["先要解决：", *(f"  ❌ {problem}" for problem in self.problems)]
        return "\n".join(lines)


def preflight(folder: str | Path) -> list[Obstacle]:
    """Everything that is wrong with publishing the model in `folder`; empty when it may go.

    Looks at: is it a whole model; config; every shard; tokenizer; chat template and end token; size;
    card and license; optimizer states; secrets and paths of this machine. Loads no weights, needs no
    network. Raises NotFound when there is no such folder.
    """
    folder = Path(folder)
    kind = classify(folder).kind
    if kind in _NOT_A_MODEL:
        return [Obstacle(folder.name, *_NOT_A_MODEL[kind])]
    return [
        *_config(folder),
        *(Obstacle("权重", fault, "重新导出，或重新下载") for fault in broken_weights(folder)),
        *_missing_weights(folder),
        *_tokenizer(folder),
        *_sizes(folder),
        *_card(folder),
        *_training_state(folder),
        *_secrets(folder),
    ]


def push(folder: str | Path, model_id: str, dry_run: bool = True, token: str | None = None) -> Push:
    """Upload the model in `folder` to ModelScope as `model_id` ("owner/name"), through its own client.

    A dry run needs no network: it says what would go up, what wouldn't and why. A real one refuses,
    before anything is sent, a folder with problems (InvalidValue, naming them) and a missing access
    token (NoToken). `token`: None takes the one that `modelscope login` stored or
    `$MODELSCOPE_API_TOKEN`. Errors of the upload itself come from the client.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise InvalidValue(f"{model_id!r} 不是模型名", "要写成 '用户名/模型名' (owner/name)")
    files, left_out = _selection(folder)
    plan = Push(model_id, files, left_out, tuple(preflight(folder)))
    if dry_run:
        return plan
    if plan.problems:
        raise InvalidValue(
            f"{folder.name} 还不能发布，什么也没有上传：\n" + "\n".join(map(str, plan.problems))
        )
    from modelscope_hub.api import HubApi
    from modelscope_hub.config import get_default_config

    token = token or get_default_config().token
    if not token:
        raise NoToken(
            "没有 ModelScope 的访问令牌 (access token)，什么也没有上传",
            "请在 modelscope.cn 的个人中心复制令牌，运行 modelscope login --token 令牌，再试一次",
        )
    names = [glob.escape(name) for name, _ in files]
    HubApi(token=token).upload_folder(
        model_id, "model", folder, allow_patterns=names, commit_message=f"Upload {folder.name}"
    )
    return Push(model_id, files, left_out, (), sent=True)


_NOT_A_MODEL = {
    "adapter": (
        "只有适配器。ModelScope 要能独立加载的模型才能部署：它没有底座的权重、分词器和对话模板",
        "先用 export.merge(底座, 适配器, 文件夹) 合并，再发布合并后的文件夹",
    ),
    "run": ("这是训练的文件夹，不是模型", "先用 export.resolve 找到检查点，是适配器就再合并"),
    "unknown": ("里面没有模型", "检查路径"),
    "gguf": (
        "只有 GGUF，缺少配置和分词器，ModelScope 上不能用 transformers 加载",
        "和合并后的模型放在一起发布",
    ),
}


def _config(folder: Path) -> list[Obstacle]:
    config = read_json(folder / "config.json")
    if not config:
        return [Obstacle("config.json", "没有，或不是完整的 JSON", "从底座拷一份，或重新导出")]
    lacking = [key for key in ("model_type", "architectures") if not config.get(key)]
    return [Obstacle("config.json", f"没有写 {'、'.join(lacking)}", "重新导出")] if lacking else []


def _missing_weights(folder: Path) -> list[Obstacle]:
    """A model without safetensors: pickles (`.bin`) can run code when they are loaded, so they don't count."""
    if any(folder.glob("*.safetensors")):
        return []
    return [
        Obstacle("权重", "没有 safetensors 格式的权重", "重新导出；.bin 读进来再用 save_pretrained 存一次")
    ]


def _tokenizer(folder: Path) -> list[Obstacle]:
    """Whether the tokenizer loads, has a chat template, and ends a turn with a token that stops generation."""
    if "tokenizer.json" in models.missing_files(folder):
        return [Obstacle("tokenizer.json", "没有分词器", "从底座拷过来，或重新合并")]
    from transformers import AutoTokenizer

    models.quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # broken files raise all kinds
        return [Obstacle("tokenizer.json", f"分词器读不出来（{type(error).__name__}）", "从底座重新拷一份")]
    if not tokenizer.chat_template:
        return [
            Obstacle(
                "chat_template.jinja", "没有对话模板 (chat template)", "从底座拷过来：没有它，别人会套错模板"
            )
        ]
    size = read_json(folder / "config.json").get("vocab_size")
    if size and len(tokenizer) > size:
        return [
            Obstacle(
                "tokenizer.json", f"有 {len(tokenizer)} 个词元，模型只有 {size} 个", "拿错了分词器，换回来"
            )
        ]
    return _end_token(folder, tokenizer)


def _end_token(folder: Path, tokenizer) -> list[Obstacle]:
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    try:
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        before = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    except Exception as error:  # a template may raise anything
        return [
            Obstacle(
                "chat_template.jinja", f"对话模板出错（{type(error).__name__}: {error}）", "从底座重新拷一份"
            )
        ]
    turn = whole[len(before) :]
    settings = read_json(folder / "generation_config.json") or read_json(folder / "config.json")
    if not set(turn).intersection(end_ids(settings.get("eos_token_id"))):
        closing = tokenizer.decode(turn[-2:]).strip() or "没有"
        fault = f"eos_token_id 里没有结束回答的词元（模板用的是 {closing}），模型会停不下来"
        return [Obstacle("generation_config.json", fault, "把它的编号加进 eos_token_id")]
    return []


def _sizes(folder: Path) -> list[Obstacle]:
    from modelscope_hub.constants import UPLOAD_MAX_FILE_SIZE_BYTES as most

    large = [file for file in _files(folder) if file.stat().st_size > most]
    return [
        Obstacle(
            file.name,
            f"超过 ModelScope 的单个文件上限 {most / 2**30:.0f} GiB",
            "保存时设 max_shard_size，分成几片",
        )
        for file in large
    ]


def _card(folder: Path) -> list[Obstacle]:
    if not (folder / CARD).is_file():
        return [Obstacle(CARD, "没有模型卡片 (model card)", "用 export.write_card 写一份")]
    facts = front_matter(folder / CARD)
    if not facts:
        return [Obstacle(CARD, "开头没有 YAML 格式的信息", "用 export.write_card 写一份")]
    if not facts.get("license"):
        return [Obstacle(CARD, "没有写许可证 (license)：别人不知道能不能用", "写上，并遵守底座的许可证")]
    return []


def _training_state(folder: Path) -> list[Obstacle]:
    states = [name for name in _names(folder) if _matches(name, TRAINING_STATE)]
    if not states:
        return []
    return [Obstacle("、".join(states[:3]), "训练用的优化器状态，比模型还大，别人用不上", "移到别处")]


def _secrets(folder: Path) -> list[Obstacle]:
    """Files that hold secrets, and lines that look like one. The secret itself is never shown."""
    problems = [
        Obstacle(name, "是存放密钥的文件", "移走；如果已经传到网上，立刻作废那个密钥")
        for name in _names(folder)
        if _matches(name, SECRET_FILES)
    ]
    for name in _names(folder):
        if not _matches(name, _VOCABULARY):
            problems += _secret_lines(folder / name, name)
    return problems


def _secret_lines(file: Path, name: str) -> list[Obstacle]:
    """One problem for each kind of secret in a text file; binary and large files are passed over."""
    if file.stat().st_size > _TEXT_BYTES:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    by_kind: dict[str, Obstacle] = {}
    for number, line in enumerate(lines, 1):
        for kind, pattern in SECRETS.items():
            if kind not in by_kind and re.search(pattern, line):
                remedy = "删掉它" if "路径" in kind else "删掉它；传出去过就要作废"
                by_kind[kind] = Obstacle(f"{name} 第 {number} 行", f"疑似{kind}", remedy)
    return list(by_kind.values())


def _selection(folder: Path) -> tuple[tuple, tuple]:
    """`(files, left_out)` of a folder, each sorted by name: as in `Push`."""
    files, left_out = [], []
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if _matches(name, WANTED):
            files.append((name, file.stat().st_size))
        elif _matches(name, SECRET_FILES):
            left_out.append((name, "存放密钥"))
        elif _matches(name, TRAINING_STATE):
            left_out.append((name, "优化器状态"))
        else:
            left_out.append((name, "部署用不到"))
    return tuple(files), tuple(left_out)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in _files(folder)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or its first or last part, matches one of the patterns."""
    parts = name.split("/")
    return any(fnmatch(part, pattern) for part in {parts[0], parts[-1]} for pattern in patterns)
