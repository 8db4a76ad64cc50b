"""What lies in the sandbox runs there without lab_utils around it, and without waiting for large libraries."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab_utils.grading import inside

FOLDER = Path(inside.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
LATE = {"IPython", "numpy", "torch"}
"""Libraries that a function may import when it needs them, or a module where it does without them."""


def imports(tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """Each imported module, a neighbor as `.name`, and whether it is imported late: in a function, or in a try."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((f"{'.' * node.level}{name}", late) for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module), late
        else:
            yield from imports(
                node, late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try))
            )


def faults(source: str) -> list[str]:
    """The imports that would fail in the sandbox."""
    neighbors = {f".{path.stem}" for path in MODULES}
    return [
        name
        for name, late in imports(ast.parse(source))
        if name not in neighbors
        and name.partition(".")[0] not in sys.stdlib_module_names
        and not (late and name.partition(".")[0] in LATE)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_of_the_sandbox_imports_nothing_that_is_not_there(path):
    assert not faults(path.read_text("utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import numpy",
        "import lab_utils",
        "from lab_utils import course",
        "def f():\n    from lab_utils.grading import text",
        "from .. import text",
        "from ..text import clean",
        "from .missing import x",
        "class C:\n    import torch",
        "if True:\n    from IPython import get_ipython",
        "try:\n    import pandas\nexcept ImportError:\n    pass",
    ],
)
def test_what_is_not_there_is_seen(source):
    assert faults(source)
