"""Show a run while it goes: a bar and the loss in a notebook, a few plain lines elsewhere."""

import os
import time

from lab_utils.artifacts.run_log import step_of, steps

LINES = 10  # plain lines printed over a whole run
REDRAW = 0.5  # seconds between redraws in a notebook


class Progress:
    """Follows one run's log. In a notebook one output is updated in place; without a kernel, or
    with LAB_HEADLESS=1, a line is printed at each tenth of the run."""

    def __init__(self, sub: str):
        self.sub = sub
        self.began = self.drawn = time.monotonic()
        self.printed = 0
        self.last = ""
        self.handle = None if headless() else _display(f"swift {sub} 启动中…")

    def update(self, rows: list[dict]) -> None:
        """Show the state that the log's `rows` tell; cheap when nothing changed."""
        done = steps(rows)
        total = next((at[1] for row in rows if (at := step_of(row))), 0)
        if self.handle is None:
            self._print(done, total)
        elif time.monotonic() - self.drawn > REDRAW:
            self.drawn = time.monotonic()
            self.last = _markup(done, total) or f"swift {self.sub} 启动中…"
            self._show(f"{self.last} {self.drawn - self.began:.0f} 秒")

    def close(self, status: str, seconds: float) -> None:
        """Show how it ended."""
        words = {"finished": "完成", "failed": "失败", "interrupted": "已中断"}[status]
        if self.handle is None:
            print(f"swift {self.sub} {words}，用时 {seconds:.0f} 秒", flush=True)
        else:
            self._show(
                f"{self.last if '<' in self.last else ''} swift {self.sub} {words}，用时 {seconds:.0f} 秒"
            )

    def _print(self, done: list[dict], total: int) -> None:
        tenth = done[-1]["step"] * LINES // total if done and total else 0
        if tenth > self.printed:
            self.printed = tenth
            print(_line(done, total), flush=True)

    def _show(self, markup: str) -> None:
        from IPython.display import HTML

        self.handle.update(HTML(markup))


def headless() -> bool:
    """Whether there is no notebook to draw in."""
    if os.environ.get("LAB_HEADLESS") == "1":
        return True
    try:
        from IPython import get_ipython
    except ImportError:
        return True
    shell = get_ipython()
    return shell is None or not hasattr(shell, "kernel")


def _display(text: str):
    from IPython.display import HTML, display

    return display(HTML(text), display_id=True)


def _line(done: list[dict], total: int) -> str:
    loss = next((row["loss"] for row in reversed(done) if "loss" in row), None)
    return f"第 {done[-1]['step']}/{total} 步" + ("" if loss is None else f"，loss {loss:.3f}")


def _markup(done: list[dict], total: int) -> str:
    if not done:
        return ""
    losses = [row["loss"] for row in done if "loss" in row]
    bar = f'<progress value="{done[-1]["step"]}" max="{total}" style="width:16em"></progress>'
    return f"{bar} {_line(done, total)} {_curve(losses)}"


def _curve(losses: list[float]) -> str:
    """A small line of the losses so far, as SVG."""
    if len(losses) < 2:
        return ""
    low, high = min(losses), max(losses)
    points = " ".join(
        f"{120 * i / (len(losses) - 1):.1f},{22 - 20 * (loss - low) / ((high - low) or 1):.1f}"
        for i, loss in enumerate(losses)
    )
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    return f'<svg width="124" height="24" style="vertical-align:middle">{line}</svg>'
