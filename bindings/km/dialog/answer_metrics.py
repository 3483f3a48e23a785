"""How close generated answers are to given ones, as DiffKS was evaluated.

BLEU with smoothing method 3 of NLTK (Chen and Cherry 2014), recall of ROUGE over sets of words, and
distinct n-grams; in percent. A reference keeps all its words, known to the vocabulary or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from km.dialog.vocabulary import tokenize
from km.errors import ArgumentError
from km.table import Column, Table

ANSWER_COLUMNS = (
    Column("measure", "text", "", "bleu-n, rouge-n and rouge-l (recall), distinct-n."),
    Column("value", "double", "percent", "Over all answers."),
)


def answer_table(generated: Sequence[Sequence[str]], given: Sequence[str], most: int) -> Table:
    """All measures of answers.

    Parameters
    ----------
    generated : sequence of sequences of str
        Words.
    given : sequence of str
    most : int
        Words of a given answer that count, go and end included.
    """
    references = [tokenize(text)[: most - 1] for text in given]
    rows: list[dict[str, object]] = []
    for n in range(1, 5):
        rows.append({"measure": f"bleu-{n}", "value": bleu(generated, references, n)})
    for n in (1, 2):
        rows.append({"measure": f"rouge-{n}", "value": rouge_n(generated, references, n)})
    rows.append({"measure": "rouge-l", "value": rouge_l(generated, references)})
    for n in range(1, 5):
        rows.append({"measure": f"distinct-{n}", "value": distinct(generated, n)})
    return Table.from_rows(ANSWER_COLUMNS, rows)


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def bleu(generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]], n: int) -> float:
    """Corpus BLEU up to n-grams, one reference an answer, smoothing method 3."""
    _same_number(generated, references)
    matched, total = [0] * n, [0] * n
    length = sum(len(words) for words in generated)
    wanted = sum(len(words) for words in references)
    for words, reference in zip(generated, references, strict=True):
        for order in range(1, n + 1):
            have, there = Counter(_ngrams(words, order)), Counter(_ngrams(reference, order))
            matched[order - 1] += sum((have & there).values())
            total[order - 1] += max(1, sum(have.values()))
    if not matched[0]:
        return 0.0
    logs, halvings = 0.0, 1
    for hits, all_of in zip(matched, total, strict=True):
        share = hits / all_of
        if not hits:  # 1/2, 1/4, ... of one match for each order without any
            share = 1 / (2**halvings * all_of)
            halvings += 1
        logs += math.log(share) / n
    brevity = 1.0 if length > wanted else math.exp(1 - wanted / length)
    return 100 * brevity * math.exp(logs)


def rouge_n(
    generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]], n: int
) -> float:
    """Mean recall of different n-grams."""
    _same_number(generated, references)
    total = 0.0
    for words, reference in zip(generated, references, strict=True):
        have, there = set(_ngrams(words, n)), set(_ngrams(reference, n))
        total += len(have & there) / len(there) if there else 0.0
    return 100 * total / len(references)


def rouge_l(generated: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Mean recall of the different words of a longest common subsequence."""
    _same_number(generated, references)
    total = 0.0
    for words, reference in zip(generated, references, strict=True):
        there = set(reference)
        total += len(set(_common(reference, words))) / len(there) if there else 0.0
    return 100 * total / len(references)


def _common(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """A longest common subsequence; of several, the one rouge takes of reference and answer."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = (
                table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
            )
    found, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.append(a[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def distinct(generated: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams among all; the last one of each answer is left out, as the authors do."""
    grams = [gram for words in generated for gram in _ngrams(words, n)[:-1]]
    return 100 * len(set(grams)) / len(grams) if grams else 0.0


def _same_number(generated: Sequence[object], references: Sequence[object]) -> None:
    if len(generated) != len(references) or not references:
        raise ArgumentError(f"{len(generated)} answers for {len(references)} references")
