"""Texts as HTML: tokens in boxes that show which are supervised, answers side by side."""

import html
from collections.abc import Mapping, Sequence

from lab_utils.plots.style import BRIGHT
from lab_utils.tables import Html, html_table


def token_mask(tokens: Sequence[str], supervised: Sequence[bool]) -> str:
    """HTML that shows each token in a box: filled where it is supervised, hollow where masked."""
    boxes = []
    for token, on in zip(tokens, supervised, strict=True):
        shown = html.escape(token.replace("\n", "⏎").replace(" ", "␣"))
        style = f"background:{BRIGHT};color:#fff" if on else "color:#57606a"
        boxes.append(
            f'<span style="display:inline-block;border:1px solid #c8d1d9;border-radius:3px;margin:1px;'
            f'padding:1px 4px;font-family:monospace;{style}">{shown}</span>'
        )
    key = "橙色：计入损失 (supervised)；无色：标签为 -100，不计入"
    return f'<div style="line-height:2">{"".join(boxes)}</div><div style="color:#57606a">{key}</div>'


def side_by_side(
    columns: Mapping[str, Sequence[str]], marks: Mapping[str, Sequence[bool]] | None = None
) -> str:
    """HTML table of texts, one row an item; `marks` puts ✅ or ❌ before the texts of a column."""
    rows = []
    for i in range(len(next(iter(columns.values())))):
        cells = []
        for name, texts in columns.items():
            mark = ("✅ " if marks[name][i] else "❌ ") if marks and name in marks else ""
            cells.append(Html(mark + html.escape(texts[i]).replace("\n", "<br>")))
        rows.append(cells)
    return html_table(list(columns), rows, cell_styles=["text-align:left;vertical-align:top"])
