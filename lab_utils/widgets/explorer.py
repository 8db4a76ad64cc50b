"""An explorer: controls, and a picture and a table that follow them; a table alone where no widget can be shown."""

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.tables import html_table, text_table
from lab_utils.widgets.front_end import VIEW, has_somebody_to_move_it, message_html, title_html

PIXELS_PER_INCH = 120
"""Of the pictures: somewhat more than a notebook shows, for sharp screens."""


@dataclass(frozen=True)
class Control:
    """One thing to set: its label, the values it can take, in order, and the one it starts with."""

    label: str
    options: tuple
    value: Any
    kind: str = "slider"
    """"slider", "menu", or "switch" for a choice between False and True."""
    show: Callable[[Any], str] = str
    """How a value is written beside the slider."""

    def widget(self):
        """An ipywidgets control for it."""
        import ipywidgets

        look = {
            "description": self.label,
            "style": {"description_width": "112px"},
            "layout": {"width": "auto"},
        }
        if self.kind == "switch":
            return ipywidgets.Checkbox(value=self.value, **look)
        kind = {"slider": ipywidgets.SelectionSlider, "menu": ipywidgets.Dropdown}[self.kind]
        return kind(options=[(self.show(v), v) for v in self.options], value=self.value, **look)


@dataclass(frozen=True)
class Reading:
    """What an explorer tells about one setting: a line, a table, and how to draw the picture."""

    headline: str
    columns: tuple[str, ...]
    """The first holds text and is set left, the others right."""
    rows: Sequence[tuple[str, ...]]
    draw: Callable[[Any], None]
    """Draws on an empty matplotlib Figure."""
    note: str = ""
    shares: Sequence[float] = ()
    """A share from 0 to 1 for each row: a bar of blocks beside it where the picture isn't shown."""

    def __str__(self) -> str:
        table = text_table(self.columns, self.rows, [_bar(share) for share in self.shares])
        return "\n".join([self.headline, "", table, *([self.note] if self.note else [])])

    def html(self, bars: bool) -> str:
        """The table and the note as HTML, with the bars of `shares` or without."""
        line = "padding:1px 16px 1px 0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
        styles = [f"{line}left", *[f"{line}right"] * (len(self.columns) - 1), f"color:{plots.BRIGHT}"]
        rows = [
            row if share is None else (*row, _bar(share))
            for row, share in zip_longest(self.rows, self.shares if bars else ())
        ]
        table = html_table(
            self.columns, rows, table_style="border-collapse:collapse;line-height:1.5", cell_styles=styles
        )
        note = f"<div style='opacity:.7;margin-top:6px'>{html.escape(self.note)}</div>" if self.note else ""
        return table + note


class Explorer:
    """Controls, and what they give: a picture and a table, or a message where a setting is impossible."""

    def __init__(self, title: str, controls: Mapping[str, Control], read: Callable[..., Reading]):
        """`read` takes the controls' values by name; its ValueError is shown in place of the picture."""
        self.title = title
        self.controls = dict(controls)
        self.values = {name: control.value for name, control in controls.items()}
        """The present setting."""
        self._read = read

    def set(self, **values) -> "Explorer":
        """Change the setting; the explorer itself, so that it shows when the call ends a cell.

        Raises ValueError, changing nothing, for an unknown name or a value the control doesn't have.
        """
        for name, value in values.items():
            if name not in self.controls:
                raise InvalidValue(f"没有叫 {name!r} 的设置", f"可以改的有：{'、'.join(self.controls)}")
            options = self.controls[name].options
            if value not in options:
                raise InvalidValue(f"{name} 不能是 {value!r}", f"可选：{listed(options)}")
        self.values |= values
        if "widgets" in vars(self):
            for name, value in values.items():
                self.widgets[name].value = value
        self._refresh()
        return self

    def reading(self) -> Reading:
        """What the present setting gives. Raises ValueError when it is impossible."""
        return self._read(**self.values)

    @cached_property
    def widgets(self) -> dict:
        """Name of a setting → its ipywidgets control, whose `value` may be assigned."""
        made = {}
        for name, control in self.controls.items():
            made[name] = control.widget()
            made[name].value = self.values[name]
            made[name].observe(lambda change, name=name: self._moved(name, change["new"]), names="value")
        return made

    @cached_property
    def view(self):
        """The explorer as one widget, its picture a PNG."""
        import ipywidgets

        title = ipywidgets.HTML(title_html(self.title))
        self._headline = ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="png", layout={"width": "98%", "max_width": "780px"})
        self._table = ipywidgets.HTML()
        left = ipywidgets.VBox([title, *self.widgets.values()], layout={"flex": "0 1 400px"})
        right = ipywidgets.VBox(
            [self._headline, self._picture, self._table], layout={"flex": "1 1 480px", "overflow": "visible"}
        )
        self._show()
        return ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})

    def _moved(self, name: str, value: Any) -> None:
        """A control has moved, by hand or by `set`, which has then noted the value already."""
        if self.values[name] != value:
            self.values[name] = value
            self._refresh()

    def _refresh(self) -> None:
        if "view" in vars(self):
            self._show()

    def _show(self) -> None:
        """Bring the view up to the present setting; a message takes the place of an impossible picture."""
        try:
            reading = self.reading()
            self._headline.value, self._table.value = _headline(reading), reading.html(bars=False)
            self._picture.value = _png(reading)
            self._picture.layout.visibility = None
        except ValueError as problem:
            self._headline.value, self._table.value = message_html(problem), ""
            self._picture.layout.visibility = "hidden"  # its room stays, so nothing jumps

    def __str__(self) -> str:
        try:
            return f"{self.title}\n{self.reading()}"
        except ValueError as problem:
            return f"{self.title}\n⚠️ {problem}"

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The table as text and HTML, and the widget where somebody can move it."""
        try:
            reading = self.reading()
            text, words = str(reading), _headline(reading) + reading.html(bars=True)
        except ValueError as problem:
            text, words = f"⚠️ {problem}", message_html(problem)
        name = next(iter(self.values))
        way = f"在 JupyterLab 里运行这一格，就有滑块和图；没有滑块的地方用 .set({name}=…) 换设置。"
        bundle = {
            "text/plain": f"{self.title}\n{text}",
            "text/html": f"<h4>{html.escape(self.title)}</h4>{words}<p style='opacity:.7'>{way}</p>",
        }
        if has_somebody_to_move_it():
            bundle[VIEW] = self.view._repr_mimebundle_()[VIEW]
        return bundle


def _png(reading: Reading) -> bytes:
    """The picture, drawn outside pyplot: no figure stays open, and no back end shows it a second time."""
    import matplotlib
    from matplotlib.figure import Figure

    plots.use_course_style()
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        figure = Figure()
    reading.draw(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PIXELS_PER_INCH)
    return png.getvalue()


def _headline(reading: Reading) -> str:
    return f"<div style='line-height:1.6'><b>{html.escape(reading.headline)}</b></div>"


def listed(options: Sequence) -> str:
    """The options in a message, those in the middle left out where they are many."""
    shown = [repr(option) for option in options]
    return "、".join(shown if len(shown) <= 12 else [*shown[:6], "…", *shown[-5:]])


def _bar(share: float) -> str:
    """A share from 0 to 1 as a row of blocks, twenty for the whole: readable where no picture is."""
    return "█" * round(20 * share) or "▏"
