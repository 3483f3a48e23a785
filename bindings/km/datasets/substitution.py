"""Passages that say something else: replacing the answer, and four ways to choose the substitute.

``mode="reference"`` does what the code of Longpre et al. 2021 does, with an order where theirs is
the order of a hash table. ``mode="clean"`` leaves out what is wrong with it; the differences are
listed in docs/measures/conflict.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from km.arguments import real_number, whole_number
from km.datasets.answer_text import Spans, find_literal, find_mentions, normalize_answer
from km.datasets.conflict_set import (
    QAAnswer,
    QAExample,
    QASet,
    WikidataEntity,
    as_examples,
)
from km.errors import ArgumentError

Mode: TypeAlias = Literal["clean", "reference"]
Examples: TypeAlias = "QASet | Iterable[QAExample]"
Groups: TypeAlias = dict[str, dict[str, QAAnswer]]
Job: TypeAlias = "tuple[QAExample, str, Callable[[], QAAnswer | None]]"

HUMAN = "Q5"
NUMERIC_TYPES = ("NUMERIC", "DATE")
NO_CANDIDATE = "no eligible candidate"
NO_MENTION = "no answer stands in the context"


# ---- the passage ----


def substitute(
    example: QAExample,
    answer: QAAnswer | str,
    prefix: str = "sub",
    *,
    mode: Mode = "clean",
    whole_words: bool = True,
    replace_every: bool = False,
) -> QAExample:
    """A copy of an example whose passage gives another answer.

    Parameters
    ----------
    example : QAExample
    answer : QAAnswer or str
        What to put in the place of every mention of every answer.
    prefix : str
        Of the new uid, before ``_``.
    mode : {"clean", "reference"}
        "clean": one pass over the passage from left to right, at each place the longest answer,
        ignoring case; what was put in is not looked at again, and its places are given.
        "reference": replace every distinct spelling one after another, the longest first, then the
        first met; within words too, and in text just put in.
    whole_words : bool
        ("clean") Leave mentions within longer words alone.
    replace_every : bool
        ("reference") With False a passage without the answer is an error, with True it stays as it
        is: all that this option of the reference does.

    Raises
    ------
    ArgumentError
        No answer stands in the passage.

    Examples
    --------
    >>> example = QAExample("1", "Who?", "Ann wrote. ann's Annual.", (QAAnswer("Ann"),))
    >>> substitute(example, "Bo").context
    "Bo wrote. Bo's Annual."
    >>> substitute(example, "Bo", mode="reference").context
    "Bo wrote. Bo's Boual."
    """
    new = QAAnswer(answer) if isinstance(answer, str) else answer
    if _checked_mode(mode) == "reference":
        context = _edit_reference(example, new.text, replace_every)
        spans = None
    else:
        context, spans = _edit_clean(example, new.text, whole_words)
    return QAExample(
        uid=f"{prefix}_{example.uid}",
        query=example.query,
        context=context,
        answers=(replace(new, spans=spans),),
        is_substitute=True,
        metadata=example.metadata,
        original=example,
    )


def _checked_mode(mode: str) -> str:
    if mode not in ("clean", "reference"):
        raise ArgumentError(f'mode is {mode!r}; it must be "clean" or "reference"')
    return mode


def _edit_reference(example: QAExample, text: str, replace_every: bool) -> str:
    context = example.context
    variants: dict[str, int] = {}
    for answer in example.texts:
        for start, end in find_literal(answer, context):
            variant = context[start:end]
            variants[variant] = min(start, variants.get(variant, start))
    if not variants and not replace_every:
        raise ArgumentError(f"{example.uid}: {NO_MENTION}")
    for variant in sorted(variants, key=lambda v: (-len(v), variants[v])):
        context = context.replace(variant, text)
    return context


def _edit_clean(example: QAExample, text: str, whole_words: bool) -> tuple[str, Spans]:
    mentions = find_mentions(example.context, example.texts, whole_words=whole_words)
    if not mentions:
        raise ArgumentError(f"{example.uid}: {NO_MENTION}")
    parts: list[str] = []
    spans, at, length = [], 0, 0
    for start, end in mentions:
        parts += [example.context[at:start], text]
        length += start - at
        spans.append((length, length + len(text)))
        length += len(text)
        at = end
    return "".join([*parts, example.context[at:]]), tuple(spans)


# ---- choosing ----


class Draws:
    """Which of n candidates comes next: at random by a seed, or by given numbers, modulo n."""

    def __init__(self, seed: int, given: Iterable[int] | None = None) -> None:
        self._random = random.Random(whole_number("seed", seed, 0))
        self._given = None if given is None else iter(given)

    def __call__(self, n: int) -> int:
        """An index below n."""
        if self._given is None:
            return int(self._random.random() * n)
        number = next(self._given, None)
        if number is None:
            raise ArgumentError("draws has no number left; give more")
        return number % n


def answer_groups(examples: Iterable[QAExample]) -> Groups:
    """The distinct answers of each type, in order of appearance."""
    groups: Groups = {}
    for example in examples:
        for answer in example.answers:
            if answer.answer_type:
                groups.setdefault(answer.answer_type, {})[answer.text] = answer
    return groups


def is_other(candidate: QAAnswer, example: QAExample, mode: str = "clean") -> bool:
    """Whether a candidate is none of an example's answers, once normalised.

    "clean" also looks at the aliases of both, and passes over answers that normalise to nothing.
    """
    clean = mode == "clean"
    known = {normalize_answer(text) for text in (example.accepted if clean else example.texts)}
    named = {normalize_answer(text) for text in (candidate.accepted if clean else [candidate.text])}
    return not (known & named) and not (clean and not normalize_answer(candidate.text))


def _pick(
    pool: Sequence[QAAnswer], example: QAExample, mode: str, draws: Draws, used: list[QAAnswer]
) -> QAAnswer | None:
    """One of the pool that is none of the example's answers; None where there is none."""
    eligible = [answer for answer in pool if is_other(answer, example, mode)]
    if not eligible:
        return None
    if mode == "reference":  # rejected candidates cost a draw
        while True:
            chosen = pool[draws(len(pool))]
            if is_other(chosen, example, mode):
                return chosen
    fresh = [answer for answer in eligible if answer not in used] or eligible
    chosen = fresh[draws(len(fresh))]
    used.append(chosen)
    return chosen


def _picks(
    example: QAExample, prefixes: Iterable[str], pool: list[QAAnswer], mode: str, draws: Draws
) -> Iterator[Job]:
    """One substitute of the pool a prefix; "clean" takes another each time while there is one."""
    used: list[QAAnswer] = []
    for prefix in prefixes:
        yield example, prefix, partial(_pick, pool, example, mode, draws, used)


def _in_category(example: QAExample, category: str) -> bool:
    own = example.answer_type
    return own is not None and category.upper() in ("ALL", own.upper())


def _run(
    examples: Examples,
    policy: str,
    jobs: Iterable[Job],
    mode: Mode,
    whole_words: bool,
    replace_every: bool,
) -> QASet:
    """The substituted examples; "clean" notes what it leaves out, "reference" stops there."""
    made, skipped = [], []
    for example, prefix, choose in jobs:
        try:
            answer = choose()
            if answer is None:
                raise ArgumentError(f"{example.uid}: {NO_CANDIDATE}")
            options = {"whole_words": whole_words, "replace_every": replace_every}
            made.append(substitute(example, answer, prefix, mode=mode, **options))
        except ArgumentError as error:
            known = str(error).endswith((NO_CANDIDATE, NO_MENTION))
            if mode == "reference" or not known:
                raise
            skipped.append((example.uid, str(error).removeprefix(f"{example.uid}: ")))
    named = examples if isinstance(examples, QASet) else QASet(())
    name = f"{named.name}-{policy}" if named.name else policy
    return QASet(tuple(made), name, named.source, named.licence, tuple(skipped))


def mix_substituted(
    originals: Examples, substituted: Examples, *, ratio: float = 1.0, seed: int = 0
) -> QASet:
    """Originals and substituted examples in one shuffled set, to train on both.

    Parameters
    ----------
    originals, substituted : QASet or iterable of QAExample
    ratio : float
        Substituted examples an original, as far as there are some; they are drawn.
    seed : int
        Of the draw and the order.

    Notes
    -----
    Longpre et al. 2021 train on as many substituted as original examples, so that a reader learns
    to follow the passage.

    Examples
    --------
    >>> one = QAExample("1", "Who?", "It was Ann.", (QAAnswer("Ann"),))
    >>> sorted(e.uid for e in mix_substituted([one], [substitute(one, "Bo")]))
    ['1', 'sub_1']
    """
    old, new = as_examples(originals), as_examples(substituted)
    share = real_number("ratio", ratio, 0, 1e6)
    rng = random.Random(whole_number("seed", seed, 0))
    shuffle(rng, new)
    mixed = old + new[: round(share * len(old))]
    shuffle(rng, mixed)
    named = originals if isinstance(originals, QASet) else QASet(())
    name = f"{named.name}-mixed" if named.name else "mixed"
    return QASet(tuple(mixed), name, named.source, named.licence)


def shuffle(rng: random.Random, items: list[Any]) -> None:
    """In place, by draws whose meaning no version of Python changes."""
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]


# ---- policies ----


def substitute_corpus(
    examples: Examples,
    *,
    samples: int = 1,
    category: str = "ALL",
    mode: Mode = "clean",
    whole_words: bool = True,
    replace_every: bool = False,
    seed: int = 0,
    draws: Iterable[int] | None = None,
) -> QASet:
    """Substitutes drawn from the other answers of the same type in the set.

    Parameters
    ----------
    examples : QASet or iterable of QAExample
        Those without a type are passed over.
    samples : int
        New examples an original. "clean": of different substitutes as long as there are some.
    category : str
        "ALL", or the only type to work on (in any case).
    mode, whole_words, replace_every
        As of :func:`substitute`.
    seed : int
        Of the draws, uniform over distinct texts.
    draws : iterable of int, optional
        Given numbers instead, modulo the number of candidates; "reference" also spends one on each
        candidate that is rejected.

    Returns
    -------
    QASet
        uids ``corpus-sub-0_…``; ``skipped`` says what was left out, and why.

    Raises
    ------
    ArgumentError
        ("reference") No candidate is eligible, where the reference never ends, or no answer stands
        in a passage, where it fails.
    """
    listed = as_examples(examples)
    n = whole_number("samples", samples, 1)
    groups, draw = answer_groups(listed), Draws(seed, draws)

    def jobs() -> Iterator[Job]:
        for example in listed:
            if not _in_category(example, category):
                continue
            pool = list(groups[example.answer_type or ""].values())
            yield from _picks(example, [f"corpus-sub-{i}" for i in range(n)], pool, mode, draw)

    _checked_mode(mode)
    return _run(examples, "corpus", jobs(), mode, whole_words, replace_every)


def substitute_type_swap(
    examples: Examples,
    *,
    samples: int = 1,
    category: str = "ALL",
    mode: Mode = "clean",
    whole_words: bool = True,
    replace_every: bool = False,
    seed: int = 0,
    draws: Iterable[int] | None = None,
) -> QASet:
    """Substitutes of every other type; parameters as of :func:`substitute_corpus`.

    Returns
    -------
    QASet
        `samples` an original and other type. The uid begins ``type-swap-sub-0``; "clean" adds the
        type, since uids repeat without.
    """
    listed = as_examples(examples)
    n = whole_number("samples", samples, 1)
    groups, draw = answer_groups(listed), Draws(seed, draws)

    def jobs() -> Iterator[Job]:
        for example in listed:
            if not _in_category(example, category):
                continue
            for name, answers in groups.items():
                if name == example.answer_type:
                    continue
                pool = list(answers.values())
                end = f"-{name}" if mode == "clean" else ""
                prefixes = [f"type-swap-sub-{i}{end}" for i in range(n)]
                yield from _picks(example, prefixes, pool, mode, draw)

    _checked_mode(mode)
    return _run(examples, "type-swap", jobs(), mode, whole_words, replace_every)


def substitute_alias(
    examples: Examples,
    *,
    max_aliases: int = 1,
    category: str = "NONNUMERIC",
    mode: Mode = "clean",
    whole_words: bool = True,
    replace_every: bool = False,
) -> QASet:
    """Substitutes that are other names of the same thing: no conflict, but other words.

    Parameters
    ----------
    examples : QASet or iterable of QAExample
    max_aliases : int
        New examples an original, by code point of the alias; 0: all.
    category : str
        "ALL", "NONNUMERIC" or a type. "clean": NONNUMERIC leaves out NUMERIC and DATE;
        "reference": it leaves out nothing.
    mode, whole_words, replace_every
        As of :func:`substitute`. "clean" passes over aliases that normalise to an answer.
    """
    listed = as_examples(examples)
    most = whole_number("max_aliases", max_aliases, 0)

    def jobs() -> Iterator[Job]:
        for example in listed:
            if not _alias_category(example, category, mode):
                continue
            names = {name for answer in example.answers for name in answer.aliases}
            names -= set(example.texts)
            if mode == "clean":
                known = {normalize_answer(text) for text in example.texts} | {""}
                names = {name for name in names if normalize_answer(name) not in known}
            ordered = sorted(names)
            for i, name in enumerate(ordered[:most] if most else ordered):
                source = next(a for a in example.answers if name in a.aliases)
                answer = replace(source, text=name, aliases=(source.text,), spans=None)
                yield example, f"alias-sub-{i}", lambda a=answer: a  # type: ignore[misc]

    _checked_mode(mode)
    return _run(examples, "alias", jobs(), mode, whole_words, replace_every)


def _alias_category(example: QAExample, category: str, mode: str) -> bool:
    wanted, own = category.upper(), example.answer_type
    if wanted == "ALL" or (wanted == "NONNUMERIC" and mode == "reference"):
        return True
    if wanted == "NONNUMERIC":
        return own not in NUMERIC_TYPES
    if own is None and mode == "reference":
        raise ArgumentError(
            f"{example.uid} has no type, where the reference fails; use category='ALL' or type it"
        )
    return own is not None and own.upper() == wanted


def popularity_bins(
    entities: Iterable[WikidataEntity],
    n: int = 1,
    *,
    per_popularity: int = 10,
    mode: Mode = "reference",
    entity_type: str | None = HUMAN,
) -> list[list[WikidataEntity]]:
    """Entities in rising order of popularity, cut into slices.

    Parameters
    ----------
    entities : iterable of WikidataEntity
    n : int
        Slices.
    per_popularity : int
        At most so many of each popularity, the first ones.
    mode : {"reference", "clean"}
        "reference": only humans, slices of n_entities // n + 1, which may give fewer slices than n
        and a short last one. "clean": n slices whose sizes differ by at most one.
    entity_type : str or None
        ("clean") Only entities of this type of Wikidata's; None: all.
    """
    bins = whole_number("n", n, 1)
    most = whole_number("per_popularity", per_popularity, 1)
    wanted = HUMAN if _checked_mode(mode) == "reference" else entity_type
    seen: dict[int, int] = {}
    kept = []
    for entity in entities:
        count = seen.get(entity.popularity, 0)
        if (wanted is None or wanted in entity.types) and count < most:
            seen[entity.popularity] = count + 1
            kept.append(entity)
    kept.sort(key=lambda entity: entity.popularity)
    if mode == "reference":
        size = len(kept) // bins + 1
        return [kept[i : i + size] for i in range(0, len(kept), size)]
    edges = [len(kept) * i // bins for i in range(bins + 1)]
    return [kept[a:b] for a, b in pairwise(edges) if a < b]


def substitute_popularity(
    examples: Examples,
    entities: Iterable[WikidataEntity] | Mapping[str, WikidataEntity],
    *,
    bins: int = 1,
    per_popularity: int = 10,
    category: str = "PERSON",
    entity_type: str | None = HUMAN,
    mode: Mode = "clean",
    whole_words: bool = True,
    replace_every: bool = False,
    seed: int = 0,
    draws: Iterable[int] | None = None,
) -> QASet:
    """Substitutes from Wikidata, one of each slice of popularity.

    Parameters
    ----------
    examples : QASet or iterable of QAExample
    entities : iterable of WikidataEntity, or mapping to them
        In the file's order: :func:`read_wikidata_entities`.
    bins, per_popularity, entity_type
        As of :func:`popularity_bins`.
    category : str
        Type of the originals; "clean" gives it to the substitutes, "reference" none.
    mode, whole_words, replace_every, seed, draws
        As of :func:`substitute_corpus`. "reference" may draw the answer itself.

    Returns
    -------
    QASet
        uids ``pop-sub-0_…``, the number being the slice.
    """
    listed = as_examples(examples)
    pool = list(entities.values() if isinstance(entities, Mapping) else entities)
    slices = popularity_bins(
        pool, bins, per_popularity=per_popularity, mode=mode, entity_type=entity_type
    )
    if not slices:
        raise ArgumentError("no entity is of the wanted type")
    kind = category.upper() if mode == "clean" and category.upper() != "ALL" else None
    groups = [[_entity_answer(entity, kind) for entity in part] for part in slices]
    draw = Draws(seed, draws)

    def choose(example: QAExample, group: list[QAAnswer]) -> QAAnswer | None:
        if mode == "reference":
            return group[draw(len(group))]
        return _pick(group, example, mode, draw, [])

    def jobs() -> Iterator[Job]:
        for example in listed:
            if _in_category(example, category):
                for i, group in enumerate(groups):
                    yield example, f"pop-sub-{i}", lambda e=example, g=group: choose(e, g)  # type: ignore[misc]

    return _run(examples, "popularity", jobs(), mode, whole_words, replace_every)


def _entity_answer(entity: WikidataEntity, kind: str | None) -> QAAnswer:
    answer = QAAnswer(entity.label, kb_id=entity.id).linked(entity)
    return replace(answer, answer_type=kind)
