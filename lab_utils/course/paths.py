"""Where the course's files are: its folder, its data sets, and the scratch folder of a lab."""

import os
from pathlib import Path

from lab_utils.course.manifest import lab
from lab_utils.errors import NotFound, nearest

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder this package is installed from, or site-packages."""


def root() -> Path:
    """The course's folder, the one that holds `datasets/` and `labs/` or `solutions/`.

    It is `$LAB_ROOT`, else the nearest such folder from the working directory upwards, else
    the checkout this package is installed from. Raises NotFound when there is none.
    """
    named = os.environ.get("LAB_ROOT")
    if named:
        folder = Path(named).expanduser().resolve()
        if _is_root(folder):
            return folder
        raise NotFound(
            f"LAB_ROOT 指向 {folder}，但那里不是课程文件夹：里面要有 datasets/，以及 labs/ 或 solutions/",
            "请改正或取消这个环境变量 (unset LAB_ROOT)",
        )
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, CHECKOUT):
        if _is_root(folder):
            return folder
    raise NotFound(
        f"从 {here} 往上找不到课程文件夹（含 datasets/，以及 labs/ 或 solutions/）",
        "请先 cd 到课程的仓库里，或设环境变量：export LAB_ROOT=课程文件夹的路径",
    )


def dataset(name: str) -> Path:
    """Folder of the course's data set `name`: `root()/datasets/name`.

    Raises NotFound, listing what exists, when there is no such folder.
    """
    home = root() / "datasets"
    names = sorted(folder.name for folder in home.iterdir() if folder.is_dir())
    if name in names:
        return home / name
    raise NotFound(
        f"{home} 里没有数据集 (dataset) {name!r}",
        f"{nearest(name, names)}现有：{'、'.join(names) or '（空）'}",
    )


def output(number_or_name: str) -> Path:
    """Scratch folder for the runs of a lab, created: `$LAB_OUTPUT/<name>` or `root()/build/labs/<name>`."""
    named = os.environ.get("LAB_OUTPUT")
    base = Path(named).expanduser().resolve() if named else root() / "build" / "labs"
    folder = base / lab(number_or_name).name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_root(folder: Path) -> bool:
    """Whether `folder` holds the course's data sets and its notebooks."""
    return (folder / "datasets").is_dir() and ((folder / "labs").is_dir() or (folder / "solutions").is_dir())
