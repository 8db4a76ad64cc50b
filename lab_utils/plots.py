"""Figures of the labs: one look, readable Chinese, colours that survive greyscale."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab_utils.evaluate import Interval

FONTS = Path(__file__).parent / "assets" / "fonts"
DARK, BRIGHT, SOFT = "#1b4965", "#e07a1f", "#9fb8c8"
"""Dark blue, orange and light blue: far apart in lightness, safe for colour-blind readers."""


def use_course_style() -> None:
    """Set matplotlib up for the course: the shipped Chinese font, light grid, no box.

    Raises FileNotFoundError when the font is missing from the installation.
    """
    import matplotlib
    from matplotlib import font_manager

    fonts = sorted(FONTS.glob("*.[to]tf"))
    if not fonts:
        raise FileNotFoundError(f"找不到中文字体 (font)：{FONTS} 里没有 .ttf/.otf。请重新安装 lab_utils")
    for font in fonts:
        font_manager.fontManager.addfont(font)
    family = font_manager.FontProperties(fname=fonts[0]).get_name()
    matplotlib.rcParams.update(
        {
            "font.family": [family],
            "axes.unicode_minus": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 13,
            "axes.titlelocation": "left",
            "axes.prop_cycle": matplotlib.cycler(color=[DARK, BRIGHT, SOFT]),
            "grid.color": "#e6e6e6",
            "figure.figsize": (7.5, 3.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
        }
    )


def axes(title: str, xlabel: str, ylabel: str):
    """A figure with one pair of axes in the course's style; the axes."""
    import matplotlib.pyplot as plt

    use_course_style()
    _, ax = plt.subplots()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return ax


def curve(log, column: str, title: str, ylabel: str, smooth: int = 10):
    """One column of a run's log against the step, with its moving mean over `smooth` points; the axes.

    log: DataFrame with `step` and `column`; rows without a value are left out.
    """
    rows = log.dropna(subset=[column])
    ax = axes(title, "优化步数 (step)", ylabel)
    ax.plot(rows["step"], rows[column], color=SOFT, label="每步")
    if len(rows) > smooth:
        mean = rows[column].rolling(smooth, min_periods=1).mean()
        ax.plot(rows["step"], mean, color=DARK, linewidth=2, label=f"{smooth} 点移动平均")
        ax.legend(frameon=False)
    return ax


def rates(groups: Mapping[str, Mapping[str, Interval]], title: str, ylabel: str):
    """Grouped bars with their intervals; `groups`: group name → series name → interval. The axes."""
    ax = axes(title, "", ylabel)
    series = list(next(iter(groups.values())))
    width = min(0.8 / len(series), 0.3)
    for k, name in enumerate(series):
        values = [group[name] for group in groups.values()]
        at = [i + (k - (len(series) - 1) / 2) * width for i in range(len(groups))]
        errors = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        bars = ax.bar(at, [v.value for v in values], width * 0.92, yerr=errors, capsize=4, label=name)
        ax.bar_label(bars, [f"{v.value:.0%}" for v in values], padding=3)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.8, len(groups) - 0.2)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_ylim(0, 1.12)
    ax.legend(frameon=False, ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    ax.grid(axis="x", visible=False)
    return ax


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
    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in columns)
    rows = []
    for i in range(len(next(iter(columns.values())))):
        cells = []
        for name, texts in columns.items():
            mark = ("✅ " if marks[name][i] else "❌ ") if marks and name in marks else ""
            text = html.escape(texts[i]).replace("\n", "<br>")
            cells.append(f"<td style='text-align:left;vertical-align:top'>{mark}{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
