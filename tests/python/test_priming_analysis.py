"""The analysis of priming studies on simulated ones with known truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from priming_simulation import NAMES, simulate

import km
from km import stats
from km.priming_analysis import Prediction, analyse, judge
from km.priming_shapes import compare_shapes, threshold_verdict


def effect(analysis: Any, prediction: str, against: str | None = "text_control") -> Any:
    return next(
        row
        for row in analysis.effects.rows()
        if row["prediction"] == prediction and row["against"] == against
    )


def test_the_artefact_of_the_ratio_is_in_the_description_and_not_in_the_result() -> None:
    """P_after has nothing to do with P_before: the paper's correlation appears all the same."""
    seen, false = [], 0
    for seed in range(40):
        data = simulate(seed, independent=True, n_texts=33, n_probes=4, coupling=1.0, controls=())
        found = analyse(data, draws=300)
        seen.append(found.description["spearman"])
        assert abs(found.description["spearman"] - found.description["spearman_dealt"]) < 0.15
        false += found.verdicts["slope"] in ("consistent", "inconsistent")
        assert "not evidence" in found.findings[1]
    assert -0.7 < np.mean(seen) < -0.4
    assert false <= 2


def test_no_priming_comes_out_as_none() -> None:
    """At most one study in twenty says anything else than none or inconclusive."""
    wrong, none = [], 0
    for seed in range(100):
        found = analyse(simulate(seed, n_probes=6), draws=300).verdicts
        wrong += [seed for v in found.values() if v in ("consistent", "inconsistent")]
        none += found["priming"] == found["slope"] == "equivalent to none"
    assert len(wrong) <= 5, wrong
    assert none >= 90


def test_planted_priming_is_found() -> None:
    both = []
    for seed in range(40):
        found = analyse(simulate(seed, priming=0.4, slope=-0.1, n_probes=6), draws=300)
        both.append(found.verdicts["priming"] == found.verdicts["slope"] == "consistent")
    assert np.mean(both) >= 0.8


def test_a_rise_with_probability_is_inconsistent_and_the_estimate_is_right() -> None:
    found = analyse(simulate(5, priming=-0.5, slope=0.15))
    assert found.verdicts["slope"] == found.verdicts["priming"] == "inconsistent"
    row = effect(found, "slope")
    assert row["low"] < 0.15 < row["high"] and row["unit"] == "nats/nat"
    mean = effect(found, "priming")
    assert mean["detectable"] > 0 and mean["n"] == 132 and mean["n_clusters"] == 12
    assert found.findings[0].startswith("Smallest effects seen four times in five")


def test_both_controls_must_agree() -> None:
    """Whatever training on such texts does is not priming: the keyword control has it too."""
    data = simulate(3, priming=0.5, controls=("keyword_control", "text_control"))
    rows = np.array(data["arm"]) == "keyword_control"
    learned = {
        (t, p): a
        for t, p, a, arm in zip(
            data["text"], data["probe"], data["logp_after"], data["arm"], strict=True
        )
        if arm == "learned"
    }
    keys = list(zip(data["text"], data["probe"], strict=True))
    data["logp_after"] = [
        learned[keys[i]] if rows[i] else value for i, value in enumerate(data["logp_after"])
    ]
    found = analyse(data)
    assert effect(found, "priming")["verdict"] == "consistent"
    assert effect(found, "priming", "keyword_control")["verdict"] == "equivalent to none"
    assert found.verdicts["priming"] == "inconclusive"


def test_mitigations_are_paired_with_learning() -> None:
    found = analyse(simulate(4, priming=0.8, mitigation=0.75))
    row = effect(found, "ignore_topk", "learned")
    assert found.verdicts["ignore_topk"] == "consistent" and row["low"] < -0.6 < row["high"]
    nothing = analyse(simulate(4, priming=0.8, mitigation=0.0))
    assert nothing.verdicts["ignore_topk"] == "equivalent to none"


def test_effects_are_those_of_km_stats() -> None:
    data = simulate(6, priming=0.3)
    row = effect(analyse(data), "priming")
    table = {name: np.array(data[name]) for name in NAMES}
    means = {}
    for arm in ("learned", "text_control"):
        own = table["arm"] == arm
        ids, codes = np.unique(table["text"][own], return_inverse=True)
        means[arm] = np.bincount(codes, table["logp_after"][own]) / np.bincount(codes)
    keywords = [text.split("-")[0] for text in ids]
    spread = stats.paired_bootstrap(means["learned"], means["text_control"], keywords, method="t")
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
        (spread.estimate, spread.low, spread.high)
    )
    difference = means["learned"] - means["text_control"]
    assert row["p"] == stats.permutation_test(difference, keywords).p


def test_step_and_smooth_curves() -> None:
    assert analyse(simulate(1, step=1.5)).verdicts["threshold"] == "consistent"
    assert analyse(simulate(1, slope=-0.3)).verdicts["threshold"] == "inconsistent"
    assert analyse(simulate(1)).verdicts["threshold"] == "inconclusive"
    rng = np.random.default_rng(0)
    x, keyword = rng.uniform(-15, 0, 120), np.repeat(np.arange(12), 10)
    rows = {
        row["shape"]: row for row in compare_shapes(x, np.zeros(120), 1 - 0.5 * x, keyword, 1e-3, 0)
    }
    assert rows["linear"]["error"] < 1e-20 < rows["step"]["error"]
    assert rows["spline"]["error"] < 1e-18
    curve = np.tanh((x + 7) / 2) + rng.normal(size=120) * 0.05
    bent = {r["shape"]: r for r in compare_shapes(x, np.zeros(120), curve, keyword, 1e-3, 0)}
    assert bent["logistic"]["error"] < bent["linear"]["error"] / 5
    assert threshold_verdict(list(bent.values()), 0.05) == "inconsistent"
    assert compare_shapes(x[:10], x[:10], x[:10], keyword[:10], 1e-3, 0) == []


def test_the_mixed_model_finds_what_was_planted() -> None:
    fit = analyse(simulate(7, priming=0.5, slope=-0.1, n_texts=20)).mixed
    found = dict(zip(fit.names, fit.coefficients.tolist(), strict=True))
    assert found["logp_keyword_before"] == pytest.approx(-0.1, abs=0.03)
    assert found["logp_before"] == pytest.approx(1, abs=0.05)
    assert fit.residual == pytest.approx(0.09, rel=0.15)


PREDICTION = Prediction("x", 1, 0.2, "nats")


@pytest.mark.parametrize(
    ("interval", "equivalence", "p", "verdict"),
    [
        ((0.3, 0.9), (0.35, 0.85), 0.01, "consistent"),
        ((0.3, 0.9), (0.35, 0.85), 0.2, "inconclusive"),
        ((0.3, 0.9), (0.35, 0.85), None, "inconclusive"),
        ((-0.9, -0.3), (-0.8, -0.4), 0.01, "inconsistent"),
        ((-0.1, 0.9), (0.0, 0.8), 0.01, "inconclusive"),
        ((0.05, 0.21), (0.06, 0.19), 0.001, "equivalent to none"),
        ((-0.1, 0.1), (-0.05, 0.05), 0.9, "equivalent to none"),
        ((-0.5, 0.5), (-0.4, 0.4), 0.9, "inconclusive"),
        ((math.nan, math.nan), (math.nan, math.nan), None, "inconclusive"),
    ],
)
def test_judge(interval: Any, equivalence: Any, p: float | None, verdict: str) -> None:
    assert judge(PREDICTION, interval, equivalence, p, 0.05) == verdict


def test_small_and_broken_studies() -> None:
    data = simulate(0)
    one = {name: values[:16] for name, values in data.items()}  # one text and its control
    found = analyse(one)
    assert set(found.verdicts.values()) == {"inconclusive"}
    assert "Too few keywords" in found.findings[0] and effect(found, "slope")["estimate"] is None
    holes = {**data, "logp_after": [None, -math.inf, *data["logp_after"][2:]]}
    assert analyse(holes).left_out == 2 and "2 rows without" in analyse(holes).findings[-1]
    with pytest.raises(km.ArgumentError, match="'probe'"):
        analyse({name: values for name, values in data.items() if name != "probe"})
    with pytest.raises(km.ArgumentError, match="learned"):
        analyse({**data, "arm": ["other"] * len(data["arm"])})
    alone = analyse(simulate(0, controls=()))
    assert any("no control of the same dose" in line for line in alone.findings)
    assert effect(alone, "priming", None)["n"] == 132


def test_predictions_are_frozen_with_a_hash() -> None:
    data = simulate(0, n_texts=3)
    hashes = {analyse(data, smallest=s, draws=50).prediction_hash for s in (0.1, 0.2)}
    assert len(hashes) == 2 and all(len(h) == 64 for h in hashes)
    assert analyse(simulate(1, n_texts=3), smallest=0.1, draws=50).prediction_hash in hashes
