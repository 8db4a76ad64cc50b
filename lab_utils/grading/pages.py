"""What the pages of the grader have in common: templates, a policy that lets nothing run or load, safe text."""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "pages"


@lru_cache(maxsize=1)
def css() -> str:
    return (FOLDER / "page.css").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def policy() -> str:
    """The Content-Security-Policy: this one style sheet, pictures inside the page, nothing else."""
    digest = base64.b64encode(hashlib.sha256(css().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of `assets/pages`; every value is escaped, a missing one raises."""
    return _environment().get_template(template).render(policy=policy(), **values)


@lru_cache(maxsize=1)
def _environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["css"] = Markup(css())  # noqa: S704  # our own file
    return made


def number(value: Any) -> str:
    """Points for people: 2, 1.5, 0.67."""
    return f"{round(float(value), 2):g}"
