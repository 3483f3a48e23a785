"""Corpora in which popularity and length of overshadowed statements are what one asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from km.arguments import real_number, strings, whole_number
from km.errors import ArgumentError
from km.overshadow.pairs import Kind, Pair
from km.scores.overshadow import relative_length, relative_popularity

if TYPE_CHECKING:
    import numpy as np

# Draws of a group until its prompts differ from those of the groups before.
TRIES = 100
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Statement:
    """One line of a corpus.

    Attributes
    ----------
    group : int
    kind : {"A", "B"}
        Of the popular or of the rare condition.
    prompt, answer : tuple of int
    """

    group: int
    kind: Kind
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Group:
    """What the statements of a group are made of; every part is a tuple of token ids.

    Attributes
    ----------
    shared : tuple of int
        The context that all its prompts share.
    popular, rare : tuple of tuples
        The distinguishing tokens of each statement of A and of B.
    popular_answer, rare_answer : tuple of int
    """

    shared: tuple[int, ...]
    popular: tuple[tuple[int, ...], ...]
    rare: tuple[tuple[int, ...], ...]
    popular_answer: tuple[int, ...]
    rare_answer: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """A controlled corpus; made by :func:`corpus`.

    Attributes
    ----------
    groups : tuple of Group
    position : int
        Tokens of the shared context that stand before the distinguishing ones.
    statements : tuple of Statement
        All lines in the order of training.
    vocabulary, first_id : int
        Tokens are first_id to first_id + vocabulary - 1.
    seed : int
    """

    groups: tuple[Group, ...]
    position: int
    statements: tuple[Statement, ...]
    vocabulary: int
    first_id: int
    seed: int

    @property
    def P(self) -> float:
        """Relative popularity m / n."""
        first = self.groups[0]
        return relative_popularity(len(first.popular), len(first.rare))

    @property
    def L(self) -> float:
        """Relative length (s + d) / d."""
        first = self.groups[0]
        return relative_length(len(first.shared), len(first.popular[0]))

    @property
    def ids(self) -> list[list[int]]:
        """Token ids of every line, to train on."""
        return [list(statement.ids) for statement in self.statements]

    @property
    def n_tokens(self) -> int:
        """Tokens of all lines."""
        return sum(len(statement.ids) for statement in self.statements)

    def __len__(self) -> int:
        return len(self.statements)

    def __repr__(self) -> str:
        return (
            f"<km.overshadow.Corpus P={self.P:g} L={self.L:g}: {len(self.groups)} groups, "
            f"{len(self)} lines, {self.n_tokens} tokens, seed {self.seed}>"
        )

    def pairs(self, words: Sequence[str] | None = None) -> list[Pair]:
        """Every prompt once, for :func:`km.overshadow.rates`.

        Parameters
        ----------
        words : sequence of str, optional
            Give texts, as :meth:`texts` does, instead of token ids.
        """
        own = None if words is None else self._words(words)

        def say(ids: tuple[int, ...]) -> str | tuple[int, ...]:
            return ids if own is None else self._say(ids, own)

        found = []
        for number, group in enumerate(self.groups):
            for statement in _lines(number, group, self.position):
                found.append(
                    Pair(
                        str(number),
                        statement.kind,
                        say(statement.prompt),
                        say(statement.answer),
                        say(group.popular_answer),
                        say(group.shared) if group.shared else None,
                    )
                )
        return found

    def texts(self, words: Sequence[str] | None = None) -> list[str]:
        """Every line as text: a word for each token id, with blanks between them.

        Parameters
        ----------
        words : sequence of str, optional
            One different word for each token of the vocabulary, without blanks; None:
            :meth:`words`. P stays what it is, and L is exact where each word is one token.
        """
        own = self._words(self.words() if words is None else words)
        return [self._say(statement.ids, own) for statement in self.statements]

    def words(self) -> list[str]:
        """Meaningless words, one for each token of the vocabulary, all of the same length.

        Examples
        --------
        >>> corpus(2, 2, groups=1, vocabulary=8).words()[:3]
        ['ba', 'be', 'bi']
        """
        syllables = [c + v for c in CONSONANTS for v in VOWELS]
        size = 1
        while len(syllables) ** size < self.vocabulary:
            size += 1
        found = []
        for number in range(self.vocabulary):
            word = ""
            for _ in range(size):
                number, digit = divmod(number, len(syllables))
                word = syllables[digit] + word
            found.append(word)
        return found

    def _words(self, words: Sequence[str]) -> list[str]:
        listed = strings("words", words)
        if len(listed) != self.vocabulary or len(set(listed)) != len(listed):
            raise ArgumentError(f"words must be {self.vocabulary} different ones, one a token")
        bad = [word for word in listed if not word or any(c.isspace() for c in word)]
        if bad:
            raise ArgumentError(f"{bad[0]!r} among words is empty or has a blank in it")
        return listed

    def _say(self, ids: tuple[int, ...], words: Sequence[str]) -> str:
        return " ".join(words[id - self.first_id] for id in ids)


def corpus(
    P: float,
    L: float,
    *,
    groups: int = 20,
    n: int = 1,
    n_distinct: int = 1,
    n_answer: int = 1,
    vocabulary: int = 1024,
    first_id: int = 0,
    position: int | None = None,
    seed: int = 0,
) -> Corpus:
    """A corpus in which A statements are P times as many as B statements.

    Each group has a shared context, m = P n statements of A and n of B. A statement is the shared
    context with its own distinguishing tokens inserted, then the answer of its condition.

    Parameters
    ----------
    P : float
        Relative popularity m / n, at least 1; P n must be a whole number.
    L : float
        Relative length (s + d) / d, at least 1, s being the tokens of the shared context and d
        those that distinguish; (L - 1) d must be a whole number.
    groups : int
    n : int
        Statements of B a group.
    n_distinct, n_answer : int
        Tokens that distinguish a statement, and of an answer.
    vocabulary : int
        Different tokens to draw from. No token comes twice in a group but in the shared context
        and the answers, which are the same in each of its statements.
    first_id : int
        Id of the first of them; leaves room for special tokens.
    position : int, optional
        Tokens of the shared context before the distinguishing ones; None: half of them.
    seed : int

    Returns
    -------
    Corpus

    Raises
    ------
    ArgumentError
        P or L cannot be had exactly, or the vocabulary is too small.

    Examples
    --------
    >>> made = corpus(5, 4, groups=2, seed=1)
    >>> made
    <km.overshadow.Corpus P=5 L=4: 2 groups, 12 lines, 60 tokens, seed 1>
    """
    n, d = whole_number("n", n, 1), whole_number("n_distinct", n_distinct, 1)
    answer = whole_number("n_answer", n_answer, 1)
    m = _whole("P", real_number("P", P, 1, 1e9) * n, "P n", "n")
    s = _whole("L", (real_number("L", L, 1, 1e9) - 1) * d, "(L - 1) n_distinct", "n_distinct")
    groups = whole_number("groups", groups, 1)
    vocabulary, first_id = (
        whole_number("vocabulary", vocabulary, 1),
        whole_number("first_id", first_id, 0),
    )
    at = s // 2 if position is None else whole_number("position", position, 0, s)
    needed = s + (m + n) * d + 2 * answer
    if needed > vocabulary:
        raise ArgumentError(
            f"a group of P={P:g} and L={L:g} needs {needed} different tokens and vocabulary is "
            f"{vocabulary}; make it larger, or n, n_distinct or P smaller"
        )
    return _make(groups, (s, m, n, d, answer), vocabulary, first_id, at, seed)


def _make(
    n_groups: int,
    sizes: tuple[int, int, int, int, int],
    vocabulary: int,
    first_id: int,
    position: int,
    seed: int,
) -> Corpus:
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(whole_number("seed", seed, 0)))
    known: set[tuple[int, ...]] = set()
    groups: list[Group] = []
    for number in range(n_groups):
        for _ in range(TRIES):
            group = _draw(generator, sizes, vocabulary, first_id)
            prompts = {line.prompt for line in _lines(number, group, position)}
            shared = {group.shared} if group.shared else set()
            if not (prompts | shared) & known:
                break
        else:
            raise ArgumentError(
                f"vocabulary {vocabulary} is too small for {n_groups} groups whose prompts differ"
            )
        known |= prompts | shared
        groups.append(group)
    lines = [line for k, group in enumerate(groups) for line in _lines(k, group, position)]
    order = generator.permutation(len(lines))
    shuffled = tuple(lines[i] for i in order)
    return Corpus(tuple(groups), position, shuffled, vocabulary, first_id, seed)


def _draw(
    generator: np.random.Generator,
    sizes: tuple[int, int, int, int, int],
    vocabulary: int,
    first_id: int,
) -> Group:
    """A group of different tokens."""
    s, m, n, d, answer = sizes
    drawn = generator.choice(vocabulary, s + (m + n) * d + 2 * answer, replace=False) + first_id
    ids = iter(drawn.tolist())

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(ids) for _ in range(count))

    return Group(
        take(s),
        tuple(take(d) for _ in range(m)),
        tuple(take(d) for _ in range(n)),
        take(answer),
        take(answer),
    )


def _lines(number: int, group: Group, position: int) -> Iterator[Statement]:
    """The statements of a group, those of A first."""
    before, behind = group.shared[:position], group.shared[position:]
    for own in group.popular:
        yield Statement(number, "A", before + own + behind, group.popular_answer)
    for own in group.rare:
        yield Statement(number, "B", before + own + behind, group.rare_answer)


def _whole(name: str, value: float, formula: str, other: str) -> int:
    """A product that has to be a whole number."""
    nearest = round(value)
    if abs(value - nearest) > 1e-9 * max(1.0, abs(value)):
        raise ArgumentError(
            f"{name} cannot be had exactly: {formula} is {value:g}; change {name} or {other}"
        )
    return nearest
