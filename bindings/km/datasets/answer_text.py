"""Texts of answers compared and found: the normalisation of SQuAD, and mentions in a passage."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from km.errors import ArgumentError

Spans: TypeAlias = "tuple[tuple[int, int], ...]"
Match: TypeAlias = Literal["exact", "start", "contains"]
MATCHES = ("exact", "start", "contains")

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PHRASE_END = re.compile(r"[.,;:!?](?=\s|$)|\n")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and repeated blanks, in this order.

    Examples
    --------
    >>> normalize_answer("The  U.S. co-operates")
    'us cooperates'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether a prediction equals an answer once both are normalised.

    Examples
    --------
    >>> exact_match("the U.S.", ["US", "America"])
    True
    """
    found = normalize_answer(prediction)
    return any(found == normalize_answer(answer) for answer in answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Largest F1 of normalised tokens over the answers, 0 without a token in common.

    Two empty texts give 0, although they match exactly (Rajpurkar et al. 2016, MRQA 2019).

    Examples
    --------
    >>> round(token_f1("the Eiffel Tower", ["tower tower", "Tower of London"]), 4)
    0.5
    """
    return max((_pair_f1(prediction, answer) for answer in answers), default=0.0)


def _pair_f1(prediction: str, answer: str) -> float:
    found, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    common = sum((Counter(found) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def matches(prediction: str, answers: Iterable[str], how: Match = "exact") -> bool:
    """Whether a prediction gives one of the answers, both normalised.

    Parameters
    ----------
    prediction : str
    answers : iterable of str
    how : {"exact", "start", "contains"}
        The prediction is the answer; begins with the answer's words, as that of a model that
        writes on does; or holds them in a row anywhere. An answer of which normalisation leaves
        nothing matches only exactly.

    Raises
    ------
    ArgumentError
        `how` is none of these.

    Examples
    --------
    >>> matches("Paris, where the river", ["Paris"], "start"), matches("Parisian", ["Paris"])
    (True, False)
    """
    if how not in MATCHES:
        raise ArgumentError(f"match is {how!r}; it must be {', '.join(map(repr, MATCHES))}")
    if how == "exact":
        return exact_match(prediction, answers)
    words = normalize_answer(prediction).split()
    for answer in answers:
        wanted = normalize_answer(answer).split()
        starts = [0] if how == "start" else range(len(words) - len(wanted) + 1)
        if words == wanted or (
            wanted and any(words[i : i + len(wanted)] == wanted for i in starts)
        ):
            return True
    return False


def answer_part(text: str) -> str:
    """What a model writes before the first mark that ends a phrase, or the end of the line.

    Examples
    --------
    >>> answer_part("Paris, the capital"), answer_part("St.Petersburg. It")
    ('Paris', 'St.Petersburg')
    """
    return _PHRASE_END.split(text.strip(), maxsplit=1)[0].strip()


# ---- mentions ----


def find_literal(answer: str, context: str) -> Spans:
    """Places of an answer as the reference finds them.

    All matches of the lower-cased answer in the lower-cased context, left to right without
    overlap, within words too. Offsets count code points of the *lower-cased* context, which has
    other lengths where it holds U+0130.

    Examples
    --------
    >>> find_literal("Ann", "Ann's Annual")
    ((0, 3), (6, 9))
    """
    found = re.finditer(re.escape(answer.lower()), context.lower())
    return tuple(match.span() for match in found)


class FoldedText:
    """A text folded for comparison, with the place each folded character came from."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts = [char.casefold() for char in text]
        self.folded = "".join(parts)
        self._raw = {}
        at = 0
        for index, part in enumerate(parts):
            self._raw[at] = index
            at += len(part)
        self._raw[at] = len(text)

    def longest_mentions(self, answers: Iterable[str], whole_words: bool = True) -> Spans:
        """Places of answers in the text, left to right, the longest at each place."""
        folded = {"".join(char.casefold() for char in answer) for answer in answers}
        ordered = sorted((answer for answer in folded if answer), key=lambda a: (-len(a), a))
        if not ordered:
            return ()
        pattern = re.compile("|".join(map(re.escape, ordered)))
        if whole_words:
            pattern = re.compile("|".join(map(_bounded, ordered)))
        spans, at = [], 0
        while (match := pattern.search(self.folded, at)) is not None:
            start, end = (self._raw.get(place) for place in match.span())
            if start is None or end is None:  # half of a character that folds to two
                at = match.start() + 1
                continue
            spans.append((start, end))
            at = match.end()
        return tuple(spans)


def _bounded(answer: str) -> str:
    """A pattern for an answer that does not begin or end within a word."""
    before = r"(?<!\w)" if re.match(r"\w", answer[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", answer[-1]) else ""
    return f"{before}{re.escape(answer)}{after}"


def find_mentions(context: str, answers: Sequence[str], *, whole_words: bool = True) -> Spans:
    """Places where any of the answers stands, ignoring case.

    Parameters
    ----------
    context : str
    answers : sequence of str
    whole_words : bool
        No mention begins or ends within a word.

    Returns
    -------
    tuple of (int, int)
        Code points of the context, end exclusive, left to right without overlap; at each place
        the longest answer.

    Examples
    --------
    >>> find_mentions("Ann's Annual: ANN LEE", ["Ann", "Ann Lee"])
    ((0, 3), (14, 21))
    """
    return FoldedText(context).longest_mentions(answers, whole_words)
