"""Negative controls and planted truths: how often the ledger's words are false, and how often it
sees what is there.

Both are shares of a finite number of replicates, so both are tested: seeds are fixed, and an exact
one-sided binomial test at the level of 5 % must put the share of false verdicts below 5 %, and
power above 80 % (:func:`ledger_worlds.shown_below`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ledger_worlds import facts, permuted, planted, shown_above, shown_below, shuffled
from priming_simulation import simulate

import km
from km import ledger
from km.ledger.figures import Figure, clustered_mean
from km.ledger.record import adjust
from km.priming_analysis import analyse
from km.studies import PrimingStudy
from km.table import Table

FALSE_VERDICTS = 0.05
POWER = 0.8
RECALL = ledger.predictions("recall")
SIDES = ("consistent", "inconsistent")
N_MODELS = 100  # of each kind; four verdicts each


def words(model: km.Model, asked: km.datasets.FactSet, seed: int = 0) -> dict[str, str]:
    recall = km.memorization(model, asked, lens=False, seed=seed)
    return {v.prediction.id: v.word for v in ledger.judge_result(None, recall)}


def shares(found: list[dict[str, str]], wanted: str) -> list[float]:
    """Of each model's verdicts, those with this word."""
    assert all(len(verdicts) == len(RECALL) > 0 for verdicts in found)
    return [np.mean([word == wanted for word in v.values()]).item() for v in found]


def test_the_bounds_of_the_controls_can_be_missed() -> None:
    """Clopper and Pearson's upper bounds of 95 %: 4.95 % for 0 of 59, 4.999 % for 1 of 93."""
    assert shown_below([0.0] * 59, 0.05) and not shown_below([0.0] * 58, 0.05)
    assert shown_below([0.25] * 4 + [0.0] * 89, 0.05)
    assert not shown_below([0.5] + [0.0] * 91, 0.05)
    assert shown_above([1.0] * 14, 0.8) and not shown_above([1.0] * 13, 0.8)


# ---- tiny models ----


def test_random_weights_give_next_to_no_false_verdicts() -> None:
    """That nothing is known is the truth: every "consistent" is false."""
    base = planted(0, share=0.0)
    found = [words(base.random_like(seed), facts(), seed + 1000) for seed in range(N_MODELS)]
    assert shown_below(shares(found, "consistent"), FALSE_VERDICTS)


def test_shuffled_weights_give_next_to_no_false_verdicts() -> None:
    found = [words(shuffled(planted(seed), seed), facts()) for seed in range(N_MODELS)]
    assert shown_below(shares(found, "consistent"), FALSE_VERDICTS)


def test_permuted_answers_give_next_to_no_false_verdicts() -> None:
    """The model holds the facts; the answers are dealt out anew among the subjects."""
    found = [words(planted(seed), permuted(facts(), seed)) for seed in range(N_MODELS)]
    assert shown_below(shares(found, "consistent"), FALSE_VERDICTS)


def test_what_was_planted_is_found() -> None:
    """Models that hold nine facts in ten; without this the controls above would pass on a rule that
    never says anything."""
    found = [words(planted(seed, share=0.9), facts()) for seed in range(60)]
    for prediction in RECALL:
        seen = [float(verdicts[prediction.id] == "consistent") for verdicts in found]
        assert shown_above(seen, POWER), prediction.id
    assert sum(shares(found, "inconsistent")) == 0


# ---- the estimators and the rule, on simulated rows ----


def simulated(
    rng: np.random.Generator, effect: float, n_relations: int, n_subjects: int
) -> tuple[list[float], list[str], list[str]]:
    """Differences of facts whose relations differ from one another as much as facts do."""
    values, relations, subjects = [], [], []
    for r in range(n_relations):
        own = rng.normal(effect, 0.2)
        for s in range(n_subjects):
            values.append(float(own + rng.normal(0, 0.2)))
            relations.append(f"r{r}")
            subjects.append(f"s{s}")
    return values, relations, subjects


def said(effects: list[float], seed: int, n_relations: int, n_subjects: int = 6) -> list[str]:
    """Words on predictions tested together, each on rows of its own."""
    rng = np.random.default_rng(seed)
    wanted = RECALL[: len(effects)]
    found: dict[str, Figure] = {}
    for prediction, effect in zip(wanted, effects, strict=True):
        rows = simulated(rng, effect, n_relations, n_subjects)
        found[prediction.id] = clustered_mean(*rows, prediction.level)
    adjusted = adjust(wanted, found)
    return [ledger.verdict_word(p, *found[p.id][:4], p_value=adjusted.get(p.id)) for p in wanted]


def sided(found: list[list[str]]) -> list[float]:
    """Of each replicate's verdicts, those that take a side."""
    return [np.mean([word in SIDES for word in verdicts]).item() for verdicts in found]


def agreeing(found: list[list[str]]) -> list[float]:
    """Of each replicate's verdicts, those that are consistent."""
    return [np.mean([word == "consistent" for word in verdicts]).item() for verdicts in found]


@pytest.mark.parametrize(("n_relations", "draws"), [(8, 300), (12, 300), (40, 60)])
def test_no_effect_takes_next_to_no_side(n_relations: int, draws: int) -> None:
    found = [said([0.0] * 4, seed, n_relations) for seed in range(draws)]
    assert shown_below(sided(found), FALSE_VERDICTS)


@pytest.mark.parametrize(("n_relations", "effect"), [(12, 0.3), (40, 0.15)])
def test_a_planted_effect_takes_its_side(n_relations: int, effect: float) -> None:
    found = [said([effect] * 4, seed, n_relations) for seed in range(30)]
    assert shown_above(agreeing(found), POWER)
    turned = [said([-effect] * 4, seed, n_relations) for seed in range(3)]
    assert {word for verdicts in turned for word in verdicts} <= {"inconsistent", "inconclusive"}


# ---- neurons: the reader of an intervention, on rows as the measure writes them ----


def neuron_rows(seed: int, effect: float) -> Iterator[dict[str, Any]]:
    """Ten relations of five facts; random neurons change the answer as much, but for the effect."""
    rng = np.random.default_rng(seed)
    for r in range(10):
        for f in range(5):
            p = float(rng.uniform(0.2, 0.6))
            names = ("suppressed", "random_suppressed", "other_suppressed")
            down = {name: p * (1 + float(rng.normal(-0.1, 0.1))) for name in names}
            names = ("enhanced", "random_enhanced", "other_enhanced")
            up = {name: p * (1 + float(rng.normal(0.1, 0.1))) for name in names}
            down["suppressed"] -= effect * p
            up["enhanced"] += effect * p
            row = {"relation": f"r{r}", "fact": str(f), "prompt": "x", "answer": "y"}
            yield row | {"n_neurons": 3, "probability": p} | down | up


def neuron_words(seed: int, effect: float) -> list[str]:
    from km.neurons import COLUMNS, NEURONS_ID, KnowledgeNeurons

    result = object.__new__(KnowledgeNeurons)
    result.table = Table.from_rows(COLUMNS, neuron_rows(seed, effect))
    model = {"fingerprint": "f" * 64, "name": "simulated", "precision": "F32"}
    result.provenance = {
        "measure": NEURONS_ID, "version": 1, "parameters": {"seed": seed}, "model": model,
    }  # fmt: skip
    return [verdict.word for verdict in ledger.judge_result(None, result)]


def test_neurons_that_do_no_more_than_random_ones_are_not_special() -> None:
    found = [neuron_words(seed, 0.0) for seed in range(300)]
    assert {len(verdicts) for verdicts in found} == {3}
    assert shown_below(sided(found), FALSE_VERDICTS)


def test_neurons_that_carry_the_answer_are_found() -> None:
    found = [neuron_words(seed, 0.12) for seed in range(30)]
    assert shown_above(agreeing(found), POWER)


# ---- priming: the reader of a study, on the simulation the analysis is tested with ----


def priming_words(seed: int, **effects: Any) -> list[str]:
    study = object.__new__(PrimingStudy)
    controls = ("text_control", "keyword_control")
    study.analysis = analyse(
        simulate(seed, n_probes=6, controls=controls, **effects), draws=300, seed=seed
    )
    model = {"fingerprint": "f" * 64, "name": "simulated", "precision": "F32"}
    parameters = {"confidence": 0.95, "seed": seed}
    study.provenance = {
        "measure": "learning.priming_study", "version": 1, "parameters": parameters, "model": model,
    }  # fmt: skip
    return [verdict.word for verdict in ledger.judge_result(None, study)]


@pytest.mark.parametrize(
    ("effects", "wanted", "n"),
    [({}, "no side", 60), ({"priming": 0.5, "slope": -0.12}, "consistent", 15)],
)
def test_priming_is_found_where_it_is_and_nowhere_else(
    effects: dict[str, float], wanted: str, n: int
) -> None:
    found = [priming_words(seed, **effects) for seed in range(n)]
    assert {len(verdicts) for verdicts in found} == {3}
    if wanted == "no side":
        assert shown_below(sided(found), FALSE_VERDICTS)
    else:
        assert shown_above(agreeing(found), POWER)
