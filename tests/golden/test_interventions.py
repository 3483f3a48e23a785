"""Scores of interventions against golden values made independently of km."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from km.errors import ArgumentError, ShapeError
from km.scores import interventions as s

FOLDER = Path(__file__).parent / "data" / "memorization"


def read(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize("case", read("causal_trace_effects.json"))
def test_causal_effects(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    begin, end = inputs["subject_range"]
    got = s.causal_effects(
        inputs["p_clean"], inputs["p_corrupt"], inputs["p_restored"], (begin, end)
    )
    assert got.total == pytest.approx(expected["TE"], rel=1e-12)
    np.testing.assert_allclose(got.indirect, expected["IE"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.normalised, expected["normalized_IE"], rtol=1e-9)
    assert expected["rows_IE"].keys() == got.roles.keys()
    for role, row in expected["rows_IE"].items():
        np.testing.assert_allclose(got.roles[role], row, rtol=0, atol=1e-12)
    assert list(got.peak) == expected["argmax_token_layer"]


def test_roles_between() -> None:
    rows = np.arange(16.0).reshape(8, 2)
    got = s.causal_effects(1.0, 0.0, rows, (1, 4)).roles
    assert list(got) == [
        "first_subject", "middle_subject", "last_subject", "first_after_subject", "further",
        "last_token",
    ]  # fmt: skip
    assert got["middle_subject"].tolist() == [4.0, 5.0]
    assert got["further"].tolist() == [11.0, 12.0]
    # a subject that ends the prompt has nothing after it
    assert list(s.causal_effects(1.0, 0.0, rows, (7, 8)).roles) == ["first_subject", "last_subject"]
    assert math.isnan(s.causal_effects(0.5, 0.5, rows, (0, 1)).normalised[0, 0])
    with pytest.raises(ShapeError, match="hold the subject"):
        s.causal_effects(1.0, 0.0, rows, (7, 9))


def test_restored_layers() -> None:
    # the authors' window of 10 in 48 layers: five below, the layer itself, four above
    assert s.restored_layers(20, 48, 10) == range(15, 25)
    assert s.restored_layers(0, 48, 10) == range(0, 5)
    assert s.restored_layers(47, 48, 10) == range(42, 48)
    assert s.restored_layers(1, 3, 2) == range(0, 2)
    with pytest.raises(ArgumentError):
        s.restored_layers(3, 3, 0)


def test_noise_scale() -> None:
    entries = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert s.noise_scale(entries) == pytest.approx(3 * math.sqrt(14 / 3))


@pytest.mark.parametrize("case", read("knowledge_neurons_refine.json"))
def test_frequent_neurons(case: dict[str, Any]) -> None:
    bags = case["inputs"]["bags [bag][prompt][[layer,neuron,score]]"]
    params, expected = case["params"], case["expected"]
    kept = [
        s.frequent_neurons(
            bag,
            threshold=params["threshold_ratio"],
            share=params["mode_ratio_bag"],
            at_least=params["min_threshold"],
        )
        for bag in bags
    ]
    assert [[list(n) for n in bag] for bag in kept] == expected["kn_bag"]
    of_relation = s.relation_neurons(kept, share=params["mode_ratio_rel"])
    assert [list(n) for n in of_relation] == expected["kn_rel"]


def test_refined_neurons_adapt() -> None:
    # 20 prompts; 8 neurons in 15 of them: 0.7 keeps 8 (too many), 0.8 none (too few)
    prompts = [[(0, i, 1.0) for i in range(8)] if p < 15 else [(1, 0, 1.0)] for p in range(20)]
    neurons, share = s.refined_neurons([prompts])
    # .70 -> 8 kept (> 5), .75 -> 8, .80 -> 0 (< 2), .75, .80, .75: the last round decides
    assert share == pytest.approx(0.75) and len(neurons[0]) == 8
    one = [[(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0)]] * 5
    assert s.refined_neurons([one]) == ([[(0, 0), (0, 1), (0, 2)]], 0.7)


def _toy(inputs: dict[str, Any], activation: str) -> tuple[Any, Any]:
    """(w, function from w to (p, dp/dw)) of the golden's residual feed-forward network."""
    x, w1, w2, wu = (np.array(inputs[k]) for k in ("x", "W1", "W2", "W_U"))
    b1, b2 = (0.0 if inputs[k] is None else np.array(inputs[k]) for k in ("b1", "b2"))
    pre = w1 @ x + b1
    if activation.startswith("gelu"):
        w = pre * 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in pre]))
    else:
        gate = np.array(inputs["W_gate"]) @ x
        w = gate / (1 + np.exp(-gate)) * pre
    target = inputs["target"]

    def run(values: Any) -> tuple[float, Any]:
        logits = wu @ (x + w2 @ values + b2)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        dlogits = p[target] * ((np.arange(len(p)) == target) - p)
        return float(p[target]), dlogits @ wu @ w2

    return w, run


@pytest.mark.parametrize("case", read("knowledge_neurons_ig.json"))
def test_integrated_gradients(case: dict[str, Any]) -> None:
    inputs, m, expected = case["inputs"], case["params"]["m"], case["expected"]
    w, run = _toy(inputs, case["params"]["activation"])
    np.testing.assert_allclose(w, expected["w"], rtol=1e-8)
    left = s.integrated_gradients(w, [run(k / m * w)[1] for k in range(m)])
    right = s.integrated_gradients(w, [run(k / m * w)[1] for k in range(1, m + 1)])
    by_rule = {key.split("_")[1]: value for key, value in expected.items() if "attr_" in key}
    np.testing.assert_allclose(left, by_rule["left"], rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(right, by_rule["right"], rtol=1e-7, atol=1e-14)
    assert left.sum() == pytest.approx(expected["sum_left"], rel=1e-8)
    gap = run(w)[0] - run(0 * w)[0]
    assert gap == pytest.approx(expected["completeness_target p(w)-p(0)"], rel=1e-8)
    triplets = s.neuron_triplets(left[None, :], 0.1)
    assert [i for _, i, _ in triplets] == [i for i, _ in expected["triplets_ge_0.1_max"]]
    kept = s.frequent_neurons([triplets], threshold=0.2, share=0, at_least=1)
    assert [i for _, i in kept] == expected["kept_ge_0.2_max"]
    for factor, key in ((1, "p_full"), (0, "p_suppress_top"), (2, "p_enhance_top")):
        changed = w.copy()
        changed[np.argmax(left)] *= factor
        assert run(changed)[0] == pytest.approx(expected[key], rel=1e-6), key


def test_patching_effect() -> None:
    assert s.patching_effect([1.0, 3.0, 2.0], 3.0, 1.0).tolist() == [0.0, 1.0, 0.5]
    assert s.patching_effect([1.0, 3.0], 3.0, 1.0, denoising=False).tolist() == [1.0, 0.0]
    assert math.isnan(s.patching_effect(1.0, 2.0, 2.0))
