"""A lab as the grader sees it: what each exercise asks, made from the lab's master and its checks.

Nothing is written twice: the function's name and its check come from the check cell of the master, the points from
the manifest, the visible and the hidden cases from the check.
"""

import ast
import copy
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.checks.frame import Case, Check, Output, difference, run
from lab_utils.errors import InvalidValue
from lab_utils.grading.inside import cells as cell_reader
from lab_utils.grading.inside import effects, wire

HIDDEN_CASES = 4


class TaskError(InvalidValue):
    """An exercise that can't be graded by calling a function: the course's own files are at fault."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. `check` holds the visible and then the hidden cases; `free` cases pass without any work.

    `helpers` and `constants` are what the model answer uses of lab_utils: full name -> function, or value.
    """

    name: str
    function: str
    points: float
    check: Check = field(repr=False)
    visible: int
    free: int
    stub: str = field(repr=False)
    helpers: dict[str, Callable] = field(repr=False)
    constants: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Task:
    """One lab: its exercises, the cells as given out, and the modules worth importing before the first answer."""

    lab: course.Lab
    exercises: tuple[Exercise, ...]
    given: tuple[master.Cell, ...]
    preload: tuple[str, ...]
    version: str
    """Changes when anything changes that could change a score."""


@lru_cache(maxsize=4)
def load(number: str, seed: int) -> Task:
    """The task of a lab. Raises MasterError or TaskError when the course's own files are at fault."""
    lab = course.lab(number)
    cells = master.read(lab)
    given = tuple(replace(cell, source=master.student_source(cell)) for cell in cells)
    imports = _imports(cells)
    checks = {cell.check: cell for cell in cells if cell.check}
    exercises = []
    for cell in cells:
        if cell.exercise:
            if cell.exercise not in checks:
                raise TaskError(f"练习 {cell.exercise} 没有检查单元 (check cell)", "请在母版里补上", lab.name)
            exercises.append(_exercise(lab, cell, checks[cell.exercise], imports, seed))
    return Task(lab, tuple(exercises), given, _preload(cells, exercises, imports), version(lab, seed))


def _imports(cells: list[master.Cell]) -> dict[str, str]:
    """Every name that the notebook imports -> the full name of what it stands for."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell.kind != "code":
            continue
        for statement in cell_reader.parse(cell.source).statements:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    found[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    found[alias.asname or alias.name] = f"{statement.module}.{alias.name}"
    return found


def resolve(dotted: str) -> Any:
    """The object with this full name. Raises TaskError when there is none."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[cut:]:
                value = getattr(value, part)
        except AttributeError:
            break
        return value
    raise TaskError(f"找不到 {dotted}", "请检查母版 (solutions/) 里的 import")


def _exercise(
    lab: course.Lab, cell: master.Cell, check_cell: master.Cell, imports: dict[str, str], seed: int
) -> Exercise:
    check, function = _check(lab, check_cell, imports)
    helpers: dict[str, Callable] = {}
    constants: dict[str, Any] = {}
    for dotted in sorted(_used_of_course(cell, imports)):
        value = resolve(dotted)
        (helpers if callable(value) else constants)[dotted] = value
    visible = len(check.cases)
    cases = check.cases + check.hidden_cases(seed, HIDDEN_CASES)
    check = replace(check, cases=cases, reference=_Remembered(check.reference))
    return Exercise(
        cell.exercise,
        function,
        lab.points[cell.exercise],
        check,
        visible,
        _free(check),
        master.student_source(cell),
        helpers,
        constants,
    )


def _check(lab: course.Lab, cell: master.Cell, imports: dict[str, str]) -> tuple[Check, str]:
    """The check that the cell calls, and the name of the function it is given."""
    for statement in cell_reader.parse(cell.source).statements:
        call = getattr(statement, "value", None)
        if not isinstance(call, ast.Call) or len(call.args) != 1 or not isinstance(call.args[0], ast.Name):
            continue
        first, _, rest = ast.unparse(call.func).partition(".")
        if first in imports:
            found = resolve(f"{imports[first]}.{rest}" if rest else imports[first])
            if isinstance(found, Check):
                return found, call.args[0].id
    raise TaskError(
        f"检查单元 {cell.check} 里没有 Check(函数) 这样的调用，不能自动评分",
        "请在母版里改好",
        lab.name,
    )


def _used_of_course(cell: master.Cell, imports: dict[str, str]) -> set[str]:
    """Full names of what the model answer uses of lab_utils."""
    found = set()
    for statement in cell_reader.parse(cell.source).statements:
        known = {name: imports[name] for name in _read(statement) if name in imports}
        for node in ast.walk(statement):
            name = ""
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in known
            ):
                name = f"{known[node.value.id]}.{node.attr}"
            elif isinstance(node, ast.Name):
                name = known.get(node.id, "")
            if name.startswith("lab_utils.") and not _is_module(name):
                found.add(name)
    return found


def _read(statement: ast.stmt) -> frozenset[str]:
    """The global names that a statement, or a function in it, reads."""
    found = effects.effects(statement)
    return found.reads | found.later_reads


def _is_module(dotted: str) -> bool:
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:
        return False


class _Remembered:
    """A reference that works out each case once; its values are the same for every submission."""

    def __init__(self, reference: Callable):
        self._reference = reference
        self._known: dict[str, Any] = {}

    def __call__(self, *args: Any) -> Any:
        key = json.dumps([wire.encode(item) for item in args])
        if key not in self._known:
            self._known[key] = self._reference(*args)
        return copy.deepcopy(self._known[key])


def run_reference(check: Check, case: Case) -> Output:
    """The right output for a case. Raises TaskError when the reference itself fails."""
    output = run(check.reference, case.args)
    if output.error is not None:
        raise TaskError(
            f"{check.name} 的参考答案 (reference) 在用例「{case.name}」上出错：{output.error!r}",
            "请改好 lab_utils/checks 里的这个检查",
        )
    return output


def _free(check: Check) -> int:
    """The most cases that pass when the answer is a constant, or gives back one of its arguments."""
    wanted = [run_reference(check, case).value for case in check.cases]
    trivial = [[value] * len(wanted) for value in wanted]
    trivial += [
        [case.args[i] for case in check.cases] for i in range(min(len(case.args) for case in check.cases))
    ]
    return max(_passing(answers, wanted, check.tolerance) for answers in trivial)


def _passing(answers: list, wanted: list, tolerance: float) -> int:
    return sum(_same(answer, want, tolerance) for answer, want in zip(answers, wanted, strict=True))


def _same(answer: Any, want: Any, tolerance: float) -> bool:
    try:
        return difference(answer, want, tolerance) is None
    except Exception:  # values of kinds that can't be compared are not the same
        return False


def _preload(cells: list[master.Cell], exercises: list[Exercise], imports: dict[str, str]) -> tuple[str, ...]:
    """Modules that the model answers import, and those that the cases' arguments need."""
    names = set()
    for cell in cells:
        if cell.exercise:
            for statement in cell_reader.parse(cell.source).statements:
                names |= {imports[name] for name in _read(statement) if name in imports}
    roots = {name.partition(".")[0] for name in names} - {"lab_utils"}
    kinds = {
        type(value).__module__.partition(".")[0]
        for exercise in exercises
        for case in exercise.check.cases
        for value in case.args
    }
    return tuple(sorted(roots | (kinds & {"torch", "numpy"})))


def version(lab: course.Lab, seed: int) -> str:
    """A digest of the seed, the points, the master, the graders, and the checks with all that they import of the course."""
    digest = hashlib.sha256(f"{seed} {sorted(lab.points.items())}".encode())
    path = master.master_path(lab)
    digest.update(path.read_bytes())
    package = Path(__file__).parent.parent
    names = [name.rpartition(".")[2] for name in _checks(path)]
    checks = [package / "checks" / file for name in names for file in (f"{name}.py", f"{name}/__init__.py")]
    for source in sorted({*_graders(), *imported(checks, package)}):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _graders() -> list[Path]:
    """The modules of this package on which a score depends."""
    here = Path(__file__).parent
    names = ("answers", "conversation", "notebook_file", "row", "sandbox", "scoring", "tasks", "text")
    return [*(here / f"{name}.py" for name in names), *here.glob("inside/*.py")]


def check_modules(lab: course.Lab) -> list[str]:
    """Full names of the modules that hold the checks of a lab."""
    return _checks(master.master_path(lab))


def _checks(master_file: Path) -> list[str]:
    lines = re.findall(r"^from lab_utils\.checks import (.+)$", master_file.read_text("utf-8"), re.MULTILINE)
    return [f"lab_utils.checks.{name.split()[0]}" for line in lines for name in line.split(",")]


def imported(files: Iterable[Path], package: Path) -> set[Path]:
    """These files, and those of the course that they import, directly or not."""
    waiting = list(files)
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for module, what in re.findall(
            r"^\s*(?:from|import) (lab_utils[\w.]*)(?: import ([\w, ]+))?",
            path.read_text("utf-8"),
            re.MULTILINE,
        ):
            base = package.joinpath(*module.split(".")[1:])
            waiting += [base.with_suffix(".py"), base / "__init__.py"]
            waiting += [
                (base / name.split()[0]).with_suffix(".py") for name in what.split(",") if name.strip()
            ]
            waiting += [base / name.split()[0] / "__init__.py" for name in what.split(",") if name.strip()]
    return found
