"""The priming scores and the pruning rules against golden values made independently of km.

Every case of every file of the topic is read. prune_mask.json holds the cases of one array of
changes together and its masks as strings of 0 and 1.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from km.scores import priming as p

FOLDER = Path(__file__).parent / "data" / "priming"

# The card's tolerance: independent float64 code, and base + (tuned - base) * mask for a select.
TIGHT = 1e-12


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def close(got: float, expected: float | None, where: str, relative: float = 1e-10) -> None:
    """None: undefined, or too large for a float."""
    if expected is None:
        assert not math.isfinite(got), where
    else:
        assert got == pytest.approx(expected, rel=relative, abs=TIGHT), where


SCORES = load("scores")["cases"]
PREDICTOR = load("predictor")["cases"]
MASKS = load("prune_mask")["deltas"]
APPLY = load("prune_apply")["cases"]


def test_every_case_is_there() -> None:
    counts = [len(SCORES), len(PREDICTOR), sum(len(d["cases"]) for d in MASKS), len(APPLY)]
    assert counts == [24, 12, 264, 20]


@pytest.mark.parametrize("case", SCORES, ids=range(len(SCORES)))
def test_scores(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    got = p.scores(
        inputs["theme_before"],
        inputs["theme_after"],
        inputs["context_before"],
        inputs["context_after"],
    )
    assert (got.n, got.n_dropped) == (len(inputs["theme_before"]), 0)
    close(got.log_s_mem, expected["log_S_mem"], "log_S_mem")
    close(got.s_mem, expected["S_mem"], "S_mem")
    close(got.log_s_prime, expected["log_S_prime"], "log_S_prime")
    close(got.s_prime, expected["S_prime"], "S_prime")
    close(got.mean_log_ratio, expected["mean_log_ratio"], "mean_log_ratio")
    close(got.median_log_ratio, expected["median_ratio_log"], "median_ratio_log")
    close(got.log10_s_prime, expected["log10_S_prime"], "log10_S_prime")


@pytest.mark.parametrize("case", PREDICTOR, ids=range(len(PREDICTOR)))
def test_predictor(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    got = p.predictor(
        inputs["log_p_keyword_before"],
        inputs["log_S_prime"],
        threshold=case["params"]["threshold"],
    )
    assert got.surprising.tolist() == expected["surprising"]
    assert got.n_surprising == expected["n_surprising"]
    close(got.pearson, expected["pearson"], "pearson")
    close(got.spearman, expected["spearman"], "spearman")
    close(got.mean_surprising, expected["mean_log_S_prime_surprising"], "surprising")
    close(got.mean_unsurprising, expected["mean_log_S_prime_unsurprising"], "unsurprising")


@pytest.mark.parametrize("case", MASKS, ids=range(len(MASKS)))
def test_prune_mask(case: dict[str, Any]) -> None:
    delta = np.array(case["delta"]).reshape(case["shape"])
    for k, key, n_pruned, ignore, keep in case["cases"]:
        mask = p.prune_mask(delta, k, key=key)
        assert mask.shape == delta.shape
        assert "".join("01"[int(m)] for m in mask.ravel()) == ignore, (k, key)
        assert int((~mask).sum()) == n_pruned
        kept = p.prune_mask(delta, k, key=key, keep=True)
        assert "".join("01"[int(m)] for m in kept.ravel()) == keep, (k, key)


@pytest.mark.parametrize("case", APPLY, ids=range(len(APPLY)))
def test_prune_apply(case: dict[str, Any]) -> None:
    base = [np.array(tensor) for tensor in case["inputs"]["base"]]
    tuned = [np.array(tensor) for tensor in case["inputs"]["tuned"]]
    k, bounds = case["params"]["k"], tuple(case["params"]["slice"])
    got = {
        "per_tensor": p.prune_apply(base, tuned, k),
        "global": p.prune_apply(base, tuned, k, scope="global"),
        "slice": p.prune_apply(base, tuned, slice=bounds),
    }
    assert got.keys() == case["expected"].keys()
    for rule, tensors in got.items():
        for i, (tensor, expected) in enumerate(zip(tensors, case["expected"][rule], strict=True)):
            np.testing.assert_allclose(tensor, expected, rtol=TIGHT, atol=TIGHT, err_msg=rule)
            kept = tensor == tuned[i]
            assert (kept | (tensor == base[i])).all(), "a select, not a computed value"
