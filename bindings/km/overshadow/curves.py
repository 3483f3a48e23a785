"""Curves of R fitted to counts by maximum likelihood, the recall of each cell profiled out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from km.overshadow.measure import Cell
from km.scores.overshadow import profile_recall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Width over which the line bends where it meets 0; R cannot be negative.
BEND = 0.005
# Steps of the damped scoring; it stops when the likelihood does not rise any more.
MAX_STEPS = 200

# Parameters to R of each cell, and its derivatives (N, P).
Curve: TypeAlias = "Callable[[Floats], tuple[Floats, Floats]]"


@dataclass(frozen=True)
class Predicted:
    """R of several cells by a curve, with its variance, and the dispersion of cells around it."""

    ratio: Floats
    variance: Floats
    dispersion: float


@dataclass(frozen=True)
class Counts:
    """Counts of several cells: prompts and popular answers of A and of B."""

    n_a: Floats
    k_a: Floats
    n_b: Floats
    k_b: Floats

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Counts:
        """Those of the cells."""
        import numpy as np

        names = ("n_a", "n_a_correct", "n_b", "n_b_hallucinated")
        return cls(*(np.array([float(getattr(c, name)) for c in cells]) for name in names))

    def ratios(self) -> Floats:
        """R of each cell; NaN without recall."""
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            found = (self.k_b / self.n_b) / (self.k_a / self.n_a)
        return np.where(self.k_a > 0, found, np.nan)

    def recall(self) -> Floats:
        """Recall of each cell, half a success and half a failure added."""
        return (self.k_a + 0.5) / (self.n_a + 1)

    def log_likelihood(self, ratio: Floats) -> Floats:
        """Of each cell, at the recall that suits R best, nats."""
        q = profile_recall(ratio, self.n_a, self.k_a, self.n_b, self.k_b)
        return _bernoulli(self.k_a, self.n_a, q) + _bernoulli(self.k_b, self.n_b, ratio * q)

    def score(self, ratio: Floats) -> tuple[Floats, Floats]:
        """Derivative of the log-likelihood by R, and Fisher's information."""
        import numpy as np

        q = np.clip(profile_recall(ratio, self.n_a, self.k_a, self.n_b, self.k_b), 1e-12, 1 - 1e-12)
        h = np.clip(ratio * q, 1e-12, 1 - 1e-12)
        slope = self.k_b / ratio - (self.n_b - self.k_b) * (h / ratio) / (1 - h)
        return slope, 1 / self.variance(ratio, q)

    def variance(self, ratio: Floats, q: Floats) -> Floats:
        """Large-sample variance of an observed R when R and recall are known.

        Shares are kept half a prompt from 0 and 1, where a few prompts would claim to be exact.
        """
        import numpy as np

        edge_a, edge_b = 0.5 / (self.n_a + 1), 0.5 / (self.n_b + 1)
        h, q = np.clip(ratio * q, edge_b, 1 - edge_b), np.clip(q, edge_a, 1 - edge_a)
        return np.asarray(ratio**2 * ((1 - h) / (self.n_b * h) + (1 - q) / (self.n_a * q)))

    def log_score(self, predicted: Predicted) -> Floats:
        """Log-probability of the hallucinations of each cell when R is predicted, nats.

        Counts are beta-binomial with the variance that follows from the cell's own recall, the
        curve's parameters and the dispersion it showed where it was fitted: a curve that misses
        says so by being less sure, and no single cell decides everything. Probabilities are kept
        half a prompt from 0 and 1.
        """
        import numpy as np

        edge, q = 0.5 / (self.n_b + 1), self.recall()
        p = np.clip(predicted.ratio * q, edge, 1 - edge)
        spread = predicted.variance + predicted.dispersion * self.variance(p / q, q)
        excess = self.n_b * q**2 * spread / (p * (1 - p)) - 1
        share = np.clip(excess / np.maximum(self.n_b - 1, 1.0), 0.0, 0.99)
        cells = zip(self.k_b, self.n_b, p, share, strict=True)
        return np.array([_beta_binomial(*map(float, cell)) for cell in cells])


@dataclass(frozen=True)
class Fitted:
    """A curve at its most likely parameters.

    Attributes
    ----------
    parameters : (P) float64
    covariance : (P, P) float64
        Dispersion included.
    dispersion : float
        Pearson's statistic a degree of freedom, at least 1; NaN without degrees of freedom.
    df : int
        Cells less parameters.
    log_likelihood : float
    """

    parameters: Floats
    covariance: Floats
    dispersion: float
    df: int
    log_likelihood: float

    def predict(self, curve: Curve) -> Predicted:
        """R where `curve` has it at these parameters; without dispersion, that of independence."""
        import numpy as np

        ratio, jacobian = curve(self.parameters)
        known = math.isfinite(self.dispersion)
        covariance = self.covariance if known else np.zeros_like(self.covariance)
        variance = ((jacobian @ covariance) * jacobian).sum(axis=1)
        return Predicted(ratio, np.asarray(variance), self.dispersion if known else 1.0)


def fit_curve(counts: Counts, curve: Curve, starts: Sequence[Floats]) -> Fitted:
    """Maximise the likelihood by damped Fisher scoring, from the start that ends highest."""
    import numpy as np

    ends = [_climb(counts, curve, np.asarray(start, dtype=float)) for start in starts]
    value, at = max(ends, key=lambda end: end[0])
    ratio, jacobian = curve(at)
    slope, information = counts.score(ratio)
    df = len(ratio) - len(at)
    pearson = float((slope**2 / information).sum())
    dispersion = max(1.0, pearson / df) if df > 0 else math.nan
    fisher = (jacobian * information[:, None]).T @ jacobian
    covariance: Floats = np.asarray(np.linalg.pinv(fisher) * dispersion, dtype=np.float64)
    return Fitted(at, covariance, dispersion, df, value)


def _climb(counts: Counts, curve: Curve, at: Floats) -> tuple[float, Floats]:
    import numpy as np

    damping = 1e-3
    ratio, jacobian = curve(at)
    value = float(counts.log_likelihood(ratio).sum())
    for _ in range(MAX_STEPS):
        slope, information = counts.score(ratio)
        gradient = jacobian.T @ slope
        fisher = (jacobian * information[:, None]).T @ jacobian
        scale = np.diag(fisher) + 1e-9
        step = np.linalg.solve(fisher + np.diag(damping * scale), gradient)
        tried, tried_jacobian = curve(at + step)
        found = float(counts.log_likelihood(tried).sum())
        if found >= value:
            gain, at, ratio, jacobian = found - value, at + step, tried, tried_jacobian
            value, damping = found, max(damping / 10, 1e-9)
            if gain < 1e-10 and damping < 1e-6:
                break
        elif damping > 1e12:
            break
        else:
            damping *= 10
    return value, at


# ---- curves ----


def linear(design: Floats) -> Curve:
    """R = design @ parameters, bent smoothly where it would be negative."""
    import numpy as np

    def curve(parameters: Floats) -> tuple[Floats, Floats]:
        eta = design @ parameters / BEND
        ratio = BEND * np.logaddexp(0.0, eta)
        return np.maximum(ratio, 1e-9), design * _logistic(eta)[:, None]

    return curve


def saturating(log_x: Floats) -> Curve:
    """R = ceiling x / (x + half); parameters are log ceiling and log half."""
    import numpy as np

    def curve(parameters: Floats) -> tuple[Floats, Floats]:
        top, half = np.clip(parameters, -40.0, 40.0)
        share = _logistic(log_x - half)
        ratio = np.maximum(np.exp(top) * share, 1e-9)
        return ratio, np.column_stack([ratio, -ratio * (1 - share)])

    return curve


def linear_starts(counts: Counts, design: Floats) -> list[Floats]:
    """Least squares on R of the cells, and a constant."""
    import numpy as np

    ratio = np.nan_to_num(counts.ratios(), nan=0.0)
    flat = np.zeros(design.shape[1])
    flat[0] = max(_pooled(counts), 2 * BEND)
    return [np.asarray(np.linalg.lstsq(design, ratio, rcond=None)[0], dtype=np.float64), flat]


def saturating_starts(counts: Counts, log_x: Floats) -> list[Floats]:
    """Halves at the least, the middle and the largest x."""
    import numpy as np

    top = math.log(max(1.2 * float(np.nanmax(counts.ratios())), 1e-3))
    return [np.array([top, half]) for half in (log_x.min(), np.median(log_x), log_x.max())]


def _pooled(counts: Counts) -> float:
    hallucination = counts.k_b.sum() / counts.n_b.sum()
    return float(hallucination / max(counts.k_a.sum() / counts.n_a.sum(), 1e-12))


def _logistic(x: Floats) -> Floats:
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _beta_binomial(k: float, n: float, p: float, share: float) -> float:
    """Log-probability of k of n, `share` being the correlation of two prompts; 0: binomial."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    if share < 1e-9:
        return ways + k * math.log(p) + (n - k) * math.log1p(-p)
    weight = (1 - share) / share
    a, b = p * weight, (1 - p) * weight
    return ways + _log_beta(k + a, n - k + b) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _bernoulli(k: Floats, n: Floats, p: Floats) -> Floats:
    """k log p + (n - k) log(1 - p), with 0 log 0 = 0."""
    import numpy as np

    safe = np.clip(p, 1e-300, 1.0)
    rest = np.clip(1 - p, 1e-300, 1.0)
    return np.where(k > 0, k * np.log(safe), 0.0) + np.where(n > k, (n - k) * np.log(rest), 0.0)
