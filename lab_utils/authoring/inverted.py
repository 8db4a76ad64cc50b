"""The inverted run: an untouched student notebook must stop at its exercises and nowhere else."""

from nbformat import NotebookNode

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.dependencies import touched_by_exercises
from lab_utils.authoring.master import Finding
from lab_utils.authoring.run import CellFailed, Say, execute

UNFINISHED = ("NotYet", "NotImplementedError")


def inverted(lab: course.Lab, say: Say = lambda text: None) -> list[Finding]:
    """Execute the student notebook as it is handed out: the exercises, the checks and what hangs on them.

    A finding is a check cell that passes or that fails for another reason than an unwritten
    exercise, and any other cell that raises. Cells that no exercise reaches behave as in the solution
    notebook and are left out, as optional ones are. The file is not changed.
    """
    path = master.student_path(lab)
    name = f"labs/{path.name}"
    if not path.is_file():
        return [Finding(name, "missing", 0, "没有学生版；先运行 labs build")]
    try:
        nb = master.load(path)
        leave_out_the_rest(nb)
        execute(nb, allow_errors=True, say=say)
    except (master.MasterError, SyntaxError) as error:
        return [Finding(name, "unreadable", 0, str(error))]
    except CellFailed as error:
        return [Finding(name, "kernel", 0, str(error))]
    return judge(name, nb)


def leave_out_the_rest(nb: NotebookNode) -> None:
    """Tag, in memory, the code cells that no exercise reaches: what is tagged optional isn't executed."""
    cells = master.cells_of(nb)
    reached = touched_by_exercises(cells)
    for index, (cell, node) in enumerate(zip(cells, nb.cells, strict=True)):
        if cell.kind == "code" and index not in reached:
            node.metadata["tags"] = [*node.metadata.get("tags", []), "optional"]


def judge(name: str, nb: NotebookNode) -> list[Finding]:
    """The findings of an executed student notebook, in the order of its cells."""
    findings = []
    for number, (cell, node) in enumerate(zip(master.cells_of(nb), nb.cells, strict=True), 1):
        if cell.kind != "code" or "optional" in cell.tags:
            continue
        error = next((out for out in node.outputs if out.output_type == "error"), None)
        raised = f"{error.ename}: {error.evalue}".split("\n")[0] if error else ""
        if cell.check and error is None:
            findings.append(
                Finding(name, "check-passes", number, f"练习 {cell.check} 还没写，检查 (check) 却通过了")
            )
        elif cell.check and error and error.ename not in UNFINISHED:
            findings.append(
                Finding(name, "check-reason", number, f"练习 {cell.check} 应报“还没有写”，却是 {raised}")
            )
        elif error and not cell.check and "raises-exception" not in cell.tags:
            findings.append(Finding(name, "raises", number, f"不是检查单元 (check cell) 却报错：{raised}"))
    return findings
