"""km.regression against statsmodels' figures, closed forms and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import stats
from km.regression import fit_mixed, t_quantile, within_permutation, within_slope

GOLDEN = Path(__file__).resolve().parents[1] / "golden_data" / "regression.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_mixed_model_is_that_of_statsmodels(case: dict[str, Any]) -> None:
    data, want = case["data"], case["mixed"]
    groups = {name: data[name] for name in ("keyword", "probe", "text")}
    got = fit_mixed(data["y"], {"x": data["x"], "b": data["b"]}, groups)
    np.testing.assert_allclose(got.coefficients, want["coefficients"], atol=5e-5)
    # statsmodels' errors come from a numerical Hessian that varies the variances too.
    np.testing.assert_allclose(got.se, want["se"], rtol=0.02)
    assert got.residual == pytest.approx(want["residual"], rel=1e-3)
    for name, variance in want["variances"].items():
        assert got.variances[name] == pytest.approx(variance, rel=3e-3, abs=1e-6), name
    assert got.levels == {"keyword": 8, "probe": 10, "text": 32}


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_slope_within_clusters_is_that_of_an_intercept_each(case: dict[str, Any]) -> None:
    data = case["data"]
    text = np.array(data["text"])
    means = {n: np.bincount(text, data[n]) / np.bincount(text) for n in ("x", "y", "keyword")}
    got = within_slope(means["x"], means["y"], means["keyword"])
    assert got.estimate == pytest.approx(case["within_slope"], rel=1e-9)


def test_mixed_model_of_balanced_groups_in_closed_form() -> None:
    """One-way balanced: REML is the analysis of variance."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(9, 6)) + rng.normal(size=(9, 1)) * 1.5
    fit = fit_mixed(y.ravel(), {}, {"group": np.repeat(np.arange(9), 6)})
    within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / (9 * 5)
    between = 6 * y.mean(1).var(ddof=1)
    assert fit.residual == pytest.approx(within, rel=1e-3)
    assert fit.variances["group"] == pytest.approx((between - within) / 6, rel=1e-3)
    assert fit.coefficients[0] == pytest.approx(y.mean())
    assert fit.se[0] == pytest.approx(math.sqrt(between / 54), rel=1e-3)


def test_mixed_model_without_groups_is_least_squares() -> None:
    x = np.arange(12.0)
    y = 2 * x + np.sin(x)
    fit, line = fit_mixed(y, {"x": x}, {}), stats.linear_regression(x, y)
    assert fit.coefficients.tolist() == pytest.approx([line.intercept, line.slope])
    assert fit.se.tolist() == pytest.approx([line.intercept_se, line.slope_se])
    with pytest.raises(km.ArgumentError, match="fixed effects apart"):
        fit_mixed(y, {"x": x, "again": 2 * x}, {})


def test_slope_with_equal_x_everywhere_is_a_t_interval_of_slopes() -> None:
    rng = np.random.default_rng(1)
    x = np.tile([0.0, 1.0, 2.0, 5.0], 7)
    cluster = np.repeat(np.arange(7), 4)
    y = rng.normal(size=28) + rng.normal(size=7)[cluster] * x + 3.0 * cluster
    own = [stats.linear_regression(x[cluster == c], y[cluster == c]).slope for c in range(7)]
    got = within_slope(x, y, cluster)
    assert got.estimate == pytest.approx(np.mean(own))
    assert got.se == pytest.approx(np.std(own, ddof=1) / math.sqrt(7))
    assert got.df == pytest.approx(6)
    low, high = got.interval(0.9)
    assert high - low == pytest.approx(2 * t_quantile(0.95, 6) * got.se)
    assert got.detectable() == pytest.approx((t_quantile(0.975, 6) + t_quantile(0.8, 6)) * got.se)


def test_slope_covers_with_few_unequal_clusters() -> None:
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(8), [3, 4, 5, 8, 10, 12, 15, 20])
    hits = 0
    for _ in range(400):
        x = rng.normal(size=len(cluster))
        y = (0.5 + rng.normal(size=8) * 0.5)[cluster] * x + rng.normal(size=len(cluster))
        low, high = within_slope(x, y, cluster).interval(0.95)
        hits += low <= 0.5 <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_slope_without_spread() -> None:
    flat = within_slope([1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    assert math.isnan(flat.estimate) and math.isnan(flat.interval(0.95)[0])
    single = within_slope([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], ["a", "a", "a"])
    assert single.estimate == 1.5 and math.isnan(single.se) and math.isnan(single.detectable())
    assert math.isnan(within_permutation([1.0, 1.0], [1.0, 2.0], [0, 0]))


def test_permutation_within_clusters() -> None:
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(6), 5)
    x = rng.normal(size=30) + 10 * cluster
    # Differences between clusters alone are no association within them.
    ps = [
        within_permutation(x, 5.0 * cluster + rng.normal(size=30), cluster, draws=200, seed=s)
        for s in range(60)
    ]
    assert 0 <= sum(p <= 0.1 for p in ps) <= 13
    assert within_permutation(x, x, cluster, draws=500) == 1 / 501
    # Two pairs: four arrangements, of which one other reaches the same size.
    small = within_permutation([0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], draws=20_000)
    assert small == pytest.approx(0.5, abs=0.02)
