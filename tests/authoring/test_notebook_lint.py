"""Every rule of the lint has a master or notebook that breaks it, and it alone."""

import dataclasses

import nbformat
import pytest

from lab_utils.authoring import build, master
from lab_utils.authoring.lint import RULES, lint
from lab_utils.authoring.terms import TERMS

PROSE = "# 先看一个数。\n"
CODE = """\
from lab_utils import course

course.record(loss=1.5)
print("损失函数 (loss)：", 1.5)"""


def _lines(count: int) -> str:
    return "\n".join(f"x{i} = {i}" for i in range(count))


BROKEN = [
    ("card", "# {{card}}", "# # 小实验"),
    ("ending", "# ## 思考题\n", ""),
    ("ending", "# ## 下一步\n", "# ## 下一步\n#\n# ## 附录\n"),
    ("ending", "# 没有了。\n", "# 没有了。\n\n# %%\nprint(1)\n"),
    ("syntax", CODE, "print(1"),
    ("syntax", CODE, "x = 你 好"),
    ("background", CODE, "!sleep 100 &"),
    ("background", CODE, "!cd a && (sleep 100 & echo 1)"),
    ("background", CODE, "!echo 'open &"),
    ("blocking", CODE, "!vllm serve model"),
    ("blocking", CODE, "!jupyter lab"),
    ("blocking", CODE, "log = !swift deploy --model x"),
    ("blocking", CODE, "!python -m vllm.entrypoints.openai.api_server"),
    ("install", CODE, "%pip install peft"),
    ("install", CODE, "!pip install -U peft==0.20.0"),
    ("install", CODE, "!python -m pip install 'peft>=0.20'"),
    ("prose", CODE, "# 这里什么也没有"),
    ("prose", CODE, '"""这里讲一讲道理"""'),
    ("prose", CODE, "# a\n# b\n# c\n# d\nx = 1"),
    ("prose", CODE, "def f():\n    # 一\n    # 二\n    # 三\n    return 1"),
    ("absolute-path", CODE, 'open("/home/me/a.txt")'),
    ("absolute-path", CODE, r'open(r"C:\Users\me")'),
    ("absolute-path", PROSE, "# 放到 /mnt/workspace/model 里。\n"),
    ("checkpoint", CODE, 'x = "output/checkpoint-64"'),
    ("checkpoint", CODE, 'x = "output/v0-20260101-101010"'),
    ("long-cell", CODE, _lines(26)),
    ("term", PROSE, "# 先做精调。\n"),
    ("term", CODE, 'print("令牌")'),
    (
        "exercise-check",
        '# %% check="double"',
        '# %%\nassert True\n\n# %% exercise="twice"\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n\n# %% [markdown]\n# 检查。\n\n# %% check="double"',
    ),
    ("points", '# %% exercise="double"', '# %% exercise="twice"'),
    ("disabled", CODE, "if False:\n    print(1)"),
    ("disabled", CODE, "while 0:\n    print(1)"),
    ("todo", PROSE, "# TODO 写说明\n"),
    ("todo", CODE, "x = 1  # FIXME"),
    ("semicolon", CODE, "x = [1]\nx.pop();"),
    ("unexplained", CODE, "x = 1\n\n# %%\nx = 2\n\n# %%\nx = 3\n\n# %%\nx = 4"),
]
# Breaking these rules breaks another with them.
ALSO = {"exercise-check": {"points"}, "points": {"exercise-check"}}


def test_the_good_course_passes(lab):
    pair = build.build(lab)
    for path in (master.master_path(lab), pair.student_path, pair.solution_path):
        assert lint(path, lab) == []


@pytest.mark.parametrize(("code", "old", "new"), BROKEN)
def test_each_rule_finds_its_breach_and_nothing_else(lab, edit, code, old, new):
    edit(old, new)
    problems = lint(master.master_path(lab), lab)
    assert code in {problem.code for problem in problems}
    assert {problem.code for problem in problems} <= {code} | ALSO.get(code, set())
    assert all(problem.message and problem.notebook == "solutions/90_mini.py" for problem in problems)


def test_every_rule_has_a_breach():
    assert {code for code, *_ in BROKEN} == set(RULES)


@pytest.mark.parametrize(
    "code",
    [
        "!ls 2>&1 | tail -3 && echo 'a & b'",
        "!curl 'http://localhost:8000/v1/models?a=1&b=2'",
        "%pip install -q peft==0.20.0 -r requirements.txt",
        "%matplotlib inline",
        "%%bash\necho hello",
        "import os\nos.path?",
        "# 一行说明\n# 第二行\nx = 1",
        "# a\n# b\n# c\nx = 1",
        "x = '''\n# a\n# b\n# c\n# d\n'''\nprint(x)",
        _lines(25),
        "print('labs/data/x', './tmp/y', 'https://example.org/home/x', '…/home/x')",
        "step = 3\nname = f'checkpoint-{step}'",
        "print('访问令牌 (access token)')",
        "if x := 1:\n    print(x)",
    ],
)
def test_what_is_right_passes(lab, edit, code):
    edit(CODE, code)
    assert lint(master.master_path(lab), lab) == []


def test_problem_names_the_cell(lab, edit):
    edit(CODE, "!sleep 100 &")
    (problem,) = lint(master.master_path(lab), lab)
    assert problem.cell == 3
    assert str(problem).startswith("solutions/90_mini.py 第 3 格 [background] ")


def test_nbgrader_markers_are_not_counted(lab, edit):
    edit("    return x + x", "\n".join(f"    x = x + {i}" for i in range(21)) + "\n    return x")
    assert lint(master.master_path(lab), lab) == []


def test_missing_check_and_exercise_are_told(lab, edit):
    edit('# %% check="double"\n', "# %%\n")
    edit("### BEGIN HIDDEN TESTS\nassert double(-1.5) == -3\n### END HIDDEN TESTS\n", "")
    messages = [str(problem) for problem in lint(master.master_path(lab), lab)]
    assert any("[exercise-check]" in m and "double" in m for m in messages)
    assert any("[points]" in m and "check" in m for m in messages)


def test_points_without_an_exercise_are_told(lab):
    more = dataclasses.replace(lab, points={"double": 2, "triple": 1})
    assert [p.code for p in lint(master.master_path(lab), more)] == ["points", "points"]


def test_unreadable_master_is_one_problem(lab, edit):
    edit("    ### END SOLUTION\n", "")
    (problem,) = lint(master.master_path(lab), lab)
    assert problem.code == "unreadable" and "不成对" in problem.message


def test_built_notebooks_are_judged_by_the_same_rules(lab, edit):
    pair = build.build(lab)
    edit("先看一个数。", "先做精调。", "labs/90_mini.ipynb")
    assert [problem.code for problem in lint(pair.student_path, lab)] == ["term"]
    edit("**目标**", "**目的**", "solutions/90_mini.ipynb")
    assert [problem.code for problem in lint(pair.solution_path, lab)] == ["card"]


def test_student_notebook_holds_no_output_and_solution_no_machine_path(lab):
    pair = build.build(lab)
    nb = nbformat.read(pair.solution_path, as_version=4)
    nb.cells[2].outputs[0].text = "File /usr/lib/python3/x.py\n"
    for path in (pair.student_path, pair.solution_path):
        path.write_text(master.dumps(nb), encoding="utf-8")
    assert {problem.code for problem in lint(pair.student_path, lab)} == {"output"}
    assert [(p.code, p.cell) for p in lint(pair.solution_path, lab)] == [("absolute-path", 3)]


def test_the_table_allows_its_own_words():
    import re

    words = "".join(f"{term.preferred}。" for term in TERMS)
    assert len(TERMS) >= 25
    for term in TERMS:
        for pattern in term.rejected:
            assert not re.search(pattern, words), f"{pattern} refuses one of the table's own words"
