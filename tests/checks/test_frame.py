"""The frame of the checks: values compared, labs found, nothing heavy imported before it is needed."""

import ast
import json
import subprocess
import sys
from decimal import Decimal

import pytest
import torch

from lab_utils import checks, course
from lab_utils.authoring import master
from lab_utils.checks import Check
from lab_utils.checks.compare import difference
from lab_utils.checks.frame import MESSAGE_LIMIT, STUB_MESSAGE, Case, CheckFailed, NotYet
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


HALF = Check("half", lambda x: x / 2, cases=(Case("八", (8.0,)), Case("三", (3.0,), edge=True)))
LENGTHS = Check("lengths", lambda texts: [len(t) for t in texts], cases=(Case("两句", (["山月", "溪"],)),))


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


def raising(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        GeneratorExit(),
        BaseException("base"),
        Unspeakable(),
        RecursionError(),
        ValueError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_function_raises_is_an_error_of_its_case(error):
    verdict = HALF.judge(raising(error))
    assert verdict.stage == "error"
    assert f"用例「八」出错：{type(error).__name__}" in verdict.message


def test_ctrl_c_passes():
    with pytest.raises(KeyboardInterrupt):
        HALF.judge(raising(KeyboardInterrupt()))


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, Decimal("sNaN"), 1j, torch.ones((), device="meta"), object(), [1], float("nan")],
    ids=["10**400", "10**5000", "sNaN", "complex", "meta", "object", "list", "nan"],
)
def test_whatever_a_function_returns_is_judged(value):
    assert not HALF.judge(lambda x: value).ok


def test_messages_are_cut():
    assert len(HALF.judge(raising(ValueError("x" * 10**6))).message) < MESSAGE_LIMIT + 200
    named = Check("name", lambda x: "溪", cases=(Case("名", (1,)),))
    assert len(named.judge(lambda x: "x" * 10**6).message) < 300


def test_only_the_stub_is_called_unwritten():
    assert HALF.judge(raising(NotImplementedError())).stage == "not_yet"
    assert HALF.judge(raising(NotImplementedError(f"练习 half：{STUB_MESSAGE}"))).stage == "not_yet"
    verdict = HALF.judge(raising(NotImplementedError("not implemented for 'Half'")))
    assert (verdict.stage, "还没有写" in verdict.message) == ("error", False)


def test_the_stub_of_the_masters_is_known():
    assert STUB_MESSAGE in master.END_STUB


def test_the_line_shown_is_the_last_of_the_student():
    def answer(x):
        return json.loads("{")

    assert 'json.loads("{")' in HALF.judge(answer).message


def test_none_may_also_have_been_returned():
    message = HALF.judge(lambda x: None).message
    assert message == "用例「八」：得到 None：函数没有 return，或者 return 的就是 None"


def test_of_a_list_of_texts_the_one_is_named_whose_answer_is_wrong():
    message = LENGTHS.judge(lambda texts: [2, 2]).message
    assert message == "用例「两句」：第 2 个（'溪'）的值：得到 2，不对"


def test_large_counts_are_compared_exactly():
    assert difference(2**53 + 1, 2**53, 0.0) == ("value", f"得到 {2**53 + 1}，不对")
    assert difference(2**53, 2**53, 0.0) is None


def test_a_check_cell_that_fails_says_why_once(capsys):
    with pytest.raises(CheckFailed) as failed:
        HALF(lambda x: x)
    assert not isinstance(failed.value, NotYet)
    assert capsys.readouterr().out == "❌ half：用例「八」：得到 8.0，不对\n"
    assert str(failed.value) == "练习 half：用例「八」：得到 8.0，不对。"
    assert failed.value._render_traceback_() == ["CheckFailed: 练习 half 还没有通过，见上面的说明。"]
    with pytest.raises(NotYet):
        HALF(raising(NotImplementedError()))


def test_the_package_lists_the_labs_and_not_what_their_checks_share():
    listed = set(dir(checks))
    assert {"quickstart", "dpo", "serving", "Check"} <= listed
    assert not {"compare", "frame", "inputs"} & listed
