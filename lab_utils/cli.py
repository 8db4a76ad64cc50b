"""The `labs` command. Every command imports what it needs itself, so that `labs --help` is quick."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lab_utils.errors import LabError

try:
    from lab_utils import course
except LabError as problem:  # the manifest is read at import; a slip in it is the instructor's to mend
    typer.secho(str(problem), fg="red", err=True)
    raise SystemExit(2) from None

if TYPE_CHECKING:
    from lab_utils.authoring.master import Finding
    from lab_utils.serving import Server

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
    """Turn what a user can mend (a number, a folder, a command) into a line on stderr and exit status 2.

    That is a LabError. Anything else is a bug and keeps its traceback.
    """
    try:
        yield
    except LabError as error:
        _stop(str(error))


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


def _report(findings: "list[Finding]", checked: str) -> None:
    """Print the findings and exit with status 1, or say that there are none."""
    for finding in findings:
        typer.echo(str(finding))
    if findings:
        typer.secho(f"❌ {len(findings)} 个问题 (problems)", fg="red", err=True)
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
    from lab_utils.authoring.run import CellFailed

    labs = _labs(numbers)
    if check:
        findings = [finding for lab in labs for finding in building.check(lab)]
        if not numbers:
            with _friendly():
                findings += building.strays(labs) + readme.check()
        _report(findings, f"{len(labs)} 个实验的笔记本与母版一致")
        return
    for lab in labs:
        typer.echo(lab.name)
        try:
            with _friendly():
                pair = building.build(lab, run_cells=not no_execute, say=_say)
        except CellFailed as error:
            typer.secho(f"❌ {lab.name} {error}", fg="red", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"✅ labs/{pair.student_path.name}  solutions/{pair.solution_path.name}")
    with _friendly():
        readme.update()


@app.command()
def lint(numbers: Numbers = None) -> None:
    """检查母版和笔记本的写法 (lint)。"""
    from lab_utils.authoring.lint import lint as lint_file
    from lab_utils.authoring.master import master_path, solution_path, student_path

    labs = _labs(numbers)
    findings = []
    for lab in labs:
        of_master = lint_file(master_path(lab), lab)
        known = {(finding.code, finding.cell, finding.message) for finding in of_master}
        findings += of_master
        for path in (student_path(lab), solution_path(lab)):
            if path.is_file():  # what is said of the master isn't said again
                of_notebook = lint_file(path, lab)
                findings += [f for f in of_notebook if (f.code, f.cell, f.message) not in known]
    _report(findings, f"{len(labs)} 个实验合格")


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

    findings = []
    for lab in labs:
        typer.echo(lab.name)
        findings += inverted(lab, _say)
    _report(findings, f"{len(labs)} 个学生版都只停在练习处")


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="模型的名字或文件夹，如 xiaoshi-base")],
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="LoRA 适配器，可以写多次")
    ] = None,
    port: Annotated[int | None, typer.Option(help="端口；不写就找一个空闲的")] = None,
) -> None:
    """用 vLLM 部署一个模型 (serve)，直到按 Ctrl-C。"""
    import signal

    from lab_utils import serving

    adapters = {}
    for pair in adapter or ():
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            _stop(f"--adapter 要写成 名字=文件夹，收到 {pair!r}")
        adapters[name] = folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends it as Ctrl-C does
    try:
        with _friendly(), serving.serve(model, adapters, port=port) as server:
            _introduce(server)
            code = server.wait()
    except KeyboardInterrupt:
        typer.echo("\n已停止 (stopped)")
        return
    _stop(f"服务自己结束了（退出码 {code}），原因见 {server.log}")


def _introduce(server: "Server") -> None:
    """Print how to reach a server."""
    from lab_utils.serving.clients import curl, request_body

    typer.echo(f"地址 (base_url)  {server.base_url}\n密钥 (api_key)   {server.api_key}")
    typer.echo(f"模型 (models)    {'、'.join(server.names)}\n日志 (log)       {server.log}\n")
    command = curl(server.base_url, request_body(server.names[-1], "写一首五言绝句。", 64))
    typer.echo(f"export OPENAI_API_KEY={server.api_key}\n{command}\n\n按 Ctrl-C 停止 (stop)")


@app.command()
def translate(
    command: Annotated[str, typer.Argument(help='旧命令，写在引号里，如 "swift sft --sft_type lora …"')],
) -> None:
    """把旧版 SWIFT 命令 (2.x, 3.x) 换成现在装的版本的写法。"""
    from lab_utils.swift.translation import translate as translate_command

    with _friendly():
        translation = translate_command(command)
    typer.echo(str(translation))


Seed = Annotated[
    int | None,
    typer.Option(
        help="隐藏用例的种子；不写就用上次的，第一次随机取一个，存在成绩文件夹的 .seed 里，不要公开"
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(help="截止时间，带时区，如 2026-12-01T23:59+08:00；与 --late、--submitted 一起用"),
]
Late = Annotated[str | None, typer.Option(help="迟交怎样扣，如 10%/day；也可以是 /hour、/week")]
Submitted = Annotated[Path | None, typer.Option(help="谁什么时候交的：CSV，student,lab,submitted")]
Manual = Annotated[
    Path | None, typer.Option(help="人工评的分：CSV，student,lab,question,points,max[,comment]")
]
Adapters = Annotated[
    Path | None,
    typer.Option(
        "--adapters",
        "--artefacts",
        help="要交的适配器 (adapter)：CSV，lab,folder,points[,rank,targets,questions,full_rate]；"
        "学生把叫 folder 的文件夹放在笔记本旁边，按它评分，不重新训练",
    ),
]
Unsandboxed = Annotated[
    bool,
    typer.Option("--unsandboxed", help="危险：不用沙箱，学生的代码以你的身份运行，能读写你的文件、能上网"),
]


@app.command()
def grade(
    submissions: Annotated[Path, typer.Argument(help="作业文件夹：每个学生一个文件夹或一个 zip")],
    out: Annotated[Path, typer.Option(help="成绩写到这个文件夹；中断后再运行同一条命令，从断点继续")],
    lab: Annotated[
        list[str] | None, typer.Option(help="只评这个实验，如 05；可以写几次；不写就评所有交了的实验")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="同时评几份")] = os.cpu_count() or 1,
    scheduler: Annotated[str | None, typer.Option(help="用这个 Dask 集群 (scheduler address)")] = None,
    seed: Seed = None,
    deadline: Deadline = None,
    late: Late = None,
    submitted: Submitted = None,
    manual: Manual = None,
    adapters: Adapters = None,
    unsandboxed: Unsandboxed = False,
) -> None:
    """评分 (grade)：在沙箱里运行学生的答案，写出 grades.csv、gradebook.db 和每个学生的结果。"""
    from lab_utils.grading import console, policy
    from lab_utils.grading import grade as grading

    labs = tuple(_labs(lab)) if lab else None
    try:
        decided = policy.read(deadline, late, submitted, manual)
        requests = policy.read_adapters(adapters) if adapters else ()
        if unsandboxed:
            console.warn("没有沙箱：学生的代码以你的身份运行 (unsandboxed)")
        options = grading.Options(labs, workers, scheduler, seed, decided, requests, not unsandboxed)
        with console.Steps() as steps:
            outcome = grading.grade_class(submissions, out, options, steps.start, steps.done)
    except grading.GradingStopped as error:
        typer.secho(f"❌ {console.printable(error)}", fg="red", err=True)
        raise typer.Exit(1) from None
    except LabError as error:
        _stop(console.printable(error))
    if not console.report(outcome, out):
        raise typer.Exit(1)


@app.command("submit-check")
def submit_check(
    notebook: Annotated[
        str, typer.Argument(metavar="FILE.ipynb|NN", help="要交的笔记本、zip 或文件夹，或实验编号，如 05")
    ],
) -> None:
    """交作业之前 (submit check)：评分程序读得懂吗？哪些练习还没有写？不运行代码。"""
    from lab_utils.grading import submit_check as checking

    with _friendly():
        report = checking.examine(checking.find(notebook))
    typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="labs grade 写成绩的文件夹")],
    submissions: Annotated[
        Path | None, typer.Option(help="作业文件夹；给出时还比较哪些答案雷同 (near-identical)")
    ] = None,
) -> None:
    """班级报告 (class report)：得分分布、最难的练习、常见的错误、雷同的答案，写成 DIR/report.html。"""
    from lab_utils.grading import console
    from lab_utils.grading import report as reporting

    try:
        typer.echo(f"✅ {reporting.write(out, submissions)}")
    except LabError as error:
        _stop(console.printable(error))


@app.command("export-nbgrader")
def export_nbgrader(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="写到这个空文件夹")],
    numbers: Numbers = None,
) -> None:
    """导出 nbgrader 课程：source/、配置和数据，给自己运行 nbgrader 的学校。"""
    from lab_utils.grading import nbgrader_course

    with _friendly():
        paths = nbgrader_course.export(folder, _labs(numbers))
    typer.echo(f"✅ {len(paths)} 个实验。用法写在 {folder / 'nbgrader_config.py'} 的开头。")


if __name__ == "__main__":
    app()
