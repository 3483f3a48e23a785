"""Stepping stones: rewrites of a text in which its surprising keyword surprises less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km.arguments import real_number, strings
from km.datasets.priming_set import (
    PrimingText,
    keyword_place,
    stepping_patterns,
)
from km.errors import ArgumentError
from km.priming_plan import KeywordTokens, as_priming_text, context_item, encode_item
from km.priming_run import score_encoded
from km.result import Result, make_provenance
from km.scores.priming import THRESHOLD
from km.table import Column, Table

if TYPE_CHECKING:
    from km.model import Model

STEPPING_ID = "learning.stepping_stones"
STEPPING_VERSION = 1

COLUMNS = [
    Column("candidate", "int64", "", "Index among the candidates; null for the text itself."),
    Column("rank", "int64", "rank", "1: the most probable keyword; null where there is a problem."),
    Column("logp", "double", "nats", "Log-probability of the keyword after what comes before it."),
    Column("probability", "double", "probability", "The same as a probability."),
    Column("gain", "double", "nats", "logp less that of the text itself."),
    Column("passes", "bool", "", "The probability is at or above the threshold."),
    Column("problem", "text", "", "Why it was not ranked: no keyword, or nothing was rewritten."),
    Column("prefix", "text", "", "What comes before the keyword."),
    Column("text", "text", "", "The whole rewrite."),
]


class SteppingStones(Result):
    """What :func:`stepping_stones` returns: the text itself, then its rewrites, best first.

    Attributes
    ----------
    ranked : list of PrimingText
        Rewrites without a problem, best first.
    original : PrimingText
    """

    def __init__(
        self,
        table: Table,
        provenance: dict[str, Any],
        original: PrimingText,
        ranked: Sequence[PrimingText],
    ) -> None:
        super().__init__(table, provenance)
        self.original = original
        self.ranked = list(ranked)

    @property
    def best(self) -> PrimingText | None:
        """The rewrite whose keyword is most probable; None when no rewrite makes it more so."""
        if not self.ranked or self.table["gain"][1] <= 0:
            return None
        return self.ranked[0]

    @property
    def needed(self) -> bool:
        """Whether the text's own keyword is below the threshold."""
        return not self.table["passes"][0]

    def __repr__(self) -> str:
        own = self.table.row(0)
        threshold = self.parameters["threshold"]
        lines = [
            f"<km.SteppingStones {self._title()}>",
            f"{self.original.keyword!r} in the text itself: P = {own['probability']:.3g}, "
            f"{'below' if self.needed else 'not below'} {threshold:g}",
        ]
        if self.best is None:
            lines.append("no rewrite makes it more probable")
        else:
            row = self.table.row(1)
            verdict = "passes" if row["passes"] else "is still below the threshold"
            lines.append(f"best rewrite: P = {row['probability']:.3g}, {verdict}")
            lines.append(f"  {row['text']}")
        return "\n".join([*lines, repr(self.table)])


def stepping_stones(
    model: Model,
    text: str | PrimingText,
    keyword: str | None = None,
    candidates: Iterable[str] | None = None,
    *,
    context: str | None = None,
    threshold: float = THRESHOLD,
    keyword_tokens: KeywordTokens = "joint",
) -> SteppingStones:
    """Rank rewrites of a text by how probable its keyword has become before any learning.

    Parameters
    ----------
    model : Model
    text : str or PrimingText
    keyword : str, optional
        The word of the text whose surprise is to be lowered; a PrimingText has its own.
    candidates : iterable of str, optional
        Rewrites, each with the keyword in it. None: km puts phrases of its own that explain a word
        of the keyword's kind before the keyword, which need not suit the text; read them.
    context : str, optional
        The text before the keyword; None: up to where it first stands as a whole word.
    threshold : float
        Probability from which a keyword counts as no surprise.
    keyword_tokens : {"joint", "first"}
        Score all tokens of the keyword, or its first.

    Returns
    -------
    SteppingStones

    Raises
    ------
    ArgumentError
        The keyword does not stand in the text, there are no candidates, or none is left.

    Notes
    -----
    Sun et al. 2025 let a language model write such texts; here nothing is written but by the user
    or from fixed phrases, and the model measured only scores them. Whether a rewrite lowers priming
    is another question, which :func:`km.priming` answers.

    Examples
    --------
    >>> model = km.load()  # doctest: +SKIP
    >>> km.stepping_stones(model, "Joy is most often called vermilion.", "vermilion",
    ...     ["Joy is a bright red, close to orange, which is called vermilion."])  # doctest: +SKIP
    """
    real_number("threshold", threshold, 0, 1)
    if keyword_tokens not in ("joint", "first"):
        raise ArgumentError(f'keyword_tokens is {keyword_tokens!r}, not "joint" or "first"')
    own = as_priming_text(text, keyword, context)
    if candidates is None:
        rewrites, origin = proposals(own), "patterns"
    else:
        rewrites, origin = _given(own, strings("candidates", candidates)), "given"
    if not rewrites:
        raise ArgumentError("there are no candidates")
    good = [(i, rewrite) for i, (rewrite, problem) in enumerate(rewrites) if not problem]
    encoded = [
        encode_item(model, context_item(each), keyword_tokens)
        for each in (own, *(rewrite for _, rewrite in good))
    ]
    values = score_encoded(model, encoded)
    order = sorted(range(len(good)), key=lambda k: -values[1 + k])
    rows = [_row(None, None, own, values[0], values[0], threshold)]
    for rank, k in enumerate(order, 1):
        rows.append(_row(good[k][0], rank, good[k][1], values[1 + k], values[0], threshold))
    rows += [
        {"candidate": i, "problem": problem, "text": rewrite.text}
        for i, (rewrite, problem) in enumerate(rewrites)
        if problem
    ]
    parameters = {
        "text": own.text,
        "context": own.prefix,
        "keyword": own.keyword,
        "candidates": [rewrite.text for rewrite, _ in rewrites],
        "origin": origin,
        "threshold": threshold,
        "keyword_tokens": keyword_tokens,
    }
    provenance = make_provenance(STEPPING_ID, STEPPING_VERSION, model, parameters)
    ranked = [good[k][1] for k in order]
    return SteppingStones(Table.from_rows(COLUMNS, rows), provenance, own, ranked)


def proposals(text: PrimingText) -> list[tuple[PrimingText, str]]:
    """Rewrites made with km's own phrases, as far as they can follow the text's prefix."""
    patterns = stepping_patterns(text.theme or None, text.keyword)
    return [(pattern.apply(text), "") for pattern in patterns if pattern.fits(text.prefix)]


def _given(text: PrimingText, candidates: Sequence[str]) -> list[tuple[PrimingText, str]]:
    """A user's rewrites, each with what is wrong with it."""
    found = []
    for i, candidate in enumerate(candidates):
        name = f"{text.id}+{i}"
        place = keyword_place(candidate, text.keyword)
        prefix = "" if place is None else candidate[:place].rstrip(" ")
        problem = ""
        if place is None:
            problem = f"the keyword {text.keyword!r} does not stand in it"
        elif not prefix:
            problem = "nothing stands before the keyword"
        elif prefix == text.prefix:
            problem = "what stands before the keyword is unchanged"
        rewrite = PrimingText(name, text.theme, text.category, text.keyword, prefix, candidate)
        found.append((rewrite, problem))
    return found


def _row(
    candidate: int | None,
    rank: int | None,
    text: PrimingText,
    logp: float,
    own: float,
    threshold: float,
) -> dict[str, Any]:
    return {
        "candidate": candidate,
        "rank": rank,
        "logp": logp,
        "probability": math.exp(logp),
        "gain": logp - own,
        "passes": math.exp(logp) >= threshold,
        "prefix": text.prefix,
        "text": text.text,
    }
