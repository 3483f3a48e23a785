"""Prompts about facts with the place of their subject: what interventions are made on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from km.answers import ids_and_text, target_token
from km.arguments import whole_number
from km.errors import ArgumentError
from km.recall_plan import resolve_facts

if TYPE_CHECKING:
    from km.datasets import FactSet, Relation
    from km.model import Model

Facts: TypeAlias = "FactSet | Relation | str | Iterable[Relation] | Iterable[Mapping[str, Any]]"


class FactPrompt(NamedTuple):
    """One prompt about one fact.

    Attributes
    ----------
    fact : str
        Identifier; the prompt's text where none was given.
    relation : str
    ids : list of int
    text : str
    subject : (int, int)
        Its first token and the one after its last.
    answers : tuple of int
        Accepted first tokens, the printed answer's first; empty: not known.
    subject_ids : list of int
        The subject tokenised alone.
    """

    fact: str
    relation: str
    ids: list[int]
    text: str
    subject: tuple[int, int]
    answers: tuple[int, ...]
    subject_ids: list[int]


def fact_prompts(
    model: Model, facts: Facts, template: int, bos: bool | None = None
) -> list[FactPrompt]:
    """Prompts from fact sets, relations, the name of a shipped one, or mappings.

    A mapping has `prompt` (text or token ids), `subject` (text, or its first token and the one
    after its last), and optionally `answer` (text or token id), `fact` and `relation`.

    Raises
    ------
    ArgumentError
        A prompt does not hold its subject, a template is missing, or there are no facts.
    """
    given: Any = facts
    if not isinstance(facts, str) and not hasattr(facts, "facts"):
        given = list(facts)
        if given and isinstance(given[0], Mapping):
            return [_from_mapping(model, row, bos) for row in given]
    return [
        prompt
        for relation in resolve_facts(given)
        for prompt in _from_relation(model, relation, template, bos)
    ]


def _from_mapping(model: Model, row: Mapping[str, Any], bos: bool | None) -> FactPrompt:
    unknown = row.keys() - {"prompt", "subject", "answer", "fact", "relation"}
    if unknown or not {"prompt", "subject"} <= row.keys():
        raise ArgumentError(
            f"a prompt has prompt, subject, answer, fact and relation, not {sorted(row)}"
        )
    ids, text = ids_and_text(model, row["prompt"], bos)
    shown = text.decode("utf-8", "replace")
    subject, answer = row["subject"], row.get("answer")
    if isinstance(subject, str):
        span = subject_tokens(model, shown, shown.find(subject), subject, bos)
        subject_ids = model.encode(subject, bos=False)
    else:
        try:
            begin, end = subject
        except (TypeError, ValueError):
            raise ArgumentError(
                f"subject is {subject!r}; give its text, or its first token and the one after its "
                "last"
            ) from None
        span = (whole_number("subject", begin, 0), whole_number("subject", end, 0))
        subject_ids = ids[span[0] : span[1]]
    if not 0 <= span[0] < span[1] <= len(ids):
        raise ArgumentError(f"subject {subject!r} is not within the prompt {shown!r}")
    return FactPrompt(
        str(row.get("fact", shown)),
        str(row.get("relation", "")),
        ids,
        shown,
        span,
        () if answer is None else (target_token(model, ids, text, answer, bos, "answer"),),
        subject_ids,
    )


def _from_relation(
    model: Model, relation: Relation, template: int, bos: bool | None
) -> Iterator[FactPrompt]:
    if not 0 <= template < len(relation.templates):
        raise ArgumentError(f"relation {relation.name!r} has no template {template}")
    wording = relation.templates[template]
    for fact in relation.facts:
        text = wording.replace("{}", fact.subject)
        ids = model.encode(text, bos=bos)
        first = [target_token(model, ids, text, answer, bos) for answer in fact.answers]
        yield FactPrompt(
            fact.id,
            relation.name,
            ids,
            text,
            subject_tokens(model, text, wording.index("{}"), fact.subject, bos),
            tuple(dict.fromkeys(first)),
            model.encode(fact.subject, bos=False),
        )


def subject_tokens(
    model: Model, prompt: str, at: int, subject: str, bos: bool | None
) -> tuple[int, int]:
    """The tokens that hold a part of the subject, which starts at character `at`.

    Raises
    ------
    ArgumentError
        The prompt does not hold the subject there.
    """
    if at < 0 or not subject or not prompt.startswith(subject, at):
        raise ArgumentError(f"the prompt {prompt!r} does not hold the subject {subject!r}")
    begin = len(prompt[:at].encode())
    end = begin + len(subject.encode())
    held = [
        i
        for i, token in enumerate(model.tokens(prompt, bos=bos))
        if token.start < end and token.end > begin
    ]
    return held[0], held[-1] + 1
