"""A course for institutions that run nbgrader themselves: its folders and configuration, made from the masters.

nbgrader runs a student's whole notebook, checks included, in one process that the student's code controls, with no
sandbox. What it can't keep safe is said in the configuration that is written.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.master import BEGIN_STUB, END_STUB
from lab_utils.errors import InvalidValue
from lab_utils.files import write_atomic

if TYPE_CHECKING:
    from nbformat import NotebookNode

CONFIG = f'''\
"""nbgrader 课程配置，由 labs export-nbgrader 生成。

用法 (usage)，在这个文件夹里运行，环境里要装好 lab_utils（课程仓库里 make lab，或 pip install）：

    nbgrader generate_assignment 00_quickstart      # 学生版写到 release/00_quickstart/
    # 把作业收到 submitted/学号/00_quickstart/00_quickstart.ipynb
    nbgrader autograde 00_quickstart
    nbgrader generate_feedback 00_quickstart

安全 (security)：nbgrader 在没有沙箱的进程里运行学生的整本笔记，检查也在里面；存心作弊的代码能读到 source/ 和
gradebook.db，也能让检查失效。要防这些，用 labs grade 评同一批作业。
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821

here = Path(__file__).resolve().parent
os.environ.setdefault("LAB_ROOT", str(here / "course"))  # data sets that the labs read
os.environ.setdefault("LAB_OUTPUT", str(here / "runs"))  # what the labs train
os.environ["LAB_HEADLESS"] = "1"

c.CourseDirectory.course_id = "lab_utils"
c.ClearSolutions.code_stub = {{"python": {BEGIN_STUB + END_STUB!r}}}
c.Execute.timeout = 900
c.Execute.skip_cells_with_tag = "optional"
'''


def export(folder: Path, labs: Iterable[course.Lab]) -> list[Path]:
    """Write an nbgrader course into `folder`; the source notebooks, `source/NAME/NAME.ipynb`.

    Beside them: `nbgrader_config.py`, and `course/` with the data sets and student notebooks that the labs read.
    Raises InvalidValue when there is something in `folder`, MasterError when a master is at fault; then nothing is
    written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValue("不是空文件夹", "请换一个，免得盖掉里面的成绩和修改", str(folder))
    labs = list(labs)
    made = {lab.name: master.dumps(source_notebook(lab)) for lab in labs}
    home = folder / "course"
    shutil.copytree(course.root() / "datasets", home / "datasets")
    (home / "labs").mkdir()
    for lab in labs:
        if master.student_path(lab).is_file():
            shutil.copy(master.student_path(lab), home / "labs")
    paths = []
    for name, text in made.items():
        paths.append(folder / "source" / name / f"{name}.ipynb")
        write_atomic(paths[-1], text)
    write_atomic(folder / "nbgrader_config.py", CONFIG)
    return paths


def source_notebook(lab: course.Lab) -> "NotebookNode":
    """The notebook that nbgrader calls source: the solution's cells, tagged and marked as the student's are."""
    cells = master.read(lab)
    made = master.notebook(lab, cells, student=True)
    for node, cell in zip(made.cells, cells, strict=True):
        if cell.kind == "code":
            node.source = cell.source
    return made
