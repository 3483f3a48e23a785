"""Which plot a table gets: the first kind whose columns it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.plot._curves import curves
from km.plot._forest import find_estimate, forest
from km.plot._reliability import reliability
from km.plot._slopes import find_pair, slopes
from km.plot._spread import spread
from km.plot._survival import survival

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from km.table import Table

Plot = Callable[..., "Axes"]

PLOTS: dict[str, Plot] = {
    "survival": survival,
    "reliability": reliability,
    "spread": spread,
    "slopes": slopes,
    "curves": curves,
    "forest": forest,
}
# In the order in which they are tried: kind, what it needs in words, whether names have it.
RULES: tuple[tuple[str, str, Callable[[Sequence[str]], bool]], ...] = (
    (
        "survival",
        "time and event; or layer and not_leading",
        lambda names: _has(names, "time", "event") or _has(names, "layer", "not_leading"),
    ),
    ("reliability", "confidence and correct", lambda n: _has(n, "confidence", "correct")),
    (
        "spread",
        "relation, fact, template and correct",
        lambda names: _has(names, "relation", "fact", "template", "correct"),
    ),
    (
        "slopes",
        "before and after; or X_before and X_after",
        lambda names: find_pair(names) is not None,
    ),
    (
        "curves",
        "step and loss; or series, R and predicted",
        lambda names: _has(names, "step", "loss") or _has(names, "series", "R", "predicted"),
    ),
    (
        "forest",
        "an estimate (estimate, difference, recall, ratio, ...) with low and high",
        lambda names: find_estimate(names) is not None,
    ),
)


def _has(names: Sequence[str], *wanted: str) -> bool:
    return all(name in names for name in wanted)


def kind_of(names: Sequence[str]) -> str | None:
    """The first kind whose columns are there; None where none fits."""
    return next((kind for kind, _, fits in RULES if fits(names)), None)


def plot_table(
    table: Table, kind: str | None = None, ax: Axes | None = None, **options: Any
) -> Axes:
    """Plot a table; what :meth:`km.Table.plot` does.

    Raises
    ------
    ArgumentError
        There is no such kind, or the table has the columns of none.
    """
    if kind is not None and kind not in PLOTS:
        raise ArgumentError(f"no kind of plot {kind!r}; there are {', '.join(PLOTS)}")
    chosen = kind or kind_of(table.names)
    if chosen is None:
        needs = "; ".join(f"{name}: {columns}" for name, columns, _ in RULES)
        raise ArgumentError(
            f"no kind of plot fits the columns {', '.join(table.names)}. Needed are, for {needs}"
        )
    if chosen == "curves" and not _has(table.names, "step", "loss"):
        options = _law(table) | options
    return PLOTS[chosen](table, ax, **options)


def _law(table: Table) -> dict[str, Any]:
    """Cells of an overshadowing series: R by the factor its name begins with."""
    if not _has(table.names, "series", "R", "predicted") or not len(table):
        return {}
    return {
        "x": str(table["series"][0])[0],
        "y": "R",
        "group": "part",
        "predicted": "predicted",
        "points": True,
        "log": True,
    }
