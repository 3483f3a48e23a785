"""The memorization scores against golden values made independently of km.

Every case of every file of the topic is read. KM_GOLDEN names another folder with the same layout
(one subfolder a topic).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from km.scores import memorization as m

FOLDER = Path(os.environ.get("KM_GOLDEN") or Path(__file__).parent / "data") / "memorization"

# Files of the topic whose measures are later work.
LATER = ("knowledge_neurons_", "causal_trace_")

RELATIVE = 1e-8
ABSOLUTE = 1e-8


def close(got: Any, expected: Any, where: str, tolerance: float = ABSOLUTE) -> None:
    """Compare numbers, nested lists and None (an undefined value, NaN in arrays)."""
    if isinstance(expected, list):
        assert len(got) == len(expected), where
        for i, (g, e) in enumerate(zip(got, expected, strict=True)):
            close(g, e, f"{where}[{i}]", tolerance)
    elif expected is None or (isinstance(expected, float) and math.isnan(expected)):
        assert got is None or math.isnan(got), f"{where}: {got} is not undefined"
    elif isinstance(expected, bool):
        assert bool(got) == expected, where
    elif isinstance(expected, int) and not isinstance(got, float):
        assert got == expected, where
    else:
        assert float(got) == pytest.approx(expected, rel=RELATIVE, abs=tolerance), where


def check(expected: dict[str, Any], got: dict[str, Any], tolerance: float = ABSOLUTE) -> None:
    """Every expected key must be known, and equal."""
    assert not expected.keys() - got.keys(), f"unknown: {sorted(expected.keys() - got.keys())}"
    for key, value in expected.items():
        close(got[key], value, key, tolerance)


def likelihood_scores(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    text, ids = inputs["text"], inputs["input_ids"]
    logprobs = m.token_logprobs(inputs["logits"], ids)
    lower = m.token_logprobs(inputs["logits_lower_same_ids"], ids)
    reference = m.token_logprobs(inputs["logits_ref"], ids)
    mu, sigma2 = m.token_moments(np.asarray(inputs["logits"])[:-1])
    expected = dict(case["expected"])
    for name, score in (
        ("mink", lambda ratio: m.min_k(logprobs, ratio)),
        ("minkpp", lambda ratio: m.min_k_plus_plus(logprobs, mu, sigma2, ratio)),
    ):
        for ratio, value in expected.pop(name, {}).items():
            close(score(float(ratio)), value, f"{name} {ratio}")
    got = {
        "token_logprobs": logprobs,
        "loss": m.loss(logprobs),
        "ppl": m.perplexity(logprobs),
        "zlib_len": m.zlib_length(text),
        "zlib_score (ll/zlib)": m.zlib_score(logprobs, text),
        "zlib_ratio (log ppl / zlib)": m.zlib_ratio(logprobs, text),
        "carlini_zlib_metric (zlib / log ppl)": m.carlini_zlib(logprobs, text),
        "lowercase_ratio (log ppl lower / log ppl)": m.lowercase_ratio(logprobs, lower),
        "ref_ratio (log ppl ref / log ppl)": m.reference_ratio(logprobs, reference),
        "ref_diff (loss - ref loss)": m.reference_difference(logprobs, reference),
        "mu": mu,
        "sigma2": sigma2,
    }
    check(expected, got)


def extractability(case: dict[str, Any]) -> None:
    inputs, params = case["inputs"], case["params"]
    expected = dict(case["expected"])
    results = [
        m.extraction(generated, suffix)
        for generated, suffix in zip(inputs["generated"], inputs["suffix"], strict=True)
    ]
    per_example = expected.pop("per_example", [])
    assert len(per_example) in (0, len(results))
    for one, result in zip(per_example, results, strict=False):
        check(
            one,
            {
                "extractable": int(result.extractable),
                "match_fraction": result.match_fraction,
                "matching_prefix_len": result.matching_prefix,
                "edit_distance": result.edit_distance,
                "edit_similarity": result.edit_similarity,
            },
        )
    for key in [key for key in expected if key.startswith("teacher_forced_")]:
        ids = inputs["suffix_ids_" + key.removeprefix("teacher_forced_")]
        first = m.first_mismatch(inputs["suffix_logits"], ids)
        check(expected.pop(key), {"all_argmax": first == len(ids), "first_mismatch": first})
    guesses = inputs["ordered_guesses [example,is_correct]"]
    got = {
        "extractable_fraction": float(np.mean([r.extractable for r in results])),
        "recall_at_max_errors": m.recall_at_errors(
            guesses, params["n_examples"], params["max_errors"]
        ),
        "recall_curve": m.recall_curve(guesses, params["n_examples"]),
    }
    check(expected, got)


def exposure(case: dict[str, Any]) -> None:
    inputs, params = case["inputs"], case["params"]
    log2_space = params.get("space_size_log2")
    skewnorm = params.get("skewnorm")
    got: dict[str, dict[str, Any]] = {}
    for repetitions, scores in inputs["canary_scores"].items():
        result = m.exposure(scores, inputs["reference_scores"], log2_space=log2_space)
        got.setdefault("rank_1based", {})[repetitions] = result.rank
        got.setdefault("exposure_in_input_order", {})[repetitions] = result.exposure
        if skewnorm:
            got.setdefault("extrapolated_exposure_given_skewnorm_params", {})[repetitions] = (
                m.exposure_skewnormal(scores, **skewnorm)
            )
    assert not case["expected"].keys() - got.keys()
    for key, groups in case["expected"].items():
        # The golden extrapolation is a quadrature with tolerance 1e-6.
        tolerance = 1e-5 if key.startswith("extrapolated") else ABSOLUTE
        check(groups, got[key], tolerance)


def counterfactual(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    result = m.counterfactual(inputs["include"], inputs["score_train"])
    got = {
        "mem": result.memorization,
        "self_consistent_in_mean": result.in_mean,
        "out_mean": result.out_mean,
        "influence_train_by_eval": m.influence(inputs["include"], inputs["score_eval"]),
    }
    check(case["expected"], got)


def rank_precision(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    options: dict[str, dict[str, Any]] = {
        "full": {},
        "restricted_vocab": {"vocabulary": inputs["candidate_vocab"]},
        "filtered_other_valid": {"exclude": inputs["other_valid_objects"]},
    }
    assert not case["expected"].keys() - options.keys()
    for name, expected in case["expected"].items():
        ranks = m.rank(inputs["logits"], inputs["gold"], **options[name])
        got: dict[str, Any] = {"rank0": ranks, "mrr": m.mean_reciprocal_rank(ranks)}
        for key in expected:
            if key.startswith("p@"):
                got[key] = m.precision_at(ranks, int(key.removeprefix("p@")))
            elif key.startswith("macro_p@"):
                hits = ranks < int(key.removeprefix("macro_p@"))
                got[key] = m.macro_mean(hits, inputs["relation_id"])
        check(expected, got)


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "likelihood_scores": likelihood_scores,
    "extractability": extractability,
    "exposure": exposure,
    "counterfactual": counterfactual,
    "rank_precision": rank_precision,
}


def cases() -> Iterator[Any]:
    """One parameter a case, and one failing parameter a file that nobody knows."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.name.startswith(LATER):
            continue
        if path.stem not in CHECKS:
            yield pytest.param(path.stem, {}, id=path.stem)
            continue
        for i, case in enumerate(json.loads(path.read_text(encoding="utf-8"))["cases"]):
            yield pytest.param(path.stem, case, id=f"{path.stem}-{i}")


def test_folder_is_there() -> None:
    assert FOLDER.is_dir(), f"no folder {FOLDER}"
    assert list(cases()), f"no cases in {FOLDER}"


@pytest.mark.parametrize(("kind", "case"), list(cases()))
def test_golden(kind: str, case: dict[str, Any]) -> None:
    assert kind in CHECKS, f"no check for golden file {kind}.json"
    CHECKS[kind](case)
