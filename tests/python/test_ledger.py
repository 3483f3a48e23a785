"""The ledger without a knowledge base: predictions, freezing, the rule of the words."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import pytest

import km
from km import ledger

MODEL = {"fingerprint": "f" * 64, "name": "tiny", "precision": "F32"}


def prediction(**changes: Any) -> ledger.Prediction:
    fields: dict[str, Any] = {
        "id": "above-chance",
        "nodes": ["memorization"],
        "statement": "It is above chance.",
        "measure": "memorization.recall",
        "statistic": "difference",
        "direction": "above",
        "smallest_effect": 0.1,
        "unit": "share",
        "minimum_n": 5,
        "falsified_by": "An interval below 0.",
    }
    return ledger.Prediction(**fields | changes)


def unit(**changes: Any) -> ledger.Unit:
    return ledger.Unit.of(MODEL, **{"prompts": ["a", "b"], "facts": ["x"]} | changes)


# Every place an interval can have to null (0) and the smallest effect (0.1), with the word.
PLACES = [
    ((0.2, 0.3), "consistent", "inconsistent"),
    ((0.05, 0.3), "consistent", "inconsistent"),
    ((0.01, 0.09), "equivalent to none", "equivalent to none"),
    ((-0.09, 0.09), "equivalent to none", "equivalent to none"),
    ((-0.09, -0.01), "equivalent to none", "equivalent to none"),
    ((-0.3, 0.3), "inconclusive", "inconclusive"),
    ((0.0, 0.3), "inconclusive", "inconclusive"),
    ((-0.1, 0.05), "inconclusive", "inconclusive"),
    ((-0.3, -0.05), "inconsistent", "consistent"),
]


@pytest.mark.parametrize(("ends", "above", "below"), PLACES)
def test_the_word_of_every_place(ends: tuple[float, float], above: str, below: str) -> None:
    low, high = ends
    middle = (low + high) / 2
    for direction, word in (("above", above), ("below", below)):
        p = prediction(direction=direction)
        assert ledger.verdict_word(p, middle, low, high, 5) == word
        moved = prediction(direction=direction, null=2.0)
        if word != "equivalent to none" and low != -0.1 and low != 0.0:
            assert ledger.verdict_word(moved, middle + 2, low + 2, high + 2, 5) == word
    different = {"inconsistent": "consistent"}.get(above, above)
    p = prediction(direction="different")
    assert ledger.verdict_word(p, middle, low, high, 5) == different


def test_too_few_and_what_cannot_be_estimated() -> None:
    assert ledger.verdict_word(prediction(), 1.0, 0.9, 1.1, 4) == "not testable here"
    for hole in range(3):
        figures: list[float | None] = [1.0, 0.9, 1.1]
        figures[hole] = None
        assert ledger.verdict_word(prediction(), *figures, 5) == "inconclusive"
        figures[hole] = float("nan")
        assert ledger.verdict_word(prediction(), *figures, 5) == "inconclusive"


def test_an_adjusted_p_can_only_take_a_side_away() -> None:
    for (low, high), p in itertools.product([ends for ends, _, _ in PLACES], (0.0, 0.05, 0.2, 1.0)):
        alone = ledger.verdict_word(prediction(), (low + high) / 2, low, high, 9)
        word = ledger.verdict_word(prediction(), (low + high) / 2, low, high, 9, p)
        taken = alone in ("consistent", "inconsistent") and p > 0.051
        assert word == ("inconclusive" if taken else alone)


def test_what_cannot_be_tested_says_why_whatever_the_figures() -> None:
    p = prediction(measure="", statistic="", smallest_effect=0, not_testable="It needs 100 B.")
    ledger.freeze(None, [p], unit())
    verdict = ledger.judge(None, None, p, unit(), estimate=1.0, low=0.9, high=1.1, n=999)
    assert verdict.word == "not testable here"
    assert "It needs 100 B." in verdict.text


def test_the_digest_is_of_the_canonical_fields_and_sees_each() -> None:
    p = prediction()
    text = json.dumps(p.as_dict(), sort_keys=True, separators=(",", ":"))
    assert p.digest == hashlib.sha256(text.encode()).hexdigest()
    changes = {
        "id": "other", "nodes": ["root"], "statement": "x", "measure": "m", "statistic": "t",
        "direction": "below", "null": 1, "smallest_effect": 0.2, "unit": "nats", "interval": "i",
        "level": 0.9, "minimum_n": 6, "n_unit": "facts", "falsified_by": "f", "rivals": ["r"],
        "kind": "intervention", "controls": ["c"], "family": "exploratory", "version": 2,
        "not_testable": "n",
    }  # fmt: skip
    assert set(changes) == {f.name for f in dataclasses.fields(p)}
    assert len({prediction(**{k: v}).digest for k, v in changes.items()} | {p.digest}) == 21
    assert ledger.Prediction.from_dict(p.as_dict()) == p
    assert prediction(smallest_effect=1).digest == prediction(smallest_effect=1.0).digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"direction": "up"}, "direction"),
        ({"id": "Not An Id"}, "lower-case"),
        ({"nodes": []}, "nodes is empty"),
        ({"nodes": "memorization"}, "several texts"),
        ({"falsified_by": ""}, "falsified_by is empty"),
        ({"smallest_effect": 0}, "smallest_effect"),
        ({"smallest_effect": float("inf")}, "smallest_effect"),
        ({"null": float("nan")}, "null"),
        ({"level": 1.0}, "level"),
        ({"minimum_n": 0}, "minimum_n"),
        ({"measure": ""}, "not_testable"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(km.ArgumentError, match=words):
        prediction(**changes)
    row = prediction().as_dict()
    with pytest.raises(km.ArgumentError, match="unknown member 'smalest'"):
        ledger.Prediction.from_dict(row | {"smalest": 1})
    del row["falsified_by"]
    with pytest.raises(km.ArgumentError, match="'falsified_by' is missing"):
        ledger.Prediction.from_dict(row)


def test_the_unit_is_what_decides_the_figures() -> None:
    base = unit()
    assert base.digest == ledger.Unit.of(MODEL | {"name": "copy"}, prompts=("a", "b"),
                                         facts=["x"]).digest  # fmt: skip
    others = [
        unit(prompts=["a"]),
        unit(facts=["y"]),
        unit(recipe={"lr": 0.1}),
        ledger.Unit.of(MODEL | {"fingerprint": "e" * 64}, prompts=["a", "b"], facts=["x"]),
        ledger.Unit.of(MODEL | {"precision": "Q4_0"}, prompts=["a", "b"], facts=["x"]),
    ]
    assert len({other.digest for other in others} | {base.digest}) == 6
    assert unit(prompts=base.prompts).digest == base.digest


def test_freezing_comes_first_keeps_its_time_and_refuses_changes() -> None:
    p = prediction(id="frozen-first")
    figures: dict[str, Any] = {"estimate": 0.3, "low": 0.2, "high": 0.4, "n": 9}
    with pytest.raises(km.NotFoundError, match="not frozen"):
        ledger.judge(None, None, p, unit(), **figures)
    (first,) = ledger.freeze(None, [p], unit())
    (again,) = ledger.freeze(None, [p], unit())
    assert again.time == first.time
    verdict = ledger.judge(None, None, p, unit(), rows=["k1", "k2"], command="km x", **figures)
    assert (verdict.word, verdict.rows, verdict.frozen) == ("consistent", "k1 k2", first.time)
    with pytest.raises(km.NotFoundError, match="not frozen"):
        ledger.judge(None, None, p, unit(facts=["other"]), **figures)
    with pytest.raises(km.ArgumentError, match="needs a new version"):
        ledger.freeze(None, [prediction(id="frozen-first", smallest_effect=0.01)], unit())
    ledger.freeze(None, [prediction(id="frozen-first", smallest_effect=0.01, version=2)], unit())


def test_a_verdict_reads_as_narrow_as_it_is() -> None:
    p = prediction(id="words", rivals=["luck"])
    ledger.freeze(None, [p], unit())
    verdict = ledger.judge(None, None, p, unit(), estimate=0.3, low=0.2, high=0.4, n=9,
                           p_value=0.001)  # fmt: skip
    assert verdict.text == (
        "Consistent with words in tiny F32: difference 0.3 share [0.2, 0.4], n = 9 relations, "
        "adjusted p = 0.001; beyond the smallest effect of interest, 0.1 share."
    )
    assert "luck" in repr(verdict)
    small = ledger.judge(None, None, p, unit(), estimate=0.3, low=0.02, high=0.4, n=9)
    assert "not wholly beyond" in small.text
    few = ledger.judge(None, None, p, unit(), estimate=0.3, low=0.2, high=0.4, n=2)
    assert "2 relations where at least 5 are needed" in few.text


def test_shipped_predictions_are_sound_and_have_one_name_each() -> None:
    shipped = ledger.predictions()
    names = [(p.id, p.version) for p in shipped]
    assert len(names) == len(set(names))
    assert {p.id for p in ledger.predictions("priming")} <= {p.id for p in shipped}
    with pytest.raises(km.NotFoundError, match="priming"):
        ledger.predictions("nothing-of-the-kind")
