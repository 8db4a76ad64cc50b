"""The flags that the installed ms-swift understands, read from its source without importing it.

Importing ms-swift takes seconds; parsing the few files that hold its argument dataclasses takes
a fraction of one. A test compares the result with `dataclasses.fields`.
"""

import ast
import difflib
import importlib.util
from functools import lru_cache
from pathlib import Path

from lab_utils.errors import InvalidValue, LabError

SUBCOMMANDS = {
    "sft": "SftArguments",
    "rlhf": "RLHFArguments",
    "infer": "InferArguments",
    "export": "ExportArguments",
    "deploy": "DeployArguments",
    "pt": "PretrainArguments",
    "eval": "EvalArguments",
    "app": "AppArguments",
}


class SwiftMissing(LabError, RuntimeError):
    """ms-swift isn't installed, or is another release than the course's."""


@lru_cache
def flag_names(sub: str) -> frozenset[str]:
    """Names of all flags of `swift <sub>`, without the leading dashes.

    Raises InvalidValue for an unknown subcommand, SwiftMissing when ms-swift isn't installed or
    its argument classes aren't where this release keeps them.
    """
    if sub not in SUBCOMMANDS:
        raise InvalidValue(f"没有 swift {sub} 这个子命令", f"可用的有：{'、'.join(SUBCOMMANDS)}")
    try:
        return frozenset(_fields(SUBCOMMANDS[sub], package_file("swift.arguments")))
    except LookupError as error:
        raise SwiftMissing(
            f"读不出已安装的 ms-swift 的参数表：{error}",
            "请安装本课程锁定的 ms-swift：在课程文件夹里运行 make lab",
        ) from None


def closest(name: str, sub: str) -> list[str]:
    """Up to three flags of `swift <sub>` whose names look most like `name`."""
    return difflib.get_close_matches(name, sorted(flag_names(sub)), n=3, cutoff=0.6)


def package_file(module: str) -> Path:
    """Path of `module`'s source; only finds the top-level package, imports nothing. Raises LookupError."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"没有安装 {top}")
    path = Path(spec.submodule_search_locations[0], *rest)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    raise LookupError(f"找不到模块 {module}")


@lru_cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _fields(name: str, path: Path) -> set[str]:
    """Names of the dataclass fields of class `name`, its bases included, as seen from file `path`."""
    tree = _tree(path)
    definition = next((n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name), None)
    if definition is None:
        return _fields(*_imported(name, path, tree))
    names = set()
    for base in definition.bases:
        if isinstance(base, ast.Name) and base.id not in {"object", "ABC"}:
            names |= _fields(base.id, path)
    for line in definition.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and _is_flag(line):
            names.add(line.target.id)
    return names


def _is_flag(line: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(line.annotation):
        return False
    keywords = line.value.keywords if isinstance(line.value, ast.Call) else []
    return not any(k.arg == "init" and getattr(k.value, "value", True) is False for k in keywords)


def _imported(name: str, path: Path, tree: ast.Module) -> tuple[str, Path]:
    """(original name, file) of what `path` imports as `name`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                return alias.name, _module_file(node, path)
    raise LookupError(f"{path.name} 里没有 {name}")


def _module_file(node: ast.ImportFrom, path: Path) -> Path:
    if not node.level:
        return package_file(node.module or "")
    folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
