"""Regressions for items that come in groups: a slope within clusters, and crossed random effects.

Small data (some ten thousand rows), plain numpy. Formulas and sources: docs/measures/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Mixed", "Slope", "fit_mixed", "t_quantile", "within_permutation", "within_slope"]

# Below this share of the residual variance a variance component is none.
NO_VARIANCE = 1e-8
# Steps of the search for variance components; it stops long before, when the simplex is small.
MAX_STEPS = 400


def t_quantile(p: float, df: float) -> float:
    """Inverse of Student's t distribution function."""
    return _km.stats_t_quantile(p, df)


# ---- a slope within clusters ----


@dataclass(frozen=True, slots=True)
class Slope:
    """Slope of y on x within clusters, with a cluster-robust standard error.

    Attributes
    ----------
    estimate, se, df : float
        CR2 standard error with Satterthwaite's degrees of freedom; NaN with fewer than two
        clusters in which x varies.
    n, n_clusters : int
        Items and clusters that inform it.
    """

    estimate: float
    se: float
    df: float
    n: int
    n_clusters: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Student's t interval; NaN where there is no standard error."""
        if not math.isfinite(self.se):
            return math.nan, math.nan
        half = t_quantile((1 + confidence) / 2, self.df) * self.se
        return self.estimate - half, self.estimate + half

    def detectable(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """Smallest slope that a two-sided test shows with this power, given the standard error."""
        if not math.isfinite(self.se):
            return math.nan
        return (t_quantile(1 - alpha / 2, self.df) + t_quantile(power, self.df)) * self.se


def within_slope(x: ArrayLike, y: ArrayLike, cluster: ArrayLike) -> Slope:
    """Least-squares slope of y on x with an intercept of its own for each cluster.

    Parameters
    ----------
    x, y : (N) float64
    cluster : (N) ids

    Returns
    -------
    Slope
        NaN where x varies in no cluster.

    Notes
    -----
    Everything that is the same for all items of a cluster drops out of it. The standard error is
    Bell and McCaffrey's (2002) CR2 with the intercepts in the model, its degrees of freedom
    Satterthwaite's under equal independent errors: with the same x in every cluster exactly the t
    interval of the clusters' own slopes.
    """
    import numpy as np

    groups = _groups(cluster)
    dx, dy = _centred(np.asarray(x, float), groups), _centred(np.asarray(y, float), groups)
    sxx = float(sum((dx[g] ** 2).sum() for g in groups))
    if sxx <= 0:
        return Slope(math.nan, math.nan, math.nan, 0, 0)
    slope = float(sum((dx[g] * dy[g]).sum() for g in groups)) / sxx
    used = [g for g in groups if (dx[g] ** 2).sum() > 0]
    n = sum(len(g) for g in used)
    if len(used) < 2:
        return Slope(slope, math.nan, math.nan, n, len(used))
    variance, own, cross = 0.0, [], []
    for g in used:
        block = np.eye(len(g)) - 1 / len(g) - np.outer(dx[g], dx[g]) / sxx
        weights = _root_inverse(block) @ dx[g] / sxx
        variance += float(weights @ (dy[g] - slope * dx[g])) ** 2
        own.append(float(weights @ block @ weights))
        cross.append(float(weights @ dx[g]))
    gram = -np.outer(cross, cross) / sxx
    np.fill_diagonal(gram, own)
    df = float(np.trace(gram) ** 2 / (gram**2).sum())
    return Slope(slope, math.sqrt(variance), df, n, len(used))


def within_permutation(
    x: ArrayLike, y: ArrayLike, cluster: ArrayLike, *, draws: int = 4000, seed: int = 0
) -> float:
    """Two-sided p of no association of x and y within any cluster: x dealt out again within each.

    Returns
    -------
    float
        (1 + hits) / (1 + draws); NaN where x or y varies in no cluster.
    """
    import numpy as np

    groups = _groups(cluster)
    dx, dy = _centred(np.asarray(x, float), groups), _centred(np.asarray(y, float), groups)
    if not any((dx[g] ** 2).sum() > 0 and (dy[g] ** 2).sum() > 0 for g in groups):
        return math.nan
    generator = np.random.Generator(np.random.PCG64(seed))
    sums = np.zeros(draws)
    for g in groups:
        sums += generator.permuted(np.tile(dx[g], (draws, 1)), axis=1) @ dy[g]
    seen = abs(float((dx * dy).sum()))
    return float((1 + (np.abs(sums) >= seen * (1 - 1e-12)).sum()) / (1 + draws))


def _groups(ids: ArrayLike) -> list[Ints]:
    """The items of each distinct id."""
    import numpy as np

    codes = np.unique(np.asarray(ids), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    return [np.asarray(g) for g in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)]


def _centred(x: Floats, groups: Sequence[Ints]) -> Floats:
    """X less its mean in each group."""
    out = x.copy()
    for g in groups:
        out[g] -= x[g].mean()
    return out


def _root_inverse(matrix: Floats) -> Floats:
    """Symmetric square root of the Moore-Penrose inverse."""
    import numpy as np

    values, vectors = np.linalg.eigh(matrix)
    good = values > 1e-9
    root = np.where(good, 1 / np.sqrt(np.where(good, values, 1)), 0)
    return np.asarray(vectors * root @ vectors.T)


# ---- crossed random effects ----


@dataclass(frozen=True)
class Mixed:
    """A linear model with crossed random intercepts, fitted by REML.

    Attributes
    ----------
    names : tuple of str
        Of the fixed effects.
    coefficients, se : (P) float64
        Fixed effects and their model-based standard errors.
    covariance : (P, P) float64
        Of the fixed effects.
    variances : dict of str to float
        Of each random effect.
    residual : float
        Residual variance.
    reml : float
        Restricted log-likelihood, as statsmodels and lme4 report it.
    n : int
    levels : dict of str to int
        Levels of each random effect.
    """

    names: tuple[str, ...]
    coefficients: Floats
    se: Floats
    covariance: Floats
    variances: dict[str, float]
    residual: float
    reml: float
    n: int
    levels: dict[str, int]


def fit_mixed(
    y: ArrayLike, fixed: Mapping[str, ArrayLike], random: Mapping[str, ArrayLike]
) -> Mixed:
    """Fit y = intercept + fixed effects + one random intercept for each level of each grouping.

    Parameters
    ----------
    y : (N) float64
    fixed : mapping of name to (N) float64
        An intercept, "intercept", is put before them.
    random : mapping of name to (N) ids
        Groupings, crossed or nested as they come.

    Raises
    ------
    ArgumentError
        No more rows than fixed effects, or these are collinear.

    Notes
    -----
    With ratios theta of the variances to the residual one and Z the groupings' indicators,
    V = I + Z theta Z'. The residual variance and the fixed effects are profiled out of the
    restricted likelihood, whose maximum over log theta is looked for by Nelder and Mead's simplex.
    Solutions go through the matrix I + sqrt(theta) Z'Z sqrt(theta) over the levels (Bates et al.
    2015), from which the grouping with most levels, diagonal by itself, is eliminated first.
    """
    import numpy as np

    names = ("intercept", *fixed)
    columns = [np.ones(len(np.asarray(y))), *(np.asarray(c, float) for c in fixed.values())]
    work = _MixedWork(np.column_stack(columns), np.asarray(y, float), random)
    theta = _minimise(work.deviance, np.zeros(len(random))) if random else np.zeros(0)
    deviance, beta, covariance, residual = work.solve(theta)
    ratios = np.exp(theta)
    return Mixed(
        names,
        beta,
        np.sqrt(np.diag(covariance)),
        covariance,
        {
            name: float(r * residual) if r > NO_VARIANCE else 0.0
            for name, r in zip(random, ratios, strict=True)
        },
        residual,
        -deviance / 2,
        len(work.y),
        dict(zip(random, work.counts, strict=True)),
    )


class _MixedWork:
    """Cross products, and the restricted deviance as a function of log variance ratios."""

    def __init__(self, x: Floats, y: Floats, random: Mapping[str, ArrayLike]) -> None:
        import numpy as np

        if len(y) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
            raise ArgumentError(
                f"{len(y)} rows do not tell {x.shape[1]} fixed effects apart; leave out one that "
                "is constant or a sum of others"
            )
        self.y = y
        self.p = x.shape[1]
        codes = [np.unique(np.asarray(ids), return_inverse=True)[1] for ids in random.values()]
        self.counts = [int(c.max()) + 1 for c in codes]
        both = np.column_stack([x, y])
        self.products = both.T @ both
        sums = [_sums(both, c, n) for c, n in zip(codes, self.counts, strict=True)]
        # The grouping with most levels is taken first, because alone its part is diagonal.
        self.order = sorted(range(len(codes)), key=lambda i: -self.counts[i])
        first, rest = self.order[:1], self.order[1:]
        none = np.zeros((0, self.p + 1))
        self.size = np.array([n for i in first for n in np.bincount(codes[i])], dtype=float)
        self.z_first = np.vstack([none, *(sums[i] for i in first)])
        self.z_rest = np.vstack([none, *(sums[i] for i in rest)])
        counts = [self.counts[i] for i in rest]
        self.rest_counts = counts
        self.between = _together([codes[i] for i in rest], counts, [codes[i] for i in first])
        self.within = _together([codes[i] for i in rest], counts, [codes[i] for i in rest])

    def solve(self, theta: Floats) -> tuple[float, Floats, Floats, float]:
        """Deviance, fixed effects, their covariance and the residual variance."""
        import numpy as np

        ratio = np.exp(theta[self.order]) if len(theta) else np.zeros(0)
        scale = 1 + ratio[:1].sum() * self.size
        weight = ratio[:1].sum() / scale
        products = self.products - self.z_first.T @ (weight[:, None] * self.z_first)
        sums = self.z_rest - self.between @ (weight[:, None] * self.z_first)
        levels = self.within - (self.between * weight) @ self.between.T
        root = np.repeat(np.sqrt(ratio[1:]), self.rest_counts)
        lower = np.linalg.cholesky(np.eye(len(root)) + root[:, None] * levels * root)
        half = np.linalg.solve(lower, root[:, None] * sums)
        products = products - half.T @ half
        xx, xy = products[: self.p, : self.p], products[: self.p, self.p]
        beta = np.linalg.solve(xx, xy)
        rss = float(products[self.p, self.p] - xy @ beta)
        df = len(self.y) - self.p
        residual = max(rss / df, 1e-300)
        log_det = np.log(scale).sum() + 2 * np.log(np.diag(lower)).sum()
        log_det += np.linalg.slogdet(xx)[1]
        deviance = float(log_det + df * (1 + math.log(2 * math.pi * residual)))
        return deviance, beta, np.linalg.inv(xx) * residual, residual

    def deviance(self, theta: Floats) -> float:
        """The deviance alone, for theta kept within what a variance ratio can be."""
        import numpy as np

        inside = np.clip(theta, math.log(NO_VARIANCE) - 1, 18)
        return self.solve(inside)[0] + float(((theta - inside) ** 2).sum())


def _sums(rows: Floats, codes: Ints, n: int) -> Floats:
    """Sums of the rows of each level."""
    import numpy as np

    return np.column_stack([np.bincount(codes, column, n) for column in rows.T])


def _together(rows: Sequence[Ints], counts: Sequence[int], columns: Sequence[Ints]) -> Floats:
    """How often levels of the groupings `rows` come together with those of `columns`."""
    import numpy as np

    widths = [int(c.max()) + 1 for c in columns]
    out = np.zeros((sum(counts), sum(widths)))
    top = 0
    for a, n in zip(rows, counts, strict=True):
        left = 0
        for b, width in zip(columns, widths, strict=True):
            table = np.bincount(a * width + b, minlength=n * width).reshape(n, width)
            out[top : top + n, left : left + width] = table
            left += width
        top += n
    return out


def _minimise(function: Callable[[Any], float], start: Floats) -> Floats:
    """Nelder and Mead's simplex, until its corners agree."""
    import numpy as np

    points = [start, *(start + 1.5 * unit for unit in np.eye(len(start)))]
    corners = sorted(((function(p), p) for p in points), key=lambda c: c[0])
    for _ in range(MAX_STEPS):
        values = [value for value, _ in corners]
        spread = max(float(np.abs(p - corners[0][1]).max()) for _, p in corners)
        if values[-1] - values[0] < 1e-8 and (spread < 1e-3 or values[-1] - values[0] < 1e-11):
            break
        middle = np.mean([p for _, p in corners[:-1]], axis=0)
        worst = corners[-1][1]
        replacement = _simplex_step(function, corners, middle, worst)
        if replacement is None:
            best = corners[0][1]
            shrunk = [best + (p - best) / 2 for _, p in corners[1:]]
            corners = [corners[0], *((function(p), p) for p in shrunk)]
        else:
            corners[-1] = replacement
        corners.sort(key=lambda c: c[0])
    return np.asarray(corners[0][1])


def _simplex_step(
    function: Callable[[Any], float],
    corners: Sequence[tuple[float, Floats]],
    middle: Floats,
    worst: Floats,
) -> tuple[float, Floats] | None:
    """A corner better than the worst, by reflection, expansion or contraction; None: shrink."""
    reflected = 2 * middle - worst
    value = function(reflected)
    if value < corners[0][0]:
        expanded = 3 * middle - 2 * worst
        further = function(expanded)
        return (further, expanded) if further < value else (value, reflected)
    if value < corners[-2][0]:
        return value, reflected
    better = value < corners[-1][0]
    contracted = (middle + (reflected if better else worst)) / 2
    inner = function(contracted)
    return (inner, contracted) if inner < min(value, corners[-1][0]) else None
