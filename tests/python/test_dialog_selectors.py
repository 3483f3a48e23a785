"""Selectors without training: figures by hand, histories, evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

import km
from km import dialog
from km.errors import ArgumentError


def make(
    rows: Sequence[Sequence[tuple[str, Sequence[str], int]]], split: dialog.dialogues.Split
) -> dialog.DialogueSet:
    """Dialogues of (user, candidates, gold) turns."""
    dialogues = []
    for number, turns in enumerate(rows):
        made = []
        for user, texts, gold in turns:
            sentences = tuple(dialog.Sentence(text, text) for text in texts)
            made.append(dialog.DialogueTurn(user, sentences, gold, f"answer to {user}"))
        dialogues.append(dialog.Dialogue(f"d{number}", "t", split, tuple(made)))
    return dialog.DialogueSet(dialogues, "made")


TEXTS = ("the red fuse", "the blue relay", "a green lamp and a red lamp")
DATA = make(
    [
        [("red fuse please", TEXTS, 1), ("again red", TEXTS, 1), ("thanks", TEXTS, 0)],
        [("which relay", TEXTS, 2), ("lamp", TEXTS, 3), ("lamp", TEXTS, 1)],
    ],
    "test_seen",
)


def test_random_is_its_expectation() -> None:
    found = dialog.Random().evaluate(DATA)
    assert found.accuracy("own", "grounded") == pytest.approx(1 / 3)
    assert found.accuracy("own", "all") == pytest.approx(5 / 18)  # slot 0 is never chosen
    assert dialog.Random().select("a", ["x", "y"]).scores == [0.5, 0.5]


def test_same_as_last_repeats_history() -> None:
    found = dialog.SameAsLast().evaluate(DATA)
    # gold history: 0 1 1 | 0 2 3, against 1 1 0 | 2 3 1; its own choices: 0 everywhere.
    assert found.accuracy("gold", "grounded") == pytest.approx(1 / 5)
    assert found.accuracy("own", "all") == pytest.approx(1 / 6)
    same = dialog.SameAsLast()
    assert same.select("x", TEXTS, [TEXTS[0], TEXTS[2]]).index == 2
    assert same.select("x", TEXTS).index is None
    assert same.select("x", TEXTS, ["gone"]).index is None


def test_bm25_is_its_formula() -> None:
    scores = dialog.BM25().select("red red lamp", TEXTS).scores
    mean = (3 + 3 + 7) / 3

    def term(n: int, f: int, length: int) -> float:
        idf = math.log(1 + (3 - n + 0.5) / (n + 0.5))
        return idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / mean))

    assert scores == pytest.approx([2 * term(2, 1, 3), 0, 2 * term(2, 1, 7) + term(1, 2, 7)])


def test_bm25_leaves_out_what_was_used() -> None:
    found = dialog.BM25(exclude_used=True)
    assert found.select("red fuse", TEXTS).index == 0
    assert found.select("red fuse", TEXTS, [TEXTS[0]]).index == 2
    twice = ["same words", "same words", "other"]
    assert found.select("same", twice, ["same words"]).index == 1
    assert found.uses_history and not dialog.BM25().uses_history
    own = found.evaluate(DATA)
    chosen = [c for h, c in zip(own.rows["history"], own.rows["chosen"], strict=True) if h == "own"]
    assert chosen == [1, 3, 2, 2, 3, 1]


def test_tfidf_is_its_formula_and_learns_its_weights() -> None:
    found = dialog.TfIdf().select("red", TEXTS)
    idf = {"red": 1 + math.log(4 / 3), "the": 1 + math.log(4 / 3), "fuse": 1 + math.log(2)}
    norm = math.sqrt(sum(v * v for v in idf.values()))
    assert found.scores[0] == pytest.approx(idf["red"] / norm)
    fitted = dialog.TfIdf().fit(DATA)
    assert fitted.select("red", [*TEXTS[:1], "x"]).scores[0] == pytest.approx(idf["red"] / norm)


def test_evaluation_tells_turns_apart() -> None:
    found = dialog.BM25().evaluate(DATA)
    table = {
        (h, t): (n, a)
        for h, t, n, a in zip(
            *(found.table[c] for c in ("history", "turns", "n", "accuracy")), strict=True
        )
    }
    assert table["own", "all"] == (6, pytest.approx(4 / 6))
    assert table["own", "grounded"] == (5, pytest.approx(4 / 5))
    assert table["own", "first"] == (2, 1.0) and table["gold", "later"] == (3, pytest.approx(2 / 3))
    low, high = found.table["low"][1], found.table["high"][1]
    assert 0 <= low <= 0.8 <= high <= 1


def test_two_selectors_are_compared_on_the_same_turns() -> None:
    best, worst = dialog.BM25().evaluate(DATA), dialog.Random().evaluate(DATA)
    difference = best.minus(worst)
    assert difference.estimate == pytest.approx(4 / 5 - 1 / 3)
    assert difference.n == 5 and difference.n_clusters == 2
    with pytest.raises(ArgumentError, match="different turns"):
        best.minus(dialog.Random().evaluate(DATA[:1]))
    with pytest.raises(ArgumentError, match="history must be one of"):
        best.accuracy("mine")  # type: ignore[arg-type]


def test_accepted_counts_what_is_as_good() -> None:
    sentences = tuple(dialog.Sentence(text, text) for text in TEXTS)
    turn = dialog.DialogueTurn("red fuse", sentences, 2, "x", also=(1,))
    data = dialog.DialogueSet([dialog.Dialogue("d", "t", "test_seen", (turn,))])
    found = dialog.BM25().evaluate(data)
    assert found.accuracy() == 0 and found.accuracy(accepted=True) == 1


def test_parameters_are_as_scikit_learn_has_them() -> None:
    found = dialog.BM25(k1=2)
    assert found.get_params() == {"k1": 2.0, "b": 0.75, "exclude_used": False}
    assert found.set_params(b=0.5) is found and found.get_params()["b"] == 0.5
    with pytest.raises(ArgumentError, match="BM25 has no parameter 'c'"):
        found.set_params(c=1)
    with pytest.raises(ArgumentError, match="b is 2"):
        dialog.BM25(b=2)


def test_what_select_needs() -> None:
    with pytest.raises(ArgumentError, match="candidates is empty"):
        dialog.BM25().select("x", [])
    with pytest.raises(ArgumentError, match="context is empty"):
        dialog.BM25().select([], ["a"])
    with pytest.raises(TypeError, match="candidates must hold str"):
        dialog.BM25().select("x", [1])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="no turn to evaluate"):
        dialog.BM25().evaluate(dialog.DialogueSet([]))
    with pytest.raises(ArgumentError, match=r"MeanPooled needs model=km.load\(\)"):
        dialog.MeanPooled()


def test_a_language_model_selects(model: km.Model) -> None:
    pooled = dialog.MeanPooled(model)
    candidates = ["Paris is the capital of France.", "Salt dissolves in water.", "Cats sleep."]
    assert pooled.select("Tell me about the capital city of France.", candidates).index == 0
    likely = dialog.ResponseLikelihood(model)
    found = likely.select("And the capital?", candidates, response="Salt dissolves in water.")
    assert found.index == 1
    by_hand = model.score(
        [likely.template.format(candidate=candidates[1], user="And the capital?")],
        [["Salt dissolves in water."]],
    )
    assert found.scores[1] == pytest.approx(by_hand.table["logp_per_token"][0], abs=1e-6)
    with pytest.raises(ArgumentError, match="needs response="):
        likely.select("And?", candidates)
    with pytest.raises(ArgumentError, match="template has no"):
        dialog.ResponseLikelihood(model, "{user}")


def test_words_and_vocabulary() -> None:
    assert dialog.tokenize("Größe: 3_a OK") == ["gr", "ö", "ß", "e", ":", "3_a", "ok"]
    vocabulary = dialog.Vocabulary.of(DATA, 5)
    # Said counts ten times: to (6 answers) and answer lead, then red, lamp, thanks by the alphabet.
    assert vocabulary.words[4:6] == ("answer", "to")
    assert len(vocabulary) == 9
    assert vocabulary.encode("answer xyz") == [4, 1]
    assert vocabulary.decode([2, 4, 5, 3]) == "answer to"
