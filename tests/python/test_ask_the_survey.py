"""The corpus "ask the survey" keeps the promises of its README.

Every check reads all files of the folder together, so that it covers whatever parts are there.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "grounded-dialog" / "data" / "ask_the_survey"
KINDS = {"definition", "for", "against", "measure", "example", "limit", "open"}
ACTS = {
    "open",
    "deeper",
    "contrast",
    "evidence",
    "example",
    "measure",
    "move_on",
    "off_topic",
    "thanks",
}
SPLITS = {"train", "valid", "test_seen", "test_unseen"}
REPEATABLE_WORDS = 5  # longer questions stand in the corpus once
LONGEST_COPY = 9  # words in a row that an answer may not take from its sentence
SHARED_GRAMS = 0.08  # of the smaller dialogue's word 5-grams, found in another dialogue

Row = dict[str, Any]


def _lines(pattern: str) -> list[tuple[Path, Row]]:
    rows = []
    for path in sorted(FOLDER.glob(pattern)):
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append((path, json.loads(line)))
    return rows


SENTENCES = _lines("knowledge_*.jsonl")
DIALOGUES = _lines("dialogues_*.jsonl")
BY_ID = {row["id"]: row for _, row in SENTENCES}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _turns() -> list[tuple[str, Row]]:
    return [(dialogue["id"], turn) for _, dialogue in DIALOGUES for turn in dialogue["turns"]]


@pytest.fixture(scope="module")
def taxonomy() -> dict[str, set[str]]:
    text = (ROOT / "kb" / "taxonomy" / "taxonomy.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return {
        "node": {row["id"] for row in content["nodes"]},
        "work": {row["key"] for row in content["works"]},
        "measure": {row["id"] for row in content["measurements"]},
    }


def test_sentences_have_the_documented_fields(taxonomy: dict[str, set[str]]) -> None:
    assert len(BY_ID) == len(SENTENCES), "ids of sentences are not unique"
    texts = Counter(row["text"] for _, row in SENTENCES)
    assert [text for text, count in texts.items() if count > 1] == []
    for path, row in SENTENCES:
        where = f"{path.name}, {row['id']}"
        assert set(row) == {"id", "topic", "kind", "text", "source"}, where
        assert row["kind"] in KINDS, where
        assert row["topic"] in taxonomy["node"], where
        assert re.fullmatch(re.escape(row["topic"]) + r"/\d+", row["id"]), where
        assert 10 <= len(row["text"].split()) <= 42, where


def test_every_source_is_in_the_taxonomy(taxonomy: dict[str, set[str]]) -> None:
    for path, row in SENTENCES:
        if row["source"] == "km":
            continue
        kind, _, key = row["source"].partition(":")
        assert kind in taxonomy, f"{path.name}, {row['id']}: source {row['source']}"
        assert key in taxonomy[kind], f"{path.name}, {row['id']}: no {kind} {key}"


def test_a_guess_of_the_taxonomy_is_worded_as_one() -> None:
    text = (ROOT / "kb" / "taxonomy" / "taxonomy.json").read_text(encoding="utf-8")
    content = json.loads(text)
    parents = {row["id"]: row["parent"] for row in content["nodes"]}
    edges = defaultdict(list)
    for edge in content["edges"]:
        edges[edge["work"]].append(edge)

    def above(node: str | None) -> set[str]:
        found = set()
        while node is not None:
            found.add(node)
            node = parents[node]
        return found

    wanted = {"for": {"supports", "proposes", "measures"}, "against": {"contradicts"}}
    checked = 0
    for path, row in SENTENCES:
        if row["kind"] not in wanted or not row["source"].startswith("work:"):
            continue
        marks = {
            edge["evidence"]
            for edge in edges[row["source"].removeprefix("work:")]
            if edge["relation"] in wanted[row["kind"]]
            and (row["topic"] in above(edge["node"]) or edge["node"] in above(row["topic"]))
        }
        if marks == {"guess"}:
            checked += 1
            assert re.search("guess|not checked|unchecked|our reading", row["text"].lower()), (
                f"{path.name}, {row['id']}"
            )
    assert checked >= 3


def test_dialogues_have_the_documented_fields() -> None:
    ids = [row["id"] for _, row in DIALOGUES]
    assert len(set(ids)) == len(ids), "ids of dialogues are not unique"
    for path, row in DIALOGUES:
        where = f"{path.name}, {row['id']}"
        assert set(row) == {"id", "topic", "split", "candidates", "turns"}, where
        assert row["split"] in SPLITS, where
        assert 4 <= len(row["turns"]) <= 8, where
        assert 8 <= len(row["candidates"]) <= 40, where
        assert len(set(row["candidates"])) == len(row["candidates"]), where
        assert set(row["candidates"]) <= set(BY_ID), where
        assert row["topic"] in {BY_ID[key]["topic"] for key in row["candidates"]}, where


def test_gold_sentences_are_candidates() -> None:
    for path, row in DIALOGUES:
        for number, turn in enumerate(row["turns"], 1):
            where = f"{path.name}, {row['id']}, turn {number}"
            assert set(turn) == {"user", "gold", "also", "act", "response"}, where
            assert turn["act"] in ACTS, where
            assert turn["user"].strip() == turn["user"] != "", where
            assert turn["response"].strip() == turn["response"] != "", where
            if turn["gold"] is None:
                assert turn["also"] == [], where
            else:
                assert turn["gold"] in row["candidates"], where
                assert turn["act"] not in {"off_topic", "thanks"}, where
            assert set(turn["also"]) <= set(row["candidates"]) - {turn["gold"]}, where


def test_a_dialogue_begins_with_its_topic_and_says_nothing_twice() -> None:
    for path, row in DIALOGUES:
        golds = [turn["gold"] for turn in row["turns"] if turn["gold"] is not None]
        assert len(golds) >= 2, f"{path.name}, {row['id']}"
        assert len(set(golds)) == len(golds), f"{path.name}, {row['id']}"
        assert BY_ID[golds[0]]["topic"] == row["topic"], f"{path.name}, {row['id']}"


def test_topics_of_test_unseen_are_nowhere_else() -> None:
    unseen = {row["topic"] for _, row in DIALOGUES if row["split"] == "test_unseen"}
    assert len(unseen) >= 3
    for path, row in DIALOGUES:
        if row["split"] == "test_unseen":
            continue
        topics = {row["topic"]} | {BY_ID[key]["topic"] for key in row["candidates"]}
        assert topics & unseen == set(), f"{path.name}, {row['id']}"


def test_topics_of_valid_and_test_seen_are_in_train() -> None:
    trained = {row["topic"] for _, row in DIALOGUES if row["split"] == "train"}
    for path, row in DIALOGUES:
        if row["split"] in {"valid", "test_seen"}:
            assert row["topic"] in trained, f"{path.name}, {row['id']}"


def test_there_are_enough_dialogues_in_the_documented_shares() -> None:
    assert len(DIALOGUES) >= 300
    counts = Counter(row["split"] for _, row in DIALOGUES)
    assert 0.64 <= counts["train"] / len(DIALOGUES) <= 0.76
    for split in ("valid", "test_seen", "test_unseen"):
        assert 0.07 <= counts[split] / len(DIALOGUES) <= 0.14, split


def test_kinds_are_balanced() -> None:
    sentences = Counter(row["kind"] for _, row in SENTENCES)
    chosen = Counter(BY_ID[turn["gold"]]["kind"] for _, turn in _turns() if turn["gold"])
    for kind in KINDS:
        assert 0.05 <= sentences[kind] / len(SENTENCES) <= 0.30, kind
        assert 0.04 <= chosen[kind] / chosen.total() <= 0.30, kind


def test_topics_have_sentences_enough_and_of_several_kinds() -> None:
    kinds = defaultdict(list)
    for _, row in SENTENCES:
        kinds[row["topic"]].append(row["kind"])
    for topic, found in kinds.items():
        assert len(found) >= 8, topic
        assert len(set(found)) >= 4, topic


def test_most_sentences_are_chosen_somewhere() -> None:
    chosen = {turn["gold"] for _, turn in _turns()} | {
        key for _, turn in _turns() for key in turn["also"]
    }
    assert len(chosen & set(BY_ID)) >= 0.9 * len(BY_ID)


def test_some_turns_rest_on_nothing() -> None:
    golds = [turn["gold"] for _, turn in _turns()]
    assert 0.03 <= golds.count(None) / len(golds) <= 0.15


def test_only_short_questions_repeat() -> None:
    places = defaultdict(list)
    for dialogue, turn in _turns():
        places[" ".join(_words(turn["user"]))].append(dialogue)
    repeated = {text: found for text, found in places.items() if len(found) > 1}
    assert {t: f for t, f in repeated.items() if len(t.split()) > REPEATABLE_WORDS} == {}
    assert {t: f for t, f in repeated.items() if len(set(f)) < len(f)} == {}
    assert sum(len(found) for found in repeated.values()) <= 0.15 * len(_turns())


def test_the_same_words_want_different_sentences() -> None:
    golds = defaultdict(list)
    for _, turn in _turns():
        golds[" ".join(_words(turn["user"]))].append(turn["gold"])
    repeated = [found for found in golds.values() if len(found) > 1]
    assert len(repeated) >= 10
    differing = [found for found in repeated if len(set(found)) > 1]
    assert len(differing) >= 0.9 * len(repeated)


def test_answers_are_phrased_anew() -> None:
    responses = Counter(turn["response"] for _, turn in _turns())
    assert [text for text, count in responses.items() if count > 1] == []
    for dialogue, turn in _turns():
        if turn["gold"] is None:
            continue
        copied = _grams(turn["response"], LONGEST_COPY) & _grams(
            BY_ID[turn["gold"]]["text"], LONGEST_COPY
        )
        assert not copied, f"{dialogue}: {copied}"


def test_no_two_dialogues_come_from_one_mould() -> None:
    grams = {
        row["id"]: {
            gram
            for turn in row["turns"]
            for part in ("user", "response")
            for gram in _grams(turn[part], 5)
        }
        for _, row in DIALOGUES
    }
    holders = defaultdict(set)
    for dialogue, found in grams.items():
        for gram in found:
            holders[gram].add(dialogue)
    for dialogue, found in grams.items():
        shared = Counter(other for gram in found for other in holders[gram] if other != dialogue)
        for other, count in shared.items():
            smaller = min(len(found), len(grams[other]))
            assert count <= SHARED_GRAMS * smaller, f"{dialogue} and {other} share {count}"


def test_orders_of_selection_differ() -> None:
    paths = Counter(tuple(turn["gold"] for turn in row["turns"]) for _, row in DIALOGUES)
    assert [path for path, count in paths.items() if count > 1] == []
    acts = Counter(tuple(turn["act"] for turn in row["turns"]) for _, row in DIALOGUES)
    assert max(acts.values()) <= 0.05 * len(DIALOGUES)
