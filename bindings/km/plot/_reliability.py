"""Reliability diagrams: accuracy beside confidence, in bins with intervals and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from km.errors import ArgumentError
from km.plot._style import Colours, Theme, begin, finish, number, rows_of, safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from km.stats import Interval


class Bin(NamedTuple):
    """Answers of similar confidence: its mean, the share that is right with Wilson's interval."""

    confidence: float
    right: Interval


def reliability(
    source: Any,
    ax: Axes | None = None,
    *,
    confidence: str = "confidence",
    correct: str = "correct",
    bins: int = 10,
    by: Literal["width", "count"] = "width",
    level: float = 0.95,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """Accuracy by confidence, beside the diagonal where both are the same.

    Points stand at the mean confidence of a bin, with Wilson's interval of the accuracy (rows taken
    as independent) and the number of rows. The expected calibration error in the title is the mean
    distance of the points from the diagonal, weighted by rows; it depends on the bins.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
    ax : Axes, optional
        None: new ones of pyplot.
    confidence, correct : str
        Columns: a probability, and whether the answer was right. Rows with a null are left out, and
        the title says how many.
    bins : int
    by : {"width", "count"}
        Bins of the same width from 0 to 1, or of the same number of rows.
    level : float
        Of the intervals.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes
    """
    rows = rows_of(source, (confidence, correct), "a reliability diagram")
    pairs = [
        (p, bool(row[correct]))
        for row in rows
        if (p := number(row[confidence])) is not None and row[correct] is not None
    ]
    found = calibration(pairs, bins, by, level)
    colours = Colours(theme)
    ax = begin(ax, colours)
    ax.plot([0, 1], [0, 1], "--", color=colours["muted"], lw=1.0, label="as confident as right")
    x = [one.confidence for one in found]
    y = [one.right.estimate for one in found]
    below = [max(0.0, one.right.estimate - one.right.low) for one in found]
    above = [max(0.0, one.right.high - one.right.estimate) for one in found]
    ax.errorbar(
        x, y, [below, above], fmt="o", color=colours["blue"], lw=1.8, ms=6.0,
        label=f"share that is right, {100 * level:g} % interval",
    )  # fmt: skip
    for one in found:
        ax.annotate(
            f"{one.right.n:,}", (one.confidence, one.right.high), (0, 3), gid="n", ha="center",
            textcoords="offset points", fontsize=8, color=colours["muted"],
        )  # fmt: skip
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.08), ylabel="accuracy")
    ax.set_xlabel(safe(confidence.replace("_", " ")))
    left = len(rows) - len(pairs)
    facts = [
        f"n = {len(pairs):,}",
        f"expected calibration error {calibration_error(found):.3f} in {len(found)} bins",
        model,
        f"{left:,} rows without a figure left out" if left else "",
    ]
    return finish(ax, colours, title or "Reliability", facts)


def calibration(
    pairs: Sequence[tuple[float, bool]], bins: int = 10, by: str = "width", level: float = 0.95
) -> list[Bin]:
    """The bins that hold something, by confidence.

    Raises
    ------
    ArgumentError
        There is nothing, a confidence is no probability, or an option is not valid.
    """
    from km.stats import wilson

    if not pairs:
        raise ArgumentError("a reliability diagram: no row has a confidence and an answer")
    if by not in ("width", "count") or bins < 1:
        raise ArgumentError(f"bins are at least 1, by width or count, not {bins} by {by!r}")
    for p, _ in pairs:
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"a confidence is {p}, must lie between 0 and 1")
    ordered = sorted(pairs, key=lambda pair: pair[0])
    groups: dict[int, list[tuple[float, bool]]] = {}
    for place, pair in enumerate(ordered):
        part = pair[0] if by == "width" else place / len(ordered)
        groups.setdefault(min(bins - 1, math.floor(part * bins)), []).append(pair)
    return [
        Bin(
            math.fsum(p for p, _ in own) / len(own),
            wilson(sum(right for _, right in own), len(own), confidence=level),
        )
        for own in groups.values()
    ]


def calibration_error(found: Sequence[Bin]) -> float:
    """Mean distance of accuracy and confidence over the bins, weighted by rows."""
    n = sum(one.right.n for one in found)
    return math.fsum(abs(one.right.estimate - one.confidence) * one.right.n for one in found) / n


def two_way(logp: float, rival: float) -> float:
    """Probability of the likelier of two answers, from both log-probabilities."""
    return 1.0 / (1.0 + math.exp(-abs(logp - rival)))
