"""BLEU, ROUGE and distinct of answers against NLTK and rouge, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from km.dialog.answer_metrics import answer_table, bleu, distinct, rouge_l, rouge_n
from km.errors import ArgumentError

GOLDEN = Path(__file__).parents[1] / "golden_data" / "answer_metrics.json"


@pytest.mark.parametrize("index", range(4))
def test_bleu_and_rouge_are_those_of_nltk_and_rouge(index: int) -> None:
    case = json.loads(GOLDEN.read_text())["cases"][index]
    answers, references = case["answers"], case["references"]
    for n in range(1, 5):
        assert bleu(answers, references, n) == pytest.approx(case["bleu"][n - 1], rel=1e-9)
    for n in (1, 2):
        found = rouge_n(answers, references, n)
        assert found == pytest.approx(case["rouge"][f"rouge-{n}"], rel=1e-6)

    assert rouge_l(answers, references) == pytest.approx(case["rouge"]["rouge-l"], rel=1e-6)


def test_distinct_leaves_out_the_last_of_each_answer() -> None:
    # a b a b: bigrams ab, ba (the last, ab, is left out); c d: its only one is left out.
    assert distinct([["a", "b", "a", "b"], ["c", "d"]], 2) == 100.0
    assert distinct([["a", "a", "a", "b"]], 1) == pytest.approx(100 / 3)
    assert distinct([["a"]], 2) == 0.0


def test_a_perfect_answer_scores_100() -> None:
    table = answer_table([["the", "fuse", "is", "blown", "."]], ["The fuse is blown."], 40)
    values = dict(zip(table["measure"], table["value"], strict=True))
    assert values["bleu-4"] == pytest.approx(100)
    assert values["rouge-l"] == pytest.approx(100)


def test_an_answer_without_a_common_word_scores_0() -> None:
    assert bleu([["x", "y"]], [["a", "b"]], 2) == 0.0


def test_references_are_cut_as_training_cuts_them() -> None:
    cut = answer_table([["a", "b"]], ["a b c d e f"], 3)
    assert dict(zip(cut["measure"], cut["value"], strict=True))["rouge-1"] == 100.0


def test_as_many_answers_as_references_are_needed() -> None:
    with pytest.raises(ArgumentError, match="1 answers for 2 references"):
        bleu([["a"]], [["a"], ["b"]], 1)
