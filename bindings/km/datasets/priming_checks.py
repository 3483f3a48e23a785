"""Problems in priming texts and probes that would bend what priming is measured to be."""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from km.datasets.priming_set import (
    SHUFFLED,
    PrimingText,
    Probe,
    keyword_place,
    priming_texts,
    priming_theme,
)
from km.datasets.priming_set import probes as shipped_probes

LEAST_PREFIX_WORDS = 8
LEAST_WORDS, MOST_WORDS = 15, 70
LEAST_PROBES = 12
REPEATED_WORDS = 6  # a run of so many words is a phrase; two texts may share it, three may not
OVERLAP_WORDS = 5  # a probe that shares a run of so many with a text is not unrelated to it


class _Encoder(Protocol):
    def encode(self, text: str, bos: bool | None = None, special: bool = False) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class PrimingProblem:
    """One finding: what kind, the id of the text or probe, and what is wrong."""

    kind: str
    where: str
    detail: str


class PrimingReport:
    """All findings of :func:`validate_priming`; empty is good news."""

    def __init__(self, problems: list[PrimingProblem], n_texts: int, n_probes: int) -> None:
        self.problems = problems
        self.n_texts = n_texts
        self.n_probes = n_probes

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[PrimingProblem]:
        return iter(self.problems)

    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}: {n}" for kind, n in sorted(self.counts().items()))
        what = f"{self.n_texts} texts, {self.n_probes} probes; {counts or 'no problems'}"
        return f"PrimingReport({what})"

    def _repr_html_(self) -> str:
        shown = self.problems[:60]
        rows = "".join(
            f"<tr><td>{html.escape(p.kind)}</td><td>{html.escape(p.where)}</td>"
            f"<td>{html.escape(p.detail)}</td></tr>"
            for p in shown
        )
        more = len(self.problems) - len(shown)
        tail = f"<p>{more} more in <code>.problems</code></p>" if more else ""
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr><th>kind</th><th>where</th>"
            f"<th>detail</th></tr></thead><tbody>{rows}</tbody></table>{tail}"
        )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text.casefold())


def _runs(text: str, n: int) -> set[tuple[str, ...]]:
    """Every run of n words."""
    words = _words(text)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _keyword(text: PrimingText) -> Iterator[PrimingProblem]:
    start = f"{text.prefix} {text.keyword}"
    if not text.text.startswith(start) or text.tail[:1].isalnum():
        yield PrimingProblem("keyword-place", text.id, f"{text.keyword!r} does not follow prefix")
    if keyword_place(text.prefix, text.keyword) is not None:
        yield PrimingProblem("keyword-early", text.id, f"{text.keyword!r} stands in the prefix")
    elif keyword_place(text.tail, text.keyword) is not None:
        yield PrimingProblem("keyword-repeated", text.id, f"{text.keyword!r} stands in the tail")


def _lengths(text: PrimingText) -> Iterator[PrimingProblem]:
    n = len(text.prefix.split())
    if n < LEAST_PREFIX_WORDS:
        detail = f"{n} words before the keyword, at least {LEAST_PREFIX_WORDS} expected"
        yield PrimingProblem("short-prefix", text.id, detail)
    n = len(text.text.split())
    if not LEAST_WORDS <= n <= MOST_WORDS:
        detail = f"{n} words, {LEAST_WORDS} to {MOST_WORDS} expected"
        yield PrimingProblem("length", text.id, detail)


def _other_keywords(texts: Sequence[PrimingText]) -> Iterator[PrimingProblem]:
    keywords = sorted({text.keyword for text in texts})
    for text in texts:
        for keyword in keywords:
            if keyword != text.keyword and keyword_place(text.text, keyword) is not None:
                detail = f"{keyword!r}, a keyword of other texts, stands in it"
                yield PrimingProblem("other-keyword", text.id, detail)


def _duplicates(items: Sequence[PrimingText] | Sequence[Probe]) -> Iterator[PrimingProblem]:
    first: dict[str, str] = {}
    for item in items:
        same = " ".join(_words(item.text))
        if same in first:
            yield PrimingProblem("duplicate", item.id, f"the same words as {first[same]}")
        first.setdefault(same, item.id)


def _repeated_runs(texts: Sequence[PrimingText]) -> Iterator[PrimingProblem]:
    """Phrases that make texts look made from a template; shuffled texts have none of their own."""
    where: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for text in texts:
        if text.category != SHUFFLED:
            for run in _runs(text.text, REPEATED_WORDS):
                where[run].append(text.id)
    for run, ids in sorted(where.items()):
        if len(ids) > 2:
            detail = f"{' '.join(run)!r} also stands in {', '.join(ids[1:])}"
            yield PrimingProblem("repeated-phrase", ids[0], detail)


def _probe_problems(
    asked: Sequence[Probe], texts: Sequence[PrimingText]
) -> Iterator[PrimingProblem]:
    keywords = sorted({text.keyword for text in texts})
    runs: dict[tuple[str, ...], str] = {}
    for text in texts:
        for run in _runs(text.text, OVERLAP_WORDS):
            runs.setdefault(run, text.id)
    for probe in asked:
        for keyword in keywords:
            if keyword_place(probe.text, keyword) is not None:
                yield PrimingProblem("keyword-in-probe", probe.id, repr(keyword))
        for run in sorted(_runs(probe.text, OVERLAP_WORDS) & runs.keys()):
            detail = f"{' '.join(run)!r} also stands in {runs[run]}"
            yield PrimingProblem("overlap", probe.id, detail)
    counts = Counter(probe.theme for probe in asked)
    for theme in dict.fromkeys(text.theme for text in texts):
        if counts[theme] < LEAST_PROBES:
            detail = f"{counts[theme]} probes, at least {LEAST_PROBES} expected"
            yield PrimingProblem("few-probes", theme, detail)


def _boundaries(texts: Iterable[PrimingText], model: _Encoder) -> Iterator[PrimingProblem]:
    """A keyword whose tokens are others after its prefix is not the word that is measured."""
    for text in texts:
        alone = list(model.encode(f" {text.keyword}", bos=False))
        before = list(model.encode(text.prefix, bos=False))
        if list(model.encode(f"{text.prefix} {text.keyword}", bos=False)) != before + alone:
            detail = f"{text.keyword!r} has other tokens after this prefix than alone"
            yield PrimingProblem("tokens", text.id, detail)


def _alternatives(
    alternatives: Mapping[str, Sequence[str]], model: _Encoder
) -> Iterator[PrimingProblem]:
    for keyword, words in alternatives.items():
        n = len(model.encode(f" {keyword}", bos=False))
        for word in words:
            m = len(model.encode(f" {word}", bos=False))
            if m != n:
                detail = f"{word!r} in its place has {m} tokens, not {n}"
                yield PrimingProblem("alternative-tokens", keyword, detail)


def _shipped_alternatives(texts: Iterable[PrimingText]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(text.theme for text in texts):
        found.update(priming_theme(name).alternatives)
    return found


def validate_priming(
    texts: Iterable[PrimingText] | None = None,
    probes: Iterable[Probe] | None = None,
    model: _Encoder | None = None,
    *,
    alternatives: Mapping[str, Sequence[str]] | None = None,
) -> PrimingReport:
    """Look for what would bend a measurement of priming.

    Parameters
    ----------
    texts : PrimingSet or PrimingTexts, optional
        The shipped ones by default.
    probes : Probes, optional
        By default the shipped ones when `texts` are the shipped ones too, else none.
    model : km.Model, optional
        With a model, tokens are looked at too.
    alternatives : mapping of str to words, optional
        For each keyword, the words that take its place in a control; the shipped ones by default
        when `texts` are the shipped ones too.

    Returns
    -------
    PrimingReport
        Kinds: ``keyword-place`` (the keyword does not follow the prefix), ``keyword-early`` and
        ``keyword-repeated`` (it stands there twice), ``other-keyword`` (another text's keyword is
        learned along), ``short-prefix`` and ``length`` (under 8 words before the keyword; not 15
        to 70 words), ``duplicate``, ``repeated-phrase`` (six words in a row in three texts or
        more), ``keyword-in-probe``, ``overlap`` (five words in a row in a text and a probe),
        ``few-probes`` (under 12 for a theme); with a model ``tokens`` (the keyword is cut into
        other tokens after its prefix than alone) and ``alternative-tokens`` (more or fewer than
        the keyword's).

    Examples
    --------
    >>> validate_priming()
    PrimingReport(396 texts, 64 probes; no problems)
    """
    if texts is None:
        texts = list(priming_texts())
        themes = dict.fromkeys(text.theme for text in texts)
        probes = [p for t in themes for p in shipped_probes(t)] if probes is None else probes
        alternatives = _shipped_alternatives(texts) if alternatives is None else alternatives
    given, contexts = list(texts), None if probes is None else list(probes)
    problems: list[PrimingProblem] = []
    for text in given:
        problems += _keyword(text)
        problems += _lengths(text)
    problems += _other_keywords(given)
    problems += _duplicates(given)
    problems += _repeated_runs(given)
    if contexts is not None:
        problems += _duplicates(contexts)
        problems += _probe_problems(contexts, given)
    if model is not None:
        problems += _boundaries(given, model)
        problems += _alternatives(alternatives or {}, model)
    return PrimingReport(problems, len(given), len(contexts or ()))
