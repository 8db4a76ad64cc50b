"""Each package says what it is for, and names what leaves it or what is in it; what it names is there."""

import ast
import re
from pathlib import Path

import pytest

import lab_utils

ROOT = Path(lab_utils.__file__).parent
PACKAGES = sorted(
    file.parent for file in ROOT.rglob("__init__.py") if file.parent not in (ROOT, ROOT / "assets")
)
OTHERS = {"ax", "completions", "labs", "meta", "targets"}
"""In backticks, but no name of a package: arguments, the command, a device of torch."""


def names(folder: Path) -> set[str]:
    """The modules of a package and what its modules define or import at their top level, read as text: to import a
    package may cost seconds."""
    modules = list(folder.glob("*.py"))
    known = {file.stem for file in modules} | {file.parent.name for file in folder.glob("*/__init__.py")}
    for file in modules:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                known.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                known |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                known |= {target.id for target in targets if isinstance(target, ast.Name)}
    return known


def exported(file: Path) -> list[str]:
    """What `__all__` of a module holds, with what it takes over of modules beside it; empty when there is none."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for part in node.value.elts:
                if isinstance(part, ast.Starred):
                    found += exported(file.with_name(f"{part.value.value.id}.py"))
                else:
                    found.append(part.value)
    return found


def listed(docstring: str) -> set[str]:
    """The names in backticks, and those that head a row of an indented table in the first list of a docstring."""
    quoted = set(re.findall(r"`([A-Za-z_]\w*)`", docstring))
    table = next((part for part in docstring.split("\n\n") if re.match(r"\s*\w+(, \w+)*  +\S", part)), "")
    rows = re.findall(r"^\s*(\w+(?:, \w+)*) +\S", table, re.M)
    return quoted | {name for row in rows for name in row.split(", ")}


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_package_says_what_it_is_for_and_names_what_is_there(folder):
    file = folder / "__init__.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = docstring.split("\n")[0]
    assert len(first) > 20 and first.endswith((".", ":")), "no docstring, or one that says nothing"
    assert exported(file) or listed(docstring), "neither `__all__` nor a docstring that lists"
    known = names(folder) | names(ROOT) | OTHERS
    assert [name for name in exported(file) if name not in known] == []
    assert sorted(listed(docstring) - known) == []
