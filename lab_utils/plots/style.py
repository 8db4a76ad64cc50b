"""The look of the labs' figures: readable Chinese, three colors that survive grayscale, a light grid."""

from pathlib import Path

from lab_utils.errors import NotFound

FONTS = Path(__file__).resolve().parents[1] / "assets" / "fonts"
DARK, BRIGHT, SOFT = "#1b4965", "#e07a1f", "#9fb8c8"
"""Dark blue, orange and light blue: far apart in lightness, safe for color-blind readers."""


def use_course_style() -> None:
    """Set matplotlib up for the course: the shipped Chinese font, light grid, no box.

    Raises FileNotFoundError when the font is missing from the installation.
    """
    import matplotlib
    from matplotlib import font_manager

    fonts = sorted(FONTS.glob("*.[to]tf"))
    if not fonts:
        raise NotFound(f"找不到中文字体 (font)：{FONTS} 里没有 .ttf/.otf", "请重新安装 lab_utils")
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for font in fonts:
        if str(font) not in known:
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
            "axes.prop_cycle": f"cycler('color', {[DARK, BRIGHT, SOFT]!r})",
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


def text_color(background: str) -> str:
    """Black or white, whichever can be read on the color `background`, `#rrggbb`."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else "black"
