"""Code cells as IPython reads them: their statements, with magics and shell lines made harmless.

What plain Python reads is left as it is; the rest goes through IPython's own `TransformerManager`, which makes calls
of `get_ipython()` out of `%magic`, `!command` and `name?`. In the sandbox those calls do nothing (`stand_ins`). Where
the code behind a magic is run in the notebook itself, as by `%time` and `%%capture`, the code takes its place.
"""

import ast
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

TRANSFORM_LIMIT, MAGICS = 100_000, 100
"""Characters of the longest cell that is transformed, and magics in it: IPython reads a cell once more for each."""
_MAGICS = re.compile(r"^[ \t]*[%!]|=[ \t]*[%!]|\?[ \t]*$", re.MULTILINE)
_MAGIC = re.compile(r"%\s*(?:time|prun|capture)")
_PROMPT = re.compile(r"\s*In \[\d+\]: ")
"""What was pasted with its prompt reads as Python, too: `In [1]: x = 1` annotates an item."""
_RUN_THEIR_CODE = {"time", "prun"}
_RUN_THEIR_CELL = {"time", "timeit", "prun", "capture"}


@dataclass(frozen=True)
class Cell:
    """The top-level statements of a code cell; `error` says why there are none."""

    statements: tuple[ast.stmt, ...] = ()
    error: SyntaxError | None = None


@cache
def parse(source: str) -> Cell:
    """The statements of a cell. Never raises: what can't be read has an error, as it would in the notebook."""
    try:
        return Cell(tuple(_statements(source)))
    except SyntaxError as error:
        return Cell(error=error)
    except Exception as error:  # RecursionError, MemoryError, ValueError; RuntimeError in IPython
        return Cell(error=SyntaxError(f"读不懂这一格 ({type(error).__name__})"))


def _statements(source: str) -> list[ast.stmt]:
    try:
        body = ast.parse(_transformed(source) if _PROMPT.match(source) else source).body
    except SyntaxError:
        if len(source) > TRANSFORM_LIMIT or len(_MAGICS.findall(source)) > MAGICS:
            raise
        body = ast.parse(_transformed(source)).body
    if "get_ipython" in source or _MAGIC.search(source):
        body = _Unwrapped().visit(ast.Module(body, [])).body
    return body


def _transformed(source: str) -> str:
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


class _Unwrapped(ast.NodeTransformer):
    """Puts the code of a magic that runs it in the notebook in the place of the magic."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | list[ast.stmt]:
        kind, name, code = _magic(node)
        try:
            if kind == "run_line_magic" and name in _RUN_THEIR_CODE:
                return _moved(_statements(code), node.lineno - 1) or [node]
        except SyntaxError:  # an option of the magic, or shell words
            return node
        if kind == "run_cell_magic" and name in _RUN_THEIR_CELL:
            return _moved(_statements(code), node.lineno)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        kind, name, code = _magic(node)
        if kind == "run_line_magic" and name == "time":  # it gives the value of what it times
            with suppress(SyntaxError):
                match _moved(_statements(code), node.lineno - 1):
                    case [ast.Expr(value)]:
                        node.value = value
        return node


def _moved(statements: list[ast.stmt], lines: int) -> list[ast.stmt]:
    for statement in statements:
        ast.increment_lineno(statement, lines)
    return statements


def _magic(node: ast.Expr | ast.Assign) -> tuple[str, str, str]:
    """Of `get_ipython().run_line_magic('time', 'x = 1')`: the method, the magic's name, its code; else empty texts."""
    match node.value:
        case ast.Call(ast.Attribute(ast.Call(ast.Name("get_ipython")), kind), [first, *_, last]):
            if isinstance(first, ast.Constant) and isinstance(last, ast.Constant):
                return kind, str(first.value), str(last.value)
    return "", "", ""
