"""How priming goes with the keyword's probability: a step at a threshold against smooth curves.

Shapes are compared by how well they predict texts of keywords left out of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import stats
from km.table import Column

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["SHAPE_COLUMNS", "compare_shapes", "threshold_verdict"]

SHAPE_COLUMNS = [
    Column("shape", "text", "", "How priming goes with the keyword's log-probability."),
    Column("parameters", "int64", "", "Fitted numbers."),
    Column("error", "double", "nats²", "Mean squared error for keywords left out of the fit."),
    Column("step_less", "double", "nats²", "Error of the step at the threshold less this one's."),
    Column("low", "double", "nats²", "Lower end of its interval over keywords."),
    Column("high", "double", "nats²", "Upper end."),
    Column("p", "double", "", "Sign flips of keywords."),
    Column("n_clusters", "int64", "keywords", "Keywords left out, one after another."),
]

_Fit: TypeAlias = "Callable[[Floats, Floats, Floats], Callable[[Floats, Floats], Floats]]"


def _least_squares(design: Floats, y: Floats) -> Floats:
    import numpy as np

    return np.asarray(np.linalg.lstsq(design, y, rcond=None)[0])


def _linear_in(features: Callable[[Floats], Floats]) -> _Fit:
    """A fit of an intercept, features of x and a covariate."""
    import numpy as np

    def design(x: Floats, covariate: Floats) -> Floats:
        return np.column_stack([np.ones(len(x)), covariate, features(x)])

    def fit(x: Floats, covariate: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
        beta = _least_squares(design(x, covariate), y)
        return lambda new, c: design(new, c) @ beta

    return fit


def _spline(x: Floats, covariate: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
    """A natural cubic spline with four knots at quantiles of the x it is fitted to."""
    import numpy as np

    knots = np.quantile(x, [0.05, 0.35, 0.65, 0.95])
    scale = max(float(knots[-1] - knots[0]), 1e-12)

    def features(new: Floats) -> Floats:
        def cubic(k: int) -> Floats:
            ends = np.maximum(new - knots[k], 0) ** 3 - np.maximum(new - knots[-1], 0) ** 3
            return np.asarray(ends / max(float(knots[-1] - knots[k]), 1e-12))

        bends = [(cubic(k) - cubic(len(knots) - 2)) / scale**2 for k in range(len(knots) - 2)]
        return np.column_stack([new, *bends])

    return _linear_in(features)(x, covariate, y)


def _logistic(x: Floats, covariate: Floats, y: Floats) -> Callable[[Floats, Floats], Floats]:
    """A smooth step: middle and width from a grid, the rest by least squares."""
    import numpy as np

    best: tuple[float, Callable[[Floats, Floats], Floats]] | None = None
    for middle in np.quantile(x, np.linspace(0.1, 0.9, 9)):
        for width in (0.25, 0.5, 1, 2, 4):

            def features(new: Floats, m: float = middle, w: float = width) -> Floats:
                return np.asarray(np.tanh((new - m) / (2 * w)))[:, None]

            fitted = _linear_in(features)(x, covariate, y)
            error = float(((fitted(x, covariate) - y) ** 2).sum())
            if best is None or error < best[0]:
                best = (error, fitted)
    assert best is not None
    return best[1]


def _shapes_of(threshold: float) -> dict[str, tuple[int, _Fit]]:
    import numpy as np

    cut = math.log(threshold)
    return {
        "constant": (1, _linear_in(lambda x: np.zeros((len(x), 0)))),
        "step": (2, _linear_in(lambda x: (x < cut)[:, None].astype(float))),
        "linear": (2, _linear_in(lambda x: x[:, None])),
        "spline": (4, _spline),
        "logistic": (4, _logistic),
    }


def compare_shapes(
    x: Floats,
    covariate: Floats,
    y: Floats,
    keyword: NDArray[Any],
    threshold: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Errors of each shape for keywords left out, and how much more the step's is.

    Parameters
    ----------
    x : (N) float64
        Log-probability of the keyword in each text before learning, nats.
    covariate : (N) float64
        Enters every shape linearly; zeros: none.
    y : (N) float64
        Priming of each text, nats.
    keyword : (N) ids
    threshold : float
        Probability of the step.
    seed : int
        Of sign flips, where there are more keywords than can be enumerated.

    Returns
    -------
    list of dict
        Rows of SHAPE_COLUMNS; none with fewer than four keywords or twenty texts.
    """
    import numpy as np

    keywords = np.unique(keyword)
    if len(keywords) < 4 or len(x) < 20:
        return []
    errors: dict[str, Floats] = {}
    shapes = _shapes_of(threshold)
    for name, (_, fit) in shapes.items():
        own = []
        for left_out in keywords:
            out = keyword == left_out
            predict = fit(x[~out], covariate[~out], y[~out])
            residual = predict(x[out], covariate[out]) - y[out]
            own.append(float((residual**2).mean()))
        errors[name] = np.array(own)
    rows = []
    for name, (parameters, _) in shapes.items():
        row: dict[str, Any] = {
            "shape": name,
            "parameters": parameters,
            "error": float(errors[name].mean()),
            "n_clusters": len(keywords),
        }
        more = errors["step"] - errors[name]
        if name != "step" and (more != 0).any():
            spread = stats.clustered_bootstrap(more, keywords, method="t")
            row |= {
                "step_less": spread.estimate,
                "low": spread.low,
                "high": spread.high,
                "p": stats.permutation_test(more, keywords, seed=seed).p,
            }
        rows.append(row)
    return rows


def threshold_verdict(
    rows: Sequence[Mapping[str, Any]], alpha: float
) -> Literal["consistent", "inconsistent", "inconclusive"]:
    """Whether a step at the threshold predicts better than every smooth curve."""
    smooth = [row for row in rows if row["shape"] in ("linear", "spline", "logistic")]
    tested = [row for row in smooth if row.get("p") is not None]
    if not tested or len(tested) < len(smooth):
        return "inconclusive"
    adjusted = stats.holm([row["p"] for row in tested]).tolist()
    constant = next(row for row in rows if row["shape"] == "constant")
    helps = constant.get("p") is not None and constant["high"] < 0 and constant["p"] <= alpha
    if helps and all(row["high"] < 0 and row["p"] <= alpha for row in tested):
        return "consistent"
    if any(row["low"] > 0 and p <= alpha for row, p in zip(tested, adjusted, strict=True)):
        return "inconsistent"
    return "inconclusive"
