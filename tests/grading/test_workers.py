"""Jobs of the grader's processes are done whatever dies under them."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from lab_utils.grading import workers


@dataclass(frozen=True)
class Killing:
    """Kills, the first time, the process that workers are forked from, and its own; then gives a number."""

    mark: str

    def run(self) -> int:
        try:
            open(self.mark, "x").close()
        except FileExistsError:
            return 1
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_without_the_process_that_they_are_forked_from_nothing_of_the_current_folder_is_imported(tmp_path):
    here, leak, mark = tmp_path / "here", tmp_path / "LEAK", tmp_path / "mark"
    here.mkdir()
    for name in ("selectors", "signal", "socket", "struct"):
        (here / f"{name}.py").write_text(f"open({str(leak)!r}, 'a').write({name!r})\nraise ImportError\n")
    program = f"""
from lab_utils.grading import workers
from tests.grading.test_workers import Killing
if __name__ == "__main__":
    print([outcome for _, outcome in workers.processes([Killing({str(mark)!r})], 1)])
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    (tmp_path / "program.py").write_text(f"import sys\nsys.path.append({root!r})\n{program}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        cwd=here, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[1]", done.stderr
    assert mark.exists() and not leak.exists(), leak.read_text()


def test_what_a_job_raises_is_its_outcome():
    assert workers.outcome(None).startswith("AttributeError")
