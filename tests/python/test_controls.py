"""Negative controls: where nothing can be known, next to nothing may be called robust."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import km

RELATIONS = ("country_capital_city", "country_currency", "adj_antonym", "verb_past_tense")
FALSE_VERDICTS = 0.05


@pytest.fixture(scope="module")
def asked() -> km.datasets.FactSet:
    return km.datasets.facts(RELATIONS).select(per_relation=8)


def permuted(facts: km.datasets.FactSet) -> km.datasets.FactSet:
    """Every subject with the answer of the next but two: the labels no longer fit."""

    def shift(relation: km.datasets.Relation) -> km.datasets.Relation:
        answers = [fact.answers for fact in relation.facts]
        moved = answers[3:] + answers[:3]
        pairs = zip(relation.facts, moved, strict=True)
        return replace(relation, facts=tuple(replace(fact, answers=to) for fact, to in pairs))

    return replace(facts, relations=tuple(shift(relation) for relation in facts))


def states(model: km.Model, facts: km.datasets.FactSet) -> list[Any]:
    recall = km.memorization(model, facts, range(5), max_candidates=8, baselines=False, lens=False)
    return list(recall.facts["state"])


def test_the_measure_sees_what_is_there(model: km.Model, asked: km.datasets.FactSet) -> None:
    """Without this the controls below would pass on a measure that never says robust."""
    found = states(model, asked)
    assert found.count("robust") / len(found) > 4 * FALSE_VERDICTS


def test_permuted_answers_are_not_robust(model: km.Model, asked: km.datasets.FactSet) -> None:
    found = states(model, permuted(asked))
    assert len(found) == 32
    assert found.count("robust") / len(found) <= FALSE_VERDICTS


def test_random_weights_know_nothing_robustly(model: km.Model, asked: km.datasets.FactSet) -> None:
    found = states(model.random_like(1), asked)
    assert found.count("robust") / len(found) <= FALSE_VERDICTS
