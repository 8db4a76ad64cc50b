"""Show a run while it goes: a bar and the loss in a notebook, a few plain lines elsewhere."""

import math
import os
import time

from lab_utils.artifacts.run_log import step_of, steps

LINES = 10
"""Plain lines printed over a whole run."""
REDRAW = 0.5
"""Seconds between redraws in a notebook."""
WIDTH = 120
"""Width of the curve in units of SVG."""


class Progress:
    """Follows one run's log. In a notebook one output is updated in place; without a kernel, or
    with LAB_HEADLESS=1, a line is printed at each tenth of the run."""

    def __init__(self, sub: str):
        self.sub = sub
        self.began = self.drawn = time.monotonic()
        self.printed = self.total = 0
        self.done: dict = {}
        self.losses: list[float] = []
        self.handle = None if headless() else _display(f"swift {sub} 启动中…")

    def update(self, rows: list[dict]) -> None:
        """Show the state of the run; `rows`: what is new in its log since the last call."""
        for row in rows:
            if not self.total and (at := step_of(row)):
                self.total = at[1]
        for row in steps(rows):
            self.done = row
            if "loss" in row:
                self.losses.append(row["loss"])
        if self.handle is None:
            self._print()
        elif time.monotonic() - self.drawn > REDRAW:
            self.drawn = time.monotonic()
            self._show(f"{self._markup() or f'swift {self.sub} 启动中…'} {self.drawn - self.began:.0f} 秒")

    def close(self, status: str, seconds: float) -> None:
        """Show how it ended."""
        words = {"finished": "完成", "failed": "失败", "interrupted": "已中断"}[status]
        if self.handle is None:
            print(f"swift {self.sub} {words}，用时 {seconds:.0f} 秒", flush=True)
        else:
            self._show(f"{self._markup()} swift {self.sub} {words}，用时 {seconds:.0f} 秒")

    def _print(self) -> None:
        tenth = self.done["step"] * LINES // self.total if self.done and self.total else 0
        if tenth > self.printed:
            self.printed = tenth
            print(self._line(), flush=True)

    def _line(self) -> str:
        loss = f"，loss {self.losses[-1]:.3f}" if self.losses else ""
        return f"第 {self.done['step']}/{self.total} 步{loss}"

    def _markup(self) -> str:
        """Bar, line and curve as HTML; empty before the first step."""
        if not self.done:
            return ""
        bar = f'<progress value="{self.done["step"]}" max="{self.total}" style="width:16em"></progress>'
        return f"{bar} {self._line()} {_curve(self.losses)}"

    def _show(self, markup: str) -> None:
        from IPython.display import HTML

        if self.handle is not None:
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


def _curve(losses: list[float]) -> str:
    """A small line of the losses so far, as SVG: of many losses so many that the line has one at each unit."""
    if len(losses) < 2:
        return ""
    losses = [*losses[:: math.ceil(len(losses) / WIDTH)], losses[-1]]
    low, high = min(losses), max(losses)
    points = " ".join(
        f"{WIDTH * i / (len(losses) - 1):.1f},{22 - 20 * (loss - low) / ((high - low) or 1):.1f}"
        for i, loss in enumerate(losses)
    )
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    return f'<svg width="{WIDTH + 4}" height="24" style="vertical-align:middle">{line}</svg>'
