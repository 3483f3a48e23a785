"""Substitution, matching and the memorization ratio against golden values made without km.

Every case of every file of the topic is read. The policies' files name their examples once, and
each case says which it takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from km.datasets import QAAnswer, QAExample, WikidataEntity
from km.datasets import substitution as s
from km.datasets.answer_text import find_literal
from km.datasets.conflict_set import majority_type
from km.errors import ArgumentError
from km.scores import conflict as c

FOLDER = Path(__file__).parent / "data" / "conflict"
COUNTS = {
    "alias_policy": 6,
    "answer_type": 29,
    "corpus_policy": 9,
    "em_f1": 30,
    "example_type": 20,
    "find_spans": 27,
    "memorization_ratio": 16,
    "normalize": 43,
    "popularity_bins": 36,
    "substitute": 39,
    "substitute_order_dependent": 3,
    "type_swap_policy": 3,
}
FILES = {name: json.loads((FOLDER / f"{name}.json").read_text("utf-8")) for name in COUNTS}


def test_every_case_is_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(COUNTS)
    assert {name: len(file["cases"]) for name, file in FILES.items()} == COUNTS


def cases(name: str) -> Any:
    found = FILES[name]["cases"]
    return pytest.mark.parametrize("case", found, ids=[f"{name}-{i}" for i in range(len(found))])


@cases("normalize")
def test_normalize(case: dict[str, Any]) -> None:
    assert c.normalize_answer(case["inputs"]["text"]) == case["expected"]["text"]


@cases("em_f1")
def test_em_f1(case: dict[str, Any]) -> None:
    prediction, golds = case["inputs"]["prediction"], case["inputs"]["golds"]
    assert c.exact_match(prediction, golds) == case["expected"]["em"]
    assert c.token_f1(prediction, golds) == pytest.approx(case["expected"]["f1"], abs=1e-15)


@cases("find_spans")
def test_find_spans(case: dict[str, Any]) -> None:
    found = find_literal(case["inputs"]["answer"], case["inputs"]["context"])
    assert [list(span) for span in found] == case["expected"]["spans"]


@cases("answer_type")
def test_answer_type(case: dict[str, Any]) -> None:
    given, expected = case["inputs"], case["expected"]
    entity = WikidataEntity("Q1", "it", types=tuple(given["entity_types"]))
    answer = QAAnswer("it", ner_label=given["ner_label"], kb_id=given.get("kb_id"))
    linked = answer.linked(entity if given["linked"] else None)
    types = linked.wikidata_types
    assert linked.answer_type == expected["answer_type"]
    assert (None if types is None else list(types)) == expected["wikidata_types"]


@cases("example_type")
def test_example_type(case: dict[str, Any]) -> None:
    assert majority_type(case["inputs"]["types"]) == case["expected"]["type"]
    answers = tuple(QAAnswer("a", kind) for kind in case["inputs"]["types"])
    assert QAExample("1", "?", "", answers).answer_type == case["expected"]["type"]


# ---- editing ----


def edited(inputs: dict[str, Any]) -> dict[str, Any]:
    answers = tuple(QAAnswer(text) for text in inputs["answers"])
    example = QAExample(inputs["uid"], inputs["query"], inputs["context"], answers)
    new = s.substitute(
        example,
        inputs["sub"],
        inputs["sub_type"],
        mode="reference",
        replace_every=inputs["replace_every"],
    )
    assert new.original is example
    return {
        "context": new.context,
        "uid": new.uid,
        "gold_answers": list(new.texts),
        "is_substitute": new.is_substitute,
        "orig_spans": [
            [list(span) for span in find_literal(text, example.context)] for text in example.texts
        ],
    }


@cases("substitute")
def test_substitute(case: dict[str, Any]) -> None:
    if "error" in case["expected"]:
        with pytest.raises(ArgumentError, match="no answer stands in the context"):
            edited(case["inputs"])
    else:
        assert edited(case["inputs"]) == case["expected"]


@cases("substitute_order_dependent")
def test_substitute_one_of_the_orders(case: dict[str, Any]) -> None:
    assert edited(case["inputs"]) in case["expected"]["any_of"]


# ---- policies ----


def examples(name: str, case: dict[str, Any]) -> list[QAExample]:
    return [
        QAExample(
            row["uid"],
            row["query"],
            row["context"],
            tuple(
                QAAnswer(a["text"], a["type"], tuple(a.get("aliases", ())), kb_id=a.get("kb_id"))
                for a in row["answers"]
            ),
        )
        for row in FILES[name]["examples"][case["set"]]
    ]


class Counted:
    """Given draws, and how many of them were taken."""

    def __init__(self, draws: list[int]) -> None:
        self.draws = draws
        self.used = 0

    def __iter__(self) -> Iterator[int]:
        for number in self.draws:
            self.used += 1
            yield number


def check_new(made: Any, expected: list[dict[str, Any]]) -> None:
    assert len(made) == len(expected)
    for new, wanted in zip(made, expected, strict=True):
        assert (new.uid, new.texts[0]) == (wanted["uid"], wanted["answer"])
        assert (new.answer_type, new.original.uid) == (
            wanted["answer_type"],
            wanted["original_uid"],
        )
        assert new.context in wanted.get("context_any_of", [wanted.get("context")])


@cases("corpus_policy")
def test_corpus(case: dict[str, Any]) -> None:
    draws, params = Counted(case["inputs"]["draws"]), case["params"]
    given = examples("corpus_policy", case)
    options: dict[str, Any] = {
        "samples": params["num_samples"],
        "category": params["category"],
        "replace_every": params.get("replace_every", False),
        "mode": "reference",
        "draws": draws,
    }
    if "error" in case["expected"]:
        with pytest.raises(ArgumentError, match="no eligible candidate"):
            s.substitute_corpus(given, **options)
        return
    check_new(s.substitute_corpus(given, **options), case["expected"]["new"])
    assert draws.used == case["expected"]["draws_used"]


@cases("type_swap_policy")
def test_type_swap(case: dict[str, Any]) -> None:
    draws, params = Counted(case["inputs"]["draws"]), case["params"]
    made = s.substitute_type_swap(
        examples("type_swap_policy", case),
        samples=params["num_samples"],
        category=params["category"],
        mode="reference",
        draws=draws,
    )
    check_new(made, case["expected"]["new"])
    assert draws.used == case["expected"]["draws_used"]


@cases("alias_policy")
def test_alias(case: dict[str, Any]) -> None:
    made = s.substitute_alias(examples("alias_policy", case), **case["params"], mode="reference")
    check_new(made, case["expected"]["new"])


@cases("popularity_bins")
def test_popularity_bins(case: dict[str, Any]) -> None:
    rows = FILES["popularity_bins"]["entities"][case["set"]]
    entities = [WikidataEntity(id, id, (), tuple(types), "", n) for id, n, types in rows]
    params = case["params"]
    bins = s.popularity_bins(
        entities, params["num_bins"], per_popularity=params["max_ents_per_pop"]
    )
    assert [[entity.id for entity in part] for part in bins] == case["expected"]["bins"]


# ---- the ratio ----


@cases("memorization_ratio")
def test_memorization_ratio(case: dict[str, Any]) -> None:
    items, expected = case["inputs"]["items"], case["expected"]
    needed = case["params"]["require_original_correct"]
    got = c.memorization_ratio(
        [item["pred_sub"] for item in items],
        [item["orig"] for item in items],
        [item["sub"] for item in items],
        before=[item["pred_orig"] for item in items] if needed else None,
    )
    counts = {
        "n": got.n,
        "original": got.n_original,
        "substitute": got.n_substitute,
        "other": got.n_other,
        "both": got.n_both,
    }
    assert counts == expected["counts"]
    for value, wanted in (
        (got.p_original, expected["p_o"]),
        (got.p_substitute, expected["p_s"]),
        (got.ratio, expected["M_R"]),
    ):
        assert value == pytest.approx(float("nan") if wanted is None else wanted, nan_ok=True)
    assert got.n_excluded == len(items) - got.n
    assert 0 <= got.low <= got.ratio <= got.high <= 1 or got.ratio != got.ratio
