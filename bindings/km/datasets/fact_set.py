"""The fact model (Fact, Relation, FactSet) and the relations shipped with km."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

SHIPPED_LICENCE = "MIT"
SHIPPED_SOURCE = (
    "zjunlp/KnowledgeCircuits, data/ (relations in the LRE format), MIT; "
    "paraphrase templates and aliases beyond the original ones written for km"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing a model may have memorised.

    Attributes
    ----------
    id : str
        Unique within the relation.
    subject : str
        What the prompt asks about.
    answers : tuple of str
        The answer, then every alias accepted in its place.
    """

    id: str
    subject: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The answer as it is printed."""
        return self.answers[0]


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts of one kind, with the templates that ask for them.

    Attributes
    ----------
    name : str
        Identifier, such as ``country_capital_city``.
    kind : str
        ``factual``, ``commonsense``, ``linguistic`` or what the file says.
    templates : tuple of str
        Prompts with exactly one ``{}`` for the subject; the answer follows after one blank.
    subjectless : str
        What stands in the subject's place in the subject-removed baseline.
    facts : tuple of Fact
    """

    name: str
    kind: str
    templates: tuple[str, ...]
    subjectless: str
    facts: tuple[Fact, ...]

    def __len__(self) -> int:
        return len(self.facts)

    def __repr__(self) -> str:
        return (
            f"Relation({self.name!r}, {self.kind}, {len(self.facts)} facts, "
            f"{len(self.templates)} templates)"
        )


@dataclass(frozen=True, slots=True)
class FactSet:
    """Relations in order, with where they come from.

    Iterating gives the relations; ``len`` counts facts.
    """

    relations: tuple[Relation, ...]
    source: str = ""
    licence: str = ""
    name: str = ""
    _by_name: dict[str, Relation] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {relation.name: relation for relation in self.relations}
        if len(by_name) != len(self.relations):
            names = [relation.name for relation in self.relations]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"relation names must be unique; given twice: {', '.join(twice)}")
        object.__setattr__(self, "_by_name", by_name)

    def __iter__(self) -> Iterator[Relation]:
        return iter(self.relations)

    def __len__(self) -> int:
        return sum(len(relation) for relation in self.relations)

    def __getitem__(self, name: str) -> Relation:
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"no relation {name!r}; there are: {', '.join(self._by_name)}") from None

    def select(
        self, names: Iterable[str] | None = None, *, per_relation: int | None = None
    ) -> FactSet:
        """The named relations (all when None), each cut to its first ``per_relation`` facts."""
        relations = self.relations if names is None else tuple(self[name] for name in names)
        if per_relation is not None:
            if per_relation < 1:
                raise ValueError(f"per_relation must be at least 1, not {per_relation}")
            relations = tuple(replace(r, facts=r.facts[:per_relation]) for r in relations)
        return replace(self, relations=relations)

    def __repr__(self) -> str:
        licence = self.licence or "no licence stated"
        return f"FactSet({len(self)} facts, {len(self.relations)} relations, {licence})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(r.name)}</td><td>{html.escape(r.kind)}</td>"
            f"<td>{len(r.facts)}</td><td>{len(r.templates)}</td>"
            f"<td>{html.escape(r.templates[0]) if r.templates else ''}</td></tr>"
            for r in self.relations
        )
        head = "".join(
            f"<th>{title}</th>"
            for title in ("relation", "kind", "facts", "templates", "first template")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def relation_from_dict(record: dict[str, Any]) -> Relation:
    """A Relation from km's own JSON layout, already checked by the reader."""
    facts = tuple(
        Fact(str(item.get("id", index)), item["subject"], tuple(item["answers"]))
        for index, item in enumerate(record["facts"])
    )
    return Relation(
        name=record["name"],
        kind=record.get("kind", ""),
        templates=tuple(record["templates"]),
        subjectless=record.get("subjectless", "it"),
        facts=facts,
    )


@functools.cache
def _shipped() -> dict[str, Relation]:
    folder = resources.files("km.datasets") / "data" / "facts"
    records = [
        json.loads(entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    order = {"factual": 0, "commonsense": 1, "linguistic": 2}
    records.sort(key=lambda record: (order[record["kind"]], record["name"]))
    return {record["name"]: relation_from_dict(record) for record in records}


def relation_names() -> list[str]:
    """Names of the shipped relations."""
    return list(_shipped())


def facts(name: str | Sequence[str] = "all") -> FactSet:
    """Shipped facts.

    Parameters
    ----------
    name : str or sequence of str, default "all"
        ``"all"``, a kind (``"factual"``, ``"commonsense"``, ``"linguistic"``), a relation's name,
        or several relation names.

    Returns
    -------
    FactSet
        At least five templates a relation; the first is the zero-shot template of the source.

    Raises
    ------
    KeyError
        For an unknown name.

    Examples
    --------
    >>> capitals = facts("country_capital_city")
    >>> len(capitals), capitals["country_capital_city"].facts[6].answer
    (16, 'Paris')
    """
    shipped = FactSet(tuple(_shipped().values()), SHIPPED_SOURCE, SHIPPED_LICENCE, "shipped")
    if name == "all":
        return shipped
    if isinstance(name, str):
        of_kind = [relation.name for relation in shipped if relation.kind == name]
        return shipped.select(of_kind or [name])
    return shipped.select(name)
