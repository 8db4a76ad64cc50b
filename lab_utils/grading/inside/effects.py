"""What a statement does to names, read from its text: which it binds, reads, and may change.

Scopes are resolved by `symtable`. What happens when the statement runs is kept apart from what happens later, when a
function that it defines is called. Where the text can't tell whether an object is changed, it counts as changed.
"""

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

Names = frozenset[str]
_COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}
_ANYTHING = {"globals", "locals", "exec", "builtins", "__builtins__", "__main__"}
"""Whoever uses these may bind a name that stands nowhere in the text."""
_LATER = {"stores": "later_stores", "receivers": "later_receivers", "passed": "later_passed"}
_HARMLESS = {
    "print", "len", "sum", "min", "max", "sorted", "str", "repr", "int", "float", "bool", "type", "isinstance", "abs",
    "list", "tuple", "set", "dict", "any", "all", "round", "display", "id", "hash", "callable", "hasattr", "getattr",
}  # fmt: skip
"""Functions that don't change what they are given."""


@dataclass(frozen=True)
class Effects:
    """What a top-level statement does to global names.

    It binds some, `surely` when it can't fail to; `imports` and `defines` are those bound by import, and by def,
    class or lambda. It `reads` some. It assigns to attributes or items of `stores`, calls methods of `receivers`,
    passes `passed` on or loops over them, is another name for `aliases`, calls functions of `settings` on constants
    only. Its functions, when they are called, do the same to the names under `later_…`. `anything`: it may bind more.
    """

    binds: Names = frozenset()
    surely: Names = frozenset()
    imports: Names = frozenset()
    defines: Names = frozenset()
    reads: Names = frozenset()
    stores: Names = frozenset()
    receivers: Names = frozenset()
    passed: Names = frozenset()
    aliases: Names = frozenset()
    settings: Names = frozenset()
    later_reads: Names = frozenset()
    later_binds: Names = frozenset()
    later_stores: Names = frozenset()
    later_receivers: Names = frozenset()
    later_passed: Names = frozenset()
    anything: bool = False


def effects(statement: ast.stmt) -> Effects:
    """The effects of a top-level statement; none of one that Python itself can't make sense of."""
    scopes, reader = _Scopes(), _Reader()
    try:
        table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
        scopes.read(table, later=False)
        reader.visit(statement)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Effects()
    names = {name: frozenset(found) for name, found in {**vars(scopes), **reader.found}.items()}
    names["reads"] |= names.pop("updated")
    for name in _LATER.values():
        names[name] &= names["later_reads"]
    for name in ("imports", "defines"):
        names[name] &= names["binds"]
    surely = names["binds"] if isinstance(statement, _SURE) and _plain_targets(statement) else frozenset()
    return Effects(**names, surely=surely, anything=reader.anything)


_SURE = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
)  # fmt: skip


def _plain_targets(statement: ast.stmt) -> bool:
    """Whether what is assigned to are names, or tuples of names."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    parts = [part for t in targets for part in (t.elts if isinstance(t, (ast.Tuple, ast.List)) else [t])]
    return all(part is None or isinstance(part, ast.Name) for part in parts)


class _Scopes:
    """The global names of a symbol table and of those in it."""

    def __init__(self) -> None:
        self.binds: set[str] = set()
        self.reads: set[str] = set()
        self.later_binds: set[str] = set()
        self.later_reads: set[str] = set()

    def read(self, table: symtable.SymbolTable, later: bool) -> None:
        top = table.get_type() == "module"
        binds, reads = (self.later_binds, self.later_reads) if later else (self.binds, self.reads)
        for symbol in table.get_symbols():
            if not (top or symbol.is_global()):
                continue
            bound = symbol.is_assigned() or symbol.is_imported()
            if bound and (top or symbol.is_declared_global()):
                binds.add(symbol.get_name())
            if symbol.is_referenced() or symbol.is_declared_global():
                reads.add(symbol.get_name())
        for inner in table.get_children():
            called = inner.get_type() == "function" and inner.get_name() not in _COMPREHENSIONS
            self.read(inner, later or called)


class _Reader(ast.NodeVisitor):
    """What the text shows of imports, definitions, and objects that may be changed."""

    def __init__(self) -> None:
        kinds = ("imports", "defines", "stores", "receivers", "passed", "aliases", "settings", "updated")
        self.found: dict[str, set[str]] = {kind: set() for kind in (*kinds, *_LATER.values())}
        self.anything = False
        self._later = 0

    def _add(self, kind: str, node: ast.expr) -> None:
        name = root(node)
        if not name:
            return
        if not self._later:
            self.found[kind].add(name)
        elif kind in _LATER:
            self.found[_LATER[kind]].add(name)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if not self._later:
            self.found["defines"].add(node.name)
        self._decorators(node.decorator_list)
        for part in (node.args, node.returns):
            if part:
                self.visit(part)
        self._body(node.body)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._body([node.body])

    def _body(self, nodes: list) -> None:
        self._later += 1
        for node in nodes:
            self.visit(node)
        self._later -= 1

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not self._later:
            self.found["defines"].add(node.name)
        self._decorators(node.decorator_list)
        for part in (*node.bases, *node.keywords, *node.body):
            self.visit(part)

    def _decorators(self, nodes: list[ast.expr]) -> None:
        for node in nodes:
            if isinstance(node, ast.Attribute):  # @registry.add
                self._add("receivers", node)
            self.visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        if not self._later:
            names = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
            self.found["imports"].update(names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not self._later:
            self.found["imports"].update(alias.asname or alias.name for alias in node.names)
            self.anything |= node.module == "__future__" or node.names[0].name == "*"

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Lambda) and not self._later:
            self.found["defines"].update(t.id for t in node.targets if isinstance(t, ast.Name))
        if not _calls(node.value):
            self._add("aliases", node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._add("updated", node.target)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._add("stores", node)
        self.generic_visit(node)

    visit_Subscript = visit_Attribute

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        for inner in ast.walk(node.iter):
            if isinstance(inner, ast.Name):
                self._add("passed", inner)
        self.generic_visit(node)

    visit_AsyncFor = visit_For

    def visit_Call(self, node: ast.Call) -> None:
        callee = node.func.id if isinstance(node.func, ast.Name) else ""
        args = [*node.args, *(keyword.value for keyword in node.keywords)]
        if callee in ("setattr", "delattr") and args:
            self._add("stores", args[0])
        if not callee:
            self._add("receivers", node.func)
        for arg in args if callee not in _HARMLESS else ():
            if isinstance(arg, ast.Attribute):  # map(table.append, …)
                self._add("receivers", arg)
            if not _calls(arg):
                self._add("passed", arg)
        self.anything |= _writes_file(node) and not self._later
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            module, parts = root(node.value.func), [*node.value.args, *node.value.keywords]
            names = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
            if not names - {module}:
                self._add("settings", node.value.func)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.anything |= node.id in _ANYTHING and not self._later


def root(node: ast.AST) -> str:
    """The name that a chain of attributes, items and method calls begins with; empty when it begins with none."""
    for inner in _chain(node):
        if isinstance(inner, ast.Name):
            return inner.id
    return ""


def _calls(node: ast.AST) -> bool:
    """Whether there is a call in the chain: what it gives is another object."""
    return any(isinstance(inner, ast.Call) for inner in _chain(node))


def _chain(node: ast.AST) -> Iterator[ast.AST]:
    while True:
        yield node
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Await)):
            node = node.value
        else:
            return


def _writes_file(node: ast.Call) -> bool:
    """Whether it is `%%writefile`, whose file a later cell may import."""
    match node:
        case ast.Call(ast.Attribute(attr="run_cell_magic"), [ast.Constant("writefile" | "file"), *_]):
            return True
    return False
