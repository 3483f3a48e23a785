"""Decoding steps against golden values made independently of km.

Every case of every file is read: the reference code of CAD, AdaCAD and DoLa,
run in float64, and independent NumPy for CoDa's step and contrastive decoding.
null stands for minus infinity.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import km
from km.scores import decoding as d
from km.scores import overshadow

FOLDER = Path(__file__).parent / "data" / "decoding"
TIGHT = 1e-9


def load(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["cases"]
    return cases


def close(got: Any, expected: Any) -> None:
    """Equal to 1e-9, -inf where null."""
    wanted = [-math.inf if value is None else value for value in np.atleast_1d(expected)]
    assert np.atleast_1d(got) == pytest.approx(wanted, rel=0, abs=TIGHT)


CODA = load("coda_step")
PROMPTS = FOLDER.parent / "overshadow" / "indicator_neg_min.json"
INDICATOR = json.loads(PROMPTS.read_text())["prompts"]
CAD = load("cad_step")
ADACAD = load("adacad_step")
CONTRASTIVE = load("cd_step")
DOLA = load("dola_step")


def test_every_case_is_there() -> None:
    counts = [len(cases) for cases in (CODA, INDICATOR, CAD, ADACAD, CONTRASTIVE, DOLA)]
    assert counts == [48, 10, 42, 28, 42, 32]


@pytest.mark.parametrize("case", CODA, ids=range(len(CODA)))
def test_coda(case: dict[str, Any]) -> None:
    full, masked = case["inputs"]["logits_full"], case["inputs"]["logits_masked"]
    alpha, expected = case["params"]["alpha"], case["expected"]
    found = d.overshadowing(full, masked, alpha, case["params"]["floor"])
    close(found.r_pmi_sum, expected["r_pmi_sum"])
    close(found.erm, expected["erm"])
    close(found.floor, expected["floor"])
    close(found.indicator, expected["indicator"])
    scores = d.coda(full, masked, alpha)
    close(scores, expected["scores"])
    kept = sorted(expected["vtop_common"] + expected["v_esc"])
    assert np.flatnonzero(np.isfinite(scores)).tolist() == kept
    assert d.pick(scores) == expected["token"]
    assert d.pick(full) == d.pick(d.coda(full, masked, alpha, weight=0)) == expected["greedy"]


@pytest.mark.parametrize("case", INDICATOR, ids=range(len(INDICATOR)))
def test_indicators_of_all_candidates(case: dict[str, Any]) -> None:
    """The same as of each candidate alone, which test_overshadow.py compares with its goldens."""
    full, rows = case["logits_full"], case["logits_masked"]
    for floor in get_args(overshadow.Floor):
        for alpha in (0.01, 0.1, 0.5):
            found = d.overshadowing(full, rows, alpha, floor)
            for i, row in enumerate(rows):
                alone = overshadow.indicator(full, row, alpha=alpha, floor=floor)
                close(found.indicator[i], alone.value)
                close(found.r_pmi_sum[i], alone.r_pmi_sum)
                close(found.erm[i], alone.escape)


@pytest.mark.parametrize("case", CAD, ids=range(len(CAD)))
def test_cad(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    scores = d.cad(inputs["logits_context"], inputs["logits_nocontext"], case["params"]["alpha"])
    close(scores, expected["combined"])
    close(d.log_softmax(scores), expected["log_probs"])
    assert d.pick(scores) == expected["token"]


@pytest.mark.parametrize("case", ADACAD, ids=range(len(ADACAD)))
def test_adacad(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    step = d.adacad(
        inputs["logits_context"], inputs["logits_nocontext"], case["params"]["threshold"]
    )
    close(step.divergence, expected["jsd"])
    close(step.alpha, expected["alpha"])
    close(step.scores, expected["combined"])
    assert d.pick(step.scores) == expected["token"]


@pytest.mark.parametrize("case", CONTRASTIVE, ids=range(len(CONTRASTIVE)))
def test_contrastive(case: dict[str, Any]) -> None:
    inputs, params, expected = case["inputs"], case["params"], case["expected"]
    scores = d.contrastive(
        inputs["expert_logits"],
        inputs["amateur_logits"],
        params["alpha"],
        params["beta"],
        params["amateur_temperature"],
    )
    close(scores, expected["scores"])
    assert np.isfinite(scores).tolist() == expected["kept"]
    assert d.pick(scores) == expected["token"]


@pytest.mark.parametrize("case", DOLA, ids=range(len(DOLA)))
def test_dola(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    layers = [layer for layer, _ in inputs["candidates"]]
    rows = [logits for _, logits in inputs["candidates"]]
    step = d.dola(inputs["mature_logits"], rows, case["params"]["relative_top"])
    close(step.divergences, expected["js_reference"])
    assert layers[step.candidate] == expected["layer"]
    close(step.scores, expected["scores"])
    assert np.isfinite(step.scores).tolist() == expected["kept"]
    assert d.pick(step.scores) == expected["token"]
    standard = d.dola(inputs["mature_logits"], rows, case["params"]["relative_top"], js="standard")
    close(standard.divergences, expected["js_standard"])
    assert layers[standard.candidate] == expected["layer_standard"]


# ---- edges of the definitions ----

NEVER = -math.inf


def test_impossible_tokens() -> None:
    full, masked = [2.0, 1.0, NEVER, 0.0], [2.0, NEVER, 1.0, 0.0]
    found = d.overshadowing(full, masked, alpha=0.01)
    escaped = np.log(np.exp(1) / np.exp([2, 1, 0]).sum())
    assert found.erm[0] == pytest.approx(escaped - np.log(1 / np.exp([2, 1, 0]).sum()))
    assert d.coda(full, masked)[2] == NEVER
    assert d.cad(full, masked).tolist() == [2.0, math.inf, NEVER, 0.0]
    assert d.cad(full, masked, alpha=0).tolist() == full
    assert 0 < d.divergence(full, masked) < math.log(2)
    assert 0 < d.layer_divergence(full, masked, "standard") < math.log(2)
    disjoint = d.layer_divergence([0.0, NEVER], [NEVER, 0.0], "standard")
    assert disjoint == pytest.approx(math.log(2))
    assert d.contrastive(full, masked, alpha=0.5).tolist()[1:] == [NEVER] * 3


def test_equal_rows() -> None:
    row = [1.0, 3.0, 3.0, 2.0]
    found = d.overshadowing(row, [row, row])
    assert found.indicator.tolist() == [0.0, 0.0]
    assert math.isnan(d.overshadowing(row, row, floor="neg_min").floor[0])
    assert d.adacad(row, row).scores.tolist() == row
    assert d.pick(row) == 1
    step = d.dola(row, [row, row])
    assert step.candidate == 0
    assert d.coda(row, row, alpha=1).tolist() == [NEVER, 0.0, 0.0, NEVER]


def test_filters_of_cad() -> None:
    context, prior = np.log([0.5, 0.3, 0.15, 0.05]), np.log([0.1, 0.2, 0.3, 0.4])
    close(
        d.cad(context, prior, 1.0, top_p_context=0.75),
        [*(2 * context - prior)[:2], *(-2000 - prior[2:])],
    )
    kept = d.cad(context, prior, 1.0, top_p_prior=0.3)
    close(kept, [*(2 * context[:3] - 1000), 2 * context[3] - prior[3]])
    close(
        d.cad(context, prior, 1.0, 1e-9, 1e-9),
        [2 * context[0] - 1000, -3000.0, -3000.0, -2000 - prior[3]],
    )


def test_dola_as_its_code_scores_answers() -> None:
    final, layer = np.array([3.0, 2.0, -4.0]), np.array([1.0, 2.0, 0.0])
    plain = d.dola(final, layer, relative_top=1e-9).scores
    step = d.dola(final, layer, relative_top=0.1, post_softmax=True, dropped=-1000.0)
    close(step.scores[:2], d.log_softmax(plain)[:2])
    assert step.scores[2] == -1000.0


def test_types_and_layouts_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2, 3, 50)).astype(np.float32)
    expected = d.overshadowing(rows[0, 0].tolist(), rows[1].tolist())
    for masked in (rows[1], rows[1].astype(np.float64), np.asfortranarray(rows[1])):
        found = d.overshadowing(rows[0, 0], masked)
        assert found.indicator.tolist() == expected.indicator.tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: d.overshadowing([1.0], [1.0], alpha=0), km.ArgumentError, "alpha is 0"),
        (lambda: d.coda([1.0], [1.0], alpha=1.1), km.ArgumentError, "alpha is 1.1"),
        (lambda: d.coda([1.0, math.nan], [1.0, 2.0]), km.NumericError, "full"),
        (lambda: d.overshadowing([1.0], [[1.0], [math.inf]]), km.NumericError, r"masked\[1\]"),
        (lambda: d.overshadowing([1.0], [[1.0, 2.0]]), km.ShapeError, "2 logits and full has 1"),
        (lambda: d.cad([NEVER], [1.0]), km.NumericError, "context"),
        (lambda: d.cad([], []), km.ShapeError, "context has shape"),
        (lambda: d.cad([1.0, 2.0], [1.0]), km.ShapeError, "prior has 1 logits"),
        (lambda: d.cad([1.0], [1.0], alpha=-1), km.ArgumentError, "alpha is -1"),
        (lambda: d.adacad([1.0], [1.0], threshold=-1), km.ArgumentError, "threshold"),
        (lambda: d.contrastive([1.0], [1.0], temperature=0), km.ArgumentError, "temperature"),
        (lambda: d.dola([1.0], np.empty((0, 1))), km.ArgumentError, "candidates is empty"),
        (lambda: d.dola([1.0], [[[1.0]]]), km.ShapeError, "candidates has shape"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
