"""Estimates with intervals on one axis, as numbers that a template draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 210.0  # of the axis, in points
EDGE = 8.0  # kept free at both ends


@dataclass
class Mark:
    """One interval: places on the axis, in points; None where there is no such figure."""

    x: float | None
    low: float | None
    high: float | None
    shape: str


@dataclass
class Axis:
    """An axis that all rows of a group share.

    Attributes
    ----------
    null : float or None
        Place of the figure without an effect.
    band : (float, float) or None
        Places between which an effect is smaller than is of interest.
    ticks : list of (float, str)
        Place and text.
    """

    null: float | None
    band: tuple[float, float] | None
    ticks: list[tuple[float, str]]
    begin: float
    end: float

    def place(self, value: object) -> float | None:
        """Where a value stands; None where there is none."""
        if not _finite(value):
            return None
        share = (float(value) - self.begin) / (self.end - self.begin)  # type: ignore[arg-type]
        return round(EDGE + min(max(share, 0.0), 1.0) * (WIDTH - 2 * EDGE), 2)

    def mark(self, row: Mapping[str, Any]) -> Mark:
        """The interval of a row with estimate, low, high and word."""
        x, low, high = (self.place(row.get(name)) for name in ("estimate", "low", "high"))
        return Mark(x, low, high, slug(row.get("word")))


def slug(word: object) -> str:
    """A verdict's word as a class; "plain" without one."""
    return str(word).replace(" ", "-") if word else "plain"


def axis(
    rows: Iterable[Mapping[str, Any]], null: float | None = None, smallest: float | None = None
) -> Axis:
    """The axis that holds all figures of some rows, the null value and the band around it."""
    values = [
        float(row[name])
        for row in rows
        for name in ("estimate", "low", "high")
        if _finite(row.get(name))
    ]
    band = None
    if null is not None:
        values.append(null)
        if smallest:
            values += [null - smallest, null + smallest]
    begin, end = (min(values), max(values)) if values else (0.0, 1.0)
    if begin == end:
        begin, end = begin - 1.0, end + 1.0
    made = Axis(None, None, [], begin, end)
    if null is not None:
        made.null = made.place(null)
        if smallest:
            ends = (made.place(null - smallest), made.place(null + smallest))
            band = (ends[0] or 0.0, ends[1] or 0.0)
    made.band = band
    made.ticks = [(made.place(value) or 0.0, f"{value:.3g}") for value in _ticks(begin, end)]
    return made


def _ticks(begin: float, end: float) -> Sequence[float]:
    """Two to five round values from begin to end."""
    raw = (end - begin) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(begin / step - 1e-9)
    last = math.floor(end / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
