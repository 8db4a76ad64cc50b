"""The table of labs in README.md and README.zh.md, made from the manifest."""

import re

from lab_utils import course
from lab_utils.authoring.master import Finding
from lab_utils.errors import InvalidValue
from lab_utils.files import write_atomic

LANGUAGES = {"README.md": "en", "README.zh.md": "zh"}
_TABLE = re.compile(r"(<!-- labs:begin.*?-->\n).*?(<!-- labs:end -->)", re.DOTALL)


def with_table(text: str, language: str) -> str:
    """`text` with the manifest's table between its two marks. Raises InvalidValue when they are missing."""
    if not _TABLE.search(text):
        raise InvalidValue("README 里找不到标记 <!-- labs:begin … --> 和 <!-- labs:end -->", "请补上")
    return _TABLE.sub(lambda match: match[1] + course.readme_table(language) + match[2], text)


def update() -> None:
    """Rewrite the table in both READMEs of the course that are there."""
    for name, language in LANGUAGES.items():
        path = course.root() / name
        if path.is_file():
            write_atomic(path, with_table(path.read_text(encoding="utf-8"), language))


def check() -> list[Finding]:
    """A finding for each README whose table is not the manifest's."""
    findings = []
    for name, language in LANGUAGES.items():
        path = course.root() / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text and with_table(text, language) != text:
            findings.append(
                Finding(name, "table", 0, "实验的表与课程清单 (manifest.toml) 不同；运行 labs build")
            )
    return findings
