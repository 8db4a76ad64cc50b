"""Small tables that a notebook, a terminal or a web page shows: as HTML, and as text with aligned columns.

A Chinese character is two columns wide in a terminal; that is `rich`'s business. Tables of data are pandas'.
"""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    table_style: str = "",
    cell_styles: Sequence[str] = (),
) -> str:
    """A table as HTML. Cells are text and are escaped; one of the type `Html` goes in as it stands.

    header: one text a column. rows: as many cells each, or more, which then have no head. table_style: CSS of the
    table. cell_styles: CSS of each column's cells, head included; the last one serves the columns beyond it.
    """
    styles = [f" style='{style}'" if style else "" for style in cell_styles] or [""]

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = (
            f"<{tag}{styles[min(i, len(styles) - 1)]}>{cell if isinstance(cell, Html) else escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    style = f" style='{table_style}'" if table_style else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table{style}>{title}<thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"


class Html(str):
    """Text that is HTML already: `html_table` doesn't escape it."""

    __slots__ = ()


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], trailing: Sequence[str] = ()) -> str:
    """A table as text: the first column set left, the others right, a rule below the header.

    header: one text a column. rows: as many cells each. trailing: what follows behind each row, such as a bar.
    """
    from rich.cells import cell_len

    grid = [header, *rows]
    widths = [max(cell_len(row[i]) for row in grid) for i in range(len(header))]
    lines = []
    for row, end in zip_longest(grid, ["", *trailing], fillvalue=""):
        spaces = [" " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)]
        cells = [row[0] + spaces[0], *(space + text for text, space in zip(row[1:], spaces[1:], strict=True))]
        lines.append("  ".join([*cells, end]).rstrip())
    lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)
