"""Which statements of a notebook an answer needs: its own cell, and what defines the names it uses.

Of other cells only imports, functions, classes and assignments are ever taken, and only those that bind a needed
name; so nothing is trained, drawn or loaded because a cell before the answer does so.
"""

import ast
import builtins
import re
import symtable
from dataclasses import dataclass
from functools import cache

_CELL_MAGIC = re.compile(r"\s*%%(\w+)[^\n]*\n?")
_PYTHON_MAGICS = {"time", "timeit", "capture", "prun"}
_LINE_MAGIC = re.compile(r"^(\s*)[%!?][^\n]*$|^(\s*)[\w.]+\?{1,2}\s*$", re.MULTILINE)
_BUILTINS = set(dir(builtins))


@dataclass
class Cell:
    """The top-level statements of a code cell; `error` says why there are none."""

    statements: list[ast.stmt]
    error: SyntaxError | None = None


@cache
def parse(source: str) -> Cell:
    """The statements of a cell, its magics and shell lines taken out."""
    try:
        return Cell(ast.parse(_without_magics(source)).body)
    except SyntaxError as error:
        return Cell([], error)
    except (ValueError, RecursionError, MemoryError) as error:
        return Cell([], SyntaxError(f"读不懂这一格 ({type(error).__name__})"))


def _without_magics(source: str) -> str:
    magic = _CELL_MAGIC.match(source)
    if magic:
        source = "\n" + source[magic.end() :] if magic[1] in _PYTHON_MAGICS else ""
    return _LINE_MAGIC.sub(lambda line: f"{line[1] or line[2] or ''}pass", source)


def plan(
    cells: list[str], target: int, fallback: list[str]
) -> tuple[list[tuple[int, ast.stmt]], SyntaxError | None]:
    """`(cell number, statement)` in the order to execute, ending with all of cell `target`.

    A name is taken from where it was bound last before the target, else first after it, else from `fallback`, the
    cells of the notebook as it was given out, which count as negative numbers. The error is the target's own.
    """
    answer = parse(cells[target])
    if answer.error:
        return [], answer.error
    order = [
        (number, cells[number]) for number in (*range(target - 1, -1, -1), *range(target + 1, len(cells)))
    ]
    order += [(-1 - number, source) for number, source in enumerate(fallback)]
    own = {name for statement in answer.statements for name in bound(statement)}
    taken: dict[int, tuple[tuple[int, int], ast.stmt]] = {}
    wanted = [name for statement in answer.statements for name in used(statement)]
    seen = own | _BUILTINS
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for number, source in order:
            found = [(i, s) for i, s in enumerate(parse(source).statements) if name in bound(s)]
            for index, statement in found:
                if id(statement) not in taken:
                    taken[id(statement)] = ((number, index), statement)
                    wanted += used(statement)
            if found:
                break
    # What was given out comes first, then the student's cells from top to bottom, then the answer.
    before = sorted(taken.values(), key=lambda item: (item[0][0] >= 0, abs(item[0][0]), item[0][1]))
    return [(where[0], statement) for where, statement in before] + [
        (target, statement) for statement in answer.statements
    ], None


@cache
def bound(statement: ast.stmt) -> set[str]:
    """The names that a definition binds; none for a statement that isn't one."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    if isinstance(statement, (ast.Try, ast.If)):  # import with a fallback
        inner = [*statement.body, *statement.orelse]
        inner += [s for handler in getattr(statement, "handlers", ()) for s in handler.body]
        if all(isinstance(s, (ast.Import, ast.ImportFrom, ast.Assign, ast.Pass)) for s in inner):
            return {name for s in inner for name in bound(s)}
    return set()


@cache
def used(statement: ast.stmt) -> set[str]:
    """The global names that a statement, or a function inside it, reads."""
    try:
        table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    tables = list(table.get_children())
    while tables:
        inner = tables.pop()
        names |= {s.get_name() for s in inner.get_symbols() if s.is_global() and s.is_referenced()}
        tables += inner.get_children()
    return names
