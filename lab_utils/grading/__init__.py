"""Grading: submissions in, points and reasons out. A student's code runs in a sandbox; values are compared outside it.

The way of a submission: `submissions` (files and zips, walked once) → `notebook_file` (bytes → cells) → `answers`
(cells → answers) → `tasks` → `sandbox` ⇄ `inside` → `scoring` → a frozen `row.Row` → `policy` → rows, table, feedback,
gradebook, report. `grade_class` is the whole of it.
"""

from typing import Any

__all__ = ["GradingStopped", "Options", "Outcome", "Row", "grade_class"]


def __getattr__(name: str) -> Any:
    """What leaves the package, imported when it is asked for: it needs numpy and the checks."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lab_utils.grading import grade

    return getattr(grade, name)
