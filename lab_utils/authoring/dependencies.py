"""Which cells of a student notebook an unwritten exercise can reach: by the names that cells bind and use."""

import ast
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from IPython.core.inputtransformer2 import TransformerManager

from lab_utils.authoring.master import Cell


@dataclass(frozen=True)
class Names:
    """Global names of a cell. `changed` are those it changes in place: `x[…] = …`, `x.y = …`."""

    bound: frozenset[str]
    imported: frozenset[str]
    changed: frozenset[str]
    used: frozenset[str]


def names(source: str) -> Names:
    """What a cell binds and uses at the top level or as globals of its functions.

    Raises SyntaxError for a cell that isn't Python.
    """
    code = TransformerManager().transform_cell(source)
    symbols = list(_globals(symtable.symtable(code, "cell", "exec")))
    imported = {s.get_name() for s in symbols if s.is_imported()}
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_namespace()} | imported
    changed = {root for node in ast.walk(ast.parse(code)) if (root := _root_of_target(node))}
    used = {s.get_name() for s in symbols if s.is_referenced()}
    return Names(frozenset(bound), frozenset(imported), frozenset(changed), frozenset(used))


def _globals(table: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
    """The symbols of a scope and of those inside it that are the cell's globals."""
    top = table.get_type() == "module"
    yield from (symbol for symbol in table.get_symbols() if top or symbol.is_global())
    for child in table.get_children():
        yield from _globals(child)


def _root_of_target(node: ast.AST) -> str:
    """`x` for the target `x.y[z]` of an assignment; empty for any other node."""
    if not (isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store)):
        return ""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def touched_by_exercises(cells: Sequence[Cell]) -> set[int]:
    """Indices of the code cells that a run of the untouched notebook has to execute.

    These are the exercises, the checks, every cell that uses a name which came, directly or
    through other cells, from one of them, and the cells that give those what they use. Any other
    cell does the same as in the solution notebook. A name that is changed without an assignment
    (`rows.append(…)`) isn't followed.
    """
    code = [i for i, cell in enumerate(cells) if cell.kind == "code"]
    known = {i: names(cells[i].source) for i in code}
    tainted: set[str] = set()
    needed: set[int] = set()
    for i in code:
        cell, cell_names = cells[i], known[i]
        if cell.exercise or cell.check or cell_names.used & tainted:
            needed.add(i)
            tainted |= (cell_names.bound - cell_names.imported) | cell_names.changed
        else:
            tainted -= cell_names.bound
    wanted: set[str] = set()
    for i in reversed(code):
        cell_names = known[i]
        if i in needed or (cell_names.bound | cell_names.changed) & wanted:
            needed.add(i)
            wanted = (wanted - cell_names.bound) | cell_names.used
    return needed
