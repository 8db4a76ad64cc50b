"""What of an answer works in its notebook and not in the sandbox, as far as its text tells.

The sandbox has the libraries of the course's environment. It has no network, no files of the student's, no shell, no
kernel that remembers a deleted cell, and of lab_utils only what the exercise asks for.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator

from lab_utils.grading.inside.effects import effects
from lab_utils.grading.inside.slicing import Plan

_OUTSIDE = {
    "requests", "httpx", "urllib", "http", "socket", "openai", "aiohttp", "ftplib", "smtplib", "modelscope",
    "huggingface_hub",
}  # fmt: skip
_PROGRAMS = {"subprocess", "multiprocessing", "pexpect", "sh"}
_CALLS = {
    "open": "open()：评分时没有你的文件；把要用的数据写在代码里",
    "input": "input()：评分时没有人能输入",
    "get_ipython": "“!命令”或魔法命令 (magic)：评分时不运行，结果是空的",
}


def warnings(plan: Plan) -> list[str]:
    """One line of Chinese for each thing that the answer needs and the sandbox doesn't have."""
    needed = [step.statement for step in plan.steps if step.needed]
    found = [
        f"{name}：这份笔记本里没有一格定义它 (NameError)；定义它的单元删掉了就加回来" for name in plan.unbound
    ]
    written = _written_files(needed)
    for statement in needed:
        for name in _imported(statement):
            found += _of_module(name, written)
        read = effects(statement)
        if not read.anything:
            found += [text for name, text in _CALLS.items() if name in read.reads | read.later_reads]
    return list(dict.fromkeys(found))


def _of_module(name: str, written: set[str]) -> Iterator[str]:
    first = name.partition(".")[0]
    if first == "lab_utils":
        yield f"{name}：评分时课程的函数只有题目说可以用的能用，别的要自己写"
    elif first in _OUTSIDE:
        yield f"import {first}：评分时没有网络"
    elif first in _PROGRAMS:
        yield f"import {first}：评分时不能启动别的程序"
    elif first not in written and not _is_installed(first):
        yield f"import {first}：没有装这个库；你自己写的文件评分时不在，把代码放进笔记本"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _imported(statement: ast.stmt) -> Iterator[str]:
    """Modules that are imported where nothing catches that there is none."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif not isinstance(node, (ast.Try, ast.With)):
            waiting += ast.iter_child_nodes(node)


def _written_files(statements: Iterable[ast.stmt]) -> set[str]:
    """Modules that the notebook itself writes with `%%writefile`."""
    found = set()
    for statement in statements:
        match statement:
            case ast.Expr(
                ast.Call(ast.Attribute(attr="run_cell_magic"), [ast.Constant("writefile" | "file"), line, *_])
            ):
                if isinstance(line, ast.Constant):
                    found.add(str(line.value).split()[-1].removesuffix(".py"))
    return found
