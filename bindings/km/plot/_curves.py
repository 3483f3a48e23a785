"""Curves: one figure against another, with intervals and what a law predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.plot._style import (
    MAX_SERIES,
    SERIES,
    Colours,
    Theme,
    begin,
    finish,
    number,
    plain_logarithm,
    rows_of,
    safe,
    units_of,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curves(
    source: Any,
    ax: Axes | None = None,
    *,
    x: str = "step",
    y: str = "loss",
    group: str | None = None,
    predicted: str | None = None,
    points: bool = False,
    log: bool = False,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """One column against another: lines, or points with their intervals.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
        Columns low and high are taken as the interval of `y` where points are drawn.
    ax : Axes, optional
        None: new ones of pyplot.
    x, y : str
        Columns. Rows with a null in either are left out, and the title says how many.
    group : str, optional
        Column whose values get colours of their own, at most six.
    predicted : str, optional
        Column with what a law says, drawn as a dashed line over all rows.
    points : bool
        Points instead of lines.
    log : bool
        Logarithmic horizontal axis.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes
    """
    needed = (x, y, *(name for name in (group, predicted) if name is not None))
    rows = rows_of(source, needed, "curves")
    kept = [row for row in rows if number(row[x]) is not None and number(row[y]) is not None]
    if not kept:
        raise ArgumentError(f"curves: no row has both {x} and {y}")
    kept.sort(key=lambda row: float(row[x]))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in kept:
        groups.setdefault("" if group is None else str(row[group]), []).append(row)
    if len(groups) > MAX_SERIES:
        raise ArgumentError(f"curves: {len(groups)} groups, at most {MAX_SERIES} are told apart")
    colours = Colours(theme)
    ax = begin(ax, colours)
    for hue, (name, own) in zip(SERIES, groups.items(), strict=False):
        words = safe(f"{name}, n = {len(own):,}") if name else None
        _draw(ax, own, x, y, colours[hue], points, words)
    if predicted is not None:
        known = [row for row in kept if number(row[predicted]) is not None]
        ax.plot(
            [row[x] for row in known], [row[predicted] for row in known], "--", gid="predicted",
            color=colours["ink"], lw=1.2, label=safe(predicted.replace("_", " ")),
        )  # fmt: skip
    if log:
        ax.set_xscale("log")
        plain_logarithm(ax.xaxis)
    units = units_of(source)
    ax.set_xlabel(safe(with_unit(x, units.get(x, ""))))
    ax.set_ylabel(safe(with_unit(y, units.get(y, ""))))
    left = len(rows) - len(kept)
    facts = [f"n = {len(kept):,}", model]
    facts.append(f"{left:,} without both figures left out" if left else "")
    return finish(ax, colours, title or f"{with_unit(y, '')} by {with_unit(x, '')}", facts)


def _draw(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    hue: str,
    points: bool,
    words: str | None,
) -> None:
    at, values = [float(row[x]) for row in rows], [float(row[y]) for row in rows]
    if not points:
        ax.plot(at, values, color=hue, lw=1.6, label=words, gid="curve")
        return
    ax.plot(at, values, "o", color=hue, ms=5.0, label=words, gid="curve")
    spans = [
        (place, low, high)
        for place, row in zip(at, rows, strict=True)
        if (low := number(row.get("low"))) is not None
        and (high := number(row.get("high"))) is not None
    ]
    if spans:
        places, lows, highs = zip(*spans, strict=True)
        ax.vlines(places, lows, highs, color=hue, lw=1.2, alpha=0.6)
