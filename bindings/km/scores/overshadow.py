"""Knowledge overshadowing on plain arrays: rates, the log-linear law, the indicator of a token.

Zhang et al. 2025 (arXiv 2502.16143). Logarithms are natural (nats). Anything ``numpy.asarray``
takes is taken. Definitions, edge cases and what is ours: docs/measures/overshadowing.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from km.arguments import real_number, whole_number
from km.errors import ArgumentError
from km.stats import Interval, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "ALPHA",
    "Indicator",
    "Line",
    "Rates",
    "fit_line",
    "indicator",
    "log_softmax",
    "profile_recall",
    "rates",
    "ratio_interval",
    "relative_length",
    "relative_popularity",
    "select_token",
    "top_tokens",
]

Floor: TypeAlias = Literal["vtop_min", "neg_min"]
Select: TypeAlias = Literal["min", "max"]

ALPHA = 0.01
"""Share of the largest probability from which a token is among the top tokens."""


# ---- what is varied ----


def relative_popularity(m: int, n: int) -> float:
    """P: statements of the popular condition for each of the rare one.

    Examples
    --------
    >>> relative_popularity(364, 44)
    8.272727272727273
    """
    return whole_number("m", m, 1) / whole_number("n", n, 1)


def relative_length(n_shared: int, n_distinct: int) -> float:
    """L: tokens of a prompt for each of those that tell the conditions apart; at least 1.

    Examples
    --------
    >>> relative_length(9, 3)
    4.0
    """
    distinct = whole_number("n_distinct", n_distinct, 1)
    return (whole_number("n_shared", n_shared, 0) + distinct) / distinct


# ---- rates ----


@dataclass(frozen=True, slots=True)
class Rates:
    """Recall, hallucination and their ratio, from counts.

    Attributes
    ----------
    recall : Interval
        RR, the share of popular prompts answered with the popular answer.
    hallucination : Interval
        HR, the share of rare prompts answered with the popular answer.
    ratio : float
        R = HR / RR; NaN when RR is 0.
    low, high : float
        Interval of the ratio; `high` is infinite when recall may be 0.
    """

    recall: Interval
    hallucination: Interval
    ratio: float
    low: float
    high: float


def rates(
    n_a: int, n_a_correct: int, n_b: int, n_b_hallucinated: int, *, confidence: float = 0.95
) -> Rates:
    """Rates of independent prompts, with Wilson's intervals.

    Parameters
    ----------
    n_a, n_a_correct : int
        Prompts of the popular condition, and those answered with the popular answer.
    n_b, n_b_hallucinated : int
        Prompts of the rare condition, and those answered with the popular answer.

    Examples
    --------
    >>> found = rates(10, 5, 5, 4)
    >>> found.recall.estimate, found.hallucination.estimate, found.ratio
    (0.5, 0.8, 1.6)
    """
    for name, k, n in (
        ("n_a_correct", n_a_correct, whole_number("n_a", n_a, 1)),
        ("n_b_hallucinated", n_b_hallucinated, whole_number("n_b", n_b, 1)),
    ):
        whole_number(name, k, 0, n)
    recall = wilson(n_a_correct, n_a, confidence=confidence)
    hallucination = wilson(n_b_hallucinated, n_b, confidence=confidence)
    low, high = ratio_interval(hallucination, recall)
    ratio = hallucination.estimate / recall.estimate if recall.estimate else math.nan
    return Rates(recall, hallucination, ratio, low, high)


def ratio_interval(
    over: Interval, under: Interval, *, correlation: float = 0.0
) -> tuple[float, float]:
    """Interval of the ratio of two rates, from the interval of each.

    Parameters
    ----------
    over, under : Interval
        Of numerator and denominator, not negative.
    correlation : float
        Of the two estimates.

    Returns
    -------
    (low, high)
        `high` is infinite when the lower end of the denominator is 0.

    Notes
    -----
    The method of variance estimates recovery of Donner and Zou (2012): with theta the estimates,
    the ends solve c r**2 - 2 a r + b = 0 where b = l1 (2 theta1 - l1), c = u2 (2 theta2 - u2) and
    a = theta1 theta2 - correlation (theta1 - l1) (u2 - theta2) for the lower end, and the same
    with the other ends for the upper one. Nothing is divided by the estimate of the denominator.
    """
    rho = real_number("correlation", correlation, -1, 1)
    one, two = over.estimate, under.estimate
    ratio = one / two if two else math.inf
    a = one * two - rho * (one - over.low) * (under.high - two)
    b, c = over.low * (2 * one - over.low), under.high * (2 * two - under.high)
    base = a + math.sqrt(max(a * a - b * c, 0.0))
    low = min(b / base, ratio) if base > 0 and b > 0 else 0.0
    a = one * two - rho * (over.high - one) * (two - under.low)
    b, c = over.high * (2 * one - over.high), under.low * (2 * two - under.low)
    if c <= 0:
        return low, math.inf
    return low, max((a + math.sqrt(max(a * a - b * c, 0.0))) / c, ratio)


def profile_recall(
    ratio: ArrayLike, n_a: ArrayLike, k_a: ArrayLike, n_b: ArrayLike, k_b: ArrayLike
) -> Floats:
    """Recall that makes counts most likely when HR / RR is known.

    Parameters
    ----------
    ratio : (N) float64
        Positive.
    n_a, k_a, n_b, k_b : (N)
        Prompts and popular answers of the popular and of the rare condition.

    Returns
    -------
    (N) float64, probability
        The maximum of k_a log q + (n_a - k_a) log(1 - q) + k_b log(R q) + (n_b - k_b) log(1 - R q)
        over q up to min(1, 1 / R), in closed form (Koopman 1984).
    """
    import numpy as np

    r, na, ka, nb, kb = (np.asarray(v, dtype=float) for v in (ratio, n_a, k_a, n_b, k_b))
    hits = ka + kb
    middle = kb + na + r * (ka + nb)
    root = np.sqrt(np.maximum(middle**2 - 4 * r * (na + nb) * hits, 0.0))
    return np.asarray(np.minimum(2 * hits / (middle + root), np.minimum(1.0, 1.0 / r)))


# ---- the law ----


@dataclass(frozen=True, slots=True)
class Line:
    """R = slope log(x / critical), by ordinary least squares.

    Attributes
    ----------
    slope, intercept : float
    critical : float
        Where the line is 0; NaN for a slope of 0, infinite or 0 where it does not fit a float.
    slope_se, intercept_se : float or None
        None with two points.
    rss, r2 : float
        `r2` is NaN where all R are equal.
    n : int
    """

    slope: float
    intercept: float
    critical: float
    slope_se: float | None
    intercept_se: float | None
    rss: float
    r2: float
    n: int

    def predict(self, x: ArrayLike, *, clip: bool = False) -> Floats:
        """R at x; with `clip`, kept within 0 and 1."""
        import numpy as np

        values = self.intercept + self.slope * np.log(_positive("x", x))
        return np.asarray(np.clip(values, 0.0, 1.0) if clip else values)

    def relative_error(self, x: ArrayLike, y: ArrayLike) -> float:
        """Mean of the absolute error over the absolute value of y; y = 0 left out, NaN if all."""
        import numpy as np

        seen = np.asarray(y, dtype=float)
        errors = np.abs(self.predict(x) - seen)[seen != 0] / np.abs(seen[seen != 0])
        return float(errors.mean()) if errors.size else math.nan


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """The log-linear law of one factor.

    Parameters
    ----------
    x : (N) float64
        Positive values of the factor: popularity, length or size.
    y : (N) float64
        Relative hallucination rates.

    Raises
    ------
    ArgumentError
        Fewer than two points, or x is everywhere the same: the line is not identified.

    Examples
    --------
    >>> line = fit_line([1, math.e, math.e**2], [0.1, 0.3, 0.5])
    >>> round(line.slope, 12), round(math.log(line.critical), 12)
    (0.2, -0.5)
    """
    import numpy as np

    u, r = np.log(_positive("x", x)), np.asarray(y, dtype=float)
    if u.shape != r.shape:
        raise ArgumentError(f"x has {u.size} values and y {r.size}")
    if not np.isfinite(r).all():
        raise ArgumentError("y must be finite; leave out rates without recall")
    n = len(u)
    if n < 2 or np.ptp(u) == 0:
        raise ArgumentError(f"{n} points at one x do not tell slope from intercept; vary x")
    du = u - u.mean()
    sxx = float(du @ du)
    slope = float(du @ (r - r.mean())) / sxx
    intercept = float(r.mean() - slope * u.mean())
    rss = float(((r - intercept - slope * u) ** 2).sum())
    tss = float(((r - r.mean()) ** 2).sum())
    spread = rss / (n - 2) if n > 2 else None
    return Line(
        slope,
        intercept,
        _exp(-intercept / slope) if slope else math.nan,
        None if spread is None else math.sqrt(spread / sxx),
        None if spread is None else math.sqrt(spread * (1 / n + float(u.mean()) ** 2 / sxx)),
        rss,
        1 - rss / tss if tss else math.nan,
        n,
    )


# ---- overshadowed tokens of a prompt ----


@dataclass(frozen=True)
class Indicator:
    """What removing one token of a prompt does to the next token.

    Attributes
    ----------
    value : float
        r_pmi_sum + escape; negative: the choice goes on as if the token were not there.
    r_pmi_sum : float
        Sum over `common` of min(log p(y | X) - log p(y | X'), 0), nats.
    escape : float
        Sum over `escaping` of log p(y | X) - floor, nats.
    floor : float
        Least log p(y | X') that counts; NaN where there is none.
    common, escaping : (K) int64
        Top tokens with and without the removed token, and with it alone.
    """

    value: float
    r_pmi_sum: float
    escape: float
    floor: float
    common: NDArray[np.int64]
    escaping: NDArray[np.int64]


def log_softmax(logits: ArrayLike) -> Floats:
    """Log-probabilities of logits or log-probabilities, in float64 along the last axis.

    Raises
    ------
    ArgumentError
        A NaN or +inf, or nothing but -inf.
    """
    import numpy as np

    z = _logits(logits)
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


def _logits(values: ArrayLike) -> Floats:
    """Float64, along the last axis no NaN and something finite."""
    import numpy as np

    z = np.asarray(values, dtype=np.float64)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ArgumentError("logits are empty")
    if not np.isfinite(z.max(axis=-1)).all():
        raise ArgumentError("logits must be numbers or -inf, at least one of them finite")
    return z


def top_tokens(logits: ArrayLike, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which tokens have at least `alpha` times the largest probability; never none.

    Parameters
    ----------
    logits : (..., V)
    alpha : float
        Above 0 and up to 1.
    """
    import numpy as np

    logp = log_softmax(logits)
    return np.asarray(logp >= logp.max(axis=-1, keepdims=True) + math.log(_alpha(alpha)))


@dataclass(frozen=True)
class Likely:
    """One row of logits and its tokens at least a share as likely as the most likely one.

    Attributes
    ----------
    logits : (V) float64
    log_total : float
        Log of the sum of their exponentials.
    bound : float
        The least logit of a likely token.
    """

    logits: Floats
    log_total: float
    bound: float

    @classmethod
    def of(cls, logits: Floats, log_alpha: float) -> Likely:
        """Of finite logits or -inf, and the logarithm of the share."""
        import numpy as np

        largest = float(logits.max())
        total = largest + math.log(float(np.exp(logits - largest).sum()))
        return cls(logits, total, largest + log_alpha)

    def tokens(self) -> NDArray[np.int64]:
        """The likely tokens."""
        import numpy as np

        return np.flatnonzero(self.logits >= self.bound)

    def least(self) -> float:
        """The smallest log-probability among the likely tokens."""
        return float(self.logits[self.logits >= self.bound].min()) - self.log_total


def compare_likely(full: Likely, masked: Likely, floor: Floor) -> Indicator:
    """The indicator of rows that are known to be good; see :func:`indicator`."""
    import numpy as np

    tokens = full.tokens()
    with_it = full.logits[tokens] - full.log_total
    without = masked.logits[tokens]
    is_common = without >= masked.bound
    before = without[is_common] - masked.log_total
    pmi = with_it[is_common] - before
    if floor == "vtop_min":
        least = masked.least()
    else:
        least = float(before[pmi < 0].min()) if (pmi < 0).any() else math.nan
    r_pmi_sum = float(np.minimum(pmi, 0.0).sum())
    escape = 0.0 if math.isnan(least) else float((with_it[~is_common] - least).sum())
    return Indicator(
        r_pmi_sum + escape, r_pmi_sum, escape, least, tokens[is_common], tokens[~is_common]
    )


def indicator(
    full: ArrayLike, masked: ArrayLike, *, alpha: float = ALPHA, floor: Floor = "vtop_min"
) -> Indicator:
    """How far the next token is chosen as if a token of the prompt were not there.

    Parameters
    ----------
    full, masked : (V) logits
        After the prompt X, and after X' without the token.
    alpha : float
        Of :func:`top_tokens`.
    floor : {"vtop_min", "neg_min"}
        Escaping tokens are measured from the least log p(y | X') over the top tokens of X', or over
        the common tokens that X makes less probable (no escape where there is none).

    Examples
    --------
    >>> indicator([2.0, 1.0, 0.0], [2.0, 1.0, 0.0]).value
    0.0
    """
    if floor not in ("vtop_min", "neg_min"):
        raise ArgumentError(f'floor is {floor!r}; it must be "vtop_min" or "neg_min"')
    rows = _logits(full), _logits(masked)
    if rows[0].shape != rows[1].shape or rows[0].ndim != 1:
        raise ArgumentError(
            f"logits of shapes {rows[0].shape} and {rows[1].shape}; both must be (V)"
        )
    log_alpha = math.log(_alpha(alpha))
    return compare_likely(Likely.of(rows[0], log_alpha), Likely.of(rows[1], log_alpha), floor)


def select_token(indicators: Sequence[float], select: Select = "min") -> int | None:
    """Index of the token taken to be overshadowed; None when there is none.

    Parameters
    ----------
    indicators : sequence of float
        One a candidate token.
    select : {"min", "max"}
        The smallest indicator if it is negative, as the paper is understood, or the largest of
        whatever sign, as in a published re-implementation. The first of equals.
    """
    if select not in ("min", "max"):
        raise ArgumentError(f'select is {select!r}; it must be "min" or "max"')
    if not len(indicators):
        return None
    order = range(len(indicators))
    if select == "max":
        return max(order, key=lambda i: indicators[i])
    least = min(order, key=lambda i: indicators[i])
    return least if indicators[least] < 0 else None


def _alpha(alpha: float) -> float:
    value = real_number("alpha", alpha, 0, 1)
    if value == 0:
        raise ArgumentError("alpha is 0; it must be above 0 and at most 1")
    return value


def _positive(name: str, x: ArrayLike) -> Floats:
    import numpy as np

    values = np.asarray(x, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ArgumentError(f"{name} must be positive and finite")
    return values


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
