"""A command that leaves as much behind as it can: children in and out of its session, shared memory, files.

`python process_family.py` prints one line of JSON when all of it is there: the ids of its processes and the paths
of its files. Each process ignores what a polite end would send.
"""

import json
import os
import signal
import sys
import tempfile
import time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    memory = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(memory._name, "shared_memory")  # nobody else tidies up
    _, file = tempfile.mkstemp()
    reader, writer = os.pipe()
    pids = [os.getpid()]
    for leave in (lambda: None, os.setsid, _twice):  # a child, one with a session of its own, an orphan
        if os.fork() == 0:
            leave()
            os.write(writer, f"{os.getpid()}\n".encode())
            _sleep()
        pids.append(int(os.read(reader, 100)))
    print(json.dumps({"pids": pids, "files": [file, f"/dev/shm/{memory.name}"]}), flush=True)
    _sleep()


def _twice() -> None:
    """Become an orphan in a session of its own, as a daemon does."""
    os.setsid()
    if os.fork():
        os._exit(0)


def _sleep() -> None:
    time.sleep(600)
    os._exit(0)


def left(facts: dict) -> list[str]:
    """What is still there of a family that printed `facts`."""
    import psutil

    processes = [pid for pid in facts["pids"] if psutil.pid_exists(pid)]
    alive = [pid for pid in processes if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    return [f"process {pid}" for pid in alive] + [file for file in facts["files"] if Path(file).exists()]


COMMAND = [sys.executable, "-P", __file__]

if __name__ == "__main__":
    main()
