"""The `labs` command. Every command imports what it needs itself, so that `labs --help` is quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lab_utils import course

if TYPE_CHECKING:
    from lab_utils.authoring.master import Problem

app = typer.Typer(
    help="微调课程 (fine-tuning course) 的命令行工具。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Numbers = Annotated[
    list[str] | None,
    typer.Argument(metavar="NN", help="实验编号或名字 (lab number or name)，如 05；不写就是全部"),
]


@contextmanager
def _friendly() -> Iterator[None]:
    """Turn what a user can mend (a number, a folder, a command) into a line on stderr and exit status 2."""
    try:
        yield
    except (FileNotFoundError, KeyError, ValueError) as error:
        _stop(str(error.args[0] if isinstance(error, KeyError) else error))


def _stop(message: str) -> NoReturn:
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(2)


def _say(text: str) -> None:
    typer.echo(text, nl=False)


def _labs(numbers: list[str] | None) -> list[course.Lab]:
    """The labs of these numbers, each once, in the course's order; all of them when there are none."""
    with _friendly():
        course.root()
        chosen = {course.lab(number).name for number in numbers or ()}
    return [lab for lab in course.LABS if not numbers or lab.name in chosen]


def _report(problems: "list[Problem]", checked: str) -> None:
    """Print the problems and exit with status 1, or say that there are none."""
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        typer.secho(f"❌ {len(problems)} 个问题 (problems)", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo(f"✅ {checked}")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="输出 JSON，给程序读")] = False,
) -> None:
    """体检 (doctor)：这台机器有什么、缺什么、怎么修。"""
    from lab_utils import doctor as examination

    report = examination.examine()
    if as_json:
        typer.echo(report.to_json())
    else:
        report.print()
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def build(
    numbers: Numbers = None,
    check: Annotated[bool, typer.Option("--check", help="只比较，不写文件：笔记本与母版不同就失败")] = False,
    no_execute: Annotated[
        bool, typer.Option("--no-execute", help="不执行，沿用旧输出；代码没变、只改了文字时用")
    ] = False,
) -> None:
    """由母版 (master) 生成学生版和执行过的答案版笔记本 (notebooks)。"""
    from lab_utils.authoring import build as building
    from lab_utils.authoring import readme
    from lab_utils.authoring.master import MasterError
    from lab_utils.authoring.run import CellFailed

    labs = _labs(numbers)
    if check:
        problems = [problem for lab in labs for problem in building.check(lab)]
        if not numbers:
            problems += building.strays(labs) + readme.check()
        _report(problems, f"{len(labs)} 个实验的笔记本与母版一致")
        return
    for lab in labs:
        typer.echo(lab.name)
        try:
            pair = building.build(lab, run_cells=not no_execute, say=_say)
        except MasterError as error:
            _stop(str(error))
        except CellFailed as error:
            typer.secho(f"❌ {lab.name} {error}", fg="red", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"✅ labs/{pair.student_path.name}  solutions/{pair.solution_path.name}")
    readme.update()


@app.command()
def lint(numbers: Numbers = None) -> None:
    """检查母版和笔记本的写法 (lint)。"""
    from lab_utils.authoring.lint import lint as lint_file
    from lab_utils.authoring.master import master_path, solution_path, student_path

    labs = _labs(numbers)
    problems = []
    for lab in labs:
        found = lint_file(master_path(lab), lab)
        known = {(problem.code, problem.cell, problem.message) for problem in found}
        for path in (student_path(lab), solution_path(lab)):
            if path.is_file():  # what the master is told already isn't told again
                found += [p for p in lint_file(path, lab) if (p.code, p.cell, p.message) not in known]
        problems += found
    _report(problems, f"{len(labs)} 个实验合格")


@app.command()
def run(
    numbers: Numbers = None,
    report: Annotated[Path | None, typer.Option(help="把时间、内存峰值和数字写进这个 JSON 文件")] = None,
    inverted: Annotated[
        bool, typer.Option("--inverted", help="反向执行学生版：只许停在练习处 (must stop at its exercises)")
    ] = False,
    optional: Annotated[bool, typer.Option("--optional", help="也执行标为 optional 的单元")] = False,
) -> None:
    """不开界面执行实验 (headless run)，量时间和内存峰值 (peak memory)。"""
    labs = _labs(numbers)
    if inverted:
        if report or optional:
            _stop("--inverted 不能与 --report、--optional 一起用")
        _run_inverted(labs)
        return
    from lab_utils.authoring.run import run as run_labs
    from lab_utils.authoring.run import summary

    results = run_labs(labs, report, optional, _say)
    typer.echo("—" * 40)
    for result in results:
        typer.echo(summary(result).split("\n")[0])
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _run_inverted(labs: list[course.Lab]) -> None:
    from lab_utils.authoring.inverted import inverted

    problems = []
    for lab in labs:
        typer.echo(lab.name)
        problems += inverted(lab, _say)
    _report(problems, f"{len(labs)} 个学生版都只停在练习处")


@app.command()
def translate(
    command: Annotated[str, typer.Argument(help='旧命令，写在引号里，如 "swift sft --sft_type lora …"')],
) -> None:
    """把旧版 SWIFT 命令 (2.x, 3.x) 换成现在装的版本的写法。"""
    from lab_utils.swift.translation import translate as translate_command

    with _friendly():
        translation = translate_command(command)
    typer.echo(str(translation))


if __name__ == "__main__":
    app()
