"""The frame of the checks: values compared, labs found, nothing heavy imported before it is needed."""

import ast
import subprocess
import sys

import pytest
import torch

from lab_utils import checks, course
from lab_utils.authoring import master
from lab_utils.checks import Check
from lab_utils.checks.frame import difference
from tests.checks.every import MODULES


def test_a_tensor_without_dimensions_is_compared_with_the_tolerance():
    assert difference(torch.tensor(1.0 + 1e-5), torch.tensor(1.0), 1e-4) is None
    assert difference(torch.tensor(1.01), torch.tensor(1.0), 1e-4)[0] == "value"


def test_checks_are_imported_when_a_lab_is_asked_for():
    code = (
        "import sys; from lab_utils import checks; assert 'torch' not in sys.modules; "
        "assert checks.dpo.DPO_LOSS.name == 'dpo_loss'; assert not hasattr(checks, 'no_such_lab')"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("lab", course.LABS, ids=lambda lab: lab.number)
def test_every_exercise_has_its_check_in_the_module_of_the_lab(lab):
    module = MODULES[lab.slug]
    assert getattr(checks, lab.slug) is module
    assert {v.name for v in vars(module).values() if isinstance(v, Check)} == set(lab.points)


@pytest.mark.parametrize("lab", course.LABS, ids=lambda lab: lab.number)
def test_a_notebook_imports_its_checks_once_and_as_checks(lab):
    cells = [ast.parse(master.student_source(c)) for c in master.read(lab) if c.kind == "code"]
    nodes = [node for cell in cells for node in ast.walk(cell)]
    imports = [ast.unparse(n) for n in nodes if isinstance(n, ast.ImportFrom) and "checks" in ast.unparse(n)]
    assert imports == [f"from lab_utils.checks import {lab.slug} as checks"]
    used = {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "checks"}
    assert {name for name in used if not hasattr(MODULES[lab.slug], name)} == set()
