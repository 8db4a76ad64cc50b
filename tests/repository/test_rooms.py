"""Each package says what it is for, and names what leaves it."""

import ast
import importlib
import pkgutil

import pytest

import lab_utils

PACKAGES = sorted(module.name for module in pkgutil.iter_modules(lab_utils.__path__) if module.ispkg)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_in_its_first_line_what_it_is_for(name):
    """Read as text: to import a package may cost seconds."""
    (folder,) = lab_utils.__path__
    with open(f"{folder}/{name}/__init__.py", encoding="utf-8") as file:
        first, *_ = (ast.get_docstring(ast.parse(file.read())) or "").splitlines() or [""]
    assert len(first) > 20, "no docstring, or one that says nothing"
    assert first.endswith((".", ":"))


@pytest.mark.parametrize("name", ["artifacts", "course", "export", "models"])
def test_what_leaves_a_package_is_there(name):
    package = importlib.import_module(f"lab_utils.{name}")
    assert [public for public in package.__all__ if not hasattr(package, public)] == []
