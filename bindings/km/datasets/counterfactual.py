"""Counterfactuals by relation: facts as questions with a passage, and substitutes that match.

A fact becomes a prompt to complete and a passage that states it. The substitute is an answer of
another fact of the relation; with a model at hand, one that has as many tokens, is about as
frequent, and about as probable before anything is said of the subject.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from km.arguments import real_number, strings, whole_number
from km.datasets.conflict_set import QAAnswer, QAExample, QASet, as_examples
from km.datasets.fact_set import Fact, FactSet, Relation
from km.datasets.priming_set import neutral_texts
from km.datasets.substitution import (
    NO_CANDIDATE,
    NO_MENTION,
    Draws,
    Examples,
    answer_groups,
    is_other,
    substitute,
)
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.model import Model

POSITIONS = ("only", "start", "middle", "end")
# What stands before an answer when nothing is asked, where an example does not say.
BARE_PROMPT = "The answer is"


def fact_examples(
    facts: FactSet | Relation | Iterable[Relation],
    *,
    template: int = 0,
    statement: int = 1,
    positions: str | Sequence[str] = "only",
    fillers: int = 4,
) -> QASet:
    """Facts as examples: a prompt to complete, and a passage that states the fact.

    Parameters
    ----------
    facts : FactSet, Relation or iterable of Relation
    template : int
        Template of the prompt.
    statement : int
        Template of the passage: with the answer and a full stop behind it. Another one than the
        prompt's, so that copying the passage word by word is not all there is to do.
    positions : str or sequence of str
        Where the statement stands in the passage: "only" that, or at the "start", in the "middle"
        or at the "end" of sentences that have nothing to do with it. One example each.
    fillers : int
        Such sentences, of :func:`neutral_texts`.

    Returns
    -------
    QASet
        The answers' type is the relation. ``metadata``: relation, fact, subject, position,
        completion, subjectless (the prompt without its subject), paraphrases (the prompts of the
        other templates).

    Raises
    ------
    ArgumentError
        A relation has no such template.

    Examples
    --------
    >>> from km.datasets import facts
    >>> example = fact_examples(facts("country_capital_city")).examples[6]
    >>> example.query
    'The capital of France is the city of'
    >>> example.context
    'What is the capital of France? It is the city of Paris.'
    """
    relations = [facts] if isinstance(facts, Relation) else list(facts)
    places = strings("positions", positions)
    for place in places:
        if place not in POSITIONS:
            raise ArgumentError(f"positions holds {place!r}; there are: {', '.join(POSITIONS)}")
    extra = neutral_texts()[: whole_number("fillers", fillers, 1, len(neutral_texts()))]
    examples = [
        _fact_example(relation, fact, template, statement, place, extra)
        for relation in relations
        for fact in relation.facts
        for place in places
    ]
    source = facts.source if isinstance(facts, FactSet) else ""
    licence = facts.licence if isinstance(facts, FactSet) else ""
    return QASet(tuple(as_examples(examples)), "facts", source, licence)


def _fact_example(
    relation: Relation,
    fact: Fact,
    template: int,
    statement: int,
    place: str,
    fillers: Sequence[str],
) -> QAExample:
    n = len(relation.templates)
    for name, index in (("template", template), ("statement", statement)):
        if not 0 <= index < n:
            raise ArgumentError(f"{name} is {index}, but {relation.name} has {n} templates")
    stem = relation.templates[statement].replace("{}", fact.subject)
    stated = f"{stem} {_sentence_end(fact.answer)}"
    before = {"only": 0, "start": 0, "middle": len(fillers) // 2, "end": len(fillers)}[place]
    others = [] if place == "only" else fillers
    prompts = [text.replace("{}", fact.subject) for text in relation.templates]
    return QAExample(
        uid=f"{relation.name}/{fact.id}" + ("" if place == "only" else f"/{place}"),
        query=prompts[template],
        context=" ".join([*others[:before], stated, *others[before:]]),
        answers=(QAAnswer(fact.answer, relation.name, fact.answers[1:]),),
        metadata={
            "relation": relation.name,
            "fact": fact.id,
            "subject": fact.subject,
            "position": place,
            "completion": True,
            "statement": stem,
            "subjectless": relation.templates[template].replace("{}", relation.subjectless),
            "paraphrases": [
                text for i, text in enumerate(prompts) if i not in (template, statement)
            ],
        },
    )


def _sentence_end(answer: str) -> str:
    """An answer with a full stop, where it does not end in one."""
    return answer if answer.endswith(".") else f"{answer}."


def counterfactuals(
    facts: FactSet | Relation | Iterable[Relation],
    model: Model | None = None,
    *,
    template: int = 0,
    statement: int = 1,
    positions: str | Sequence[str] = "only",
    fillers: int = 4,
    seed: int = 0,
) -> QASet:
    """Facts with passages that state another answer of the same relation.

    Parameters
    ----------
    model : Model, optional
        Choose substitutes by :func:`substitute_matched`; None: draw them from the relation.
    facts, template, statement, positions, fillers
        As of :func:`fact_examples`. All positions of a fact get the same substitute.
    seed : int

    Returns
    -------
    QASet
        Only the statement is changed, not the subject where it holds the answer's words.

    Examples
    --------
    >>> from km.datasets import facts
    >>> made = counterfactuals(facts("country_capital_city"))
    >>> made.examples[6].original.texts, made.examples[6].texts != ("Paris",)
    (('Paris',), True)
    """
    originals = fact_examples(
        facts, template=template, statement=statement, positions=positions, fillers=fillers
    )
    first = originals.examples[0].metadata["position"]
    asked = [example for example in originals if example.metadata["position"] == first]
    rule = _Nearest(seed) if model is None else _Nearest.matched(asked, model, seed=seed)
    groups = answer_groups(asked)
    chosen = {_fact_key(example): rule.choose(example, groups) for example in asked}
    made, skipped = [], []
    for example in originals:
        choice = chosen[_fact_key(example)]
        if choice is None:
            skipped.append((example.uid, NO_CANDIDATE))
        else:
            made.append(_restated(example, *choice))
    return replace(
        originals, name="facts-counterfactual", examples=tuple(made), skipped=tuple(skipped)
    )


def _fact_key(example: QAExample) -> tuple[str, str]:
    return example.metadata["relation"], example.metadata["fact"]


def _restated(example: QAExample, answer: QAAnswer, match: Mapping[str, Any]) -> QAExample:
    """The passage with another answer behind its statement; the subject is not touched."""
    stem = example.metadata["statement"] + " "
    start = example.context.index(stem) + len(stem)
    rest = example.context[start + len(_sentence_end(example.answers[0].text)) :]
    new = replace(answer, spans=((start, start + len(answer.text)),))
    return replace(
        example,
        uid=f"relation-sub_{example.uid}",
        context=f"{example.context[:start]}{_sentence_end(answer.text)}{rest}",
        answers=(new,),
        is_substitute=True,
        metadata={**example.metadata, **match},
        original=example,
    )


# ---- matching ----


@dataclass(frozen=True, slots=True)
class _Traits:
    """What substitutes are matched on."""

    tokens: int
    prior: float
    frequency: float


def substitute_matched(
    examples: Examples,
    model: Model,
    *,
    frequency: Mapping[str, float] | None = None,
    nearest: int = 3,
    prior_caliper: float = 1.0,
    frequency_caliper: float = 2.0,
    whole_words: bool = True,
    seed: int = 0,
) -> QASet:
    """Substitutes of the same type that are like the original answer to the model.

    Parameters
    ----------
    examples : QASet or iterable of QAExample
        Those without a type are passed over.
    model : Model
        Its tokens and probabilities are matched.
    frequency : mapping of str to float, optional
        Of each answer's text, such as corpus counts or page views, positive. None: the answers'
        popularity where all of a type have one, else how many examples have the answer.
    nearest : int
        The substitute is drawn from so many of the nearest candidates.
    prior_caliper : float, nats
        Largest difference of log prior probability that counts as matched.
    frequency_caliper : float
        Largest ratio of frequencies that counts as matched.
    whole_words : bool
        As of :func:`substitute`.
    seed : int

    Returns
    -------
    QASet
        Whatever the pool allows: candidates with as many tokens first, then those for which the
        differences of log prior and log frequency sum to least. ``metadata["match"]`` says how
        near the substitute is, and whether it is matched on all three.

    Notes
    -----
    The prior is the log-probability of blank and answer after ``metadata["subjectless"]``, or after
    "The answer is" where an example has none.
    """
    listed = as_examples(examples)
    rule = _Nearest.matched(
        listed,
        model,
        frequency=frequency,
        nearest=nearest,
        prior_caliper=prior_caliper,
        frequency_caliper=frequency_caliper,
        seed=seed,
    )
    groups = answer_groups(listed)
    made, skipped = [], []
    for example in listed:
        if example.answer_type is None:
            continue
        choice = rule.choose(example, groups)
        if choice is None:
            skipped.append((example.uid, NO_CANDIDATE))
            continue
        answer, match = choice
        try:
            new = substitute(example, answer, "matched-sub", whole_words=whole_words)
        except ArgumentError:
            skipped.append((example.uid, NO_MENTION))
            continue
        made.append(replace(new, metadata={**example.metadata, **match}))
    named = examples if isinstance(examples, QASet) else QASet(())
    name = f"{named.name}-matched" if named.name else "matched"
    return QASet(tuple(made), name, named.source, named.licence, tuple(skipped))


class _Nearest:
    """Draws a substitute from an example's pool: from all of it, or from its nearest answers."""

    def __init__(self, seed: int) -> None:
        self._draw = Draws(seed)
        self._traits: _Priors | None = None
        self._nearest, self._widest, self._ratio = 1, 0.0, 1.0

    @classmethod
    def matched(
        cls,
        examples: Sequence[QAExample],
        model: Model,
        *,
        frequency: Mapping[str, float] | None = None,
        nearest: int = 3,
        prior_caliper: float = 1.0,
        frequency_caliper: float = 2.0,
        seed: int = 0,
    ) -> _Nearest:
        """Parameters as of :func:`substitute_matched`."""
        rule = cls(seed)
        rule._nearest = whole_number("nearest", nearest, 1)
        rule._widest = real_number("prior_caliper", prior_caliper, 0, 1e9)
        rule._ratio = real_number("frequency_caliper", frequency_caliper, 1, 1e9)
        groups = answer_groups(examples)
        counts = _frequencies(examples, groups) if frequency is None else frequency
        rule._traits = _Priors(model, counts, examples, groups)
        return rule

    def choose(
        self, example: QAExample, groups: Mapping[str, Mapping[str, QAAnswer]]
    ) -> tuple[QAAnswer, dict[str, Any]] | None:
        """The substitute and what to note of it; None where the pool has none."""
        answers = groups[example.answer_type or ""].values()
        pool = [answer for answer in answers if is_other(answer, example)]
        if not pool:
            return None
        traits = self._traits
        if traits is None:
            return pool[self._draw(len(pool))], {}
        own = traits(example, example.answers[0])
        pool.sort(key=lambda answer: _distance(own, traits(example, answer)))
        chosen = pool[self._draw(min(self._nearest, len(pool)))]
        match = _match(own, traits(example, chosen), self._widest, self._ratio)
        return chosen, {"match": match}


def _frequencies(
    examples: Sequence[QAExample], groups: Mapping[str, Mapping[str, QAAnswer]]
) -> dict[str, float]:
    """Popularity where a whole type has it, else counts in the set."""
    counts: dict[str, float] = dict(
        Counter(text for example in examples for text in dict.fromkeys(example.texts))
    )
    for answers in groups.values():
        views = [answer.popularity for answer in answers.values()]
        if all(views):  # neither unknown nor zero
            counts |= {text: float(answer.popularity or 0) for text, answer in answers.items()}
    return counts


class _Priors:
    """Traits of answers; log-probabilities of a prompt's whole pool are computed together."""

    def __init__(
        self,
        model: Model,
        counts: Mapping[str, float],
        examples: Sequence[QAExample],
        groups: Mapping[str, Mapping[str, QAAnswer]],
    ) -> None:
        self._counts = counts
        self._tokens: dict[str, int] = {}
        self._logp: dict[tuple[str, str], float] = {}
        wanted: dict[str, dict[str, None]] = {}
        for example in examples:
            if example.answer_type is not None:
                pool = wanted.setdefault(_prior_prompt(example), {})
                pool.update(dict.fromkeys([*example.texts, *groups[example.answer_type]]))
        prompts = list(wanted)
        if not prompts:
            return
        scored = model.score(prompts, [list(wanted[prompt]) for prompt in prompts])
        flat = [(prompt, text) for prompt in prompts for text in wanted[prompt]]
        for key, logp, n in zip(flat, scored.table["logp"], scored.table["n_tokens"], strict=True):
            self._logp[key] = logp
            self._tokens[key[1]] = n

    def __call__(self, example: QAExample, answer: QAAnswer) -> _Traits:
        frequency = self._counts.get(answer.text)
        if frequency is None or not 0 < frequency < math.inf:
            raise ArgumentError(f"frequency of {answer.text!r} is {frequency}; it must be positive")
        logp = self._logp[_prior_prompt(example), answer.text]
        return _Traits(self._tokens[answer.text], logp, frequency)


def _prior_prompt(example: QAExample) -> str:
    return str(example.metadata.get("subjectless") or BARE_PROMPT)


def _distance(own: _Traits, other: _Traits) -> tuple[int, float]:
    gap = abs(own.prior - other.prior) + abs(math.log(own.frequency / other.frequency))
    return abs(own.tokens - other.tokens), gap


def _match(own: _Traits, other: _Traits, widest: float, ratio: float) -> dict[str, Any]:
    matched = (
        own.tokens == other.tokens
        and abs(own.prior - other.prior) <= widest
        and abs(math.log(own.frequency / other.frequency)) <= math.log(ratio) + 1e-12
    )
    return {
        "tokens": [own.tokens, other.tokens],
        "prior": [own.prior, other.prior],
        "frequency": [own.frequency, other.frequency],
        "matched": matched,
    }
