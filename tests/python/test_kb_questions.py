"""The 25 questions: expected rows on the shipped taxonomy and on a recorded study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_kb import PROVENANCE, toy_result

import km
from km import ledger
from km.kb import taxonomy_text

DOCS = Path(__file__).parents[2] / "docs" / "knowledge-base.md"


@pytest.fixture(scope="module")
def taxonomy() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(taxonomy_text())
    return read


@pytest.fixture(scope="module")
def kb() -> Iterator[km.KnowledgeBase]:
    """A study: a result with evidence, and two runs that judge the same prediction."""
    with km.KnowledgeBase(":memory:") as base:
        base.record(toy_result())
        (p, *_) = [q for q in ledger.predictions() if q.measure == "memorization.recall"]
        unit = ledger.Unit.of(PROVENANCE["model"], prompts=["p"], facts=["f"], recipe={})
        ledger.freeze(base, [p], unit)
        for low, high in ((-0.9, 0.9), (0.8, 0.9)):
            run = base.begin_run(PROVENANCE | {"command": f"low {low}"})
            middle = (low + high) / 2
            ledger.judge(
                base, run, p, unit, estimate=middle, low=low, high=high, n=10_000, rows="k"
            )
            base.finish_run(run)
        yield base


def rows(kb: km.KnowledgeBase, name: str, **params: Any) -> list[dict[str, Any]]:
    return list(kb.ask(name, **params).rows())


def below(taxonomy: dict[str, Any], root: str) -> set[str]:
    """The node and everything under it, from the file."""
    found = {root}
    for node in taxonomy["nodes"]:  # parents precede children
        if node["parent"] in found:
            found.add(node["id"])
    return found


def test_5_claims_that_can_be_tested(kb: km.KnowledgeBase, taxonomy: dict[str, Any]) -> None:
    expected = {
        (edge["work"], edge["node"], edge["relation"], measure["id"])
        for edge in taxonomy["edges"]
        for measure in taxonomy["measurements"]
        if edge["relation"] in ("proposes", "supports", "contradicts")
        and measure["status"] == "available"
        and edge["node"] in measure["nodes"]
    }
    got = rows(kb, "testable-claims")
    assert {(r["work"], r["node"], r["relation"], r["measure"]) for r in got} == expected
    assert len(got) == len(expected)
    only = rows(kb, "testable-claims", node="fragility")
    assert {r["node"] for r in only} <= below(taxonomy, "fragility")
    assert ("zhang2025law", "knowledge-overshadowing", "proposes", "overshadow.law") in {
        (r["work"], r["node"], r["relation"], r["measure"]) for r in only
    }
    frozen = {r["node"] for r in got if r["predictions"]}
    assert frozen == {"memorization"} & {r["node"] for r in got} or not frozen


def test_18_methods_against_each_cause(kb: km.KnowledgeBase) -> None:
    got = rows(kb, "mitigations")
    assert [r["cause"] for r in got] == sorted(
        (r["cause"] for r in got), key=["data", "training", "decoding", "retrieval"].index
    )
    decoding = {r["work"] for r in rows(kb, "mitigations", cause="decoding")}
    assert decoding == {"zhang2025law", "chuang2023dola", "shi2023cad"}
    (training,) = [r for r in rows(kb, "mitigations", cause="training") if r["proposes"]]
    assert (training["work"], training["proposes"]) == ("ren2025knowrl", "factuality-rl")
    assert "zheng2020diffks" in {r["work"] for r in rows(kb, "mitigations", cause="retrieval")}
    assert rows(kb, "mitigations", cause="nothing") == []


@pytest.mark.parametrize(
    "node", ["conflict-internal", "conflict-context-memory", "conflict-inter-context"]
)
def test_19_what_is_known_of_a_type_of_conflict(
    kb: km.KnowledgeBase, taxonomy: dict[str, Any], node: str
) -> None:
    got = rows(kb, "known-about", node=node)
    literature = [(r["what"], r["says"]) for r in got if r["part"] == "literature"]
    assert sorted(literature) == sorted(
        (edge["work"], edge["relation"]) for edge in taxonomy["edges"] if edge["node"] == node
    )
    assert {r["what"] for r in got if r["part"] == "measure"} == {
        measure["id"] for measure in taxonomy["measurements"] if node in measure["nodes"]
    }
    assert {r["part"] for r in got} == {"literature", "measure"}


def test_19_with_a_recorded_study(kb: km.KnowledgeBase) -> None:
    got = rows(kb, "known-about", node="memorization")
    (evidence,) = [r for r in got if r["part"] == "evidence"]
    assert (evidence["says"], evidence["value"], evidence["n"]) == ("recall_micro", 0.25, 40)
    words = [r["says"] for r in got if r["part"] == "verdict" and r["value"] is not None]
    assert set(words) >= {"inconclusive", "consistent"}


def test_20_how_a_run_changes_verdicts(kb: km.KnowledgeBase) -> None:
    runs = [r["run"] for r in rows(kb, "runs")][:2]
    (second,) = rows(kb, "verdict-changes", node="memorization")  # of the newest run
    (first,) = rows(kb, "verdict-changes", run=runs[1])
    assert (first["run"], first["word_before"], first["word"]) == (runs[1], None, "inconclusive")
    assert second["run"] == runs[0]
    assert (second["word_before"], second["word"]) == ("inconclusive", "consistent")
    assert (second["changed"], second["run_before"]) == (1, runs[1])
    assert second["estimate"] == pytest.approx(0.85)
    assert rows(kb, "verdict-changes", node="fragility") == []


def test_25_what_would_falsify(kb: km.KnowledgeBase, taxonomy: dict[str, Any]) -> None:
    got = rows(kb, "falsifiers", node="hyp-modular-region")
    inside = below(taxonomy, "hyp-modular-region")
    assert {(r["node"], r["measure"]) for r in got} == {
        (node, measure["id"])
        for measure in taxonomy["measurements"]
        for node in measure["nodes"]
        if node in inside
    }
    assert {r["prediction"] for r in got} == {None}
    mine = [r for r in rows(kb, "falsifiers", node="memorization") if r["prediction"]]
    shipped = {p.id: p for p in ledger.predictions()}
    assert mine
    for row in mine:
        p = shipped[row["prediction"]]
        assert (row["measure"] or "") == p.measure
        assert row["falsified_by"] == p.falsified_by
        if row["direction"] == "above":
            assert row["against"] == f"below {p.null}"


def test_every_number_of_the_25_has_a_question() -> None:
    """The table in the documentation names a question for each number, and each exists."""
    names = set(km.KnowledgeBase.questions()["name"])
    asked: dict[int, set[str]] = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0].isdigit():
            asked[int(cells[0])] = {part.strip("` ") for part in cells[2].split(",")}
    assert sorted(asked) == list(range(1, 26))
    for number, given in asked.items():
        assert given and given <= names, number


# ---- the others, against the file, counted in another way ----


def test_1_2_3(kb: km.KnowledgeBase, taxonomy: dict[str, Any]) -> None:
    edges = taxonomy["edges"]
    years = {work["key"]: work.get("year") for work in taxonomy["works"]}
    for row in rows(kb, "contradicted-hypotheses"):
        assert row["supporting_works"] == sum(
            e["node"] == row["node"] and e["relation"] == "supports" for e in edges
        )
    supports: dict[str, list[Any]] = {}
    for edge in edges:
        if edge["relation"] == "supports":
            supports.setdefault(edge["node"], []).append(years[edge["work"]])
    one_year = {n for n, all in supports.items() if len(all) > 1 and len(set(all)) == 1}
    assert {r["node"] for r in rows(kb, "supported-in-one-year")} == one_year
    named = {edge["node"] for edge in edges}
    assert {r["node"] for r in rows(kb, "nodes-without-works")} == {
        n["id"] for n in taxonomy["nodes"]
    } - named


def test_4_6_8_9_10(kb: km.KnowledgeBase, taxonomy: dict[str, Any]) -> None:
    edges = taxonomy["edges"]
    inside = below(taxonomy, "hyp-connection")
    assert {
        (r["measure"], r["node"]) for r in rows(kb, "measures-of-node", node="hyp-connection")
    } == {
        (m["id"], node) for m in taxonomy["measurements"] for node in m["nodes"] if node in inside
    }
    of = {
        relation: {e["work"] for e in edges if (e["node"], e["relation"]) == ("grokking", relation)}
        for relation in ("proposes", "measures")
    }
    roles = {r["work"]: r["role"] for r in rows(kb, "proposers-and-measurers", node="grokking")}
    assert roles == dict.fromkeys(of["measures"], "only measures") | dict.fromkeys(
        of["proposes"], "proposes"
    )
    fragile = below(taxonomy, "fragility")
    assert len(rows(kb, "works-under-node")) == sum(e["node"] in fragile for e in edges)
    for row in rows(kb, "phenomena-without-mechanism"):
        assert row["proposing_works"] == sum(
            (e["node"], e["relation"]) == (row["node"], "proposes") for e in edges
        )
    shared = [node for nodes in taxonomy["seed_places"].values() for node in nodes]
    assert {r["node"]: r["seeds"] for r in rows(kb, "seeds-sharing-nodes")} == {
        node: shared.count(node) for node in shared if shared.count(node) > 1
    }


def test_13_16_17_22_24(kb: km.KnowledgeBase, taxonomy: dict[str, Any]) -> None:
    edges = taxonomy["edges"]

    def holding(root: str) -> set[str]:
        inside = below(taxonomy, root)
        return {
            e["work"]
            for e in edges
            if e["node"] in inside and e["relation"] in ("proposes", "supports")
        }

    both = holding("hyp-modular-region") & holding("hyp-connection")
    assert {r["work"] for r in rows(kb, "supporting-both")} == both
    open_questions = {n["id"] for n in taxonomy["nodes"] if n["kind"] == "open_question"}
    assert {(r["node"], r["measure"]) for r in rows(kb, "measured-open-questions")} == {
        (question, m["id"])
        for question in open_questions
        for m in taxonomy["measurements"]
        if set(m["nodes"]) & below(taxonomy, question)
    }
    assert {r["work"] for r in rows(kb, "works-measuring")} == {
        e["work"]
        for e in edges
        if (e["node"], e["relation"]) == ("editing-side-effects", "measures")
    }
    years = {work["key"]: work.get("year") for work in taxonomy["works"]}
    for row in rows(kb, "timeline"):
        proposed = [
            years[e["work"]]
            for e in edges
            if (e["node"], e["relation"]) == (row["node"], "proposes")
        ]
        assert row["first_proposed"] == (min(proposed) if proposed else None)
    for row in rows(kb, "surveys"):
        covered = set().union(*(below(taxonomy, s) for s in row["surveyed"].split(",")))
        assert (row["covered"], row["not_covered"]) == (len(covered), 128 - len(covered))
        assert len(rows(kb, "nodes-not-surveyed", work=row["work"])) == row["not_covered"]
