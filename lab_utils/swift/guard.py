"""Run a command and end it, with all it started, when the process that asked for it dies.

Run as a script in a session of its own: `python guard.py COMMAND…`. Its standard input is a
pipe held by the asking process; when that dies, even by `kill -9`, the pipe closes, and the
whole process group is killed.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=kill_when_orphaned, daemon=True).start()
    return child.wait()


def kill_when_orphaned() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    os._exit(code if code >= 0 else 128 - code)
