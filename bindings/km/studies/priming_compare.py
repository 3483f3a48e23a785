"""Paired comparisons between the arms of a priming study; keywords are the clusters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from km import stats
from km.table import Column

# What a rewrite or pruned update may cost in memorisation and still keep it: half the probability.
KEPT = math.log(2)

# Half an interval is this much of the difference that is seen in four of five studies: 1.96 against
# 1.96 + 0.84 standard errors.
DETECTABLE = (1.959964 + 0.841621) / 1.959964

COMPARISON_COLUMNS = [
    Column("question", "text", "", "What is compared, in words."),
    Column("arm", "text", "", "The arm looked at."),
    Column("against", "text", "", "What it is compared with; null: no change."),
    Column("statistic", "text", "", "Column of the table of texts."),
    Column("unit", "text", "", "Its unit."),
    Column("mean", "double", "", "Mean of the arm over texts that have both."),
    Column("mean_against", "double", "", "Mean of the other arm over them; 0 without one."),
    Column("difference", "double", "", "Mean paired difference."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("interval", "text", "", "Method of the interval; null with one keyword."),
    Column("detectable", "double", "", "Smallest difference seen four times in five."),
    Column("p", "double", "", "Sign flips of whole keywords; null with one keyword."),
    Column("p_adjusted", "double", "", "The same after Benjamini and Hochberg."),
    Column("n", "int64", "texts", "Texts that have both."),
    Column("n_clusters", "int64", "keywords", "Keywords."),
]


class Question(NamedTuple):
    """One paired comparison: of an arm with another, or of two statistics of one arm."""

    words: str
    arm: str
    statistic: str
    against: str | None = None
    other: str | None = None


QUESTIONS = (
    Question("memorisation", "learned", "log_s_mem"),
    Question("priming", "learned", "mean_log_ratio"),
    Question("priming beyond an unrelated text", "learned", "mean_log_ratio", "text_control"),
    Question("priming beyond another keyword", "learned", "mean_log_ratio", "keyword_control"),
    Question("priming of other themes", "learned", "other_themes"),
    Question("own theme beyond others", "learned", "mean_log_ratio", "learned", "other_themes"),
    Question("the text in the prompt", "in_context", "mean_log_ratio"),
    Question("learned beyond in the prompt", "learned", "mean_log_ratio", "in_context"),
    Question("loss of neutral sentences", "learned", "neutral_loss"),
)


def mitigation_questions(arms: Iterable[str]) -> list[Question]:
    """What is asked of each arm that is meant to lower priming.

    Memorisation is compared by the keyword's probability after learning: a rewrite raises that
    before learning, so that the ratio S_mem would fall without anything being lost.
    """
    out = []
    for arm in arms:
        name = arm.replace("_", " ")
        out += [
            Question(f"{name}: priming", arm, "mean_log_ratio", "learned"),
            Question(f"{name}: memorisation", arm, "logp_keyword_after", "learned"),
            Question(f"{name}: loss of neutral sentences", arm, "neutral_loss", "learned"),
        ]
    return out


def compare_arms(
    texts: Sequence[Mapping[str, Any]], questions: Iterable[Question], confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Answers to those questions that the arms allow.

    Parameters
    ----------
    texts : sequence of mapping
        One a text and arm: `text`, `keyword`, `arm` and the statistics.
    questions : iterable of Question
    confidence : float
    seed : int
        Of draws, where there are more keywords than can be enumerated.

    Returns
    -------
    list of dict
        Rows of COMPARISON_COLUMNS.
    """
    by_arm: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in texts:
        by_arm.setdefault(row["arm"], {})[row["text"]] = row
    rows = []
    for question in questions:
        pairs = list(_pairs(by_arm, question))
        if pairs:
            rows.append(_answer(question, pairs, confidence, seed))
    tested = [row for row in rows if row["p"] is not None]
    if tested:
        adjusted = stats.benjamini_hochberg([row["p"] for row in tested]).tolist()
        for row, value in zip(tested, adjusted, strict=True):
            row["p_adjusted"] = value
    return rows


def _pairs(
    by_arm: Mapping[str, Mapping[str, Mapping[str, Any]]], question: Question
) -> Iterable[tuple[str, float, float]]:
    """Keyword and both values of each text that has them."""
    others = by_arm.get(question.against or "", {})
    for text, row in by_arm.get(question.arm, {}).items():
        value = row[question.statistic]
        other: float | None = 0.0
        if question.against is not None:
            other = others[text][question.other or question.statistic] if text in others else None
        if value is not None and other is not None and math.isfinite(value - other):
            yield row["keyword"], value, other


def _answer(
    question: Question, pairs: Sequence[tuple[str, float, float]], confidence: float, seed: int
) -> dict[str, Any]:
    keywords = [keyword for keyword, _, _ in pairs]
    ours = [value for _, value, _ in pairs]
    theirs = [other for _, _, other in pairs]
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    row: dict[str, Any] = {
        "question": question.words,
        "arm": question.arm,
        "against": question.against,
        "statistic": question.statistic,
        "unit": "nats/token" if question.statistic == "neutral_loss" else "nats",
        "mean": sum(ours) / len(ours),
        "mean_against": sum(theirs) / len(theirs),
        "difference": sum(differences) / len(differences),
        "n": len(pairs),
        "n_clusters": len(set(keywords)),
        "p": None,
    }
    if len(set(keywords)) > 1:
        spread = stats.clustered_bootstrap(differences, keywords, confidence=confidence, seed=seed)
        row |= {
            "low": spread.low,
            "high": spread.high,
            "interval": spread.method,
            "detectable": DETECTABLE * (spread.high - spread.low) / 2,
            "p": stats.permutation_test(differences, keywords, seed=seed).p,
        }
    return row


def find(rows: Iterable[Mapping[str, Any]], question: str) -> Mapping[str, Any] | None:
    """The answer to a question, by its words."""
    return next((row for row in rows if row["question"] == question), None)
