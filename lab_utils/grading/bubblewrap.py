"""The command line of bubblewrap: what a student's code sees of this machine, and what it doesn't.

It sees, read-only, the system's libraries, Python, the virtual environment, and `inside`; it may write into SCRATCH.
No network, no other process, no home, no course, no submissions.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
RUNNER = "/runner/runner.py"
SCRATCH = "/scratch"
SCRATCH_MIB = 64
_NOT_FOR_STUDENTS = ("/usr/src", "/usr/local/src", "/usr/local/share/nbgrader", "/usr/share/nbgrader")
"""Folders below /usr that hold what others wrote, nbgrader's exchange among them."""


def command(hidden: Iterable[Path]) -> list[str]:
    """The bubblewrap command, to be followed by the program. Nothing under a path of `hidden` can be seen inside."""
    prefixes = sorted({Path("/usr"), Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve()})
    covered = [Path(path).resolve() for path in (*hidden, *_installed_course())]
    covered += [Path(path) for path in _NOT_FOR_STUDENTS if Path(path).is_dir()]
    args = [
        *_namespaces(),
        *_system(),
        "--size",
        str(SCRATCH_MIB * 2**20),
        "--perms",
        "1777",
        "--tmpfs",
        SCRATCH,
    ]
    if not any(Path("/tmp") in prefix.parents for prefix in prefixes):  # noqa: S108  the sandbox has a /tmp of its own
        args += ["--symlink", SCRATCH.lstrip("/"), "/tmp"]  # noqa: S108  the same
    closing: list[str] = []
    for prefix in prefixes:
        for parent in reversed(prefix.parents[:-1]):  # else they are as closed as the originals
            args += ["--perms", "0755", "--dir", str(parent)]
        args += ["--ro-bind", str(prefix), str(prefix)]
        for path in covered:
            if prefix in path.parents:
                args += ["--tmpfs", str(path)]
                closing += ["--remount-ro", str(path)]
    args += closing
    args += ["--ro-bind", str(INSIDE), str(Path(RUNNER).parent), "--proc", "/proc", "--dev", "/dev"]
    args += ["--ro-bind", "/dev/null", "/dev/zero"]  # a mapping of it would be memory that no limit counts
    args += ["--size", str(2**20), "--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108  the sandbox's own
    args += ["--remount-ro", "/"]
    for name, value in environment(SCRATCH).items():
        args += ["--setenv", name, value]
    return [*args, "--chdir", SCRATCH, "--"]


def _namespaces() -> list[str]:
    args = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    args += ["--as-pid-1", "--cap-drop", "ALL"]
    if os.getuid() == 0:  # to become another user first of all; the runner then has no capability left
        args += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        return [*args, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*args, "--unshare-all", "--uid", "1000", "--gid", "1000"]


def _system() -> list[str]:
    args: list[str] = []
    for link in ("bin", "lib", "lib64", "sbin"):
        if Path("/", link).is_symlink():
            args += ["--symlink", f"usr/{link}", f"/{link}"]
        elif Path("/", link).exists():
            args += ["--ro-bind", f"/{link}", f"/{link}"]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        args += ["--ro-bind-try", file, file]
    return args


def _installed_course() -> list[Path]:
    """`lab_utils` where it is installed: its references aren't for students' code."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    places = [Path(folder) / "lab_utils" for folder in folders] + [Path(__file__).parent.parent]
    return [place for place in places if place.is_dir()]


def environment(scratch: str) -> dict[str, str]:
    """The environment variables of students' code."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "HOME": scratch, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": scratch, "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg",
        **dict.fromkeys(threads, "1"),
    }  # fmt: skip
