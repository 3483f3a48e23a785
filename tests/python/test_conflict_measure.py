"""km.conflict: conditions, buckets, groups, storage; figures recomputed from the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import km
from km import datasets as d
from km.conflict_measure import _item_rows
from km.conflict_plan import CLOSED, PARAPHRASE, SUBSTITUTE, Asked, Item, make_items
from km.conflict_summary import summarise_disagreement, summarise_ratios
from km.datasets import QAAnswer, QAExample, QASet
from km.errors import ArgumentError
from km.report.kinds import kind_of
from km.scores import conflict as c

TINY = Path(__file__).parents[1] / "golden_data" / "tiny_llama"


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(str(TINY))


def relation(name: str, *pairs: tuple[str, str]) -> d.Relation:
    facts = tuple(d.Fact(str(i), subject, (answer,)) for i, (subject, answer) in enumerate(pairs))
    templates = (f"{name} of {{}} is", f"{{}}: {name}", f"{{}} has {name}", f"{name} {{}}")
    return d.Relation(name, "factual", templates, "it", facts)


@pytest.fixture(scope="module")
def made() -> QASet:
    ball = relation("ball", ("A", "red"), ("B", "blue"), ("C", "green"))
    hat = relation("hat", ("A", "tall"), ("B", "flat"), ("C", "wide"))
    only = d.counterfactuals([ball, hat])
    return QASet((*only, *(behind(example) for example in only)), only.name)


def behind(example: QAExample) -> QAExample:
    """The statement at the end of a short passage: the model's context is short too."""
    assert isinstance(example.original, QAExample)
    original = replace(
        example.original,
        uid=f"{example.original.uid}/end",
        context=f"So. {example.original.context}",
    )
    return replace(
        example,
        uid=f"{example.uid}/end",
        context=f"So. {example.context}",
        metadata={**example.metadata, "position": "end"},
        original=original,
    )


def test_conditions_and_prompts(tiny: km.Model, made: QASet) -> None:
    result = km.conflict(tiny, made, max_tokens=2, paraphrases=2, progress=False)
    assert result.measure == "conflict.memorization_ratio"
    assert len(result) == len(made) * 7
    rows = [row for row in result.table.rows() if row["uid"] == made.examples[0].uid]
    assert [(row["condition"], row["variant"]) for row in rows] == [
        ("closed_book", 0),
        ("original", 0),
        ("substitute", 0),
        ("original_then_substitute", 0),
        ("substitute_then_original", 0),
        ("paraphrase", 1),
        ("paraphrase", 2),
    ]
    old, new = "A: ball red.", made.examples[0].context
    assert [row["prompt"] for row in rows] == [
        "ball of A is",
        f"{old} ball of A is",
        f"{new} ball of A is",
        f"{old} {new} ball of A is",
        f"{new} {old} ball of A is",
        "A has ball",
        "ball A",
    ]
    made_again = tiny.generate(rows[2]["prompt"], max_tokens=2)
    assert rows[2]["prediction"] == made_again.text.strip().split("\n")[0].strip()
    assert rows[2]["logp"] == made_again.logp
    assert {row["question"] for row in result.table.rows()} == {
        f"{name}/{i}" for name in ("ball", "hat") for i in range(3)
    }


def test_scores_choose_the_most_probable(tiny: km.Model, made: QASet) -> None:
    result = km.conflict(tiny, made, by="score", progress=False)
    assert km.conflict(tiny, made, by="score", progress=False).table["logp"] == result.table["logp"]
    for row in result.table.rows():
        words = ["red", "blue", "green"] if row["relation"] == "ball" else ["tall", "flat", "wide"]
        logp = tiny.score(row["prompt"], words).table["logp"]
        assert row["logp"] == max(logp)
        assert row["prediction"] == words[logp.index(max(logp))]
        wanted = {json.loads(row["originals"])[0]: "original",
                  json.loads(row["substitutes"])[0]: "substitute"}  # fmt: skip
        assert row["bucket"] == wanted.get(row["prediction"], "other")
    groups = {(row["group"], row["value"]) for row in result.ratios.rows()}
    assert groups == {("all", "all"), ("relation", "ball"), ("relation", "hat"),
                      ("position", "only"), ("position", "end"),
                      ("all, known or not", "all")}  # fmt: skip


def test_a_stored_run_is_not_measured_again(
    tiny: km.Model, made: QASet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with km.KnowledgeBase(tmp_path / "c.db") as kb:
        first = km.conflict(tiny, made, by="score", kb=kb, progress=False)
        assert first.run is not None

        def fail(*_: Any) -> None:
            raise AssertionError("measured again")

        monkeypatch.setattr("km.conflict_measure._measure", fail)
        second = km.conflict(tiny, made, by="score", kb=kb, progress=False)
        assert list(second.table.rows()) == list(first.table.rows())
        read = km.Conflict.from_knowledge_base(kb, first.run)
        assert list(read.ratios.rows()) == list(first.ratios.rows())
        assert read.evidence == first.evidence
        assert km.draw.conflict(kb, provenance="x").svg == first.draw(provenance="x").svg
        may, may_not = kind_of("conflict.memorization_ratio").concluding(read).split(". ")
        row = next(iter(first.ratios.rows()))
        assert f"follows the passage in {row['p_substitute']:.2f} of {row['n']} examples" in may
        assert f"{row['p_other']:.2f} that are neither" in may_not
        with pytest.raises(AssertionError, match="measured again"):
            km.conflict(tiny, made, by="generate", kb=kb, progress=False)


def test_random_weights_stand_beside_every_figure(
    tiny: km.Model, made: QASet, tmp_path: Path
) -> None:
    """The control's rows are those of the same architecture asked by itself."""
    options: dict[str, Any] = {"by": "score", "seed": 3, "progress": False}
    with km.KnowledgeBase(tmp_path / "c.db") as kb:
        result = km.conflict(tiny, made, kb=kb, **options)
        read = km.Conflict.from_knowledge_base(kb, result.run or 0)
    alone = km.conflict(tiny.random_like(3), made, baselines=False, **options)
    assert alone.control is None
    assert result.control is not None and read.control is not None
    assert list(result.control.rows()) == list(alone.table.rows())
    assert list(read.control.rows()) == list(alone.table.rows())
    assert len(result.table) == len(result.control)
    for row in result.ratios.rows():
        shares = [row[f"random_{name}"] for name in ("original", "substitute", "other")]
        assert (sum(shares) == pytest.approx(1)) if row["n"] else shares == [None] * 3
    whole = result.ratios.row(len(result.ratios) - 1)
    buckets = [r["bucket"] for r in alone.table.rows() if r["condition"] == SUBSTITUTE]
    assert whole["random_original"] == buckets.count("original") / len(buckets)
    own = {row["between"]: row for row in alone.disagreement.rows() if row["relation"] == "all"}
    for row in result.disagreement.rows():
        if row["relation"] == "all":
            assert row["random_init"] == own[row["between"]]["disagreement"]
    assert {row["random_init"] for row in alone.disagreement.rows()} == {None}
    assert {row["random_other"] for row in alone.ratios.rows()} == {None}


def test_without_originals_the_control_is_held_to_the_model_s_answers(tiny: km.Model) -> None:
    example = QAExample("q", "A is", "A is red.", (QAAnswer("red"),), is_substitute=True)
    result = km.conflict(tiny, [example], max_tokens=2, progress=False)
    assert result.control is not None
    assert set(result.control["originals"]) == set(result.table["originals"])


def test_states_come_from_recall_of_the_same_model(tiny: km.Model, made: QASet) -> None:
    ball = relation("ball", ("A", "red"), ("B", "blue"), ("C", "green"))
    recall = km.memorization(tiny, d.FactSet((ball,)), progress=False)
    states = {row["fact"]: row["state"] for row in recall.facts.rows()}
    result = km.conflict(tiny, made, by="score", recall=recall, progress=False)
    for row in result.table.rows():
        assert row["known"] == (states[row["fact"]] if row["relation"] == "ball" else None)
    other = km.load(str(TINY.with_name("tiny_gemma3")))
    with pytest.raises(ArgumentError, match="not of this model"):
        km.conflict(other, made, by="score", recall=recall)


def test_an_interrupted_chunk_is_not_kept(
    tiny: km.Model, made: QASet, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = km.Model.generate

    def interrupted(*args: Any, **options: Any) -> Any:
        return [_Stopped(one) for one in generate(*args, **options)]

    monkeypatch.setattr(km.Model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        km.conflict(tiny, made, max_tokens=1, progress=False)


class _Stopped:
    finish_reason = "interrupted"

    def __init__(self, one: km.Generation) -> None:
        self.text, self.logp = one.text, one.logp


# ---- figures from rows with a known answer ----


def item(i: int, kind: str, **more: Any) -> Item:
    row = dict.fromkeys(("popularity", "matched", "known"))
    row |= {"uid": f"u{i}", "question": f"q{i}", "relation": kind, "fact": str(i)}
    row |= {"own_original": False, "position": "only"}
    asked = (
        Asked(CLOSED, 0, f"p{i}"),
        Asked(SUBSTITUTE, 0, f"s{i}"),
        Asked(PARAPHRASE, 1, f"x{i}"),
    )
    return Item({**row, **more}, ("Paris",), ("Oslo",), (), asked)


def rows_of(said: list[tuple[str, str, str]], **more: Callable[[int], Any]) -> list[dict[str, Any]]:
    rows = []
    for i, answers in enumerate(said):
        made = item(i, "ab"[i % 2], **{name: find(i) for name, find in more.items()})
        rows += _item_rows(made, [(text, -1.0) for text in answers], "start")
    return rows


SAID = [
    ("Paris, of course", "Paris", "Paris"),
    ("Paris", "Oslo it is", "Rome"),
    ("Paris", "Paris", "Rome"),
    ("Paris", "Bergen", "Paris then"),
    ("Rome", "Paris", "Rome."),
]


def test_ratios_are_those_of_the_known_facts() -> None:
    ratios = summarise_ratios(rows_of(SAID), 0.95, 0)
    first = ratios[0]
    assert (first["group"], first["n"], first["n_excluded"]) == ("all", 4, 1)
    assert (first["p_original"], first["p_substitute"], first["p_other"]) == (0.5, 0.25, 0.25)
    assert first["ratio"] == pytest.approx(2 / 3)
    assert first["closed_original"] == 0.8 and first["closed_substitute"] == 0
    by = {row["value"]: row for row in ratios if row["group"] == "relation"}
    assert (by["a"]["n"], by["a"]["ratio"]) == (2, 1.0)
    assert (by["b"]["n"], by["b"]["ratio"], by["b"]["p_other"]) == (2, 0.0, 0.5)
    assert by["b"]["low"] == c.wilson(0, 1).low and by["b"]["high"] == c.wilson(0, 1).high
    whole = ratios[-1]
    assert (whole["group"], whole["n"], whole["p_original"]) == ("all, known or not", 5, 0.6)


def test_groups_by_popularity_recall_and_matching() -> None:
    rows = rows_of(
        SAID * 2,
        popularity=lambda i: float(i),
        known=lambda i: "robust" if i < 5 else "not shown",
        matched=lambda i: i % 5 == 0,
    )
    ratios = summarise_ratios(rows, 0.95, 0)
    sizes = {(r["group"], r["value"]): r["n"] + r["n_excluded"] for r in ratios}
    assert sizes["popularity", "1 least popular"] == 3
    assert sizes["popularity", "3 most popular"] == 4
    assert sizes["recall", "robust"] == sizes["recall", "not shown"] == 5
    assert (sizes["substitute", "matched"], sizes["substitute", "not matched"]) == (2, 8)


def test_all_other_gives_no_ratio() -> None:
    first = summarise_ratios(rows_of([("Paris", "Rome", "?")] * 4), 0.95, 0)[0]
    assert first["ratio"] is None and first["low"] is None and first["p_other"] == 1


def test_disagreement_counts_pairs_of_phrasings() -> None:
    found = summarise_disagreement(rows_of(SAID), 0.95, 0)
    assert found[0]["between"] == "paraphrases" and found[0]["n"] == 5
    assert found[0]["disagreement"] == pytest.approx(2 / 5)
    assert {row["relation"]: row["disagreement"] for row in found[1:]} == {
        "a": pytest.approx(1 / 3),
        "b": pytest.approx(1 / 2),
    }


def test_clusters_that_agree_by_chance_give_no_interval() -> None:
    buckets = ["original", "substitute"] * 2
    ratio = c.ratio_of_buckets(buckets, clusters=["a", "a", "b", "b"])
    assert ratio.ratio == 0.5 and ratio.low != ratio.low and ratio.method == ""


def test_own_answers_stand_for_missing_originals() -> None:
    example = QAExample("1", "Who?", "It was Bo.", (QAAnswer("Bo"),), is_substitute=True)
    (only,) = make_items(
        [example], templates=None, inter_context=True, paraphrases=4, n_others=0, known={}, seed=0
    )
    assert [asked.condition for asked in only.asked] == [CLOSED, SUBSTITUTE]
    assert only.row["position"] == "last third" and only.row["own_original"]
    rows = _item_rows(only, [("Ann, I think", -1.0), ("Ann again", -1.0)], "start")
    assert [row["bucket"] for row in rows] == ["original", "original"]
    assert json.loads(rows[0]["originals"]) == ["Ann"]
    for said in ("", "Bo.", "the"):  # nothing to compare with
        rows = _item_rows(only, [(said, -1.0), ("Ann", -1.0)], "start")
        assert rows[0]["bucket"] != "original" and json.loads(rows[0]["originals"]) == []


def test_bad_arguments(tiny: km.Model, made: QASet) -> None:
    original = made.examples[0].original
    assert isinstance(original, QAExample)
    with pytest.raises(ArgumentError, match=r"ball/0 is no substituted example"):
        km.conflict(tiny, [original])
    with pytest.raises(ArgumentError, match="is given twice"):
        km.conflict(tiny, [made.examples[0]] * 2)
    with pytest.raises(ArgumentError, match="by is 'sample'"):
        km.conflict(tiny, made, by="sample")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="match is 'fuzzy'"):
        km.conflict(tiny, made, match="fuzzy")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="templates: the first needs"):
        km.conflict(tiny, made, templates=("{question}", "{question}"))
    with pytest.raises(ArgumentError, match=r"nq_synth:0: the prompt with substitute has \d+"):
        km.conflict(tiny, QASet(d.nq_synth().examples[:1]))
    with pytest.raises(ArgumentError, match="has no original answer to score"):
        km.conflict(tiny, QASet(d.nq_synth().examples[:1]), by="score")


def test_ratio_of_chosen_rows(tiny: km.Model, made: QASet) -> None:
    result = km.conflict(tiny, made, by="score", progress=False)
    every = result.ratio(known=None)
    assert every.n == len(made) and every.n_excluded == 0
    some = result.ratio(known=None, relation="ball", position="end")
    assert some.n == 3
    known = result.ratio()
    assert known.n + known.n_excluded == len(made)
    assert "other" in str(known)
    with pytest.raises(ArgumentError, match="no column 'theme'"):
        result.ratio(theme="x")
    with pytest.raises(ArgumentError, match="no row is of the condition 'both'"):
        result.ratio("both")
