"""Cards of the data sets: a README.md whose YAML front matter says what the files hold.

files            list of {path, rows, bytes, sha256}; JSON Lines, or CSV with a header (`.csv`)
rows, splits     totals; a row's split is its field `split`, else the name of its file
schema           field -> {type, and limits}, as `lab_utils.data.schema` checks them
schemas          instead of it, when the files are different tables: path -> schema
distinct_fields  text fields in which no two rows may be near duplicates
lengths          per distinct field: fewest, median and most characters
"""

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lab_utils.data.jsonl import read_jsonl
from lab_utils.errors import InvalidValue, NotFound
from lab_utils.files import write_atomic


@dataclass(frozen=True)
class Card:
    """A card as read: `meta` is the front matter, `prose` the Markdown after it."""

    folder: Path
    meta: dict
    prose: str

    def schema(self, path: str) -> dict[str, dict]:
        """The schema of the rows of the file `path`."""
        return self.meta["schemas"][path] if "schemas" in self.meta else self.meta["schema"]

    def read(self, path: str) -> list[dict]:
        """The rows of the file `path`. Raises InvalidValue for a line that can't be read."""
        if path.endswith(".csv"):
            return read_csv(self.folder / path, self.schema(path))
        return read_jsonl(self.folder / path)

    def rows(self, split: str | None = None) -> list[dict]:
        """The rows of all files in order, or those of one split.

        Raises InvalidValue for a line that can't be read, or when the split has no rows.
        """
        paths = [entry["path"] for entry in self.meta["files"]]
        pairs = [(row.get("split", Path(path).stem), row) for path in paths for row in self.read(path)]
        rows = [row for name, row in pairs if split is None or name == split]
        if not rows:
            known = "、".join(sorted({str(name) for name, _ in pairs}))
            raise InvalidValue(f"{self.folder.name} 里没有划分 (split) {split!r}", f"现有：{known or '无'}")
        return rows


def read_csv(path: Path, schema: dict[str, dict]) -> list[dict]:
    """The rows of a UTF-8 CSV file with a header; fields that `schema` calls int or float become numbers.

    What doesn't read as such a number stays text, for `schema.row_faults` to name. Raises InvalidValue that names
    file and line when a row has more or fewer fields than the header.
    """
    kinds = {name: {"int": int, "float": float}.get(rule["type"], str) for name, rule in schema.items()}
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, strict=True)
        header = next(lines, [])
        for values in lines:
            if len(values) != len(header):
                raise InvalidValue(
                    f"{path.name} 第 {lines.line_num} 行有 {len(values)} 个字段 (fields)，表头有 {len(header)} 个",
                    "补上缺的或去掉多的逗号；字段里有逗号时用双引号括起",
                )
            rows.append(
                {name: _number(text, kinds.get(name, str)) for name, text in zip(header, values, strict=True)}
            )
    return rows


def read_card(folder: str | Path) -> Card:
    """Read `folder`/README.md.

    Raises NotFound when there is none, InvalidValue when its front matter is
    missing, isn't a mapping, or lists no files or lacks the schema of one.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        raise NotFound(f"数据集缺少说明卡 (dataset card)：{path}", "请新建它，文首写 YAML")
    text = path.read_text(encoding="utf-8")
    head, mark, prose = text.removeprefix("---\n").partition("\n---\n")
    if not text.startswith("---\n") or not mark:
        raise InvalidValue("开头没有用 --- 围起的 YAML (front matter)", "把它补在正文之前", str(path))
    meta = yaml.safe_load(head)
    if not isinstance(meta, dict):
        raise InvalidValue("文首的 YAML (front matter) 不是表", "写成“键: 值”的表", str(path))
    lacking = [] if meta.get("files") else ["files"]
    if "schemas" in meta:
        lacking += [
            f"schemas: {entry['path']}"
            for entry in meta.get("files") or []
            if entry["path"] not in meta["schemas"]
        ]
    elif not meta.get("schema"):
        lacking.append("schema")
    if lacking:
        raise InvalidValue(f"文首的 YAML (front matter) 缺少：{'、'.join(lacking)}", "补上这些键", str(path))
    return Card(Path(folder), meta, prose)


def update_card(folder: str | Path) -> Card:
    """Recount `folder`'s card from its files (rows, bytes, sha256, splits, lengths) and save it.

    The prose and the other keys stay; the write is atomic. Raises what `read_card` raises,
    DataError for a bad line, FileNotFoundError when a listed file is missing.
    """
    card = read_card(folder)
    meta = {**card.meta, **measure(card)}
    head = yaml.safe_dump(meta, allow_unicode=True, sort_keys=False, default_flow_style=None, width=100)
    write_atomic(card.folder / "README.md", f"---\n{head}---\n{card.prose}")
    return read_card(folder)


def measure(card: Card) -> dict:
    """What the card's files hold now: the keys rows, splits, files and lengths of its front matter."""
    files: list[dict[str, Any]] = []
    splits: Counter[str] = Counter()
    rows: list[dict] = []
    for entry in card.meta["files"]:
        path = card.folder / entry["path"]
        content = path.read_bytes()
        held = card.read(entry["path"])
        digest = hashlib.sha256(content).hexdigest()
        files.append({"path": entry["path"], "rows": len(held), "bytes": len(content), "sha256": digest})
        splits.update(row.get("split", path.stem) for row in held)
        rows += held
    lengths = {}
    for field in card.meta.get("distinct_fields", []):
        counts = [len(text_of(row[field])) for row in rows if field in row]
        lengths[field] = {"min": min(counts), "median": int(median(counts)), "max": max(counts)}
    return {"rows": len(rows), "splits": dict(splits.most_common()), "files": files, "lengths": lengths}


def text_of(value: str | list) -> str:
    """The text of a field to compare or count: a str itself, of messages the assistant's turns."""
    if isinstance(value, str):
        return value
    return "\n".join(turn["content"] for turn in value if turn["role"] == "assistant")


def _number(text: str, kind: type) -> str | int | float:
    """`text` as `kind`; as it is when it doesn't read as one."""
    try:
        return kind(text)
    except ValueError:
        return text
