"""Questions with a passage that answers them, and copies whose passage says something else.

The fields are those of Longpre et al. 2021 ("Entity-based knowledge conflicts in question
answering"): see docs/measures/conflict.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from km.datasets.answer_text import Spans
from km.errors import ArgumentError

# Labels of named-entity recognisers (OntoNotes) and the type of answer each stands for.
_TYPES = {
    "PERSON": "PERSON",
    "DATE": "DATE",
    "CARDINAL": "NUMERIC",
    "QUANTITY": "NUMERIC",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "ORG": "ORGANIZATION",
}


@dataclass(frozen=True, slots=True)
class QAAnswer:
    """An answer as a text, with what is known of the entity it names.

    Attributes
    ----------
    text : str
    answer_type : str or None
        Such as ``PERSON``, or the name of a relation; None: not typed.
    aliases : tuple of str
    spans : tuple of (int, int) or None
        Places in the passage, code points, end exclusive; None: not looked for.
    ner_label, kb_id, wikidata_label, wikipedia_page : str or None
    wikidata_types : tuple of str or None
        In lower case.
    popularity : int or None
        Page views.
    """

    text: str
    answer_type: str | None = None
    aliases: tuple[str, ...] = ()
    spans: Spans | None = None
    ner_label: str | None = None
    kb_id: str | None = None
    wikidata_label: str | None = None
    wikidata_types: tuple[str, ...] | None = None
    wikipedia_page: str | None = None
    popularity: int | None = None

    @property
    def accepted(self) -> tuple[str, ...]:
        """The text and its aliases."""
        return (self.text, *self.aliases)

    def linked(self, entity: WikidataEntity | None) -> QAAnswer:
        """The answer with what Wikidata says of it, and typed by its NER label.

        Only a linked answer gets a type, as in the reference; None changes nothing.
        """
        if entity is None:
            return self
        types = tuple(name.lower() for name in entity.types)
        return replace(
            self,
            wikidata_label=entity.label,
            aliases=entity.aliases,
            wikidata_types=types,
            wikipedia_page=entity.page,
            popularity=entity.popularity,
            answer_type=type_of_label(self.ner_label, types),
        )


@dataclass(frozen=True, slots=True)
class WikidataEntity:
    """An entry of the authors' Wikidata file.

    Attributes
    ----------
    id, label : str
    aliases, types : tuple of str
    page : str or None
    popularity : int
        Page views.
    """

    id: str
    label: str
    aliases: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    page: str | None = None
    popularity: int = 0


def type_of_label(label: str | None, wikidata_types: Iterable[str] = ()) -> str | None:
    """PERSON, DATE, NUMERIC, LOCATION, ORGANIZATION or None, from the label of an entity.

    Examples
    --------
    >>> type_of_label("GPE"), type_of_label("CARDINAL", ["year"]), type_of_label("MONEY")
    ('LOCATION', 'DATE', None)
    """
    if label == "CARDINAL" and "year" in wikidata_types:
        return "DATE"
    return _TYPES.get(label or "")


def majority_type(types: Iterable[str | None]) -> str | None:
    """The most frequent type, the first of several; None where there is none.

    Examples
    --------
    >>> majority_type(["DATE", "PERSON", None, "PERSON"])
    'PERSON'
    """
    counts = Counter(name for name in types if name)
    return counts.most_common(1)[0][0] if counts else None


@dataclass(frozen=True, slots=True)
class QAExample:
    """A question, a passage and the answers the passage gives.

    Attributes
    ----------
    uid : str
    query, context : str
    answers : tuple of QAAnswer
        Of a substituted example, the substitute.
    is_substitute : bool
    metadata : mapping
        What else a reader or a measure knows: ``relation``, ``fact``, ``subjectless``,
        ``paraphrases``, ``completion``, ``position``; see :func:`km.conflict`.
    original : QAExample, str or None
        What it was made from, or only its uid.
    """

    uid: str
    query: str
    context: str
    answers: tuple[QAAnswer, ...]
    is_substitute: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    original: QAExample | str | None = None

    @property
    def answer_type(self) -> str | None:
        """The most frequent type of its answers; None: none is typed."""
        return majority_type(answer.answer_type for answer in self.answers)

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers' texts."""
        return tuple(answer.text for answer in self.answers)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The answers' texts and aliases, each once."""
        every = (text for answer in self.answers for text in answer.accepted)
        return tuple(dict.fromkeys(every))


@dataclass(frozen=True, slots=True)
class QASet:
    """Examples in order, with where they come from.

    Attributes
    ----------
    examples : tuple of QAExample
    name, source, licence : str
    skipped : tuple of (str, str)
        uid of each example that a substitution left out, and why.
    """

    examples: tuple[QAExample, ...]
    name: str = ""
    source: str = ""
    licence: str = ""
    skipped: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[QAExample]:
        return iter(self.examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, uid: str) -> QAExample:
        for example in self.examples:
            if example.uid == uid:
                return example
        raise KeyError(f"no example {uid!r} among {len(self)}")

    def __repr__(self) -> str:
        licence = self.licence or "no licence stated"
        left = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"QASet({self.name!r}, {len(self)} examples{left}, {licence})"

    def typed(self, types: Mapping[str, str] | Callable[[QAAnswer], str | None]) -> QASet:
        """The same examples with types of one's own.

        Parameters
        ----------
        types : mapping or function
            The type of each answer's text, or of each answer. Answers without one keep theirs.

        Examples
        --------
        >>> example = QAExample("1", "Where?", "In Oslo.", (QAAnswer("Oslo"),))
        >>> QASet((example,)).typed({"Oslo": "LOCATION"}).examples[0].answer_type
        'LOCATION'
        """
        find = types if callable(types) else lambda answer: types.get(answer.text)
        return replace(self, examples=tuple(_typed(example, find) for example in self.examples))


def _typed(example: QAExample, find: Callable[[QAAnswer], str | None]) -> QAExample:
    answers = tuple(
        replace(answer, answer_type=find(answer) or answer.answer_type)
        for answer in example.answers
    )
    return replace(example, answers=answers)


def as_examples(examples: QASet | Iterable[QAExample]) -> list[QAExample]:
    """A list of examples that is not empty.

    Raises
    ------
    TypeError
        Something else is among them.
    ArgumentError
        There are none.
    """
    listed = list(examples)
    for item in listed:
        if not isinstance(item, QAExample):
            raise TypeError(f"examples must hold QAExample, not {type(item).__name__}")
    if not listed:
        raise ArgumentError("there are no examples")
    return listed
