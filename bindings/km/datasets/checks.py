"""Problems in a set of facts that would bend a recall figure."""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from km.datasets.fact_set import Fact, FactSet, Relation


class _Encoder(Protocol):
    def encode(self, text: str, bos: bool | None = None, special: bool = False) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class FactProblem:
    """One finding: what kind, where, and what it does to the figures."""

    kind: str
    relation: str
    fact: str
    detail: str


class FactReport:
    """All findings of :func:`validate`; empty is good news."""

    def __init__(self, problems: list[FactProblem], n_facts: int) -> None:
        self.problems = problems
        self.n_facts = n_facts

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[FactProblem]:
        return iter(self.problems)

    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def __repr__(self) -> str:
        if not self.problems:
            return f"FactReport({self.n_facts} facts, no problems)"
        counts = ", ".join(f"{kind}: {n}" for kind, n in sorted(self.counts().items()))
        return f"FactReport({self.n_facts} facts; {counts})"

    def _repr_html_(self) -> str:
        shown = self.problems[:60]
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(c)}</td>" for c in (p.kind, p.relation, p.fact, p.detail))
            + "</tr>"
            for p in shown
        )
        more = len(self.problems) - len(shown)
        tail = f"<p>{more} more in <code>.problems</code></p>" if more else ""
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr><th>kind</th><th>relation</th>"
            f"<th>fact</th><th>detail</th></tr></thead><tbody>{rows}</tbody></table>{tail}"
        )


def _contains_words(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def _duplicates(relation: Relation) -> Iterator[FactProblem]:
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in relation.facts:
        by_subject[fact.subject.casefold()].append(fact)
    for facts in by_subject.values():
        for fact in facts[1:]:
            same = fact.answer.casefold() == facts[0].answer.casefold()
            kind = "duplicate" if same else "several-answers"
            detail = f"{fact.subject!r} also stands as fact {facts[0].id} with {facts[0].answer!r}"
            yield FactProblem(kind, relation.name, fact.id, detail)


def _alias_clashes(relation: Relation) -> Iterator[FactProblem]:
    printed = {fact.answer.casefold(): fact.answer for fact in relation.facts}
    for fact in relation.facts:
        folded = [answer.casefold() for answer in fact.answers]
        if len(set(folded)) < len(folded):
            yield FactProblem("repeated-alias", relation.name, fact.id, repr(fact.answers))
        for alias in folded[1:]:
            if alias in printed and alias != folded[0]:
                detail = f"alias {alias!r} is another fact's answer"
                yield FactProblem("alias-clash", relation.name, fact.id, detail)


def _leaks(relation: Relation) -> Iterator[FactProblem]:
    for fact in relation.facts:
        for template in relation.templates:
            if any(_contains_words(template, answer) for answer in fact.answers):
                detail = f"{fact.answer!r} stands in the template {template!r}"
                yield FactProblem("leak-template", relation.name, fact.id, detail)
        if any(_contains_words(fact.subject, answer) for answer in fact.answers):
            detail = f"{fact.answer!r} stands in the subject {fact.subject!r}"
            yield FactProblem("leak-subject", relation.name, fact.id, detail)


def _first_tokens(relation: Relation, model: _Encoder) -> Iterator[FactProblem]:
    first: dict[int, set[str]] = defaultdict(set)
    for answer in {fact.answer for fact in relation.facts}:
        first[model.encode(" " + answer, bos=False)[0]].add(answer)
    shared = {token: answers for token, answers in first.items() if len(answers) > 1}
    for token, answers in sorted(shared.items()):
        names = ", ".join(sorted(answers)[:6])
        detail = f"{len(answers)} answers begin with token {token}: {names}"
        yield FactProblem("first-token-collision", relation.name, "", detail)


def validate(
    facts: FactSet | Relation | Iterable[Relation] | str, model: _Encoder | None = None
) -> FactReport:
    """Look for what would bend a recall figure.

    Parameters
    ----------
    facts : FactSet, Relation, relations or str
        As `km.memorization` takes them.
    model : km.Model, optional
        With a model, answers that share their first token are reported too.

    Returns
    -------
    FactReport
        Kinds: ``duplicate`` and ``several-answers`` (one subject more than once),
        ``repeated-alias`` and ``alias-clash`` (an alias that is another fact's answer),
        ``leak-template`` and ``leak-subject`` (the answer can be read off the prompt),
        ``first-token-collision``.

    Examples
    --------
    >>> from km.datasets import facts
    >>> validate(facts("country_capital_city"))
    FactReport(16 facts, no problems)
    """
    from km.recall_plan import resolve_facts

    problems: list[FactProblem] = []
    relations = resolve_facts(facts)
    for relation in relations:
        problems += _duplicates(relation)
        problems += _alias_clashes(relation)
        problems += _leaks(relation)
        if model is not None:
            problems += _first_tokens(relation, model)
    return FactReport(problems, sum(len(relation) for relation in relations))
