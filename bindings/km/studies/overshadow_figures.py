"""The figures that an overshadowing study judges its predictions by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from km import _km, stats
from km.ledger import Prediction
from km.overshadow.law import Factor, Law
from km.regression import t_quantile

POWER = 0.8


@dataclass
class Figure:
    """An estimate with its interval at the prediction's level; None where it is not identified.

    Attributes
    ----------
    detectable : float or None
        Smallest distance from the prediction's null that is seen four times in five.
    p, p_adjusted : float or None
        Two-sided against the null, and after Holm.
    """

    prediction: Prediction
    n: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    word: str = ""


def rise_figure(prediction: Prediction, law: Law | None, series: str) -> Figure:
    """The change of R over the values of the factor that were fitted, by the counts."""
    if law is None:
        return Figure(prediction, 0)
    factor: Factor = law.factors[0]
    values = [getattr(cell, factor) for cell in law.cells]
    span = math.log(max(values) / min(values))
    row = next(r for r in law.table.rows() if (r["method"], r["term"]) == ("counts", factor))
    df = len(law.cells) - 2
    if row["se"] is None or df < 1:
        return Figure(prediction, len(law.cells), row["estimate"] * span)
    return _t_figure(prediction, len(law.cells), row["estimate"] * span, row["se"] * span, df)


def mean_figure(prediction: Prediction, values: Sequence[tuple[Any, float | None]]) -> Figure:
    """A mean over cells, settings as clusters.

    Parameters
    ----------
    values : sequence of (setting, value)
        None: not defined in that cell, which is left out.
    """
    kept = [(key, value) for key, value in values if value is not None and math.isfinite(value)]
    keys = {key: i for i, (key, _) in enumerate(dict.fromkeys((k, None) for k, _ in kept))}
    if not kept:
        return Figure(prediction, 0)
    x = [value for _, value in kept]
    estimate = math.fsum(x) / len(x)
    if len(keys) < 2:
        return Figure(prediction, len(keys), estimate)
    found = stats.clustered_bootstrap(
        x, [keys[k] for k, _ in kept], confidence=prediction.level, method="t"
    )
    if found.se is None or found.df is None or not found.se > 0:
        return Figure(prediction, len(keys), estimate)
    return _t_figure(prediction, len(keys), found.estimate, found.se, found.df)


def _t_figure(prediction: Prediction, n: int, estimate: float, se: float, df: float) -> Figure:
    t = t_quantile((1 + prediction.level) / 2, df)
    away = abs(estimate - prediction.null) / se if se > 0 else math.inf
    return Figure(
        prediction,
        n,
        estimate,
        estimate - t * se,
        estimate + t * se,
        (t + t_quantile(POWER, df)) * se,
        2 * _km.stats_t_cdf(-away, df) if math.isfinite(away) else 0.0,
    )
