"""Where a widget can be shown, and the look of what is shown in one."""

import html
import os
import sys

from lab_utils import plots

VIEW = "application/vnd.jupyter.widget-view+json"
"""The MIME type under which a front end looks for a widget."""


def has_somebody_to_move_it() -> bool:
    """Whether a widget makes sense: ipywidgets is there, and somebody sits before this kernel."""
    return _has_widgets() and not _run_by_a_program()


def _has_widgets() -> bool:
    try:
        import ipywidgets  # noqa: F401  # only whether it is there
    except ImportError:
        return False
    return True


def _run_by_a_program() -> bool:
    """Whether nobody sits before this kernel, so that a widget would only leave a dead view in the notebook.

    `labs run` and `labs build` say so by LAB_HEADLESS; nbclient, nbval and `nbconvert --execute` by
    taking no input.
    """
    if os.environ.get("LAB_HEADLESS"):
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return kernel is not None and not getattr(kernel, "_allow_stdin", True)


def message_html(problem: Exception) -> str:
    """What went wrong, in a box."""
    style = f"border-left:4px solid {plots.BRIGHT};padding:6px 12px;margin:8px 0;line-height:1.6"
    return f"<div style='{style}'>⚠️ {html.escape(str(problem))}</div>"


def title_html(title: str) -> str:
    """The title of a widget."""
    return f"<b style='font-size:15px'>{html.escape(title)}</b>"
