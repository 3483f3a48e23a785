"""Paired slopes: a line a pair, from before to after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.plot._style import (
    Colours,
    Theme,
    begin,
    finish,
    label,
    names_of,
    number,
    plain_logarithm,
    records,
    rows_of,
    safe,
    units_of,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED = 20  # pairs whose names fit beside the axes
FIRST = ("recall", "p", "logp")  # pairs that come before others
NO_FIGURES = ("state", "leading")


def find_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """Columns before and after: those of these names, or the first ``X_before`` with ``X_after``.

    Of several, recall, p and logp come first.
    """
    if "before" in names and "after" in names:
        return "before", "after"
    stems = [n.removesuffix("_before") for n in names if n.endswith("_before")]
    stems = [s for s in stems if f"{s}_after" in names and s not in NO_FIGURES]
    stems = [s for s in FIRST if s in stems] or stems
    return (f"{stems[0]}_before", f"{stems[0]}_after") if stems else None


def slopes(
    source: Any,
    ax: Axes | None = None,
    *,
    before: str | None = None,
    after: str | None = None,
    labels: str | None = None,
    log: bool = False,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """Pairs as lines from before to after: green where it rose, vermilion where it fell.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
    ax : Axes, optional
        None: new ones of pyplot.
    before, after : str, optional
        Columns; None: the first pair such as ``recall_before`` and ``recall_after``. Rows with a
        null in either are left out, and the title says how many.
    labels : str, optional
        Column with names, which stand at the right where there are at most 20 pairs.
    log : bool
        Logarithmic axis.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes
        With the mean of both ends as a thick line (geometric where the axis is logarithmic).
    """
    found = records(source)
    names = names_of(source, found)
    pair = find_pair(names) if before is None and after is None else (before, after)
    if pair is None or pair[0] is None or pair[1] is None:
        raise ArgumentError(
            "slopes need two columns, such as recall_before and recall_after; there are "
            + ", ".join(names)
        )
    ends = (pair[0], pair[1])
    rows = rows_of(found, (*ends, *([labels] if labels else [])), "slopes")
    kept = []
    for row in rows:
        a, b = (number(row[name]) for name in ends)
        if a is not None and b is not None:
            kept.append((a, b, "" if labels is None else str(row[labels])))
    if not kept:
        raise ArgumentError(f"slopes: no row has both {ends[0]} and {ends[1]}")
    if log and min(min(a, b) for a, b, _ in kept) <= 0.0:
        raise ArgumentError("slopes: a logarithmic axis needs figures above zero")
    colours = Colours(theme)
    ax = begin(ax, colours)
    _draw(ax, kept, colours, log)
    ax.set_xticks([0, 1], [safe(name.replace("_", " ")) for name in ends])
    ax.set_xlim(-0.15, 1.15)
    if log:
        ax.set_yscale("log")
        plain_logarithm(ax.yaxis)
    ax.set_ylabel(safe(with_unit(_stem(ends), units_of(source).get(ends[0], ""))))
    left = len(rows) - len(kept)
    facts = [f"n = {len(kept):,} pairs", model]
    facts.append(f"{left:,} without both figures left out" if left else "")
    return finish(ax, colours, title or "Before and after", facts)


def _stem(ends: tuple[str, str]) -> str:
    stem = ends[0].removesuffix("_before")
    return stem if ends[0].endswith("_before") and stem == ends[1].removesuffix("_after") else ""


def _draw(ax: Axes, pairs: Sequence[tuple[float, float, str]], colours: Colours, log: bool) -> None:
    from matplotlib.collections import LineCollection

    alpha = max(0.15, min(0.9, 12.0 / len(pairs)))
    for name, hue, chosen in (
        ("rose", "green", [p for p in pairs if p[1] > p[0]]),
        ("fell", "vermilion", [p for p in pairs if p[1] < p[0]]),
        ("the same", "muted", [p for p in pairs if p[1] == p[0]]),
    ):
        if chosen:
            ax.add_collection(
                LineCollection(
                    [[(0, a), (1, b)] for a, b, _ in chosen], colors=colours[hue], alpha=alpha,
                    linewidths=1.2, label=f"{name}: {len(chosen):,}", gid=name,
                )
            )  # fmt: skip
    means = [_mean([p[0] for p in pairs], log), _mean([p[1] for p in pairs], log)]
    name = "geometric mean" if log else "mean"
    ax.plot([0, 1], means, "o-", color=colours["ink"], lw=2.6, ms=5.0, label=name, gid="mean")
    if len(pairs) <= MAX_NAMED:
        for _, b, words in pairs:
            ax.annotate(
                label(words), (1, b), (6, 0), textcoords="offset points", va="center", fontsize=8,
                color=colours["muted"],
            )  # fmt: skip


def _mean(values: Sequence[float], log: bool) -> float:
    if log:
        return math.exp(math.fsum(math.log(x) for x in values) / len(values))
    return math.fsum(values) / len(values)
