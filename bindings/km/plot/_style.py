"""What all plots share: matplotlib, colours and marks of the pictures, axes, titles, texts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km._kmviz import paint_hex
from km.draw._common import figure, model_name, number, records, visible
from km.errors import ArgumentError
from km.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure", "model_name", "number", "records"]

Theme: TypeAlias = Literal["light", "dark"]

# verdict -> colour, mark, whether it is filled; as in pictures and reports
WORDS: dict[str, tuple[str, str, bool]] = {
    "consistent": ("blue", "o", True),
    "inconsistent": ("vermilion", "^", True),
    "equivalent to none": ("purple", "s", False),
    "inconclusive": ("orange", "o", False),
    "not testable here": ("muted", "D", False),
}
NO_WORD = ("ink", "o", True)
SERIES = ("blue", "vermilion", "green", "purple", "orange", "sky")  # of groups, in this order
MARKERS = {"ellipse": "o", "box": "s", "triangle": "^", "invtriangle": "v", "diamond": "D"}
MAX_LABEL = 72  # characters
LABEL_LINE = 38
MAX_TITLE = 84  # characters of a line
MAX_SERIES = len(SERIES)


def require_matplotlib() -> Any:
    """The package, or an error that says how to get it."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError(
            "plots need matplotlib; install it with: pip install 'km[plot]'"
        ) from None
    return matplotlib


class Colours:
    """Colours of the pictures by name, for one theme."""

    def __init__(self, theme: Theme) -> None:
        if theme not in ("light", "dark"):
            raise ArgumentError(f"theme must be light or dark, not {theme!r}")
        self._dark = theme == "dark"

    def __getitem__(self, name: str) -> str:
        return paint_hex(name, dark=self._dark)


def begin(ax: Axes | None, colours: Colours, size: tuple[float, float] | None = None) -> Axes:
    """The axes given, or new ones of pyplot, of `size` inches; in the colours of the pictures."""
    require_matplotlib()
    if ax is None:
        from matplotlib import pyplot

        drawing, ax = pyplot.subplots(layout="constrained", figsize=size)
        drawing.set_facecolor(colours["paper"])
    ax.set_facecolor(colours["paper"])
    ax.tick_params(colors=colours["muted"], labelcolor=colours["ink"])
    for name, spine in ax.spines.items():
        spine.set_color(colours["line"])
        spine.set_visible(name in ("left", "bottom"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_color(colours["ink"])
    ax.set_axisbelow(True)
    return ax


def finish(
    ax: Axes, colours: Colours, title: str, facts: Iterable[str], *, legend: bool = True
) -> Axes:
    """Title with what the figures rest on below it, and a legend where something is named."""
    rest = textwrap.wrap(visible(", ".join(fact for fact in facts if fact)), MAX_TITLE)
    lines = [safe(line) for line in (*textwrap.wrap(visible(title), MAX_TITLE)[:2], *rest)]
    ax.set_title("\n".join(lines), loc="left", color=colours["ink"], fontsize=10)
    if legend and ax.get_legend_handles_labels()[1]:
        ax.legend(
            frameon=False, fontsize=8, labelcolor=colours["ink"], loc="upper left",
            bbox_to_anchor=(0.0, 0.0), ncols=3, borderaxespad=4.8,
        )  # fmt: skip
    return ax


def safe(text: object) -> str:
    """Text that matplotlib shows as it is: no mathematics, and no line that hides from legends."""
    shown = visible(text).replace("$", r"\$")
    return "\u2009" + shown if shown.startswith("_") else shown


def label(text: object) -> str:
    """A label for an axis: at most two lines, cut where it is long."""
    shown = visible(text)
    cut = shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"
    if len(cut) <= LABEL_LINE:
        return safe(cut)
    return "\n".join(map(safe, textwrap.wrap(cut, LABEL_LINE, break_long_words=False)))


def plain_logarithm(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10.0, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def counts(values: Sequence[int], noun: str = "") -> str:
    """The smallest and the largest n of several figures."""
    if not values:
        return ""
    least, most = min(values), max(values)
    spread = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"n = {spread} {noun}".strip()


def units_of(source: Any) -> dict[str, str]:
    """Units by column, where the source knows them."""
    return source.units if isinstance(source, Table) else {}


def names_of(source: Any, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the columns."""
    if isinstance(source, Table):
        return source.names
    return list(dict.fromkeys(name for row in rows for name in row))


def rows_of(source: Any, needed: Iterable[str], what: str) -> list[dict[str, Any]]:
    """The rows, with None where one lacks a column that others have.

    Raises
    ------
    ArgumentError
        There is no row, or a column is missing.
    """
    rows = records(source)
    if not rows:
        raise ArgumentError(f"{what}: there is no row to plot")
    names = names_of(source, rows)
    for name in needed:
        if name not in names:
            raise ArgumentError(f"{what} needs a column {name!r}; there are {', '.join(names)}")
    return rows if isinstance(source, Table) else [dict.fromkeys(names) | row for row in rows]


def with_unit(name: str, unit: str) -> str:
    """A name for an axis, such as "gain (nats)"."""
    words = name.replace("_", " ")
    return f"{words} ({unit})" if unit and unit not in words else words
