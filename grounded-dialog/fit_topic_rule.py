"""Fits the rule by which a conversation says that nothing in the knowledge base fits.

    python grounded-dialog/fit_topic_rule.py

Two logistic regressions, for a first question and for one that follows an answer, of "there is an
answer" on what km.dialog.grounds.Grounds.overlap gives. Both classes weigh the same; then the
constant is moved so that 85 % of the questions with an answer are taken up. They are
fitted on the training part of "ask the survey" and the "dev" part of data/off_topic.jsonl; the
figures printed are of the test parts, which nothing was chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import km
from km.dialog import DialogueSet, read_dialogues
from km.dialog.conversation import FIRST_RULE, FOLLOWING_RULE, is_on_topic
from km.dialog.grounds import Grounds, content_words

DATA = Path(__file__).parent / "data"
TAKEN_UP = 0.85  # share of the questions with an answer


def questions(dialogues: DialogueSet, *, first: bool, answered: bool) -> Iterator[str]:
    """Users' words with or without an answer among the candidates."""
    for _, number, turn in dialogues.turns():
        if (number == 0) == first and turn.act != "thanks" and bool(turn.gold) == answered:
            yield turn.user


def off_topic(split: str) -> list[str]:
    """Questions that have nothing to do with language models."""
    lines = (DATA / "off_topic.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["text"] for row in map(json.loads, lines) if row["split"] == split]


def features(grounds: Grounds, texts: Sequence[str]) -> np.ndarray:
    """(n, 3) a constant and both overlaps of every text that has content words."""
    words = [found for found in map(content_words, texts) if found]
    return np.array([(1.0, *grounds.overlap(found)) for found in words])


def logistic(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Coefficients by Newton's method, both classes weighing the same."""
    x = np.vstack([yes, no])
    y = np.repeat([1.0, 0.0], [len(yes), len(no)])
    weight = np.where(y == 1, 0.5 / len(yes), 0.5 / len(no)) * len(y)
    b = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ b))
        hessian = x.T @ ((weight * p * (1 - p))[:, None] * x) + 1e-3 * np.eye(len(b))
        b += np.linalg.solve(hessian, x.T @ (weight * (y - p)) - 1e-3 * b)
    return b


def accepted(grounds: Grounds, texts: Sequence[str], follows: bool) -> str:
    """Of how many questions the rule in the package says that there is an answer."""
    n = sum(is_on_topic(grounds, content_words(text), follows) for text in texts)
    interval = km.stats.wilson(n, len(texts))
    return f"{n} of {len(texts)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def main() -> None:
    """Fit, print the coefficients, and what the rule in the package does on the test parts."""
    data = read_dialogues(DATA / "ask_the_survey")
    train, test = data.split("train"), data.split("test_seen", "test_unseen")
    with km.KnowledgeBase(":memory:") as kb:
        grounds = Grounds(kb, data.sentences())
    for name, shipped in (("FIRST_RULE", FIRST_RULE), ("FOLLOWING_RULE", FOLLOWING_RULE)):
        first = name == "FIRST_RULE"
        yes = features(grounds, list(questions(train, first=first, answered=True)))
        no = [*off_topic("dev"), *questions(train, first=False, answered=False)]
        b = logistic(yes, features(grounds, no))
        b[0] -= np.quantile(yes @ b, 1 - TAKEN_UP)
        print(f"{name} = ({', '.join(f'{v:.3g}' for v in b)})  # in the package: {shipped}")
        good = list(questions(test, first=first, answered=True))
        print("  test, with an answer, taken up:", accepted(grounds, good, not first))
        print("  test, other things, taken up:", accepted(grounds, off_topic("test"), not first))
    near = list(questions(test, first=False, answered=False))
    print("  test, the corpus's own without an answer, taken up:", accepted(grounds, near, True))


if __name__ == "__main__":
    main()
