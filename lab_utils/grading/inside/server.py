"""The first process of the sandbox: imports once, forks for each answer.

`runner.py FD JSON`: FD is a socket to the grader, JSON holds `confined`, `user`, `scratch`, and `preload`, modules to
import before the first fork. For each request, a message with a socket attached, it forks a child (`child`), waits
until it is gone, and clears away what it left. What one child does reaches no other: children run one after the
other, and share nothing that they can write but the scratch folder, which is put in order between them.
"""

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from . import child, confine

FILES_LIMIT = 1000
"""Files and folders in the scratch folder at a time: each costs memory of the kernel that no other limit counts."""
_TICK = 0.02
_WIPE_AT_MOST = 200
_SCRATCH_MODE = 0o1777


def main() -> None:
    """Serve until the grader hangs up."""
    control = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    if options["confined"]:
        become(options["user"])
        confine.undumpable()
    for name in ("IPython.core.inputtransformer2", *options["preload"]):
        try:
            importlib.import_module(name)
        except ImportError:  # the answer that needs it will say so
            continue
    if "numpy" in sys.modules:
        importlib.import_module("numpy.random")  # which numpy itself puts off until it is used
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ignores every signal it doesn't handle
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": True}).encode())
    while True:
        body, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not body:
            return
        if not descriptors:  # a word to stop that came when the child had ended by itself
            continue
        channel = socket.socket(fileno=descriptors[0])
        request = {**json.loads(body), **options}
        ended = _serve(request, control, channel)
        channel.close()
        if ended is None:
            return
        usable = _wipe(options["scratch"], options["confined"])
        control.send(json.dumps({**ended, "usable": usable}).encode())
        if not usable:
            return


def become(user: int) -> None:
    """Where root started the sandbox: the user of this number, which owns nothing; its capabilities are gone then.

    Raises OSError when that fails, unless `root` is only the name of an ordinary user in a namespace of its own.
    """
    if os.getuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        if not _is_mapped():
            raise
        return
    if (os.getresuid(), os.getresgid(), os.getgroups()) != ((user,) * 3, (user,) * 3, []):
        raise OSError(f"still user {os.getresuid()}, group {os.getresgid()}, groups {os.getgroups()}")


def _is_mapped() -> bool:
    """Whether user 0 of this namespace is another user outside of it."""
    with open("/proc/self/uid_map") as file:
        return [line.split()[:2] for line in file] != [["0", "0"]]


def _serve(request: dict, control: socket.socket, channel: socket.socket) -> dict | None:
    """Run one child to its end; how it ended, or None when the grader hung up."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            control.close()
            child.serve(request, channel)
            status = 0
        finally:
            os._exit(status)
    channel.close()
    return _watch(process, control, request)


def _watch(process: int, control: socket.socket, request: dict) -> dict | None:
    """Wait for the child; kill it for memory, files or time, or when the grader says so."""
    ceiling = _resident_mib(process) + request["memory_mib"]
    deadline = time.monotonic() + request["seconds"]
    why, hung_up = "", False
    poller = os.pidfd_open(process)
    try:
        while True:
            watched: list[Any] = [poller, control]
            ready = select.select(watched, [], [], _TICK)[0]
            if poller in ready:
                break
            if control in ready:
                hung_up = not control.recv(65536)
                why = "stopped"
            elif _resident_mib(process) > ceiling:
                why = "memory"
            elif request["confined"] and _files(request["scratch"]) > FILES_LIMIT:
                why = "files"
            elif time.monotonic() > deadline:
                why = "time"
            if why:
                os.kill(process, signal.SIGKILL)
                break
    finally:
        os.close(poller)
    _, status = os.waitpid(process, 0)
    return None if hung_up else {"ended": os.waitstatus_to_exitcode(status), "why": why}


def _resident_mib(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def _files(folder: str) -> int:
    """Inodes that the file system of a folder has in use."""
    found = os.statvfs(folder)
    return found.f_files - found.f_ffree


def _wipe(folder: str, confined: bool) -> bool:
    """Empty the scratch folder. False when there is so much in it that a new sandbox is quicker, or it can't be done.

    Of the folder itself, mode, times and attributes are put back, as a child may have left a message in them.
    """
    left = 0
    for _, folders, files in os.walk(folder):
        left += len(folders) + len(files)
        if left > _WIPE_AT_MOST:
            return False
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        if os.stat(folder).st_uid == os.getuid():
            os.chmod(folder, _SCRATCH_MODE if confined else 0o700)
            os.utime(folder, (0, 0))
            for name in os.listxattr(folder):
                with suppress(OSError):
                    os.removexattr(folder, name)
        else:
            os.utime(folder)
    except OSError:
        return False
    return True
