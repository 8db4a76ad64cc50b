"""Reads a large notebook in a process of its own: bytes come on stdin, cells go out as JSON on stdout.

Started by its path with `-I`, so that nothing in the folder in which the grader stands is imported.
"""

import json
import sys
from pathlib import Path

MEMORY, SECONDS = 6 * 2**30, 100


def main() -> None:
    # Last comes the course itself, where it isn't installed.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from lab_utils.grading import notebook_file

    try:
        import resource
    except ImportError:  # Windows, where a student checks a notebook before handing it in
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        notebook = notebook_file.parse(sys.stdin.buffer.read())
        cells = [[cell.id, cell.grade_id, cell.kind, cell.source] for cell in notebook.cells]
        answer: dict[str, object] = {"cells": cells, "notes": notebook.notes}
    except notebook_file.Unreadable as problem:
        answer = {"what": problem.what, "remedy": problem.remedy}
    except MemoryError:
        answer = {"what": "文件太大，读不动", "remedy": notebook_file.CLEAR_OUTPUTS}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
