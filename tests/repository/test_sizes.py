"""Small modules and small functions: what outgrows them is two."""

import ast

import pytest

from lab_utils.setup_environment import ROOT

MODULE, FUNCTION = 400, 50
"""Lines at most, a function's docstring left out."""
FILES = sorted((ROOT / "lab_utils").rglob("*.py"))


def _functions(tree: ast.Module) -> dict[tuple[str, int], int]:
    """(Name, line where it begins) -> lines of each function, without its docstring."""
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            text = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            docstring = text.end_lineno - text.lineno + 1 if text else 0
            lengths[node.name, node.lineno] = node.end_lineno - node.lineno + 1 - docstring
    return lengths


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_and_no_function_has_grown_too_long(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE
    assert {at: lines for at, lines in _functions(ast.parse(text)).items() if lines > FUNCTION} == {}
