"""What a recall measurement asks: templates, candidates and shuffled partners of each fact.

Everything random is decided by SHA-256 of the seed and the texts involved, so a plan depends on
no library's random numbers, nor do candidates depend on the order of facts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.datasets import Fact, FactSet, Relation

_FactArguments: TypeAlias = tuple[str, str, tuple[str, ...], tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class FactPlan:
    """One fact with what its answer is ranked against.

    Attributes
    ----------
    id, subject : str
    answers : tuple of str
        Accepted answers, the printed one first.
    candidates : tuple of str
        Wrong answers of the same relation.
    shuffled : int
        Index of the fact whose answer is judged under this subject; -1: none.
    """

    id: str
    subject: str
    answers: tuple[str, ...]
    candidates: tuple[str, ...]
    shuffled: int


@dataclass(frozen=True, slots=True)
class RelationPlan:
    """One relation's facts, templates and candidates, ready to be measured."""

    name: str
    kind: str
    templates: tuple[str, ...]
    template_indices: tuple[int, ...]
    subjectless: str
    facts: tuple[FactPlan, ...]

    @property
    def n_cases(self) -> int:
        """Facts times templates."""
        return len(self.facts) * len(self.templates)

    def arguments(self) -> tuple[str, tuple[str, ...], str, list[_FactArguments]]:
        """Arguments of ``_km.memorization_run`` after the model."""
        facts = [(f.id, f.subject, f.answers, f.candidates, f.shuffled) for f in self.facts]
        return self.name, self.templates, self.subjectless, facts

    def describe(self) -> dict[str, Any]:
        """The plan as JSON types, for content keys."""
        return {
            "relation": self.name,
            "templates": list(self.templates),
            "subjectless": self.subjectless,
            "facts": [
                [f.id, f.subject, list(f.answers), list(f.candidates), f.shuffled]
                for f in self.facts
            ],
        }

    def texts(self) -> Iterable[str]:
        """Every prompt, then every distinct answer with its blank."""
        for template in self.templates:
            yield template.replace("{}", self.subjectless)
            for fact in self.facts:
                yield template.replace("{}", fact.subject)
        seen = dict.fromkeys(a for f in self.facts for a in (*f.answers, *f.candidates))
        for answer in seen:
            yield " " + answer


def resolve_facts(facts: FactSet | Relation | Iterable[Relation] | str) -> list[Relation]:
    """Relations from what a user may give: a fact set, a relation, several, or a shipped name."""
    from km.datasets import Relation
    from km.datasets import facts as shipped

    if isinstance(facts, str):
        return list(shipped(facts))
    if isinstance(facts, Relation):
        return [facts]
    relations = list(facts)
    for relation in relations:
        if not isinstance(relation, Relation):
            raise ArgumentError(
                f"facts must be a FactSet, a Relation, several of them or a name, "
                f"not {type(relation).__name__}"
            )
    if not relations:
        raise ArgumentError("there are no facts to measure")
    twice = [name for name, count in Counter(r.name for r in relations).items() if count > 1]
    if twice:
        raise ArgumentError(f"relation {twice[0]!r} is given twice; names must be unique")
    return relations


def make_plan(
    relation: Relation, templates: int | Sequence[int] | None, max_candidates: int, seed: int
) -> RelationPlan:
    """Choose templates, candidates and shuffled partners for one relation.

    Parameters
    ----------
    templates : int, sequence of int or None
        Indices of the relation's templates; None: all.
    max_candidates : int
        Answers ranked, the right one included.
    seed : int

    Raises
    ------
    ArgumentError
        No facts, no such template, a template twice, max_candidates below 2, or something that is
        no text.
    """
    if max_candidates < 2:
        raise ArgumentError(f"max_candidates must be at least 2, not {max_candidates}")
    if not relation.facts:
        raise ArgumentError(f"relation {relation.name!r} has no facts")
    indices = _pick_templates(relation, templates)
    _check_texts(relation)
    ids = [fact.id for fact in relation.facts]
    if len(set(ids)) != len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise ArgumentError(f"relation {relation.name!r}: fact id {twice!r} is given twice")
    valid = _valid_answers(relation.facts)
    partners = _derange(relation.facts, valid, f"{seed}\0{relation.name}")
    return RelationPlan(
        relation.name,
        relation.kind,
        tuple(relation.templates[i] for i in indices),
        tuple(indices),
        relation.subjectless,
        _plan_facts(relation, valid, partners, max_candidates, seed),
    )


def _pick_templates(relation: Relation, templates: int | Sequence[int] | None) -> list[int]:
    n = len(relation.templates)
    if templates is None:
        chosen = list(range(n))
    else:
        chosen = [templates] if isinstance(templates, int) else list(templates)
    for index in chosen:
        if not 0 <= index < n:
            raise ArgumentError(
                f"relation {relation.name!r} has templates 0 to {n - 1}, not {index}"
            )
    if not chosen:
        raise ArgumentError(f"relation {relation.name!r}: at least one template is needed")
    if len({relation.templates[index] for index in chosen}) != len(chosen):
        raise ArgumentError(f"relation {relation.name!r}: the same template is asked twice")
    return chosen


def _check_texts(relation: Relation) -> None:
    """Refuse what is no text, naming the fact, before anything is measured."""
    where = f"relation {relation.name!r}"
    for text in (relation.name, relation.subjectless, *relation.templates):
        _check_text(text, where)
    for fact in relation.facts:
        at = f"{where}: fact {fact.id!r}"
        if isinstance(fact.answers, str) or not fact.answers:
            raise ArgumentError(f"{at}: answers must be a tuple of texts, not {fact.answers!r}")
        for text in (fact.id, fact.subject, *fact.answers):
            _check_text(text, at)


def _check_text(text: object, where: str) -> None:
    if not isinstance(text, str):
        raise ArgumentError(f"{where}: expected a text, not {text!r}")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ArgumentError(f"{where}: {text!r} holds a NUL character or a lone surrogate")


def _valid_answers(facts: Sequence[Fact]) -> list[frozenset[str]]:
    """For each fact everything that is right for its subject.

    Its own accepted answers, those of other facts about the same subject, and every name of an
    answer that shares a name with one of these.
    """
    by_subject: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject, set()).update(fact.answers)
        for answer in fact.answers:
            names.setdefault(answer, set()).update(fact.answers)
    return [
        frozenset(name for answer in by_subject[fact.subject] for name in names[answer])
        for fact in facts
    ]


def _order(key: str, text: str) -> bytes:
    """A random but reproducible place for `text`."""
    return hashlib.sha256(f"{key}\0{text}".encode()).digest()


def _derange(facts: Sequence[Fact], valid: Sequence[frozenset[str]], key: str) -> list[int]:
    """A partner for each fact whose printed answer is wrong for it; -1 where there is none.

    Facts are put in random order with equal answers side by side and moved on by the size of the
    largest group: a permutation without a right answer wherever no answer belongs to more than
    half of the facts. A partner whose answer is right after all is replaced by the next one.
    """
    groups = Counter(fact.answers[0] for fact in facts)
    order = sorted(
        range(len(facts)),
        key=lambda i: (
            _order(key, facts[i].answers[0]),
            _order(key, f"{facts[i].subject}\0{facts[i].id}"),
        ),
    )
    step = max(groups.values())
    partners = [-1] * len(facts)
    for place, i in enumerate(order):
        for offset in range(len(order)):
            j = order[(place + step + offset) % len(order)]
            if facts[j].answers[0] not in valid[i]:
                partners[i] = j
                break
    return partners


def _plan_facts(
    relation: Relation,
    valid: Sequence[frozenset[str]],
    partners: Sequence[int],
    max_candidates: int,
    seed: int,
) -> tuple[FactPlan, ...]:
    universe = list(dict.fromkeys(fact.answers[0] for fact in relation.facts))
    out = []
    for fact, right, partner in zip(relation.facts, valid, partners, strict=True):
        wrong = [answer for answer in universe if answer not in right]
        if len(wrong) > max_candidates - 1:
            kept = relation.facts[partner].answers[0]
            key = f"{seed}\0{relation.name}\0{fact.subject}"
            ranked = sorted(wrong, key=lambda a: (a != kept, _order(key, a)))
            chosen = set(ranked[: max_candidates - 1])
            wrong = [answer for answer in wrong if answer in chosen]
        answers = tuple(dict.fromkeys(fact.answers))
        out.append(FactPlan(fact.id, fact.subject, answers, tuple(wrong), partner))
    return tuple(out)
