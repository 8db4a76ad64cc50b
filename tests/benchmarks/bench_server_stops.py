"""Does a vLLM server leave anything behind? 30 servers, ended in every way there is.

Prints one line of JSON: how many ended each way, how many left a process, an open port, shared memory or
a temporary folder behind (`left`, must be 0), seconds from the end to nothing left, seconds of a start.
Each server is started by a process of its own, as by a notebook's kernel. Run with a number for fewer.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from lab_utils.guard import end_session, session_members

KERNEL = """
import json, os, signal, sys, time
from lab_utils import serving
from lab_utils.serving import vllm_server as module

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def started(self, *rest):
    begin(self, *rest)
    print(json.dumps({"session": self.pid, "port": self.port, "scratch": str(self.process.scratch)}), flush=True)

begin = module.Server.__init__
module.Server.__init__ = started
way = sys.argv[1]
with serving.serve("xiaoshi-base", log=sys.argv[2], check=False) as server:
    print(json.dumps({"seconds": server.seconds}), flush=True)
    if way == "kill, a fork lives on" and os.fork() == 0:
        sys.stdout.close()
        time.sleep(60)
        os._exit(0)
    if way == "exception":
        raise ZeroDivisionError
    if way != "stop":
        time.sleep(600)
"""
WAYS = ("kill while starting", "stop", "interrupt while starting", "kill", "kill while starting", "exception",
        "interrupt while starting", "kill the guard", "kill, a fork lives on", "terminate")  # fmt: skip
"""In this order, over and over. Seven of ten need a server that is up."""
PATIENCE = 60.0  # seconds after the end in which everything must be gone; how long it took is in the result


def run(way: str, folder: Path) -> dict:
    """Start a server, end it in this way, and look at what is left."""
    before = shared_memory()
    command = [sys.executable, "-c", KERNEL, way, str(folder / "server.log")]
    kernel = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    facts = next_fact(kernel)
    if "starting" in way:
        time.sleep(facts["port"] % 12)  # somewhere in the start, not always the same place
    else:
        facts |= next_fact(kernel)
    end(way, kernel, facts["session"])
    began = time.monotonic()
    watched = before if way != "kill the guard" else None  # with it died who would have tidied up
    while (left := what_is_left(facts, watched)) and time.monotonic() - began < PATIENCE:
        time.sleep(0.1)
    kernel.wait(PATIENCE)
    end_session(facts["session"])  # so that one failure doesn't make the next
    return {"way": way, "left": left, "gone": time.monotonic() - began, "start": facts.get("seconds")}


def next_fact(kernel: subprocess.Popen) -> dict:
    """The next line of JSON that the kernel prints."""
    for line in kernel.stdout:
        if "{" in line:
            return json.loads(line[line.index("{") :])
    raise RuntimeError(f"the kernel ended with {kernel.wait()}")


def end(way: str, kernel: subprocess.Popen, session: int) -> None:
    """Bring about the end; `stop` and `exception` come by themselves."""
    if way.startswith("interrupt"):
        kernel.send_signal(signal.SIGINT)
    elif way == "terminate":
        kernel.send_signal(signal.SIGTERM)
    elif way == "kill the guard":
        subprocess.run(["kill", "-9", str(session)], check=True)
        kernel.send_signal(signal.SIGKILL)
    elif way.startswith("kill"):
        kernel.kill()
    else:
        kernel.wait()


def shared_memory() -> set[Path]:
    """What Python's `multiprocessing.shared_memory` has made and nobody has removed, by whatever process."""
    return set(Path("/dev/shm").glob("psm_*"))


def what_is_left(facts: dict, before: set[Path] | None) -> list[str]:
    """Processes of the session, the port if somebody answers there; unless `before`, the shared memory that
    was there then, is None, also shared memory and the temporary folder."""
    left = [f"process {pid}" for pid in session_members(facts["session"])]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", facts["port"])) == 0:
            left.append(f"port {facts['port']}")
    if before is None:
        return left
    left += [str(file) for file in shared_memory() - before]
    return left + [facts["scratch"]] * Path(facts["scratch"]).exists()


def main(repeats: int) -> None:
    found = []
    for way in islice(cycle(WAYS), repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run(way, Path(folder)))
        print(f"{len(found)}: {found[-1]}", file=sys.stderr, flush=True)
    starts = sorted(one["start"] for one in found if one["start"])
    result = {
        "repeats": len(found),
        "ways": {way: sum(one["way"] == way for one in found) for way in dict.fromkeys(WAYS)},
        "left": sum(bool(one["left"]) for one in found),
        "what": [one for one in found if one["left"]],
        "gone_seconds_worst": round(max(one["gone"] for one in found), 2),
        "start_seconds_median": round(starts[len(starts) // 2], 1) if starts else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
