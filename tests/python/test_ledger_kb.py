"""The ledger in a knowledge base: freezing, what may count, history, a node's page, generality."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_worlds import facts, planted
from test_ledger import prediction

import km
from km import cli, ledger
from km.table import Column, Table

NEURONS = "interpretability.knowledge_neurons"
FIGURES: dict[str, Any] = {"estimate": 0.3, "low": 0.2, "high": 0.4, "n": 9, "rows": "k"}


@pytest.fixture
def kb() -> Any:
    with km.KnowledgeBase(":memory:") as base:
        yield base


def about(name: str = "tiny", **more: Any) -> dict[str, Any]:
    fingerprint = name.encode().hex().ljust(64, "0")
    return {"fingerprint": fingerprint, "name": name, "precision": "F32"} | more


def unit(name: str = "tiny") -> ledger.Unit:
    return ledger.Unit.of(about(name), prompts=["p"], facts=["f"], recipe={"k": 1})


def begin(
    kb: km.KnowledgeBase, name: str = "tiny", measure: str = "memorization.recall", **more: Any
) -> int:
    provenance = {"measure": measure, "version": 1, "parameters": {}, "model": about(name, **more)}
    return kb.begin_run(provenance)


def test_a_verdict_keeps_what_it_rests_on_and_is_never_replaced(kb: km.KnowledgeBase) -> None:
    p = prediction(id="mine", rivals=["luck"])
    (frozen,) = ledger.freeze(kb, [p], unit())
    assert ledger.freeze(kb, [p], unit()) == [frozen]
    run = begin(kb)
    verdict = ledger.judge(kb, run, p, unit(), p_value=0.01, command="km memorize", **FIGURES)
    assert (verdict.word, verdict.run, verdict.frozen) == ("consistent", run, frozen.time)
    assert ledger.judge(kb, run, p, unit(), p_value=0.01, command="km memorize", **FIGURES) == (
        verdict
    )
    with pytest.raises(km.ArgumentError, match="not replaced"):
        ledger.judge(kb, run, p, unit(), **FIGURES | {"low": -0.2})
    later = ledger.judge(kb, begin(kb), p, unit(), **FIGURES | {"low": -0.2})
    assert later.word == "inconclusive"
    rows = kb.ask("verdicts", node="memorization")
    assert rows["word"] == ["inconclusive", "consistent"]
    assert rows["command"] == [None, "km memorize"]
    assert rows["unit_digest"] == [unit().digest] * 2
    assert kb.ask("predictions", node="memorization").row(0) | {"rival": "luck", "verdicts": 2} == (
        kb.ask("predictions", node="memorization").row(0)
    )
    assert kb.info()["verdicts"] == "2"
    assert len(kb.check(full=True)) == 0


def test_what_was_looked_at_before_the_freezing_does_not_count(kb: km.KnowledgeBase) -> None:
    p = prediction(id="late")
    early = begin(kb)
    kb.store_chunk(early, "k1", Table([Column("x", "int64")], [[1]]))
    time.sleep(0.01)
    ledger.freeze(kb, [p], unit())
    with pytest.raises(km.ArgumentError, match="before the prediction was frozen"):
        ledger.judge(kb, early, p, unit(), **FIGURES)
    again = begin(kb)
    kb.store_chunk(again, "k1", Table([Column("x", "int64")], [[1]]))  # found, not measured
    with pytest.raises(km.ArgumentError, match="rows measured at"):
        ledger.judge(kb, again, p, unit(), **FIGURES)
    with pytest.raises(km.NotFoundError, match="not frozen"):
        ledger.judge(kb, begin(kb), p, unit("other"), **FIGURES)
    with pytest.raises(km.ArgumentError, match="another model"):
        ledger.judge(kb, begin(kb, "other"), p, unit(), **FIGURES)
    with pytest.raises(km.ArgumentError, match="needs the run"):
        ledger.judge(kb, None, p, unit(), **FIGURES)
    with pytest.raises(km.ArgumentError, match="needs a new version"):
        ledger.freeze(kb, [prediction(id="late", smallest_effect=0.01)], unit())


def test_recall_cannot_speak_on_the_modular_region(kb: km.KnowledgeBase) -> None:
    """Neither recall, nor neurons as an observation, nor an intervention without its controls."""
    for node in ("hyp-modular-region", "specialised-neurons", "hyp-connection"):
        with pytest.raises(km.ArgumentError, match="not declared to bear"):
            ledger.freeze(kb, [prediction(id="h1", nodes=[node])], unit())
    kb.add_measure("mine", ["specialised-neurons", "task-circuits", "hyp-connection"])
    for node in ("specialised-neurons", "task-circuits", "hyp-connection"):
        for changes in ({}, {"kind": "intervention"}, {"controls": ["random"]}):
            wrong = prediction(id="h1", nodes=[node], measure="mine", **changes)
            with pytest.raises(km.ArgumentError, match="interventions with matched random"):
                ledger.freeze(kb, [wrong], unit())
    (p,) = [p for p in ledger.predictions("knowledge_neurons") if p.id.startswith("neurons-supp")]
    ledger.freeze(kb, [p], unit())
    run = begin(kb, measure=NEURONS)
    kb.store_chunk(run, "k", Table([Column("random_suppressed", "double")], [[0.5]]))
    with pytest.raises(km.ArgumentError, match="matched random control random_enhanced"):
        ledger.judge(kb, run, p, unit(), **FIGURES)
    kb.store_chunk(run, "k2", Table([Column("random_enhanced", "double")], [[0.5]]))
    assert ledger.judge(kb, run, p, unit(), **FIGURES).word == "inconsistent"


# ---- runs give verdicts by themselves ----


def test_recording_a_run_gives_verdicts(tmp_path: Path) -> None:
    model = planted(3)
    with km.KnowledgeBase(tmp_path / "study.db") as kb:
        recall = km.memorization(model, facts(), lens=False, kb=kb)
        rows = kb.ask("verdicts", node="memorization")
        assert set(rows["prediction"]) == {p.id for p in ledger.predictions("recall")}
        assert set(rows["word"]) == {"consistent"} and set(rows["basis"]) == {"before"}
        assert set(rows["run"]) == {recall.run}
        own = {row["prediction"]: row for row in rows.rows()}["recall-beats-subject-removed"]
        assert own["estimate"] == pytest.approx(recall.overall.row(0)["gain"])
        assert len(kb.sql(own["rows"])) == sum(len(table) for _, table in recall.chunks)
        # Found again and recorded again: the same run, no other verdict.
        km.memorization(model, facts(), lens=False, kb=kb)
        again = km.memorization(model, facts(), lens=False)
        assert kb.record(again) == kb.record(recall)
        assert len(kb.ask("verdicts")) == len(rows)


def test_a_result_recorded_afterwards_says_that_its_unit_was_not_fixed_before(
    kb: km.KnowledgeBase,
) -> None:
    recall = km.memorization(planted(3), facts(), lens=False)
    run = kb.record(recall)
    rows = kb.ask("verdicts", node="memorization")
    assert set(rows["basis"]) == {"release"} and set(rows["run"]) == {run}
    started = kb.sql("SELECT started FROM runs")["started"][0]
    assert started[:23] == recall.provenance["time"][:23]
    # Nothing recorded: the same words.
    alone = {v.prediction.id: v.word for v in ledger.judge_result(None, recall)}
    assert alone == dict(zip(rows["prediction"], rows["word"], strict=True))


def test_a_prediction_frozen_before_the_result_was_made_counts_as_such(
    kb: km.KnowledgeBase,
) -> None:
    model = planted(3)
    plan = km.memorization(model, facts(), lens=False, baselines=True)
    ledger.freeze(kb, ledger.predictions("recall"), ledger.unit_of(plan.provenance))
    time.sleep(0.01)
    kb.record(km.memorization(model, facts(), lens=False))
    assert set(kb.ask("verdicts")["basis"]) == {"before"}
    other = km.memorization(model, facts(2), lens=False)  # other prompts: another unit
    kb.record(other)
    assert sorted(kb.ask("verdicts")["basis"]) == ["before"] * 4 + ["release"] * 4


def test_a_prediction_that_changed_under_its_name_is_reported_and_not_judged(
    kb: km.KnowledgeBase,
) -> None:
    (shipped,) = [p for p in ledger.predictions("recall") if p.id.endswith("random-weights")]
    changed = ledger.Prediction(**shipped.as_dict() | {"smallest_effect": 1e-6})
    ledger.freeze(kb, [changed], unit())
    with pytest.warns(UserWarning, match="another prediction 'recall-beats-random-weights'"):
        km.memorization(planted(3), facts(), lens=False, kb=kb)
    assert "recall-beats-random-weights" not in kb.ask("verdicts")["prediction"]
    assert len(kb.ask("verdicts")) == 3


def test_the_lens_gives_a_verdict_beside_random_weights(kb: km.KnowledgeBase) -> None:
    model = planted(3)
    asked = [(f":{f.subject}", f" {f.answers[0]}") for r in facts().relations for f in r.facts]
    lens = km.logit_lens(model, [p for p, _ in asked], [a for _, a in asked])
    kb.record(lens)
    (row,) = kb.ask("verdicts", node="logit-lens").rows()
    assert (row["prediction"], row["n"]) == ("lens-leads-before-random-weights", 24)
    gaps = np.array([b - a for a, b in zip(_leads(lens.table), _leads(lens.control), strict=True)])
    assert row["estimate"] == pytest.approx(gaps.mean() / (lens.parameters["n_layers"] + 1))


def _leads(table: Table) -> list[int]:
    """Layer from which each prompt's target has rank 0 for good, counted from the end."""
    out = []
    for prompt in sorted(set(table["prompt"])):
        ranks = [r["rank"] for r in table.rows() if r["prompt"] == prompt]
        first = len(ranks)
        while first > 0 and ranks[first - 1] == 0:
            first -= 1
        out.append(first)
    return out


# ---- a node's page ----


def test_literature_stands_beside_verdicts_and_is_not_counted_up(
    kb: km.KnowledgeBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = kb.ledger("hyp-modular-region")
    works = kb.sql(
        "SELECT count(*) AS n FROM edges WHERE node IN ('hyp-modular-region', 'mlp-memory',"
        " 'specialised-neurons', 'attention-knowledge')"
    )["n"][0]
    assert len(page.works) == works > 3
    assert {w["relation"] for w in page.works} >= {"supports", "contradicts"}
    assert page.verdicts == [] and {p.id for p in page.open} >= {"neurons-specific-to-fact"}
    assert "nothing yet" in repr(page) and "which are not counted up" in repr(page)
    with pytest.raises(km.NotFoundError, match="no node"):
        kb.ledger("nowhere")

    path = tmp_path / "study.db"
    with km.KnowledgeBase(path) as base:
        km.memorization(planted(3), facts(), lens=False, kb=base)
        shown = repr(base.ledger("memorization"))
    assert "consistent, recall-beats-random-weights in tiny_llama" in shown
    assert "nothing yet" not in shown
    assert cli.main(["kb", "ledger", "memorization", "--kb", str(path)]) == 0
    assert capsys.readouterr().out.strip() == shown.strip()
    assert cli.main(["kb", "ledger", "memorization", "--kb", str(path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["source"] for line in lines} == {"work", "verdict", "open"}


def test_what_cannot_be_tested_says_so(kb: km.KnowledgeBase) -> None:
    for node in ("hyp-dynamic-intelligence", "dark-knowledge", "hyp-extrapolation"):
        (row,) = [row for row in kb.ledger(node).table.rows() if row["source"] == "open"]
        assert row["says"] == "not testable here" and len(row["text"]) > 40


# ---- predictions and the taxonomy fit each other ----


def test_shipped_predictions_can_be_frozen_in_the_shipped_taxonomy(kb: km.KnowledgeBase) -> None:
    from km.ledger.figures import READERS

    declared = set(kb.sql("SELECT id FROM measures")["id"])
    for p in ledger.predictions():
        assert not p.measure or p.measure in declared, p.id
        ledger.freeze(kb, [p], unit())
    by_id = {p.id: p for p in ledger.predictions()}
    for measure, readers in READERS.items():
        assert all(by_id[name].measure == measure for name in readers)
    tested = [p for p in by_id.values() if p.measure in READERS and p.id in READERS[p.measure]]
    assert len(tested) >= 12
    available = kb.sql("SELECT id FROM measures WHERE status = 'available'")["id"]
    pointing = kb.sql("SELECT DISTINCT measure FROM measure_nodes")["measure"]
    assert set(available) <= set(pointing)


# ---- beyond one model ----

# The trials of BCG against tuberculosis (Colditz et al. 1994): cases and others, vaccinated and
# not. metafor's documentation gives DerSimonian and Laird's estimate of the log risk ratio as
# -0.7141 with tau^2 0.3088, I^2 92.12 % and Q 152.2330.
BCG = [
    (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
    (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892),
    (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338),
    (27, 16886, 29, 17825),
]  # fmt: skip


def test_random_effects_of_the_bcg_trials() -> None:
    y = [math.log(a / (a + b)) - math.log(c / (c + d)) for a, b, c, d in BCG]
    v = [1 / a - 1 / (a + b) + 1 / c - 1 / (c + d) for a, b, c, d in BCG]
    found = ledger.random_effects(y, [math.sqrt(x) for x in v])
    assert found.estimate == pytest.approx(-0.7141, abs=5e-5)
    assert found.tau2 == pytest.approx(0.3088, abs=5e-5)
    assert found.i2 == pytest.approx(0.9212, abs=5e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-4)
    # Hartung and Knapp by their formula: t with 12 degrees of freedom, 2.178813.
    w = 1 / (np.array(v) + found.tau2)
    mean = (w * y).sum() / w.sum()
    factor = max(1.0, float((w * (np.array(y) - mean) ** 2).sum() / 12))
    half = 2.178813 * math.sqrt(factor / w.sum())
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=1e-6)


def test_agreeing_studies_have_no_variance_between_them_and_no_narrow_interval() -> None:
    found = ledger.random_effects([0.5] * 6, [0.1] * 6)
    assert (found.estimate, found.tau2, found.i2) == (0.5, 0.0, 0.0)
    half = 2.570582 * 0.1 / math.sqrt(6)  # t with 5 degrees of freedom
    assert found.high - 0.5 == pytest.approx(half, rel=1e-6)
    for errors in ([0.1], [0.1, 0.0]):
        with pytest.raises(km.ArgumentError, match="two studies"):
            ledger.random_effects([0.5] * len(errors), errors)


def test_nothing_general_is_said_of_fewer_than_five_families(kb: km.KnowledgeBase) -> None:
    p = prediction(id="general")
    names = ["one", "two", "three", "four", "five"]
    with pytest.raises(km.NotFoundError, match="no frozen prediction"):
        ledger.general(kb, "general")
    for i, name in enumerate(names):
        ledger.freeze(kb, [p], unit(name))
        run = begin(kb, name, architecture=f"arch{min(i, 3)}")
        shift = 0.01 * i
        figures = FIGURES | {"estimate": 0.3 + shift, "low": 0.2 + shift, "high": 0.4 + shift}
        ledger.judge(kb, run, p, unit(name), **figures)
    few = ledger.general(kb, "general")  # four architectures, the last of two models
    assert (few.effect, few.missing, len(few.families)) == (None, 1, 4)
    assert "4 model families, 1 more family needed" in few.text
    all_five = ledger.general(kb, "general", families={name: name for name in names})
    assert (all_five.word, all_five.missing) == ("consistent", 0)
    assert all_five.effect is not None and all_five.effect.n == 5
    assert all_five.effect.estimate == pytest.approx(0.32)
    assert "Over 5 model families" in all_five.text


def test_a_newer_verdict_of_the_same_model_takes_the_place_of_the_older(
    kb: km.KnowledgeBase,
) -> None:
    p = prediction(id="general")
    names = ["one", "two", "three", "four", "five"]
    for value in (0.3, -0.3):
        for name in names:
            ledger.freeze(kb, [p], unit(name))
            figures = {"estimate": value, "low": value - 0.1, "high": value + 0.1}
            ledger.judge(kb, begin(kb, name), p, unit(name), **FIGURES | figures)
    found = ledger.general(kb, "general", families={name: name for name in names})
    assert (found.word, found.effect.n) == ("inconsistent", 5)


def test_the_model_of_a_unit_need_not_be_a_recorded_one(kb: km.KnowledgeBase) -> None:
    """A study that trains its models has a unit of its own, and its run no model."""
    p = prediction(id="scratch")
    own = ledger.Unit("from scratch", "models of the study", "F32", recipe={"seeds": [0, 1]})
    ledger.freeze(kb, [p], own)
    provenance = {"measure": "memorization.recall", "version": 1, "parameters": {}}
    run = kb.begin_run(provenance)
    assert ledger.judge(kb, run, p, own, **FIGURES).word == "consistent"
    assert kb.ask("verdicts")["model"] == ["models of the study"]


# ---- circuits on facts they were not found on ----


def circuit_pairs(n: int) -> list[dict[str, Any]]:
    """Pairs of prompts of three tokens; each relation has one."""
    rng = np.random.default_rng(3)
    return [
        {
            "relation": f"r{i}",
            "clean": ids[:3].tolist(),
            "corrupted": ids[3:6].tolist(),
            "answer": int(ids[6]),
            "wrong": int(ids[7]),
        }
        for i, ids in ((i, rng.choice(np.arange(5, 300), 8, replace=False)) for i in range(n))
    ]


def test_a_circuit_counts_on_held_out_pairs_beside_random_circuits(kb: km.KnowledgeBase) -> None:
    model = planted(3)
    own, *others = circuit_pairs(10)
    found_on = {name: own[name] for name in ("clean", "corrupted", "answer", "wrong")}
    circuit = km.knowledge_circuit(model, **found_on, n_edges=12, n_random=0)
    result = km.circuit_transfer(model, circuit, others, n_random=4, seed=1)
    assert len(result) == 9 and result.gain.n == 9
    # Each figure as the circuit itself gives it on that pair.
    pair = {name: others[4][name] for name in found_on}
    clean, corrupted, alone = circuit.test(model, **pair)["metric"]
    row = result.table.row(4)
    assert (row["clean_metric"], row["corrupted_metric"]) == (clean, corrupted)
    assert row["metric"] == alone
    gaps = [r["metric"] - r["random_metric"] for r in result.table.rows()]
    assert result.gain.estimate == pytest.approx(np.mean(gaps))
    assert str(len(result)) in repr(result)
    # The whole graph is its own random circuit: nothing is gained, whatever the pairs.
    whole = km.knowledge_circuit(model, **found_on, n_edges=10**6, n_random=0)
    same = km.circuit_transfer(model, whole, others, n_random=2)
    assert same.table["metric"] == pytest.approx(same.table["random_metric"], abs=1e-5)
    assert same.table["metric"] == pytest.approx(same.table["clean_metric"], abs=1e-3)
    kb.record(result)
    (verdict,) = kb.ask("verdicts", node="hyp-connection").rows()
    assert (verdict["prediction"], verdict["n"]) == ("circuit-carries-held-out-facts", 9)
    assert verdict["estimate"] == pytest.approx(result.gain.estimate)
    kb.record(same)
    newest = kb.ask("verdicts", node="hyp-connection").row(0)
    assert newest["word"] == "equivalent to none"


def test_a_circuit_is_not_tested_on_what_it_was_found_on() -> None:
    model = planted(3)
    own, other = circuit_pairs(2)
    found_on = {name: own[name] for name in ("clean", "corrupted", "answer", "wrong")}
    circuit = km.knowledge_circuit(model, **found_on, n_edges=5, n_random=0)
    with pytest.raises(km.ArgumentError, match="pair 1 has a prompt the circuit was found on"):
        km.circuit_transfer(model, circuit, [other, own])
    turned = other | {"corrupted": own["clean"]}
    with pytest.raises(km.ArgumentError, match="not held out"):
        km.circuit_transfer(model, circuit, [turned])
    with pytest.raises(km.ArgumentError, match="lacks 'wrong'"):
        km.circuit_transfer(model, circuit, [{k: v for k, v in other.items() if k != "wrong"}])
    with pytest.raises(km.ArgumentError, match="no pairs"):
        km.circuit_transfer(model, circuit, [])
    with pytest.raises(km.ArgumentError, match="not in this one"):
        km.circuit_transfer(planted(4), circuit, [other])
