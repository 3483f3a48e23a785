"""Write tests/golden_data/stats.json: what SciPy and statsmodels say about fixed inputs.

Usage: python tests/oracle/make_stats.py (needs numpy, scipy, statsmodels)
"""

from __future__ import annotations

import itertools
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import statsmodels
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import (
    proportion_confint,
    samplesize_proportions_2indep_onetail,
)

OUT = Path(__file__).resolve().parents[1] / "golden_data" / "stats.json"
RNG = np.random.default_rng(20240607)

Case = dict[str, Any]


def distributions() -> list[Case]:
    """Quantiles and distribution functions over wide ranges."""
    cases: list[Case] = []
    for p in [1e-300, 1e-20, 1e-5, 0.001, 0.025, 0.3, 0.5, 0.77, 0.95, 0.999, 1 - 1e-9]:
        cases.append({"f": "normal_quantile", "args": [p], "want": float(stats.norm.ppf(p))})
        for df in [1, 2.5, 7, 30, 1e4]:
            if p > 1e-6:
                want = float(stats.t.ppf(p, df))
                cases.append({"f": "t_quantile", "args": [p, df], "want": want})
    for t, df in itertools.product([-50, -3.3, -0.1, 0, 1e-6, 0.7, 2, 12], [0.5, 1, 3.3, 29, 1e5]):
        cases.append({"f": "t_cdf", "args": [t, df], "want": float(stats.t.cdf(t, df))})
    for a, b in itertools.product([0.3, 1, 4.5, 80, 3000], repeat=2):
        for x in [0, 1e-9, 0.01, 0.37, 0.5, 0.9, 0.999, 1]:
            want = float(special.betainc(a, b, x))
            cases.append({"f": "beta_cdf", "args": [x, a, b], "want": want})
    return cases


def proportions() -> list[Case]:
    """Wilson's interval, McNemar's test, sample sizes."""
    cases: list[Case] = []
    for k, n in [(0, 1), (1, 1), (0, 40), (3, 10), (197, 1871), (1870, 1871), (50, 100)]:
        for confidence in [0.8, 0.95, 0.999]:
            low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
            cases.append(
                {"f": "wilson", "args": [k, n, confidence], "want": [float(low), float(high)]}
            )
    for b, c in [(0, 0), (0, 1), (1, 9), (12, 12), (30, 51), (400, 470), (0, 60)]:
        want = float(mcnemar([[5, b], [c, 7]], exact=True).pvalue)
        cases.append({"f": "mcnemar", "args": [b, c], "want": want})
    for p1, p2 in [(0.1, 0.15), (0.5, 0.45), (0.02, 0.06), (0.3, 0.9)]:
        for alpha, power in [(0.05, 0.8), (0.01, 0.95)]:
            want = float(samplesize_proportions_2indep_onetail(p1 - p2, p2, power, alpha=alpha))
            cases.append({"f": "items_needed", "args": [p1, p2, alpha, power], "want": want})
    return cases


def families() -> list[Case]:
    """Adjusted p-values."""
    cases: list[Case] = []
    for n in [1, 2, 7, 50]:
        p = RNG.uniform(0, 1, n) ** 3
        p[: n // 3] = p[0]
        for name, method in [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")]:
            want = multipletests(p, method=method)[1].tolist()
            cases.append({"f": name, "args": [p.tolist()], "want": want})
    return cases


def association() -> list[Case]:
    """Correlations, a straight line, AUROC; with and without ties."""
    cases: list[Case] = []
    for n, tied in itertools.product([3, 5, 12, 33, 34, 150], [False, True]):
        x = RNG.normal(size=n)
        y = 0.6 * x + RNG.normal(size=n)
        if tied:
            x, y = np.round(x * 1.5), np.round(y * 1.5)
        if len(set(x)) == 1 or len(set(y)) == 1 or abs(np.corrcoef(x, y)[0, 1]) > 0.999999:
            continue  # the C tests hold the degenerate cases
        pair = [x.tolist(), y.tolist()]
        for name, function in [
            ("pearson", stats.pearsonr),
            ("spearman", stats.spearmanr),
            ("kendall", stats.kendalltau),
        ]:
            result = function(x, y)
            want = [float(result.statistic), float(result.pvalue)]
            cases.append({"f": name, "args": pair, "want": want})
        fit = stats.linregress(x, y)
        want = [fit.slope, fit.intercept, fit.stderr, fit.intercept_stderr]
        want += [fit.pvalue, fit.rvalue**2]
        cases.append({"f": "linear_regression", "args": pair, "want": [float(w) for w in want]})
        positive = x > np.median(x)
        if positive.any() and not positive.all():
            u = stats.mannwhitneyu(y[positive], y[~positive]).statistic
            area = float(u / positive.sum() / (~positive).sum())
            cases.append({"f": "auroc", "args": [y.tolist(), positive.tolist()], "want": area})
    return cases


def two_sided(statistic: Any) -> Any:
    """The size of a statistic, so that 'greater' counts both tails."""
    return lambda *samples, axis=-1: np.abs(statistic(*samples, axis=axis))


def permutations() -> list[Case]:
    """Exact permutation tests."""
    cases: list[Case] = []
    options = {"n_resamples": np.inf, "alternative": "greater", "vectorized": True}
    for n in [2, 4, 9, 12]:
        x = np.round(RNG.normal(0.5, 1, n), 1)
        flip = stats.permutation_test(
            (x,), two_sided(np.mean), permutation_type="samples", **options
        )
        want = float(flip.pvalue)
        cases.append({"f": "permutation_test", "args": [x.tolist()], "want": want})
    for n, m in [(2, 4), (3, 3), (5, 7)]:
        x = np.round(RNG.normal(0.8, 1, n), 1)
        y = np.round(RNG.normal(0, 1, m), 1)

        def difference(a: Any, b: Any, axis: int = -1) -> Any:
            return np.round(np.mean(a, axis=axis) - np.mean(b, axis=axis), 9)

        exchange = stats.permutation_test(
            (x, y), two_sided(difference), permutation_type="independent", **options
        )
        cases.append(
            {
                "f": "permutation_test_two_sample",
                "args": [x.tolist(), y.tolist()],
                "want": float(exchange.pvalue),
            }
        )
    return cases


def cr2(x: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """CR2 standard error and Bell-McCaffrey df of a mean, from the full projection matrices."""
    n = len(x)
    residual_maker = np.eye(n) - np.ones((n, n)) / n
    residuals = residual_maker @ x
    variance = 0.0
    columns = []
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        block = residual_maker[np.ix_(rows, rows)]
        values, vectors = np.linalg.eigh(block)
        root = vectors @ np.diag(1 / np.sqrt(values)) @ vectors.T
        weights = root @ np.ones(len(rows)) / n
        variance += float(weights @ residuals[rows]) ** 2
        columns.append(residual_maker[:, rows] @ weights)
    spectrum = np.linalg.eigvalsh(np.array(columns) @ np.array(columns).T)
    return variance**0.5, float(spectrum.sum() ** 2 / (spectrum**2).sum())


def clustered() -> list[Case]:
    """Cluster-robust t intervals of means, and large bootstraps of independent values."""
    cases: list[Case] = []
    for sizes in [[2, 2], [1, 5, 3], [4] * 6, [1, 1, 1, 20], list(range(1, 15))]:
        group = np.repeat(np.arange(len(sizes)), sizes)
        x = RNG.normal(size=len(group)) + RNG.normal(size=len(sizes))[group]
        se, df = cr2(x, group)
        half = float(stats.t.ppf(0.975, df)) * se
        want = [float(x.mean()), se, df, float(x.mean()) - half, float(x.mean()) + half]
        cases.append({"f": "clustered_t", "args": [x.tolist(), group.tolist()], "want": want})
    for n in [35, 200]:
        x = RNG.exponential(size=n)
        result = stats.bootstrap(
            (x,), np.mean, n_resamples=40_000, method="percentile", random_state=RNG
        )
        want = [float(result.confidence_interval.low), float(result.confidence_interval.high)]
        want.append(float(result.standard_error))
        cases.append({"f": "bootstrap", "args": [x.tolist()], "want": want})
    return cases


def main() -> None:
    """Collect the cases and write them with the versions that made them."""
    cases = [*distributions(), *proportions(), *families(), *association()]
    cases += [*permutations(), *clustered()]
    data = {
        "made_by": "tests/oracle/make_stats.py",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "statsmodels": statsmodels.__version__,
        },
        "cases": cases,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(data) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases -> {OUT.name}")


if __name__ == "__main__":
    main()
