"""What is asked of a model about conflicting passages: prompts, accepted answers, content keys."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.datasets.answer_text import find_mentions
from km.datasets.conflict_set import QAExample
from km.datasets.substitution import answer_groups, is_other, shuffle
from km.errors import ArgumentError
from km.result import content_key
from km.table import Column

if TYPE_CHECKING:
    from km.model import Model

CONFLICT_ID = "conflict.memorization_ratio"
CONFLICT_VERSION = 1

By: TypeAlias = Literal["generate", "score"]

CLOSED = "closed_book"
ORIGINAL = "original"
SUBSTITUTE = "substitute"
ORIGINAL_FIRST = "original_then_substitute"
SUBSTITUTE_FIRST = "substitute_then_original"
PARAPHRASE = "paraphrase"

# Prompts with and without a passage: of facts to be completed, and of questions (those of AdaCAD).
COMPLETION = ("{context} {question}", "{question}")
QUESTION = (
    "{context} \nUsing only the references listed above, answer the following question: \n"
    "Question: {question}\nAnswer:",
    "Answer the following question: \nQuestion: {question}\nAnswer:",
)

COLUMNS = [
    Column("uid", "text", "", "Of the substituted example."),
    Column("question", "text", "", "Fact, or uid of the original, which several rows share."),
    Column("relation", "text", "", "Relation, or type of the answer; null when neither is known."),
    Column("fact", "text", "", "Identifier within the relation; null for other questions."),
    Column("condition", "text", "", "Which passages stood before the question."),
    Column("variant", "int64", "", "Index of the paraphrase; 0 for the question itself."),
    Column("prompt", "text", "", "What the model was given."),
    Column("prediction", "text", "", "What it answered."),
    Column(
        "logp", "double", "nats", "Log-probability of all tokens that were generated or scored."
    ),
    Column("bucket", "text", "", "original, substitute or other."),
    Column("both", "bool", "", "It matches the substitute as well as the original."),
    Column("originals", "text", "", "Accepted original answers, as JSON."),
    Column("own_original", "bool", "", "They are the model's own answer without a passage."),
    Column("substitutes", "text", "", "Accepted spellings of the substitute, as JSON."),
    Column("position", "text", "", "Where the passage gives the substitute."),
    Column("popularity", "double", "", "Of the fact or its answer, such as page views."),
    Column("matched", "bool", "", "The substitute is like the original; null: not matched."),
    Column("known", "text", "", "State of the fact by recall; null where not given."),
]


@dataclass(frozen=True)
class Asked:
    """One prompt.

    Attributes
    ----------
    condition : str
    variant : int
    prompt : str
    """

    condition: str
    variant: int
    prompt: str


@dataclass(frozen=True)
class Item:
    """One substituted example with its prompts, the closed-book one first.

    Attributes
    ----------
    row : dict
        The columns that all its rows share.
    originals, substitutes, others : tuple of str
        Accepted answers; others: wrong answers of the same type to choose from.
    asked : tuple of Asked
    """

    row: dict[str, Any] = field(hash=False)
    originals: tuple[str, ...]
    substitutes: tuple[str, ...]
    others: tuple[str, ...]
    asked: tuple[Asked, ...]


def make_items(
    examples: Sequence[QAExample],
    *,
    templates: tuple[str, str] | None,
    inter_context: bool,
    paraphrases: int,
    n_others: int,
    known: Mapping[tuple[str, str], str],
    seed: int,
) -> list[Item]:
    """The items of checked examples; parameters as of :func:`km.conflict`."""
    rng = random.Random(seed)
    originals = [e.original for e in examples if isinstance(e.original, QAExample)]
    groups = answer_groups([*originals, *examples])
    items = []
    for example in examples:
        original = example.original if isinstance(example.original, QAExample) else None
        pool = [
            answer.text
            for answer in groups.get(example.answer_type or "", {}).values()
            if is_other(answer, example) and not (original and not is_other(answer, original))
        ]
        shuffle(rng, pool)
        items.append(
            Item(
                row=_shared(example, original, known),
                originals=original.accepted if original else (),
                substitutes=example.accepted,
                others=tuple(pool[:n_others]),
                asked=tuple(_asked(example, original, templates, inter_context, paraphrases)),
            )
        )
    return items


def check_examples(examples: Sequence[QAExample]) -> None:
    """That examples can be measured.

    Raises
    ------
    ArgumentError
        One is no substituted example, has no answer or shares its uid with another.
    """
    seen: set[str] = set()
    for example in examples:
        if not example.is_substitute:
            raise ArgumentError(
                f"{example.uid} is no substituted example: make some with "
                "km.datasets.counterfactuals() or km.datasets.substitute_corpus()"
            )
        if not example.accepted:
            raise ArgumentError(f"{example.uid} has no answer")
        if example.uid in seen:
            raise ArgumentError(f"uid {example.uid!r} is given twice; make them unique first")
        seen.add(example.uid)


def as_templates(value: Any) -> tuple[str, str] | None:
    """Two templates, with and without a passage, or None.

    Raises
    ------
    ArgumentError
        A field is missing.
    """
    if value is None:
        return None
    if isinstance(value, str) or len(value) != 2:
        raise ArgumentError("templates must be two texts: with and without a passage")
    whole, bare = (str(text) for text in value)
    if "{context}" not in whole or "{question}" not in whole or "{question}" not in bare:
        raise ArgumentError(
            "templates: the first needs {context} and {question}, the second {question}"
        )
    return whole, bare


def _shared(
    example: QAExample, original: QAExample | None, known: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    about = example.metadata
    relation = about.get("relation") or example.answer_type
    fact = about.get("fact")
    source = original.uid if original else example.original
    if relation is not None and fact is not None:
        source = f"{relation}/{fact}"
    return {
        "uid": example.uid,
        "question": source if isinstance(source, str) else example.uid,
        "relation": relation,
        "fact": fact,
        "own_original": original is None,
        "position": about.get("position") or _position(example),
        "popularity": _popularity(about, original),
        "matched": about["match"]["matched"] if "match" in about else None,
        "known": known.get((str(relation), str(fact))),
    }


def _popularity(about: Mapping[str, Any], original: QAExample | None) -> float | None:
    value = about.get("popularity")
    if value is None and original:
        value = next((a.popularity for a in original.answers if a.popularity is not None), None)
    return None if value is None else float(value)


def _position(example: QAExample) -> str | None:
    """Third of the passage that first gives the substitute; None where no mention is found."""
    answer = example.answers[0]
    spans = answer.spans or find_mentions(example.context, example.texts)
    if not spans:
        return None
    start, end = spans[0]
    third = int(3 * (start + end) / 2 / max(1, len(example.context)))
    return ("first third", "middle third", "last third")[min(third, 2)]


def _asked(
    example: QAExample,
    original: QAExample | None,
    templates: tuple[str, str] | None,
    inter_context: bool,
    paraphrases: int,
) -> Iterable[Asked]:
    form = COMPLETION if example.metadata.get("completion") else QUESTION
    whole, bare = templates or form

    def fill(template: str, question: str, context: str = "") -> str:
        parts = template.split("{context}")
        return context.join(part.replace("{question}", question) for part in parts)

    new = example.context
    yield Asked(CLOSED, 0, fill(bare, example.query))
    if original and original.context:
        yield Asked(ORIGINAL, 0, fill(whole, example.query, original.context))
    yield Asked(SUBSTITUTE, 0, fill(whole, example.query, new))
    if inter_context and original and original.context:
        old = original.context
        yield Asked(ORIGINAL_FIRST, 0, fill(whole, example.query, f"{old} {new}"))
        yield Asked(SUBSTITUTE_FIRST, 0, fill(whole, example.query, f"{new} {old}"))
    others = list(example.metadata.get("paraphrases") or ())[:paraphrases]
    for i, question in enumerate(others, 1):
        yield Asked(PARAPHRASE, i, fill(bare, str(question)))


def check_lengths(model: Model, items: Iterable[Item], max_tokens: int) -> None:
    """That every prompt, and what follows it, fits into the model's context.

    Raises
    ------
    ArgumentError
        One does not; names the example.
    """
    context = int(model.config["context_length"])
    for item in items:
        for asked in item.asked:
            n = len(model.encode(asked.prompt))
            if n + max_tokens - 1 > context:
                raise ArgumentError(
                    f"{item.row['uid']}: the prompt with {asked.condition} has {n} tokens; with "
                    f"{max_tokens} more it does not fit into the model's context of {context}"
                )


def chunk_key(model: Model, items: Sequence[Item], parameters: Mapping[str, Any]) -> str:
    """Content key of the rows of items."""
    described = [
        [item.row, item.originals, item.substitutes, item.others,
         [[asked.condition, asked.variant] for asked in item.asked]]
        for item in items
    ]  # fmt: skip
    ids = [model.encode(asked.prompt) for item in items for asked in item.asked]
    whole = {**parameters, "items": json.loads(json.dumps(described))}
    return content_key(CONFLICT_ID, CONFLICT_VERSION, whole, model.fingerprint, ids)
