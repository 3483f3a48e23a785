"""Curves of an overshadowing study: fitted, written down, and scored on what they never saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from km.overshadow.curves import Counts, Predicted
from km.overshadow.law import Factor, predict_by
from km.overshadow.measure import Cell
from km.studies.overshadow_design import OvershadowingDesign, Setting, settings
from km.table import Column, Table

FORECAST_ID = "overshadow.forecast"
FORECAST_VERSION = 1

Series: TypeAlias = Literal["P", "L", "S", "S at equal loss"]
SERIES: tuple[Series, ...] = ("P", "L", "S", "S at equal loss")
CURVES = ("constant", "log-linear", "saturating")

FORECAST_COLUMNS = [
    Column("series", "text", "", "Which cells the curve was fitted to: the factor that varies."),
    Column("part", "text", "", "fresh: another seed of a fitted setting; held out: no fit saw it."),
    Column("P", "double", "", "Of the setting that is predicted."),
    Column("L", "double", "", "Of the setting that is predicted."),
    Column("S", "double", "", "Of the setting that is predicted."),
    Column("curve", "text", "", "constant, log-linear or saturating."),
    Column("ratio", "double", "", "R that it predicts."),
    Column("variance", "double", "", "Of the curve there."),
    Column("dispersion", "double", "", "Of cells around it, at least 1."),
    Column("loss", "double", "nats", "Loss at which cells are looked at; null: at the end."),
    Column("n_cells", "int64", "cells", "Fitted to."),
    Column("frozen", "bool", "", "Written down before any of the cells it is scored on existed."),
]

SCORE_COLUMNS = [
    *FORECAST_COLUMNS[:6],
    Column("replicate", "int64", "", "Of the cell."),
    Column("seen", "double", "", "R of the cell; null without recall."),
    Column("predicted", "double", "", "R that the curve predicts."),
    Column("log_score", "double", "nats", "Log-probability of the cell's hallucinations."),
    Column("relative_error", "double", "", "|predicted - seen| / seen; null for 0."),
]


def factor_of(series: Series) -> Factor:
    """The factor that varies in a series."""
    return "S" if series == "S at equal loss" else series


def as_cell(row: Mapping[str, Any]) -> Cell:
    """The counts of one measurement."""
    counts = (row[n] for n in ("n_a", "n_a_correct", "n_b", "n_b_hallucinated"))
    return Cell(row["P"], row["L"], row["S"], *counts)


def equal_loss(trained: Iterable[Sequence[Mapping[str, Any]]], factor: float) -> float | None:
    """The lowest power of the factor to which the loss of every training fell; None without any."""
    lows = []
    for rows in trained:
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        if not losses:
            return None
        lows.append(min(losses))
    if not lows:
        return None
    return float(factor ** math.floor(math.log(max(lows)) / math.log(factor) + 1e-9))


def moment(rows: Sequence[Mapping[str, Any]], loss: float | None) -> Mapping[str, Any] | None:
    """The measurement of a training at the end, or the first at or below a loss; None without."""
    if loss is None:
        return rows[-1]
    return next((r for r in rows if r["loss"] is not None and r["loss"] <= loss), None)


def series_rows(
    trained: Iterable[Sequence[Mapping[str, Any]]], series: Series, part: str, loss: float | None
) -> list[Mapping[str, Any]]:
    """One measurement of each training of a part that stands in a series."""
    found = [
        moment(rows, loss if series == "S at equal loss" else None)
        for rows in trained
        if rows[0]["part"] == part and factor_of(series) in rows[0]["families"]
    ]
    return [row for row in found if row is not None]


def size_losses(trained: Iterable[Sequence[Mapping[str, Any]]], factor: float) -> float | None:
    """The loss of the arm with equal losses, from the cells that are fitted."""
    own = [r for r in trained if r[0]["part"] == "fit" and "S" in r[0]["families"]]
    return equal_loss(own, factor)


def make_forecast(
    trained: Sequence[Sequence[Mapping[str, Any]]],
    design: OvershadowingDesign,
    sizes: Sequence[float],
    frozen: bool,
) -> Table:
    """Every curve of every series at every setting it will be scored on.

    Parameters
    ----------
    trained : sequence of sequences of rows
        Of each training that is fitted.
    design : OvershadowingDesign
    sizes : sequence of float
        Parameters of each size.
    frozen : bool
        None of what the curves are scored on has been trained.
    """
    import numpy as np

    loss = size_losses(trained, design.rung)
    out: list[dict[str, Any]] = []
    for series in SERIES:
        cells = [as_cell(row) for row in series_rows(trained, series, "fit", loss)]
        factor = factor_of(series)
        asked = [own for own in settings(design) if factor in own.families]
        if not _can_fit(cells, factor):
            continue
        seen = np.log([[getattr(cell, factor)] for cell in cells])
        there = [_factors(design, own, sizes) for own in asked]
        points = np.log([[values[factor]] for values in there])
        for curve in CURVES:
            found = predict_by(curve, Counts.of(cells), seen, points)
            for i, (own, values) in enumerate(zip(asked, there, strict=True)):
                out.append(
                    {
                        "series": series,
                        "part": "held out" if own.held_out else "fresh",
                        **values,
                        "curve": curve,
                        "ratio": float(found.ratio[i]),
                        "variance": float(found.variance[i]),
                        "dispersion": found.dispersion,
                        "loss": loss if series == "S at equal loss" else None,
                        "n_cells": len(cells),
                        "frozen": frozen,
                    }
                )
    return Table.from_rows(FORECAST_COLUMNS, out)


def _can_fit(cells: Sequence[Cell], factor: Factor) -> bool:
    """Whether there are values, recall and hallucination enough for a curve."""
    values = {getattr(cell, factor) for cell in cells}
    recalled = any(cell.n_a_correct for cell in cells)
    return len(values) > 1 and recalled and any(cell.n_b_hallucinated for cell in cells)


def _factors(design: OvershadowingDesign, own: Setting, sizes: Sequence[float]) -> dict[str, float]:
    return {"P": float(own.P), "L": design.prompt / own.d, "S": float(sizes[own.size])}


def score_forecast(
    forecast: Table, trained: Sequence[Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """The curves by the counts of what they never saw, one row a curve and cell."""
    by_place: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for rows in trained:
        by_place.setdefault(_place(rows[0]), []).append({"rows": rows})
    out = []
    for row in forecast.rows():
        for held in by_place.get(_place(row), ()):
            seen = moment(held["rows"], row["loss"])
            if seen is not None:
                out.append(_score(row, seen))
    return out


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("part", "P", "L", "S"))


def _score(row: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    cell = as_cell(seen)
    one = np.array([[row["ratio"]], [row["variance"]]])
    predicted = Predicted(one[0], one[1], row["dispersion"])
    found = {name: row[name] for name in ("series", "part", "P", "L", "S", "curve")}
    found |= {
        "replicate": seen["replicate"],
        "predicted": row["ratio"],
        "log_score": float(Counts.of([cell]).log_score(predicted)[0]),
        "seen": None,
        "relative_error": None,
    }
    if math.isfinite(cell.R):
        found["seen"] = cell.R
        found["relative_error"] = abs(row["ratio"] - cell.R) / cell.R if cell.R else None
    return found
