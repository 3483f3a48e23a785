"""Statistics for measurements whose items come in clusters: intervals, tests, power.

Every seed is an argument; the same seed gives the same figures on any number of threads. Arrays
may be anything ``numpy.asarray`` takes; ids of clusters, subjects and templates may be numbers or
strings. Definitions and sources: docs/measures/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import _km
from km.kaplan_meier import KaplanMeier, kaplan_meier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "KaplanMeier",
    "Regression",
    "Test",
    "auroc",
    "benjamini_hochberg",
    "bootstrap",
    "clustered_bootstrap",
    "holm",
    "items_needed",
    "kaplan_meier",
    "kendall",
    "linear_regression",
    "mcnemar",
    "paired_bootstrap",
    "pairs_needed",
    "pearson",
    "permutation_test",
    "permutation_test_two_sample",
    "power_paired",
    "power_two_proportions",
    "spearman",
    "wilson",
]

Method: TypeAlias = Literal["auto", "bootstrap", "t"]
Ids: TypeAlias = "ArrayLike | Sequence[object] | None"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with a confidence interval.

    Attributes
    ----------
    estimate, low, high : float
    se : float or None
        Standard error; None where the method has none.
    df : float or None
        Degrees of freedom; None where the method has none.
    n, n_clusters : int
        Items, and the units that were resampled or counted as independent.
    method : str
        "wilson", "bootstrap", "cluster bootstrap", "CR2 t" or "wilson on clusters".
    confidence : float
    """

    estimate: float
    low: float
    high: float
    se: float | None
    df: float | None
    n: int
    n_clusters: int
    method: str
    confidence: float

    def __str__(self) -> str:
        return (
            f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({100 * self.confidence:g} % {self.method}, n = {self.n}, "
            f"clusters = {self.n_clusters})"
        )


@dataclass(frozen=True, slots=True)
class Test:
    """A test statistic with its two-sided p-value.

    Attributes
    ----------
    statistic, p : float
        NaN where a variable is constant.
    exact : bool
        Every arrangement was counted.
    n : int
        Units that were rearranged, or items.
    draws : int
        Arrangements looked at; 0 where the test has none.
    """

    __test__ = False  # not a test case for pytest

    statistic: float
    p: float
    exact: bool
    n: int
    draws: int

    def __str__(self) -> str:
        kind = "exact" if self.exact else f"{self.draws} draws" if self.draws else "approximate"
        return f"{self.statistic:.4g}, p = {self.p:.3g} ({kind}, n = {self.n})"


@dataclass(frozen=True, slots=True)
class Regression:
    """A straight line by least squares.

    Attributes
    ----------
    slope, intercept, slope_se, intercept_se : float
    t, p : float
        Of the slope against zero.
    r2 : float
    n : int
    """

    slope: float
    intercept: float
    slope_se: float
    intercept_se: float
    t: float
    p: float
    r2: float
    n: int


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion.

    Examples
    --------
    >>> print(wilson(8, 10))
    0.8 [0.4902, 0.9433] (95 % wilson, n = 10, clusters = 10)
    """
    return _interval(_km.stats_wilson(successes, n, confidence), confidence)


def bootstrap(
    x: ArrayLike,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    proportion: bool = False,
) -> Interval:
    """Percentile bootstrap of the mean of independent values.

    Parameters
    ----------
    x : (N) float64
    replicates : int
        At least 100.
    proportion : bool
        Values lie in [0, 1]; all 0 or all 1 then get Wilson's interval instead of one of no width.
    """
    values = _km.stats_bootstrap_mean(_floats(x), replicates, confidence, seed, proportion)
    return _interval(values, confidence)


def clustered_bootstrap(
    x: ArrayLike,
    cluster: Ids = None,
    subject: Ids = None,
    template: Ids = None,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "auto",
    macro: bool = False,
    proportion: bool = False,
) -> Interval:
    """Mean of clustered values with an interval.

    Parameters
    ----------
    x : (N) float64
    cluster : (N) ids, optional
        Such as the relation. None: every item is its own cluster.
    subject : (N) ids, optional
        Within the cluster; drawn again inside each drawn cluster.
    template : (N) ids, optional
        Within the cluster, crossed with the subjects.
    method : {"auto", "bootstrap", "t"}
        "auto" takes the percentile bootstrap from 30 clusters on and below that Student's t with
        the cluster-robust standard error CR2, because the bootstrap is too narrow there.
    macro : bool
        The mean of the clusters' means instead of the mean of all items.
    proportion : bool
        Values lie in [0, 1]: the interval is cut there and never has zero width.

    Raises
    ------
    ArgumentError
        A single cluster of a single subject and template, which says nothing about spread.
    """
    values = _km.stats_clustered_mean(
        _floats(x),
        _ids(cluster),
        _ids(subject),
        _ids(template),
        replicates,
        confidence,
        seed,
        method,
        macro,
        proportion,
    )
    return _interval(values, confidence)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    cluster: Ids = None,
    subject: Ids = None,
    template: Ids = None,
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "auto",
    macro: bool = False,
    proportion: bool = False,
) -> Interval:
    """Mean of ``a - b`` over items measured twice; parameters as in `clustered_bootstrap`.

    With ``proportion``, differences that are all zero get plus and minus Wilson's upper bound of
    0 in the number of clusters.
    """
    values = _km.stats_paired_difference(
        _floats(a),
        _floats(b),
        _ids(cluster),
        _ids(subject),
        _ids(template),
        replicates,
        confidence,
        seed,
        method,
        macro,
        proportion,
    )
    return _interval(values, confidence)


def permutation_test(
    x: ArrayLike, cluster: Ids = None, *, draws: int = 10_000, seed: int = 0
) -> Test:
    """Sign-flip test that the mean of paired differences is zero.

    The signs of whole clusters change together. Exact up to 20 clusters; else `draws` random sign
    vectors, and p = (1 + hits) / (1 + draws).
    """
    return Test(*_km.stats_permutation_paired(_floats(x), _ids(cluster), draws, seed))


def permutation_test_two_sample(
    x: ArrayLike, y: ArrayLike, *, draws: int = 10_000, seed: int = 0
) -> Test:
    """Difference of the means of two independent samples under exchange of their labels.

    Exact while there are at most 2**20 arrangements.
    """
    return Test(*_km.stats_permutation_two_sample(_floats(x), _floats(y), draws, seed))


def mcnemar(b: int, c: int) -> Test:
    """Exact McNemar test of the discordant pairs: b where only the first succeeded, c the second.

    Examples
    --------
    >>> mcnemar(0, 5).p
    0.0625
    """
    return Test(*_km.stats_mcnemar(b, c))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values, for confirmatory families.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    return _array(_km.stats_holm(_floats(p)))


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjusted p-values, for exploratory families.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]
    """
    return _array(_km.stats_benjamini_hochberg(_floats(p)))


def pearson(x: ArrayLike, y: ArrayLike) -> Test:
    """Pearson's r with Student's t on n - 2 degrees of freedom."""
    return Test(*_km.stats_pearson(_floats(x), _floats(y)))


def spearman(x: ArrayLike, y: ArrayLike) -> Test:
    """Pearson's r of average ranks."""
    return Test(*_km.stats_spearman(_floats(x), _floats(y)))


def kendall(x: ArrayLike, y: ArrayLike) -> Test:
    """Kendall's tau-b; p exact up to 33 items without ties, else normal."""
    return Test(*_km.stats_kendall(_floats(x), _floats(y)))


def linear_regression(x: ArrayLike, y: ArrayLike) -> Regression:
    """Ordinary least squares of y on x.

    Raises
    ------
    ArgumentError
        Fewer than three points, or x is constant.
    """
    return Regression(*_km.stats_linear_regression(_floats(x), _floats(y)))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half."""
    import numpy as np

    return _km.stats_auroc(_floats(scores), np.ascontiguousarray(positive, dtype=bool))


def power_paired(
    n: float,
    discordance: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Smallest difference between two models' proportions that n shared items show.

    Parameters
    ----------
    n : float
        Pairs.
    discordance : float
        Share of items on which the two disagree.
    design_effect : float
        Divides n; 1 where items are independent.

    Returns
    -------
    float
        NaN when n shows nothing, even if every disagreement went one way.

    Notes
    -----
    Normal approximation to McNemar's test (Connor 1987).
    """
    return _km.stats_power_paired(n, discordance, alpha, power, design_effect)


def pairs_needed(
    difference: float,
    discordance: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int:
    """Pairs needed to show a difference between two proportions on shared items."""
    return math.ceil(_km.stats_pairs_needed(difference, discordance, alpha, power, design_effect))


def power_two_proportions(
    n: float,
    baseline: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> float:
    """Smallest rise above `baseline` that two separate groups of n items show; NaN when none."""
    return _km.stats_power_two_proportions(n, baseline, alpha, power, design_effect)


def items_needed(
    p1: float,
    p2: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int:
    """Items needed in each of two separate groups to tell p1 from p2."""
    return math.ceil(_km.stats_items_needed(p1, p2, alpha, power, design_effect))


def _interval(
    values: tuple[float, float, float, float, float, int, int, str], confidence: float
) -> Interval:
    estimate, low, high, *spread, n, n_clusters, method = values
    se, df = (None if math.isnan(value) else value for value in spread)
    return Interval(estimate, low, high, se, df, n, n_clusters, method, confidence)


def _floats(x: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    return np.ascontiguousarray(x, dtype=np.float64)


def _ids(ids: Ids) -> Any:
    """Any ids as int64 numbers; equal ids get equal numbers, in rising order of id."""
    import numpy as np

    if ids is None:
        return None
    array = np.asarray(ids)
    if array.dtype.kind in "iub" and array.dtype.itemsize <= 8 and array.dtype != np.uint64:
        return np.ascontiguousarray(array, dtype=np.int64)
    return np.ascontiguousarray(np.unique(array, return_inverse=True)[1], dtype=np.int64)


def _array(values: _km.Array) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(values)
