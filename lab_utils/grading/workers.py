"""Jobs in processes of this machine, or on a Dask cluster that is already there. A job has a method `run`.

What comes back is what `run` gives, which is never a string, or a line that says why it gave nothing. A job whose process dies
is tried again, ATTEMPTS times in all; the other jobs go on.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, cast

ATTEMPTS = 3

Done = tuple[Any, Any]
"""A job, and its outcome."""


def outcome(job: Any) -> Any:
    """Run a job here. What goes wrong in it doesn't stop the others."""
    try:
        return job.run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------- processes of this machine


class _Worker:
    """A process that does one job at a time; `channel` closes when it dies."""

    def __init__(self, context: Any):
        self.channel, theirs = multiprocessing.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _safe_path():
            self._process.start()  # which starts the process that workers are forked from, if there is none
        theirs.close()

    def end(self) -> None:
        self.channel.close()
        self._process.kill()
        self._process.join()


def _work(channel: Connection) -> None:
    """What a worker does: a job in, its outcome out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = channel.recv()
        except EOFError:
            return
        channel.send(outcome(job))


def _end_with_parent() -> None:
    """Leave no worker and no sandbox behind when the command itself is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _safe_path() -> Iterator[None]:
    """The process that workers are forked from is a `python -c`, which would look for modules in the current folder
    first: code of a file that lies there would run as the grader."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def processes(jobs: Sequence[Any], workers: int, imports: Iterable[str] = ()) -> Iterator[Done]:
    """Do the jobs in so many processes, forked from one that has the `imports`; each job as it gets done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *imports])
    waiting = deque((job, 1) for job in jobs)
    idle = [_Worker(context) for _ in range(min(workers, len(jobs)))]
    busy: dict[Connection, tuple[_Worker, Any, int]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                job, attempt = waiting.popleft()
                busy[worker.channel] = worker, job, attempt
                with suppress(OSError):  # a worker that died meanwhile shows below
                    worker.channel.send(job)
            for channel in cast(list[Connection], wait(list(busy))):
                worker, job, attempt = busy.pop(channel)
                try:
                    found = channel.recv()
                except (EOFError, OSError):
                    found = None
                    worker.end()
                    worker = _Worker(context)
                idle.append(worker)
                if found is not None:
                    yield job, found
                elif attempt < ATTEMPTS:
                    waiting.append((job, attempt + 1))
                else:
                    yield job, "运行它的进程被终止了 (worker killed)"
    finally:
        for worker in [*idle, *(worker for worker, _, _ in busy.values())]:
            worker.end()


# ---------------------------------------------------------------- a cluster


def cluster(jobs: Sequence[Any], scheduler: str) -> Iterator[Done]:
    """Do the jobs on the Dask cluster at this address. Raises ConnectionError when the scheduler is lost."""
    import dask
    from distributed import Client

    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})
    with Client(scheduler, timeout="10s") as client:
        yield from _submit(client, jobs)


def _submit(client: Any, jobs: Sequence[Any]) -> Iterator[Done]:
    from distributed import as_completed

    attempts = {client.submit(outcome, job, pure=False): (job, 1) for job in jobs}
    running = as_completed(attempts)
    while attempts:
        if client.status not in ("running", "connecting"):
            raise ConnectionError("与 Dask 调度器 (scheduler) 的连接断了")
        if not running.has_ready():
            time.sleep(0.01)
            continue
        future = next(running)
        job, attempt = attempts.pop(future)
        if future.status == "finished":
            yield job, future.result()
        elif attempt < ATTEMPTS:
            again = client.submit(outcome, job, pure=False)
            attempts[again] = (job, attempt + 1)
            running.add(again)
        else:
            error = future.exception() if future.status == "error" else None
            yield job, f"{type(error).__name__}: {error}" if error else f"任务丢失 (task {future.status})"
        future.release()
