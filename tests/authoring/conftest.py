"""A course of one lab in a temporary folder, with a master that is right in every way."""

import os
from pathlib import Path

import pytest

from lab_utils import course

REPOSITORY = Path(__file__).resolve().parents[2]

MASTER = '''\
# %% [markdown]
# {{card}}

# %% [markdown]
# 先看一个数。

# %%
from lab_utils import course

course.record(loss=1.5)
print("损失函数 (loss)：", 1.5)

# %% [markdown]
# 写一个函数：两倍。

# %% exercise="double"
def double(x: float) -> float:
    """Twice `x`."""
    ### BEGIN SOLUTION
    # 两个一样的数相加
    return x + x
    ### END SOLUTION

# %% check="double"
assert double(2) == 4, "两倍应是 4"
### BEGIN HIDDEN TESTS
assert double(-1.5) == -3
### END HIDDEN TESTS

# %% [markdown]
# 每次都不一样的输出，和要联网的一步。

# %% tags=["volatile"]
import time

print(time.time())

# %% tags=["optional"]
raise RuntimeError("needs a network")

# %% [markdown]
# ## 小结
# 学了两倍。
#
# ## 思考题
# 三倍呢？
#
# ## 下一步
# 没有了。
'''


@pytest.fixture
def lab(tmp_path, monkeypatch) -> course.Lab:
    """The only lab of a course at `course.root()`."""
    mini = course.Lab(
        number="90",
        slug="mini",
        title="小实验",
        title_en="Mini",
        summary={"zh": "小", "en": "mini"},
        goals=("会写两倍",),
        minutes={"cpu": 1, "gpu": 1},
        memory_gib={"cpu": 0.5, "gpu": 1.0},
        difficulty="入门",
        requires=(),
        points={"double": 2},
    )
    for folder in ("labs", "solutions", "datasets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "solutions" / "90_mini.py").write_text(MASTER, encoding="utf-8")
    monkeypatch.setattr(course, "LABS", (mini,))
    monkeypatch.setattr(course.manifest, "LABS", (mini,))
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    )
    return mini


@pytest.fixture
def edit(lab):
    """`edit(old, new)` changes the master, `edit(old, new, "labs/90_mini.ipynb")` another file."""

    def change(old: str, new: str, file: str = "solutions/90_mini.py") -> None:
        path = course.root() / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change
