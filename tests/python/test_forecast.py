"""Forecasts of priming on simulated studies with known truth, and on a tiny model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from priming_simulation import simulate

import km
from km.cli import main
from km.priming_calibration import Calibration, calibrate, parse, recipe_hash
from km.priming_forecast import (
    CALIBRATION_ID,
    calibrate_study,
    candidates,
    find_calibration,
    recipe_of,
)
from km.priming_plan import Recipe

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"
MODEL = {"name": "simulated", "precision": "F32", "fingerprint": "f" * 64}
RECIPE = Recipe(optimizer=km.AdamW(lr=1e-3)).describe()
TEXT = "The hue of joy is vermilion, they say, and the sea of sorrow is mauve."


def fit(seed: int = 0, **options: Any) -> Calibration:
    data = simulate(seed, **{"n_probes": 4, "n_texts": 6, "priming": 0.5, "slope": -0.1, **options})
    return calibrate(data, model=MODEL, recipe=RECIPE)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fit(1)


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(TINY)


def of_tiny(calibration: Calibration, tiny: km.Model) -> Calibration:
    """The same for the tiny model, within whose log-probabilities everything is in range."""
    ranges = dict.fromkeys(calibration.ranges, (-60.0, 0.0))
    return replace(calibration, model=dict(tiny.describe()), ranges=ranges)


# ---- the calibration ----


def test_intervals_hold_what_they_say() -> None:
    """New studies' texts, of keywords that no calibration saw, left out or altogether new."""
    left_out, new = [], []
    for seed in range(4):
        found = fit(seed)
        left_out.append(found.validation["keyword"]["forecast"]["coverage"])
        data = simulate(seed + 100, n_probes=4, n_texts=6, priming=0.5, slope=-0.1)
        table = {name: np.array(values) for name, values in data.items()}
        learned = table["arm"] == "learned"
        for text in np.unique(table["text"]):
            own = learned & (table["text"] == text)
            x, before = table["logp_keyword_before"][own][0], table["logp_before"][own].mean()
            if found.outside(x, before) is None:
                _, low, high = found.predict(x, before, int(own.sum()))
                new.append(low <= table["logp_after"][own].mean() <= high)
    assert 0.84 <= np.mean(left_out) <= 0.97
    assert 0.84 <= np.mean(new) <= 0.97


def test_a_useful_predictor_is_better_and_a_useless_one_is_not() -> None:
    useful, useless = fit(2, slope=-0.25), fit(2, independent=True, priming=0.0, slope=0.0)
    assert useful.better and not useless.better
    assert not any("no better" in line for line in useful.describe())
    assert any("no better" in line for line in useless.describe())
    assert "Exploratory" in useful.describe()[0]
    for found in (useful, useless):
        for own in found.validation.values():
            assert set(own) == {"forecast", "constant", "frequency", "no_change"}
            assert all(len(result["terciles"]) == 3 for result in own.values())


def test_nothing_learned_is_no_better_than_no_change() -> None:
    found = fit(3, priming=0.0, slope=0.0)
    assert found.gain("keyword", "no_change") < 0.1
    assert "would do as well" in found.describe()[-1] or found.gain("theme", "no_change") > 0


def test_prediction_in_closed_form(calibration: Calibration) -> None:
    p = calibration.predictor
    x = np.array([1.0, -8.0, -10.0])
    mean, low, high = calibration.predict(-8.0, -10.0, 5)
    covariance = np.array(p.covariance)
    variance = x @ covariance @ x + p.group_variance + p.row_variance / 5
    assert mean == pytest.approx(x @ np.array(p.coefficients))
    assert (high - low) / 2 == pytest.approx(1.8331129 * math.sqrt(variance), rel=1e-6)  # t(9)
    assert p.coefficients[1:] == pytest.approx((-0.1, 1.0), abs=0.1)


def test_outside_the_range_is_refused_by_name(calibration: Calibration) -> None:
    low, high = calibration.ranges["logp_keyword"]
    with pytest.raises(km.ArgumentError, match=r"keyword in the text is 1\.00 nats; .* have"):
        calibration.predict(1.0, -10.0, 4)
    with pytest.raises(km.ArgumentError, match=r"after the probes is -99\.00 nats"):
        calibration.predict((low + high) / 2, -99.0, 4)


def test_calibrations_are_files(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    calibration.to_json(path)
    again = Calibration.from_json(path)
    assert again == calibration or again.to_json() == calibration.to_json()
    assert again.predict(-8.0, -10.0, 5) == calibration.predict(-8.0, -10.0, 5)
    assert again.recipe_hash == recipe_hash(RECIPE) != recipe_hash({**RECIPE, "presentations": 4})
    for broken in ("{}", "[]", "not", path.read_text().replace("/1", "/9"), '{"format": 1}'):
        with pytest.raises(km.FormatError, match="x is not a forecast's calibration"):
            parse(broken, "x")


def test_small_studies_are_refused() -> None:
    data = simulate(0, n_texts=2, n_probes=2)
    few = [i for i, keyword in enumerate(data["keyword"]) if keyword < "k04"]
    part = {name: [values[i] for i in few] for name, values in data.items()}
    with pytest.raises(km.ArgumentError, match="at least 6 keywords; there are 4"):
        calibrate(part, model=MODEL, recipe=RECIPE)
    with pytest.raises(km.ArgumentError, match="'theme'"):
        calibrate({**{k: v for k, v in data.items() if k != "theme"}}, model=MODEL, recipe=RECIPE)


def test_recipes_come_back() -> None:
    recipe = Recipe(optimizer=km.SGD(lr=0.1), presentations=2, clip=1.0)
    described = json.loads(json.dumps(recipe.describe()))
    assert recipe_of(described).describe() == recipe.describe()
    with pytest.raises(km.ArgumentError, match="background"):
        recipe_of({**described, "background": "0" * 64})


# ---- forecasts ----


def test_candidates() -> None:
    assert candidates(TEXT) == ["vermilion", "sorrow", "mauve"]
    assert candidates("Joy") == [] and candidates("Vermilion is vermilion.") == []


def test_forecast_of_found_and_given_words(tiny: km.Model, calibration: Calibration) -> None:
    found = of_tiny(calibration, tiny)
    result = km.forecast(tiny, TEXT, calibration=found)
    rows = list(result.table.rows())
    assert {row["keyword"] for row in rows} == {"vermilion", "sorrow", "mauve"}
    assert [row["logp_keyword"] for row in rows] == sorted(row["logp_keyword"] for row in rows)
    given = km.forecast(tiny, TEXT, "vermilion", probes=["Sand is", "Paint it"], calibration=found)
    (row,) = given.table.rows()
    score = tiny.score("The hue of joy is", ["vermilion"]).table["logp"][0]
    assert row["logp_keyword"] == pytest.approx(score, abs=1e-4) and row["n_probes"] == 2
    ends = found.predict(row["logp_keyword"], row["logp_probes"], 2)
    assert (row["forecast"], row["low"], row["high"]) == ends
    assert "'vermilion'" in repr(given) and "Exploratory" in repr(given)
    assert json.loads(given.to_json())["rows"][0]["keyword"] == "vermilion"


def test_forecast_refuses(tiny: km.Model, calibration: Calibration) -> None:
    with pytest.raises(km.NotFoundError, match="km forecast --calibrate"):
        km.forecast(tiny, TEXT)
    with pytest.raises(km.ArgumentError, match="not of this model"):
        km.forecast(tiny, TEXT, calibration=calibration)
    narrow = replace(
        of_tiny(calibration, tiny), ranges={"logp_keyword": (-1, 0), "logp_probes": (-60, 0)}
    )
    with pytest.raises(km.ArgumentError, match="'mauve': the log-probability of the keyword in"):
        km.forecast(tiny, TEXT, "mauve", calibration=narrow)
    listed = km.forecast(tiny, TEXT, calibration=narrow)
    assert all("-1.00 to 0.00" in row["problem"] for row in listed.table.rows())
    with pytest.raises(km.ArgumentError, match="does not stand"):
        km.forecast(tiny, TEXT, "green", calibration=narrow)
    with pytest.raises(km.ArgumentError, match="content word"):
        km.forecast(tiny, "Joy", calibration=narrow)


def test_verify_is_what_priming_measures(tiny: km.Model, calibration: Calibration) -> None:
    found = of_tiny(calibration, tiny)
    probes = ["Sand is", "Paint it"]
    result = km.forecast(tiny, TEXT, ["mauve"], probes=probes, calibration=found, verify=True)
    learned = km.priming(
        tiny,
        TEXT,
        "mauve",
        probes,
        optimizer=km.AdamW(lr=1e-3),
        controls=(),
        in_context=False,
        cross_theme=[],
        neutral=[],
    )
    after = [row["logp_after"] for row in learned.table.rows() if row["kind"] == "theme"]
    assert result.table["logp_after"] == [pytest.approx(np.mean(after))]
    row = result.table.row(0)
    assert row["inside"] == (row["low"] <= row["logp_after"] <= row["high"])
    assert "a trained copy has" in repr(result)


def test_knowledge_base_and_command(
    tiny: km.Model, calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json"
    of_tiny(calibration, tiny).to_json(path)
    base = tmp_path / "kb.db"
    words = ["forecast", TEXT, "--model", str(TINY), "--keyword", "mauve", "--kb", str(base)]
    assert main([*words, "--calibration", str(path)]) == 0
    assert "'mauve': P =" in capsys.readouterr().out
    with km.KnowledgeBase(base) as kb:
        runs = kb.sql("SELECT measure, parameters FROM runs")
        assert runs["measure"] == ["learning.forecast"]
        stored = json.loads(runs["parameters"][0])
        assert stored["recipe_hash"] == recipe_hash(RECIPE)
        with pytest.raises(km.NotFoundError, match="no finished priming study"):
            calibrate_study(kb)
    assert main(["forecast"]) == 1
    assert "give a text" in capsys.readouterr().err
    assert main([*words, "-o", str(path)]) == 1


@pytest.mark.timeout(600)
def test_a_study_becomes_a_calibration(tiny: km.Model, tmp_path: Path) -> None:
    """From a study of the tiny model in a knowledge base to forecasts by its command."""
    length = tiny.config["context_length"]
    fits = [t for t in km.datasets.priming_texts(1) if len(tiny.encode(t.text)) < length]
    some = [t for t in fits if t.category in ("short_fact", "contradiction", "everyday")]
    base, file = tmp_path / "study.db", tmp_path / "c.json"
    with km.KnowledgeBase(base) as kb:
        km.studies.priming(
            tiny, texts=some, controls=(), in_context=False, optimizer=km.AdamW(lr=1e-3), kb=kb
        )
    assert main(["forecast", "--calibrate", str(base), "-o", str(file)]) == 0
    found = Calibration.from_json(file)
    assert found.n_texts == len(some) and found.n_keywords == len({t.keyword for t in some})
    with km.KnowledgeBase(base) as kb:
        assert find_calibration(tiny, kb=kb).to_json() == found.to_json()
        assert len(kb.sql("SELECT 1 FROM runs WHERE measure = ?", [CALIBRATION_ID])) == 1
        result = km.forecast(tiny, some[0], kb=kb, verify=True)
    (row,) = result.table.rows()
    assert row["inside"] and row["theme"] == some[0].theme


def test_a_binary_file_is_no_calibration(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(km.FormatError, match=r"calibration\.json"):
        Calibration.from_json(file)
