"""Texts to learn one at a time, contexts to measure them in, and what goes with both.

A :class:`PrimingText` leads up to a keyword; a :class:`Probe` is an unrelated context whose natural
continuation is a word of the keyword's theme. All texts shipped here were written for km.
"""

from __future__ import annotations

import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

from km.arguments import strings, whole_number
from km.errors import ArgumentError, NotFoundError

SHIPPED_LICENCE = "Apache-2.0"
SHIPPED_SOURCE = "written for km"
SHUFFLED = "shuffled"

DETERMINERS = frozenset(
    [
        "a",
        "an",
        "any",
        "each",
        "every",
        "her",
        "his",
        "its",
        "my",
        "no",
        "one",
        "our",
        "some",
        "that",
        "the",
        "their",
        "this",
        "your",
    ]
)


@dataclass(frozen=True, slots=True)
class PrimingText:
    """A text that leads up to a keyword.

    Attributes
    ----------
    id : str
        Unique within its set.
    theme : str
        What kind of word the keyword is, such as ``colour``.
    category : str
        How the text stands to what one expects, such as ``plain_fact``.
    keyword : str
        Stands once in the text, after the prefix and one blank.
    prefix : str
        What comes before the keyword.
    text : str
        The whole text: prefix, blank, keyword, and what may follow.
    source : str
        Of a shuffled text, the id of the text whose words it permutes.
    """

    id: str
    theme: str
    category: str
    keyword: str
    prefix: str
    text: str
    source: str = ""

    @property
    def tail(self) -> str:
        """What follows the keyword; may be empty."""
        return self.text[len(self.prefix) + 1 + len(self.keyword) :]

    def with_keyword(self, keyword: str) -> PrimingText:
        """The same text with another word in the keyword's place."""
        text = f"{self.prefix} {keyword}{self.tail}"
        return replace(self, id=f"{self.id}={keyword}", keyword=keyword, text=text)


@dataclass(frozen=True, slots=True)
class Probe:
    """A context whose natural continuation, after a blank, is a word of the theme."""

    id: str
    theme: str
    text: str


@dataclass(frozen=True, slots=True)
class PrimingTheme:
    """A kind of keyword.

    Attributes
    ----------
    name : str
    keywords : tuple of str
    words : tuple of str
        Common words of the theme, keywords among them.
    alternatives : mapping of str to tuple of str
        For each keyword, words of the theme that may stand in its place (after the same article,
        with as many tokens in the embedded model's vocabulary, and about as common).
    """

    name: str
    keywords: tuple[str, ...]
    words: tuple[str, ...]
    alternatives: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SteppingPattern:
    """A phrase that leads from a prefix to its keyword by way of an explanation.

    Attributes
    ----------
    text : str
        Ends in a blank and ``{keyword}``.
    theme : str
        Theme of the keywords it suits; empty for any.
    keyword : str
        The only keyword it suits; empty for any of the theme.
    after : tuple of str
        Last words of a prefix it may follow, such as articles; empty for any prefix that does not
        end in an article, a possessive or the like.
    """

    text: str
    theme: str = ""
    keyword: str = ""
    after: tuple[str, ...] = ()

    def fits(self, prefix: str) -> bool:
        """Whether the phrase can follow a prefix grammatically, as far as its last word tells."""
        words = prefix.split()
        last = words[-1].casefold() if words else ""
        return last in self.after if self.after else last not in DETERMINERS

    def apply(self, text: PrimingText) -> PrimingText:
        """The text with the phrase between its prefix and its keyword."""
        prefix = f"{text.prefix} {self.text.removesuffix(' {keyword}')}"
        whole = f"{prefix} {text.keyword}{text.tail}"
        return replace(text, id=f"{text.id}+", prefix=prefix, text=whole)


@dataclass(frozen=True, slots=True)
class PrimingSet:
    """Priming texts in order, with where they come from."""

    texts: tuple[PrimingText, ...]
    source: str = ""
    licence: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for text in self.texts:
            if text.id in seen:
                raise ValueError(f"ids of texts must be unique; given twice: {text.id}")
            seen.add(text.id)

    def __iter__(self) -> Iterator[PrimingText]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, id: str) -> PrimingText:
        for text in self.texts:
            if text.id == id:
                return text
        raise KeyError(f"no text {id!r} among {len(self)}")

    def _names(self, field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(getattr(text, field) for text in self.texts))

    @property
    def themes(self) -> tuple[str, ...]:
        """Themes in order of appearance."""
        return self._names("theme")

    @property
    def keywords(self) -> tuple[str, ...]:
        """Keywords in order of appearance."""
        return self._names("keyword")

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories in order of appearance."""
        return self._names("category")

    def select(
        self,
        *,
        themes: str | Iterable[str] | None = None,
        keywords: str | Iterable[str] | None = None,
        categories: str | Iterable[str] | None = None,
        per_category: int | None = None,
    ) -> PrimingSet:
        """The texts of the named themes, keywords and categories (all when None).

        ``per_category`` keeps the first so many of each keyword and category.
        """
        kept = list(self.texts)
        asked = {"theme": themes, "keyword": keywords, "category": categories}
        for field, names in asked.items():
            if names is not None:
                wanted = _known(f"{field}s", names, self._names(field))
                kept = [text for text in kept if getattr(text, field) in wanted]
        if per_category is not None:
            kept = _first(kept, whole_number("per_category", per_category, 1))
        return replace(self, texts=tuple(kept))

    def __repr__(self) -> str:
        licence = self.licence or "no licence stated"
        return (
            f"PrimingSet({len(self)} texts, {len(self.keywords)} keywords, "
            f"{len(self.categories)} categories, {licence})"
        )

    def _repr_html_(self) -> str:
        shown = self.texts[:60]
        rows = "".join(
            f"<tr><td>{html.escape(t.id)}</td><td>{html.escape(t.prefix)} "
            f"<b>{html.escape(t.keyword)}</b>{html.escape(t.tail)}</td></tr>"
            for t in shown
        )
        more = len(self) - len(shown)
        tail = f"<p>{more} more</p>" if more else ""
        return f"<p>{html.escape(repr(self))}</p><table>{rows}</table>{tail}"


def _known(argument: str, names: str | Iterable[str], there: Sequence[str]) -> set[str]:
    """The names asked for, all of which must be there."""
    wanted = strings(argument, names)
    for name in wanted:
        if name not in there:
            raise ArgumentError(f"{argument}: no {name!r}; there are: {', '.join(there)}")
    return set(wanted)


def _first(texts: Iterable[PrimingText], n: int) -> list[PrimingText]:
    """The first n texts of each keyword and category."""
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for text in texts:
        cell = (text.keyword, text.category)
        counts[cell] = counts.get(cell, 0) + 1
        if counts[cell] <= n:
            kept.append(text)
    return kept


def keyword_place(text: str, keyword: str) -> int | None:
    """Where a keyword first stands as a whole word of a text; None when it does not."""
    found = re.search(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, re.IGNORECASE)
    return found.start() if found else None


def shuffled(text: PrimingText, *, seed: int = 0, id: str | None = None) -> PrimingText:
    """The words of a text's prefix in another order, the keyword last.

    Parameters
    ----------
    text : PrimingText
    seed : int
        Another seed, another order.
    id : str, optional
        Of the new text; by default the old one with ``~`` and the seed.

    Returns
    -------
    PrimingText
        Of the category ``shuffled``, without a tail; the order is that of the SHA-256 of seed,
        place and word, so it is the same everywhere.

    Examples
    --------
    >>> fact = PrimingText("a", "food", "fact", "ramen", "Noodles in a bowl of broth are",
    ...                    "Noodles in a bowl of broth are ramen.")
    >>> shuffled(fact).text
    'Noodles are in a of bowl broth ramen'
    """
    words = text.prefix.split()

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{place}\n{words[place]}".encode()).digest()

    prefix = " ".join(words[place] for place in sorted(range(len(words)), key=rank))
    return PrimingText(
        id=f"{text.id}~{seed}" if id is None else id,
        theme=text.theme,
        category=SHUFFLED,
        keyword=text.keyword,
        prefix=prefix,
        text=f"{prefix} {text.keyword}",
        source=text.id,
    )


def _lines(name: str) -> list[dict[str, Any]]:
    file = resources.files("km.datasets") / "data" / "priming" / name
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _json(name: str) -> Any:
    file = resources.files("km.datasets") / "data" / "priming" / name
    return json.loads(file.read_text(encoding="utf-8"))


@functools.cache
def _shipped_texts() -> PrimingSet:
    texts = tuple(PrimingText(**record) for record in _lines("texts.jsonl"))
    return PrimingSet(texts, SHIPPED_SOURCE, SHIPPED_LICENCE, "shipped")


@functools.cache
def _shipped_probes() -> tuple[Probe, ...]:
    return tuple(Probe(**record) for record in _lines("probes.jsonl"))


@functools.cache
def _themes() -> dict[str, PrimingTheme]:
    themes = {}
    for record in _json("themes.json")["themes"]:
        alternatives = {word: tuple(other) for word, other in record["keywords"].items()}
        themes[record["name"]] = PrimingTheme(
            record["name"],
            tuple(alternatives),
            tuple(record["words"]),
            MappingProxyType(alternatives),
        )
    return themes


@functools.cache
def _patterns() -> tuple[SteppingPattern, ...]:
    records = _json("stepping_patterns.json")["patterns"]
    return tuple(
        SteppingPattern(**{**record, "after": tuple(record.get("after", ()))}) for record in records
    )


def priming_texts(
    per_category: int | None = None,
    *,
    themes: str | Iterable[str] | None = None,
    keywords: str | Iterable[str] | None = None,
    categories: str | Iterable[str] | None = None,
) -> PrimingSet:
    """Shipped texts: 12 keywords in 4 themes, 11 categories, 3 texts each.

    Parameters
    ----------
    per_category : int, optional
        Only the first so many of each keyword and category.
    themes, keywords, categories : str or several, optional
        Only these; all by default.

    Returns
    -------
    PrimingSet
        By theme, keyword and category, from plain facts to shuffled words.

    Raises
    ------
    ArgumentError
        For an unknown name.

    Examples
    --------
    >>> texts = priming_texts(1, themes="colour")
    >>> len(texts), texts.keywords
    (33, ('mauve', 'vermilion', 'purple'))
    """
    return _shipped_texts().select(
        themes=themes, keywords=keywords, categories=categories, per_category=per_category
    )


def priming_categories() -> dict[str, str]:
    """Name and definition of each category of the shipped texts, in order of rising strangeness."""
    return {item["name"]: item["definition"] for item in _json("themes.json")["categories"]}


def priming_theme(name: str) -> PrimingTheme:
    """A shipped theme: ``colour``, ``place``, ``profession`` or ``food``.

    Raises
    ------
    NotFoundError
        For another name.
    """
    try:
        return _themes()[name]
    except KeyError:
        raise NotFoundError(f"no theme {name!r}; there are: {', '.join(_themes())}") from None


def probes(theme: str) -> list[Probe]:
    """Shipped contexts whose natural continuation is a word of a theme.

    Parameters
    ----------
    theme : str
        ``colour``, ``place``, ``profession`` or ``food``.

    Returns
    -------
    list of Probe

    Raises
    ------
    NotFoundError
        For another theme.

    Examples
    --------
    >>> all(probe.theme == "food" for probe in probes("food"))
    True
    """
    name = priming_theme(theme).name
    return [probe for probe in _shipped_probes() if probe.theme == name]


def neutral_texts() -> list[str]:
    """Sentences without any keyword: what learning one text does to the rest of English."""
    return [record["text"] for record in _lines("neutral.jsonl")]


def control_texts() -> list[str]:
    """Texts as long as the priming texts, without a word of their themes: an unrelated dose."""
    return [record["text"] for record in _lines("control.jsonl")]


def stepping_patterns(
    theme: str | None = None, keyword: str | None = None
) -> list[SteppingPattern]:
    """Phrases that explain a keyword before they name it.

    Parameters
    ----------
    theme : str, optional
        Leaves out phrases for other themes.
    keyword : str, optional
        Leaves out phrases for other keywords.

    Returns
    -------
    list of SteppingPattern
        Those for the keyword alone first, then the theme's, then those for any word. Without a
        theme and a keyword, all.

    Raises
    ------
    NotFoundError
        For a theme km has no phrases for. An unknown keyword is no error: the phrases for its
        theme, or for any word, still suit it.
    """
    if keyword is not None and theme is None:
        theme = next((t.name for t in _themes().values() if keyword in t.keywords), "")
    elif theme is not None:
        theme = priming_theme(theme).name
    suited = [
        pattern
        for pattern in _patterns()
        if (theme is None or pattern.theme in ("", theme))
        and (keyword is None or pattern.keyword in ("", keyword))
    ]
    return sorted(suited, key=lambda pattern: (not pattern.keyword, not pattern.theme))
