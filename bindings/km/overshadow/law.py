"""The log-linear law of overshadowing fitted to counts, beside other curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import coverage, real_number
from km.errors import ArgumentError
from km.overshadow.curves import (
    Counts,
    Predicted,
    fit_curve,
    linear,
    linear_starts,
    saturating,
    saturating_starts,
)
from km.overshadow.measure import Cell, Rates
from km.regression import t_quantile
from km.result import Result, make_provenance
from km.scores.overshadow import Line, fit_line
from km.stats import Interval, bootstrap, clustered_bootstrap
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LAW_ID = "overshadow.law"
LAW_VERSION = 1

Factor: TypeAlias = Literal["P", "L", "S"]
Which: TypeAlias = Literal["P", "L", "S", "joint"]
FACTORS: tuple[Factor, ...] = ("P", "L", "S")

# Values of x that a comparison by leaving each out needs.
MIN_LEVELS = 4

TERM_COLUMNS = [
    Column("method", "text", "", "counts: binomial likelihood; points: least squares on R."),
    Column("term", "text", "", "intercept, or the factor whose logarithm it multiplies."),
    Column("estimate", "double", "", "Intercept, or slope: rise of R for one nat of the factor."),
    Column("se", "double", "", "Standard error; null where no cells are left to tell it."),
    Column("low", "double", "", "Of Student's t interval."),
    Column("high", "double", "", "Of Student's t interval."),
    Column("critical", "double", "", "Factor where R is 0; null with other factors or slope 0."),
    Column("critical_low", "double", "", "Of Fieller's interval; null where it is not bounded."),
    Column("critical_high", "double", "", "Of Fieller's interval; null where it is not bounded."),
    Column("verdict", "text", "", "grows, falls, flat or undecided."),
]

COMPARISON_COLUMNS = [
    Column("curve", "text", "", "constant, log-linear or saturating."),
    Column("log_score", "double", "nats/cell", "Mean log-probability of counts left out."),
    Column("gain", "double", "nats/cell", "Log score of log-linear less that of this curve."),
    Column("gain_low", "double", "nats/cell", "Of its interval, levels as clusters."),
    Column("gain_high", "double", "nats/cell", "Of its interval."),
    Column("relative_error", "double", "", "Mean |predicted - seen| / seen of R left out."),
]

PREDICTION_COLUMNS = [
    *(Column(name, "double", "", "Factor of the cell.") for name in FACTORS),
    Column("seen", "double", "", "R of the cell; null without recall."),
    Column("predicted", "double", "", "R by the law."),
    Column("low", "double", "", "Of the interval that should hold the R seen."),
    Column("high", "double", "", "Of that interval."),
    Column("covered", "bool", "", "The interval holds it."),
    Column("relative_error", "double", "", "|predicted - seen| / seen; null for 0."),
    Column("inside", "bool", "", "Within the range of the fit."),
    Column("log_gain", "double", "nats", "Log score less that of the constant fitted beside it."),
]


@dataclass(frozen=True)
class Prediction:
    """R by the law at one place, with the interval of the law there."""

    estimate: float
    low: float
    high: float


class Law(Result):
    """What :func:`fit` returns: one row a term and method.

    Attributes
    ----------
    factors : tuple of str
        Whose logarithms it holds.
    cells : list of Cell
        What it was fitted to.
    comparison : Table
        Curves by the log score of counts left out; no rows with too few values of the factors.
    dispersion : float
        How much more cells vary than independent prompts would, at least 1; NaN if not known.
    line : Line or None
        Least squares on R, as in the paper, of a single factor.
    r2, relative_error : float
        Of least squares: share of variance, and mean relative error within the fit; NaN for a
        joint law.
    shape : str
        The curve that predicts best beyond doubt, or "undecided".
    notes : list of str
    """

    def __init__(
        self,
        table: Table,
        provenance: dict[str, Any],
        cells: Sequence[Cell],
        work: _Work,
        comparison: Table,
    ) -> None:
        super().__init__(table, provenance)
        self.cells = list(cells)
        self.factors = work.factors
        self.line = work.line
        self.dispersion = work.fitted.dispersion
        self.comparison = comparison
        self.r2 = math.nan if work.line is None else work.line.r2
        self.relative_error = work.relative_error()
        self.shape = _shape(comparison)
        self._work = work
        self.notes = _notes(self)
        self.evidence = _evidence(self)

    def verdict(self, factor: Factor) -> str:
        """grows, falls, flat or undecided, by counts."""
        return str(self._row(factor)["verdict"])

    def slope(self, factor: Factor) -> float:
        """Rise of R for one nat of the factor, by counts."""
        return float(self._row(factor)["estimate"])

    def critical(self, factor: Factor) -> float | None:
        """The value of the factor where the line is 0, by counts; None where it has none."""
        value = self._row(factor)["critical"]
        return None if value is None else float(value)

    def _row(self, factor: str) -> dict[str, Any]:
        rows = [r for r in self.table.rows() if (r["method"], r["term"]) == ("counts", factor)]
        if not rows:
            raise ArgumentError(f"the law is of {', '.join(self.factors)}, not of {factor!r}")
        return rows[0]

    def predict(self, *, extrapolate: bool = False, **factors: float) -> Prediction:
        """R by the law, with the interval of the curve.

        Parameters
        ----------
        extrapolate : bool
            Allow values outside those of the fit.
        P, L, S : float
            One value of each factor of the law.

        Raises
        ------
        ArgumentError
            A factor is missing or not of the law, or lies outside the range of the fit.
        """
        if set(factors) != set(self.factors):
            raise ArgumentError(f"give {', '.join(self.factors)}, not {', '.join(factors) or '-'}")
        for name, value in factors.items():
            least, most = self._work.range(name)
            if real_number(name, value, 0, 1e300) == 0:
                raise ArgumentError(f"{name} is 0; it must be positive")
            if not extrapolate and not least <= value <= most:
                raise ArgumentError(
                    f"{name} is {value:g}; the law was fitted from {least:g} to {most:g} "
                    "(extrapolate=True goes beyond)"
                )
        ratio, variance = self._work.at([[math.log(factors[name]) for name in self.factors]])
        half = self._work.t(self.parameters["confidence"]) * math.sqrt(variance[0])
        return Prediction(float(ratio[0]), max(0.0, float(ratio[0]) - half), float(ratio[0]) + half)

    def evaluate(self, cells: Iterable[Cell | Rates]) -> Evaluation:
        """How well the law predicts cells that it was not fitted to.

        Raises
        ------
        ArgumentError
            There are none, or one of them was in the fit.
        """
        held_out = as_cells(cells)
        if set(held_out) & set(self.cells):
            raise ArgumentError("a cell was in the fit; evaluate with cells left out of it")
        return Evaluation(self, held_out)

    def __repr__(self) -> str:
        lines = [f"<km.overshadow.Law {self._title()}>", repr(self.table)]
        if len(self.comparison):
            lines.append(repr(self.comparison))
        return "\n".join([*lines, *self.notes])


class Evaluation:
    """What :meth:`Law.evaluate` returns.

    Attributes
    ----------
    table : Table
        One row a cell.
    relative_error : Interval or None
        Mean relative error; None without a cell whose R is above 0, its ends NaN with one alone.
    coverage : float
        Share of R seen within their intervals; NaN where there are none.
    log_gain : float
        Mean log score less that of a constant, nats a cell.
    """

    def __init__(self, law: Law, cells: Sequence[Cell]) -> None:
        rows = _evaluate(law._work, cells, law.parameters["confidence"])
        self.table = Table.from_rows(PREDICTION_COLUMNS, rows)
        errors = [row["relative_error"] for row in rows if row["relative_error"] is not None]
        confidence = law.parameters["confidence"]
        self.relative_error = _mean(errors, confidence) if errors else None
        covered = [row["covered"] for row in rows if row["covered"] is not None]
        self.coverage = sum(covered) / len(covered) if covered else math.nan
        self.log_gain = math.fsum(row["log_gain"] for row in rows) / len(rows)

    def __repr__(self) -> str:
        return (
            f"<km.overshadow.Evaluation: relative error {self.relative_error}, "
            f"coverage {self.coverage:.3g}, {self.log_gain:.3g} nats a cell over a constant>\n"
            f"{self.table!r}"
        )


def as_cells(cells: Iterable[Cell | Rates]) -> list[Cell]:
    """Cells, those of measured rates by their greedy counts.

    Raises
    ------
    ArgumentError
        There are none.
    """
    listed = [cell.cell() if isinstance(cell, Rates) else cell for cell in cells]
    for cell in listed:
        if not isinstance(cell, Cell):
            raise TypeError(f"cells must be Cell or Rates, not {type(cell).__name__}")
    if not listed:
        raise ArgumentError("there are no cells")
    return listed


def fit(
    cells: Iterable[Cell | Rates],
    factor: Which,
    *,
    confidence: float = 0.95,
    smallest: float = 0.1,
) -> Law:
    """Fit R = slope log(x / critical), by counts and by least squares on R.

    Parameters
    ----------
    cells : sequence of Cell or Rates
        One a trained model, so that they vary independently: seeds are cells of their own.
    factor : {"P", "L", "S", "joint"}
        The factor that varies while the others are fixed, or all that vary, together.
    confidence : float
    smallest : float
        Smallest change of R over the values of the factor that matters: a slope whose interval
        stays within it is called flat.

    Returns
    -------
    Law

    Raises
    ------
    ArgumentError
        The law is not identified: too few values of a factor, factors that vary together, no
        recall or no hallucination in any cell, or, for a single factor, others that vary too.

    Notes
    -----
    The paper fits each factor with the others fixed. Here the counts of each cell are binomial, HR
    = R RR, with the recall of each cell profiled out; standard errors are widened by the dispersion
    of the cells around the curve. docs/measures/overshadowing.md.

    Examples
    --------
    >>> cells = [Cell(p, 4, 1e6, 100, 90, 100, round(90 * (0.1 + 0.1 * math.log(p))))
    ...          for p in (2, 5, 10, 25, 50)]
    >>> law = fit(cells, "P")
    >>> round(law.slope("P"), 2), law.verdict("P")
    (0.1, 'grows')
    """
    listed = as_cells(cells)
    confidence = coverage(confidence)
    if real_number("smallest", smallest, 0, 1e9) == 0:
        raise ArgumentError("smallest is 0; it must be positive")
    work = _Work(listed, _factors(listed, factor))
    table = Table.from_rows(TERM_COLUMNS, _terms(work, confidence, smallest))
    comparison = Table.from_rows(COMPARISON_COLUMNS, _compare(work, confidence))
    parameters = {
        "factor": factor,
        "confidence": confidence,
        "smallest": float(smallest),
        "cells": [asdict(cell) for cell in listed],
    }
    provenance = make_provenance(LAW_ID, LAW_VERSION, None, parameters)
    return Law(table, provenance, listed, work, comparison)


# ---- what is identified ----


def _factors(cells: Sequence[Cell], which: Which) -> tuple[Factor, ...]:
    """The factors of the law; ArgumentError where the cells do not tell it."""
    if which not in (*FACTORS, "joint"):
        raise ArgumentError(f'factor is {which!r}; it must be "P", "L", "S" or "joint"')
    levels = {name: {getattr(cell, name) for cell in cells} for name in FACTORS}
    varying = tuple(name for name in FACTORS if len(levels[name]) > 1)
    if which == "joint":
        _check_joint(cells, varying)
        chosen = varying
    else:
        if which not in varying:
            raise ArgumentError(f"{which} is the same in all cells; its law is not identified")
        others = [name for name in varying if name != which]
        if others:
            raise ArgumentError(
                f"{others[0]} varies with {which}; keep it fixed or fit the law jointly"
            )
        chosen = (which,)
    counts = Counts.of(cells)
    if not counts.k_a.any():
        raise ArgumentError("no cell has any recall: R is not defined")
    if not counts.k_b.any():
        raise ArgumentError("no cell has any hallucination: R is 0 and has no law")
    return chosen


def _check_joint(cells: Sequence[Cell], varying: Sequence[Factor]) -> None:
    import numpy as np

    if len(varying) < 2:
        raise ArgumentError("fewer than two factors vary; fit a single factor")
    design = _design(cells, varying)
    if np.linalg.matrix_rank(design - design.mean(axis=0)) < len(varying):
        raise ArgumentError(
            f"{' and '.join(varying)} vary together over the cells; their slopes are not identified"
        )


def _design(cells: Sequence[Cell], factors: Sequence[str]) -> Floats:
    """Logarithms of the factors, (N, F)."""
    import numpy as np

    values = [[float(getattr(cell, name)) for name in factors] for cell in cells]
    return np.asarray(np.log(np.array(values)))


class _Work:
    """A fit of the log-linear curve and what is asked of it; log factors are centred inside."""

    def __init__(self, cells: Sequence[Cell], factors: tuple[Factor, ...]) -> None:
        import numpy as np

        self.cells = list(cells)
        self.factors = factors
        self.counts = Counts.of(cells)
        self.logs = _design(cells, factors)
        self.centre = self.logs.mean(axis=0)
        design = self._columns(self.logs)
        self.fitted = fit_curve(self.counts, linear(design), linear_starts(self.counts, design))
        one = np.ones((len(cells), 1))
        self.constant = fit_curve(self.counts, linear(one), linear_starts(self.counts, one))
        self.line = self._line()

    def _columns(self, logs: Any) -> Floats:
        import numpy as np

        rows = np.asarray(logs, dtype=float) - self.centre
        return np.column_stack([np.ones(len(rows)), rows])

    def _line(self) -> Line | None:
        """Least squares of a single factor on the cells with recall, where that is identified."""
        import numpy as np

        ratio = self.counts.ratios()
        good = np.isfinite(ratio)
        x = np.exp(self.logs[good, 0])
        if len(self.factors) > 1 or len(np.unique(x)) < 2:
            return None
        return fit_line(x, ratio[good])

    def relative_error(self) -> float:
        """Of least squares, within the fit."""
        import numpy as np

        if self.line is None:
            return math.nan
        ratio = self.counts.ratios()
        good = np.isfinite(ratio)
        return self.line.relative_error(np.exp(self.logs[good, 0]), ratio[good])

    def range(self, factor: str) -> tuple[float, float]:
        """Least and largest value of a factor in the fit."""
        values = [getattr(cell, factor) for cell in self.cells]
        return min(values), max(values)

    def t(self, confidence: float) -> float:
        """Student's quantile of the fit; NaN without degrees of freedom."""
        if self.fitted.df < 1:
            return math.nan
        return t_quantile((1 + confidence) / 2, self.fitted.df)

    def at(self, logs: Any) -> tuple[Floats, Floats]:
        """R by the curve at log factors, and its variance."""
        import numpy as np

        ratio, jacobian = linear(self._columns(logs))(self.fitted.parameters)
        return ratio, np.asarray(((jacobian @ self.fitted.covariance) * jacobian).sum(axis=1))

    def plain(self) -> tuple[Floats, Floats]:
        """Parameters and covariance with log factors that are not centred."""
        import numpy as np

        change = np.eye(len(self.factors) + 1)
        change[0, 1:] = -self.centre
        covariance = np.asarray(change @ self.fitted.covariance @ change.T)
        return np.asarray(change @ self.fitted.parameters), covariance


# ---- terms ----


def _terms(work: _Work, confidence: float, smallest: float) -> list[dict[str, Any]]:
    beta, covariance = work.plain()
    t = work.t(confidence)
    rows: list[dict[str, Any]] = []
    for i, term in enumerate(("intercept", *work.factors)):
        se = math.sqrt(max(float(covariance[i, i]), 0.0))
        row = {"method": "counts", "term": term, "estimate": float(beta[i])}
        if math.isfinite(t):
            row |= {"se": se, "low": float(beta[i]) - t * se, "high": float(beta[i]) + t * se}
        if i:
            row["verdict"] = _verdict(work, i, se, confidence, smallest)
            if len(work.factors) == 1:
                row |= _critical(beta, covariance, t)
        rows.append(row)
    return rows + _line_terms(work.line, confidence)


def _verdict(work: _Work, i: int, se: float, confidence: float, smallest: float) -> str:
    """Equivalence to no change first, then the sign."""
    slope, df = float(work.fitted.parameters[i]), work.fitted.df
    if df < 1:
        return "undecided"
    least, most = work.range(work.factors[i - 1])
    span = math.log(most / least)
    one_sided = t_quantile(confidence, df)
    if (abs(slope) + one_sided * se) * span <= smallest:
        return "flat"
    if abs(slope) > t_quantile((1 + confidence) / 2, df) * se:
        return "grows" if slope > 0 else "falls"
    return "undecided"


def _critical(beta: Floats, covariance: Floats, t: float) -> dict[str, float | None]:
    """Where the line is 0, with Fieller's interval where that is bounded."""
    intercept, slope = float(beta[0]), float(beta[1])
    if slope == 0:
        return {}
    found: dict[str, float | None] = {"critical": _finite_exp(-intercept / slope)}
    if not math.isfinite(t):
        return found
    a = slope**2 - t**2 * float(covariance[1, 1])
    b = intercept * slope - t**2 * float(covariance[0, 1])
    c = intercept**2 - t**2 * float(covariance[0, 0])
    if a <= 0 or b * b < a * c:
        return found
    root = math.sqrt(b * b - a * c)
    found["critical_low"] = _finite_exp((-b - root) / a)
    found["critical_high"] = _finite_exp((-b + root) / a)
    return found


def _finite_exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None


def _line_terms(line: Line | None, confidence: float) -> list[dict[str, Any]]:
    if line is None:
        return []
    rows: list[dict[str, Any]] = []
    found = (
        ("intercept", line.intercept, line.intercept_se),
        ("slope", line.slope, line.slope_se),
    )
    for term, estimate, se in found:
        row: dict[str, Any] = {"method": "points", "term": term, "estimate": estimate, "se": se}
        if se is not None:
            half = t_quantile((1 + confidence) / 2, line.n - 2) * se
            row |= {"low": estimate - half, "high": estimate + half}
        if term == "slope" and math.isfinite(line.critical):
            row["critical"] = line.critical
        rows.append(row)
    return rows


# ---- curves beside each other ----


def _compare(work: _Work, confidence: float) -> list[dict[str, Any]]:
    """Curves by the counts of each value of the factors, predicted from all others."""
    import numpy as np

    levels = np.unique(work.logs, axis=0, return_inverse=True)[1].reshape(-1)
    n_levels = int(levels.max()) + 1
    if n_levels < max(MIN_LEVELS, len(work.factors) + 3):
        return []
    names = ["constant", "log-linear"] + (["saturating"] if len(work.factors) == 1 else [])
    predicted = {name: np.full(len(levels), np.nan) for name in names}
    scores = {name: np.full(len(levels), np.nan) for name in names}
    for level in range(n_levels):
        out = levels == level
        kept = [cell for cell, left in zip(work.cells, out, strict=True) if not left]
        counts = Counts.of(kept)
        left_out = Counts.of([cell for cell, left in zip(work.cells, out, strict=True) if left])
        if not counts.k_a.any() or not counts.k_b.any():
            return []
        for name in names:
            found = predict_by(name, counts, work.logs[~out], work.logs[out])
            predicted[name][out] = found.ratio
            scores[name][out] = left_out.log_score(found)
    ratio = work.counts.ratios()
    rows = []
    for name in names:
        row: dict[str, Any] = {"curve": name, "log_score": float(scores[name].mean())}
        good = np.isfinite(ratio) & (ratio > 0)
        errors = np.abs(predicted[name] - ratio)[good] / ratio[good]
        row["relative_error"] = float(errors.mean()) if errors.size else None
        if name != "log-linear":
            gains = scores["log-linear"] - scores[name]
            mean = clustered_bootstrap(gains, levels, confidence=confidence)
            row |= {"gain": mean.estimate, "gain_low": mean.low, "gain_high": mean.high}
        rows.append(row)
    return rows


def predict_by(name: str, counts: Counts, seen: Floats, asked: Floats) -> Predicted:
    """R at log factors by a curve fitted elsewhere.

    Parameters
    ----------
    name : {"constant", "log-linear", "saturating"}
    counts : Counts
        Of the cells that are fitted.
    seen, asked : (N, F), (M, F) float64
        Logarithms of the factors of these and of those that are predicted; F = 1 for "saturating".
    """
    import numpy as np

    if name == "saturating":
        found = fit_curve(counts, saturating(seen[:, 0]), saturating_starts(counts, seen[:, 0]))
        return found.predict(saturating(asked[:, 0]))
    centre = seen.mean(axis=0)
    own, there = np.ones((len(seen), 1)), np.ones((len(asked), 1))
    if name == "log-linear":
        own, there = np.column_stack([own, seen - centre]), np.column_stack([there, asked - centre])
    line = fit_curve(counts, linear(own), linear_starts(counts, own))
    return line.predict(linear(there))


def _shape(comparison: Table) -> str:
    """The curve that beats, or is beaten by, log-linear beyond doubt."""
    rows = {row["curve"]: row for row in comparison.rows()}
    if not rows:
        return "undecided"
    rivals = [row for name, row in rows.items() if name != "log-linear"]
    better = [row for row in rivals if row["gain_high"] < 0]
    if better:
        return str(max(better, key=lambda row: row["log_score"])["curve"])
    return "log-linear" if all(row["gain_low"] > 0 for row in rivals) else "undecided"


def _evaluate(work: _Work, cells: Sequence[Cell], confidence: float) -> list[dict[str, Any]]:
    import numpy as np

    counts = Counts.of(cells)
    ratio, variance = work.at(_design(cells, work.factors))
    law = work.fitted.predict(linear(work._columns(_design(cells, work.factors))))
    flat = work.constant.predict(linear(np.ones((len(cells), 1))))
    gains = counts.log_score(law) - counts.log_score(flat)
    noise = counts.variance(ratio, counts.recall()) * work.fitted.dispersion
    half = work.t(confidence) * np.sqrt(variance + noise)
    rows = []
    for i, (cell, seen) in enumerate(zip(cells, counts.ratios().tolist(), strict=True)):
        inside = [a <= getattr(cell, f) <= b for f in work.factors for a, b in [work.range(f)]]
        low, high = max(0.0, float(ratio[i] - half[i])), float(ratio[i] + half[i])
        row: dict[str, Any] = {name: getattr(cell, name) for name in FACTORS}
        row |= {"predicted": float(ratio[i]), "inside": all(inside), "log_gain": float(gains[i])}
        if math.isfinite(high):
            row |= {"low": low, "high": high}
        if math.isfinite(seen):
            row["seen"] = seen
            row["covered"] = low <= seen <= high if math.isfinite(high) else None
            row["relative_error"] = abs(float(ratio[i]) - seen) / seen if seen else None
        rows.append({"covered": None, "relative_error": None, **row})
    return rows


def _mean(values: Sequence[float], confidence: float) -> Interval:
    if len(values) > 1:
        return bootstrap(values, confidence=confidence)
    return Interval(values[0], math.nan, math.nan, None, None, 1, 1, "none", confidence)


# ---- words ----


def _notes(law: Law) -> list[str]:
    notes = []
    if law._work.fitted.df < 1:
        notes.append("as many terms as cells: no standard errors, no verdicts.")
    lost = sum(not cell.n_a_correct for cell in law.cells)
    if lost:
        notes.append(
            f"{lost} of {len(law.cells)} cells have no recall; least squares leaves them out."
        )
    if not len(law.comparison):
        notes.append("too few values of the factors to compare curves by what is left out.")
    elif law.shape == "undecided":
        notes.append("the counts left out do not tell log-linear from the other curves.")
    else:
        notes.append(f"counts left out are predicted best by the {law.shape} curve.")
    return notes


def _evidence(law: Law) -> list[dict[str, Any]]:
    return [
        {
            "node": "knowledge-overshadowing",
            "measure": LAW_ID,
            "statistic": f"slope of {name}",
            "value": row["estimate"],
            "low": row["low"],
            "high": row["high"],
            "n": len(law.cells),
            "unit": "",
            "baseline": 0.0,
            "note": f"R = HR / RR against log {name}, binomial counts: {row['verdict']}; "
            f"best curve by counts left out: {law.shape}.",
        }
        for name in law.factors
        for row in [law._row(name)]
    ]
