"""Statistics against SciPy and statsmodels (golden_data/stats.json, by oracle/make_stats.py)."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import km
from km import _km, stats

GOLDEN = Path(__file__).resolve().parents[1] / "golden_data" / "stats.json"
CASES: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _case in json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]:
    CASES[_case["f"]].append(_case)

CHECKED = {
    "normal_quantile",
    "t_quantile",
    "t_cdf",
    "beta_cdf",
    "wilson",
    "mcnemar",
    "items_needed",
    "holm",
    "benjamini_hochberg",
    "pearson",
    "spearman",
    "kendall",
    "linear_regression",
    "auroc",
    "permutation_test",
    "permutation_test_two_sample",
    "clustered_t",
    "bootstrap",
}


def close(got: Any, want: Any, rel: float = 1e-9, tiny: float = 1e-12) -> None:
    """Equal within a relative and an absolute tolerance; NaN equals NaN."""
    np.testing.assert_allclose(got, want, rtol=rel, atol=tiny, equal_nan=True)


def test_every_case_is_checked() -> None:
    assert set(CASES) == CHECKED


@pytest.mark.parametrize("name", ["normal_quantile", "t_quantile", "t_cdf", "beta_cdf"])
def test_distributions(name: str) -> None:
    function = getattr(_km, f"stats_{name}")
    for case in CASES[name]:
        close(function(*case["args"]), case["want"], rel=2e-10, tiny=1e-300)


def test_wilson() -> None:
    for case in CASES["wilson"]:
        successes, n, confidence = case["args"]
        interval = stats.wilson(successes, n, confidence=confidence)
        close([interval.low, interval.high], case["want"])
        assert interval.estimate == successes / n


def test_mcnemar() -> None:
    for case in CASES["mcnemar"]:
        close(stats.mcnemar(*case["args"]).p, case["want"])


def test_items_needed() -> None:
    for case in CASES["items_needed"]:
        p1, p2, alpha, power = case["args"]
        close(_km.stats_items_needed(p1, p2, alpha, power), case["want"])
        needed = stats.items_needed(p1, p2, alpha=alpha, power=power)
        assert needed == math.ceil(case["want"])


@pytest.mark.parametrize("name", ["holm", "benjamini_hochberg"])
def test_families(name: str) -> None:
    for case in CASES[name]:
        close(getattr(stats, name)(*case["args"]), case["want"])


@pytest.mark.parametrize("name", ["pearson", "spearman", "kendall"])
def test_correlation(name: str) -> None:
    for case in CASES[name]:
        test = getattr(stats, name)(*case["args"])
        close([test.statistic, test.p], case["want"], rel=1e-8)


def test_linear_regression() -> None:
    for case in CASES["linear_regression"]:
        fit = stats.linear_regression(*case["args"])
        got = [fit.slope, fit.intercept, fit.slope_se, fit.intercept_se, fit.p, fit.r2]
        close(got, case["want"], rel=1e-8)


def test_auroc() -> None:
    for case in CASES["auroc"]:
        close(stats.auroc(*case["args"]), case["want"])


@pytest.mark.parametrize("name", ["permutation_test", "permutation_test_two_sample"])
def test_exact_permutations(name: str) -> None:
    for case in CASES[name]:
        test = getattr(stats, name)(*case["args"])
        assert test.exact
        close(test.p, case["want"])


def test_clustered_t() -> None:
    for case in CASES["clustered_t"]:
        x, cluster = case["args"]
        interval = stats.clustered_bootstrap(x, cluster, method="t")
        got = [interval.estimate, interval.se, interval.df, interval.low, interval.high]
        close(got, case["want"])


def test_bootstrap_agrees_with_a_large_one() -> None:
    for case in CASES["bootstrap"]:
        low, high, se = case["want"]
        interval = stats.bootstrap(case["args"][0], replicates=20_000)
        assert abs(interval.low - low) < 0.06 * se
        assert abs(interval.high - high) < 0.06 * se
        assert interval.se == pytest.approx(se, rel=0.03)


def test_ids_may_be_strings() -> None:
    x = np.linspace(0, 1, 12)
    names = ["b", "a", "c", "d"] * 3
    by_name = stats.clustered_bootstrap(x, names)
    by_number = stats.clustered_bootstrap(x, [1, 0, 2, 3] * 3)
    assert by_name == by_number
    assert by_name.method == "CR2 t"
    assert "clusters = 4" in str(by_name)


def test_paired_difference_and_seed() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 400))
    cluster = np.arange(400) % 40
    first = stats.paired_bootstrap(a, b, cluster, seed=3)
    assert first == stats.paired_bootstrap(a, b, cluster, seed=3)
    assert first != stats.paired_bootstrap(a, b, cluster, seed=4)
    assert first.estimate == pytest.approx((a - b).mean())
    assert first.low < first.estimate < first.high


def test_refusals() -> None:
    with pytest.raises(km.NumericError, match=r"x\[1\]"):
        stats.bootstrap([1.0, math.nan])
    with pytest.raises(km.ShapeError, match="cluster"):
        stats.clustered_bootstrap([1.0, 2.0], [1, 2, 3])
    with pytest.raises(km.ArgumentError, match="one cluster"):
        stats.clustered_bootstrap([1.0, 2.0], [1, 1])
    with pytest.raises(km.ArgumentError, match="method"):
        stats.clustered_bootstrap([1.0, 2.0], method="jackknife")  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="positives"):
        stats.auroc([1.0, 2.0], [True, True])
    with pytest.raises(km.ArgumentError, match="constant"):
        stats.linear_regression([1, 1, 1], [1, 2, 3])
