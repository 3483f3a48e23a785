"""A corpus in which facts occur a given number of times and passages have to be read.

Tokens are numbers with fixed roles: marks, relations, subjects of facts, subjects that passages
alone speak of, and answers, a pool of their own for each relation. Two kinds of document:

statement
    ``ask relation subject answer``: a fact, as often as its count says; a share of them behind a
    passage that says nothing of it, so that a passage alone is no sign that memory is not asked.
reading
    ``open`` and sentences ``relation subject answer stop`` about subjects that are no facts, each
    with an answer drawn anew, then ``ask relation subject answer`` with a subject and relation of
    the passage and the answer it gives.

A statement begins as a question does, so that the question of a fact without a passage is what was
learned. No passage of the corpus speaks of a fact: what a model does where a passage contradicts
one was not shown to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from km.arguments import real_number, whole_number
from km.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.random import Generator

OPEN, STOP, ASK = 0, 1, 2
N_MARKS = 3


@dataclass(frozen=True)
class SyntheticFact:
    """A fact of the corpus as token ids.

    Attributes
    ----------
    index : int
    subject, relation, answer : int
    substitute : int
        The answer of another fact of the same relation and count.
    count : int
        Statements of it in the corpus.
    """

    index: int
    subject: int
    relation: int
    answer: int
    substitute: int
    count: int

    @property
    def question(self) -> tuple[int, ...]:
        """Its question without a passage."""
        return (ASK, self.relation, self.subject)


@dataclass(frozen=True)
class ConflictCorpus:
    """A corpus and what to ask a model that learned it.

    Attributes
    ----------
    documents : tuple of tuple of int
        In the order of their making; a training shuffles them.
    facts : tuple of SyntheticFact
    fillers : tuple of tuple of tuple of int
        Of each fact, sentences (relation, subject, answer, stop) that say nothing of it.
    held_out : tuple of (tuple of int, int, tuple of int)
        Readings that are not in the corpus: prompt, right answer, answers of the other sentences.
    vocabulary : int
    n_sentences : int
        Of a passage.
    seed : int
    """

    documents: tuple[tuple[int, ...], ...]
    facts: tuple[SyntheticFact, ...]
    fillers: tuple[tuple[tuple[int, ...], ...], ...]
    held_out: tuple[tuple[tuple[int, ...], int, tuple[int, ...]], ...]
    vocabulary: int
    n_sentences: int
    seed: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(map(len, self.documents))

    def digest(self) -> str:
        """SHA-256 (hex) over everything in it."""
        parts = (self.documents, [astuple(fact) for fact in self.facts], self.fillers)
        return hashlib.sha256(repr((*parts, self.held_out)).encode()).hexdigest()

    def prompt(self, fact: SyntheticFact, answer: int, place: int) -> tuple[int, ...]:
        """A passage that gives a fact some answer as its sentence `place`, and the question."""
        sentences = list(self.fillers[fact.index])
        sentences.insert(place, (fact.relation, fact.subject, answer, STOP))
        return (OPEN, *(token for one in sentences for token in one), *fact.question)

    def __repr__(self) -> str:
        return (
            f"<ConflictCorpus: {len(self.facts)} facts, {len(self.documents)} documents, "
            f"{self.n_tokens} tokens, seed {self.seed}>"
        )


def conflict_corpus(
    counts: Sequence[int] = (4, 8, 16, 32, 64, 128),
    *,
    facts: int = 32,
    relations: int = 4,
    answers: int = 32,
    readers: int = 128,
    readings: int = 8000,
    sentences: int = 3,
    unhelpful: float = 0.5,
    held_out: int = 200,
    seed: int = 0,
) -> ConflictCorpus:
    """Make a corpus of facts with controlled counts and of passages to read.

    Parameters
    ----------
    counts : sequence of int
        Statements of a fact; `facts` facts have each.
    facts : int
        Facts of a count. Those of one relation and count have different answers; the substitute of
        a fact is the answer of another of them, one token long and as often the answer there.
    relations, answers : int
        Relations, and answers of each.
    readers : int
        Subjects of readings.
    readings : int
        Documents of that kind.
    sentences : int
        Of a passage.
    unhelpful : float
        Share of the statements of a fact, rounded down, that stand behind such a passage.
    held_out : int
        Readings to test with.
    seed : int

    Raises
    ------
    ArgumentError
        An argument is out of range.

    Examples
    --------
    >>> conflict_corpus((2, 4), facts=8, readings=50, seed=1)
    <ConflictCorpus: 16 facts, 98 documents, 1354 tokens, seed 1>
    """
    from numpy.random import PCG64
    from numpy.random import Generator as Draws

    levels = [whole_number("counts", count, 1) for count in counts]
    if len(set(levels)) != len(levels) or not levels:
        raise ArgumentError("counts must be different numbers, at least one")
    relations = whole_number("relations", relations, 1)
    facts = whole_number("facts", facts, 2 * relations)
    answers = whole_number("answers", answers, -(-facts // relations))
    readers = whole_number("readers", readers, whole_number("sentences", sentences, 1))
    generator = Draws(PCG64(whole_number("seed", seed, 0)))
    plan = _Plan(generator, relations, answers, len(levels) * facts, readers, sentences)
    made = plan.facts(levels, facts)
    share = real_number("unhelpful", unhelpful, 0, 1)
    documents = []
    for fact in made:
        bare = fact.count - int(share * fact.count)
        documents += [(*fact.question, fact.answer)] * bare
        for _ in range(fact.count - bare):
            documents.append(
                (*plan.passage(plan.sentences(sentences)), *fact.question, fact.answer)
            )
    for _ in range(whole_number("readings", readings, 0)):
        prompt, answer, _ = plan.reading()
        documents.append((*prompt, answer))
    fillers = tuple(tuple(plan.sentences(sentences - 1)) for fact in made)
    tests = tuple(plan.reading() for _ in range(whole_number("held_out", held_out, 0)))
    order = generator.permutation(len(documents)).tolist()
    return ConflictCorpus(
        tuple(documents[i] for i in order), made, fillers, tests, plan.size, sentences, seed
    )


class _Plan:
    """Roles of tokens, and draws of facts and passages."""

    def __init__(
        self,
        generator: Generator,
        relations: int,
        answers: int,
        facts: int,
        readers: int,
        sentences: int,
    ) -> None:
        self.generator = generator
        self.relations = relations
        self.answers = answers
        self.n_sentences = sentences
        self.first_subject = N_MARKS + relations
        self.first_reader = self.first_subject + facts
        self.first_answer = self.first_reader + readers
        self.readers = readers
        self.size = self.first_answer + relations * answers

    def facts(self, levels: Sequence[int], per_level: int) -> tuple[SyntheticFact, ...]:
        """Facts of every count; within a relation and count all answers differ."""
        made = []
        for level, count in enumerate(levels):
            chosen = [self.generator.permutation(self.answers) for _ in range(self.relations)]
            for i in range(per_level):
                relation = i % self.relations
                own = chosen[relation]
                n = len(range(relation, per_level, self.relations))
                place = i // self.relations
                index = level * per_level + i
                made.append(
                    SyntheticFact(
                        index,
                        self.first_subject + index,
                        N_MARKS + relation,
                        self._answer(relation, int(own[place])),
                        self._answer(relation, int(own[(place + 1) % n])),
                        count,
                    )
                )
        return tuple(made)

    def _answer(self, relation: int, number: int) -> int:
        return int(self.first_answer + relation * self.answers + number)

    def sentences(self, n: int) -> list[tuple[int, ...]]:
        """Sentences about different subjects that are no facts, with answers drawn."""
        subjects = self.generator.permutation(self.readers)[:n].tolist()
        out: list[tuple[int, ...]] = []
        for subject in subjects:
            own = int(self.generator.integers(self.relations))
            answer = self._answer(own, int(self.generator.integers(self.answers)))
            out.append((N_MARKS + own, self.first_reader + subject, answer, STOP))
        return out

    def passage(self, sentences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Sentences behind the mark that opens a passage."""
        return (OPEN, *(token for one in sentences for token in one))

    def reading(self) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
        """Prompt, answer, and answers of the other sentences."""
        passage = self.sentences(self.n_sentences)
        asked = int(self.generator.integers(self.n_sentences))
        relation, subject, answer, _ = passage[asked]
        prompt = (*self.passage(passage), ASK, relation, subject)
        others = tuple(one[2] for i, one in enumerate(passage) if i != asked)
        return prompt, answer, others
