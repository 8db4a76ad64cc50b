"""Headless execution of notebooks, with wall time and peak memory of everything the kernel starts."""

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.files import write_atomic

if TYPE_CHECKING:
    import psutil
    from nbclient import NotebookClient
    from nbformat import NotebookNode

CELL_TIMEOUT = 900  # seconds
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

Say = Callable[[str], None]


def _print(text: str) -> None:
    print(text, end="", flush=True)


class CellFailed(RuntimeError):
    """A notebook stopped at a cell. The message holds the cell and the end of its traceback.

    Not an error of the course's form: that a cell failed is a bug of the notebook.
    """


class TreeMemory:
    """Watches the memory of a process and of all its descendants; `peak_mib` is the highest sum seen.

    Memory is the proportional set size (PSS) where the system has it, so that pages shared by
    forked workers count once; elsewhere the unique set size (USS). A descendant whose parent has
    ended is still counted. Sampled every `interval` seconds: a shorter peak can be missed.
    """

    def __init__(self, interval: float = 0.2):
        self.peak_mib = 0.0
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, pid: int) -> None:
        """Start to sample the tree under `pid`."""
        self._thread = threading.Thread(target=self._sample, args=(pid,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _sample(self, pid: int) -> None:
        import psutil

        tree: set = set()
        while not self._stop.is_set():
            try:
                root = psutil.Process(pid)
                live = {root, *root.children(recursive=True)}
            except psutil.NoSuchProcess:
                return
            for orphan in [process for process in tree - live if process.is_running()]:
                live |= {orphan, *_children(orphan)}
            tree = live
            total = sum(_bytes(process) for process in tree)
            self.peak_mib = max(self.peak_mib, total / 2**20)
            self._stop.wait(self._interval)


def _children(process: "psutil.Process") -> list["psutil.Process"]:
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _bytes(process: "psutil.Process") -> int:
    """PSS or USS in bytes; 0 for a process that ended between two looks or isn't ours."""
    import psutil

    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(info, "pss", info.uss)


@dataclass
class Result:
    """How one lab ran. `seconds` includes the start of the kernel; `error` is empty when `ok`."""

    lab: str
    ok: bool = False
    seconds: float = 0.0
    peak_mib: float = 0.0
    figures: dict = field(default_factory=dict)
    error: str = ""


def run(
    labs: Iterable[course.Lab], report: Path | None = None, optional: bool = False, say: Say = _print
) -> list[Result]:
    """Execute each lab's solution, made afresh from its master, and measure it.

    Nothing is written but `report`: a JSON object, lab number → lab, seconds, peak_mib, ok, figures
    (what the lab gave to `course.record`), error. It is rewritten after every lab, so that a
    crash loses nothing. A failing lab doesn't stop the next. Cells tagged optional run only
    when `optional`. `say` gets progress, text with its own line ends.
    """
    results: list[Result] = []
    for lab in labs:
        say(f"{lab.name}\n")
        results.append(_run_one(lab, optional, say))
        say(summary(results[-1]) + "\n")
        if report:
            table = {result.lab.partition("_")[0]: asdict(result) for result in results}
            write_atomic(report, json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return results


def summary(result: Result) -> str:
    """One line about a run, and below it the error if there is one."""
    mark = "✅" if result.ok else "❌"
    line = f"{mark} {result.lab}  {result.seconds:.1f} s  峰值内存 (peak memory) {result.peak_mib:.0f} MiB"
    return line if result.ok else f"{line}\n{result.error}"


def _run_one(lab: course.Lab, optional: bool, say: Say) -> Result:
    result = Result(lab.name)
    memory = TreeMemory()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        try:
            nb = master.notebook(lab, master.read(lab), student=False)
            execute(nb, figures=figures, memory=memory, optional=optional, say=say)
            result.ok = True
        except Exception as error:  # the report has to tell about any failure, and the next lab still runs
            result.error = str(error) or type(error).__name__
        result.seconds = round(time.perf_counter() - begin, 2)
        result.peak_mib = round(memory.peak_mib, 1)
        if figures.is_file():
            result.figures = json.loads(figures.read_text(encoding="utf-8"))
    return result


def execute(
    nb: "NotebookNode",
    figures: Path | None = None,
    memory: TreeMemory | None = None,
    allow_errors: bool = False,
    optional: bool = False,
    say: Say = lambda text: None,
) -> None:
    """Execute `nb` in place in a fresh kernel whose folder is the course's labs/.

    The kernel sees LAB_HEADLESS=1, LAB_ROOT, and LAB_FIGURES when `figures` is given. Raises
    CellFailed when a cell raises (unless `allow_errors`), takes too long, or the kernel dies.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    folder = course.root() / "labs"
    folder.mkdir(exist_ok=True)
    progress = _Progress(nb, say)
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        allow_errors=allow_errors,
        record_timing=False,
        store_widget_state=False,
        skip_cells_with_tag="" if optional else "optional",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=progress.begin,
        on_cell_executed=progress.end,
    )
    if memory:
        client.on_notebook_start = lambda notebook: memory.watch(_kernel_pid(client))
    try:
        client.execute(env=_kernel_env(figures))
    except (CellControlSignal, DeadKernelError) as error:
        raise CellFailed(_failure(nb, progress.index, error)) from None
    finally:
        if memory:
            memory.stop()
    nb.metadata = type(nb)(master.NOTEBOOK_METADATA)


def _kernel_pid(client: "NotebookClient") -> int:
    """The kernel's process id; the client has started it."""
    assert client.km is not None and client.km.provisioner is not None
    return client.km.provisioner.pid  # type: ignore[attr-defined]  # the local provisioner has one


def _kernel_env(figures: Path | None) -> dict[str, str]:
    env = dict(os.environ, LAB_HEADLESS="1", LAB_ROOT=str(course.root()))
    env.pop("LAB_FIGURES", None)
    if "PYTHONPATH" in env:  # relative entries would mean another folder in the kernel
        env["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(entry) for entry in env["PYTHONPATH"].split(os.pathsep)
        )
    if figures:
        env["LAB_FIGURES"] = str(figures)
    return env


class _Progress:
    """Tells which code cell is running, and how long it took."""

    def __init__(self, nb: "NotebookNode", say: Say):
        self.index = 0
        self._order = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
        self._say = say
        self._since = 0.0

    def begin(self, cell: "NotebookNode", cell_index: int) -> None:
        self.index, self._since = cell_index, time.perf_counter()
        first = cell.source.split("\n")[0][:60]
        self._say(f"  [{self._order.index(cell_index) + 1}/{len(self._order)}] {first} … ")

    def end(self, cell: "NotebookNode", cell_index: int, execute_reply: dict) -> None:
        self._say(f"{time.perf_counter() - self._since:.1f} s\n")


def _failure(nb: "NotebookNode", index: int, error: Exception) -> str:
    """What a person needs to find the failure: the cell, its source's start, the traceback's end."""
    cell = nb.cells[index]
    source = "\n".join(f"    {line}" for line in cell.source.split("\n")[:8])
    raised = next((out for out in cell.get("outputs", []) if out.output_type == "error"), None)
    if isinstance(error, TimeoutError):
        end = [f"超过 {CELL_TIMEOUT} 秒 (timeout)"]
    elif raised is None:
        end = [f"{type(error).__name__}: {error}"]
    else:
        end = _ANSI.sub("", "\n".join(raised.traceback)).strip().split("\n")[-15:]
        if raised.evalue and raised.evalue.split("\n")[0] not in "\n".join(end):
            end.append(f"{raised.ename}: {raised.evalue}")
    return f"第 {index + 1} 格（{cell.get('id', '')}）没有跑完：\n{source}\n" + "\n".join(end)
