"""Overshadowing rates, the law and the indicator against golden values made independently of km.

Every case of every file of the topic is read. The two files of indicators hold the cases of one
prompt together.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from km.scores import overshadow as o

FOLDER = Path(__file__).parent / "data" / "overshadow"
TOLERANCE = 1e-9  # the card's, absolute


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def close(got: float | None, expected: float | None, where: str) -> None:
    """None: undefined."""
    if expected is None:
        assert got is None or not math.isfinite(got), where
    else:
        assert got == pytest.approx(expected, rel=0, abs=TOLERANCE), where


RATES = load("rates")["cases"]
LAWS = load("law_fit")["cases"]
NEG_MIN = load("indicator_neg_min")["prompts"]
VTOP_MIN = load("indicator_vtop_min")["prompts"]


def test_every_case_is_there() -> None:
    counts = [len(RATES), len(LAWS)]
    counts += [sum(len(prompt["cases"]) for prompt in file) for file in (NEG_MIN, VTOP_MIN)]
    assert counts == [16, 12, 20, 48]


@pytest.mark.parametrize("case", RATES, ids=range(len(RATES)))
def test_rates(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    if "m" in inputs:
        close(o.relative_popularity(inputs["m"], inputs["n"]), expected["P"], "P")
        close(o.relative_length(inputs["len_share"], inputs["len_xb"]), expected["L"], "L")
        return
    got = o.rates(**inputs)
    close(got.recall.estimate, expected["RR"], "RR")
    close(got.hallucination.estimate, expected["HR"], "HR")
    close(got.ratio, expected["R"], "R")
    assert got.low <= got.high


@pytest.mark.parametrize("case", LAWS, ids=range(len(LAWS)))
def test_law(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    line = o.fit_line(inputs["x"], inputs["y"])
    close(line.intercept, expected["intercept"], "intercept")
    close(line.slope, expected["slope"], "slope")
    close(line.critical, expected["x_c"], "x_c")
    close(line.rss, expected["rss"], "rss")
    close(line.r2, expected["r2"], "r2")
    close(line.intercept_se, expected["stderr_intercept"], "stderr_intercept")
    close(line.slope_se, expected["stderr_slope"], "stderr_slope")
    predicted = line.predict(inputs["x_new"]).tolist()
    clipped = line.predict(inputs["x_new"], clip=True).tolist()
    assert predicted == pytest.approx(expected["y_pred"], rel=0, abs=TOLERANCE)
    assert clipped == pytest.approx(expected["y_pred_clipped"], rel=0, abs=TOLERANCE)
    error = line.relative_error(inputs["x_new"], inputs["y_new"])
    close(error, expected["mean_relative_error"], "mean_relative_error")


@pytest.mark.parametrize("prompt", NEG_MIN, ids=range(len(NEG_MIN)))
def test_indicator_from_the_least_of_the_common_tokens(prompt: dict[str, Any]) -> None:
    for case in prompt["cases"]:
        got = [
            o.indicator(prompt["logits_full"], masked, alpha=case["alpha"], floor="neg_min")
            for masked in prompt["logits_masked"]
        ]
        for found, expected in zip(got, case["candidates"], strict=True):
            close(found.r_pmi_sum, expected["r_pmi_sum"], "r_pmi_sum")
            close(found.escape, expected["erm"], "erm")
            close(found.value, expected["indicator"], "indicator")
        values = [found.value for found in got]
        assert o.select_token(values, "max") == case["argmax_indicator"]
        least = case["argmin_indicator"]
        assert o.select_token(values, "min") == (least if values[least] < 0 else None)


@pytest.mark.parametrize("prompt", VTOP_MIN, ids=range(len(VTOP_MIN)))
def test_indicator_from_the_least_of_the_top_tokens(prompt: dict[str, Any]) -> None:
    for case in prompt["cases"]:
        got = o.indicator(prompt["logits_full"], prompt["logits_masked"], alpha=case["alpha"])
        assert got.common.tolist() == case["vtop_common"]
        assert got.escaping.tolist() == case["v_esc"]
        close(got.r_pmi_sum, case["r_pmi_sum"], "r_pmi_sum")
        close(got.floor, case["floor"], "floor")
        close(got.escape, case["erm"], "erm")
        close(got.value, case["indicator"], "indicator")
