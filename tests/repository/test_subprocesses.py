"""No process that the course starts imports what happens to lie in the folder where the user stands."""

import ast
from pathlib import Path

import lab_utils

PACKAGE = Path(lab_utils.__file__).parent


def is_module_flag(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == "-m"


def commands(tree: ast.AST) -> list[ast.List]:
    """The lists that begin with sys.executable, or hold `-m`: another Python, that of an environment."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.List, ast.Tuple))
        and node.elts
        and (ast.unparse(node.elts[0]) == "sys.executable" or any(map(is_module_flag, node.elts)))
    ]


def test_every_python_that_is_started_leaves_out_the_current_folder():
    """`-P` or `-I` comes before `-m`, `-c` or the script, or else the current folder, or PYTHONPATH, comes first."""
    found, at_fault = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for command in commands(ast.parse(path.read_text("utf-8"))):
            found += 1
            words = [node.value for node in command.elts if isinstance(node, ast.Constant)]
            program = next((i for i, word in enumerate(words) if word in ("-m", "-c")), len(words))
            if not {"-P", "-I"} & set(words[:program]):
                at_fault.append(f"{path.relative_to(PACKAGE)}:{command.lineno}")
    assert found >= 5 and not at_fault
