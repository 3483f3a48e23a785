"""The cases of a decoder study: MemoTrap and NQ-Synth as prompts, answers and two classes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from km.datasets.answer_text import answer_part, exact_match
from km.datasets.conflict_readers import TwoClassItem
from km.datasets.conflict_set import QAExample
from km.datasets.conflict_shipped import MEMOTRAP_FILES, memotrap, nq_synth
from km.errors import ArgumentError

if TYPE_CHECKING:
    from km.model import Model

Part: TypeAlias = Literal["validation", "test"]

MEMOTRAP, NQ_SYNTH = "memotrap", "nq_synth"
FILES = (*MEMOTRAP_FILES, NQ_SYNTH)

# Two examples of ours and the question, with a passage and without. Chosen on validation items:
# docs/measures/decoders.md.
_ASKED = "Question: {question}\nAnswer:"
_SHOWN = (
    (
        "The lighthouse on Cape Arden was built by Ida Moss in 1871 .",
        "Who built the lighthouse on cape arden ?",
        "Ida Moss",
    ),
    (
        "Lake Tern lies in the north of Varland and is 40 metres deep .",
        "Where is lake tern ?",
        "Varland",
    ),
)
EXAMPLES = (
    "".join(f"Context: {c}\n{_ASKED.format(question=q)} {a}\n\n" for c, q, a in _SHOWN),
    "".join(f"{_ASKED.format(question=q)} {a}\n\n" for _, q, a in _SHOWN),
)
QUESTION = (f"{EXAMPLES[0]}Context: {{context}}\n{_ASKED}", f"{EXAMPLES[1]}{_ASKED}")

# Share of the clusters that choose hyper-parameters and are never tested.
VALIDATION_SHARE = 0.2

# Tokens generated: more than any answer has.
_MOST_TOKENS = {
    "proverb_ending": 8,
    "proverb_translation": 8,
    "history_of_science": 4,
    NQ_SYNTH: 12,
}
_ENDING_STOP = re.compile(r'[\n.!?"“”]')
_ANSWER_STOP = re.compile(r"\n|[.,;:!?]\s")
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Sizes:
    """How many clusters of a file are looked at; None: all there are.

    Attributes
    ----------
    validation, test : int or None
        One item each; all items of all clusters where both are None.
    coda : int or None
        The first so many test clusters are also decoded by CoDa, which is by far the dearest.
    longest : int or None
        Words of a passage: longer ones are left out.
    """

    validation: int | None = None
    test: int | None = None
    coda: int | None = None
    longest: int | None = None


@dataclass(frozen=True)
class Case:
    """One item as a model is shown it.

    Attributes
    ----------
    file, id, cluster : str
        The cluster: a proverb, an event, a question.
    part : {"validation", "test"}
    coda : bool
        Whether CoDa decodes it.
    prompt, without : str
        With its context, and without.
    classes : (str, str) or None
        Continuations, the wanted one first; None: the other is what the model answers without the
        context.
    answer : str
        What a generated text has to equal.
    example : str
        What the prompt begins with whatever the item is: CoDa leaves out nothing of it.
    """

    file: str
    id: str
    cluster: str
    part: Part
    coda: bool
    prompt: str
    without: str
    classes: tuple[str, str] | None
    answer: str
    example: str = ""

    @property
    def task(self) -> str:
        """What it is analysed with: memotrap or nq_synth."""
        return NQ_SYNTH if self.file == NQ_SYNTH else MEMOTRAP

    @property
    def max_tokens(self) -> int:
        """Tokens that are generated at most."""
        return _MOST_TOKENS[self.file]

    def is_decided(self, text: str) -> bool:
        """Whether more text could not change what was answered."""
        stop = _ANSWER_STOP if self.file == NQ_SYNTH else _ENDING_STOP
        return stop.search(text.lstrip()) is not None

    def answered(self, text: str) -> str:
        """The part of a generated text that is the answer."""
        if self.file == NQ_SYNTH:
            return answer_part(text)
        return _ENDING_STOP.split(text.strip(), maxsplit=1)[0].strip()

    def is_match(self, text: str) -> bool:
        """Whether a generated text gives the wanted answer and nothing more.

        Of endings, articles count: "A" is a class of its own.
        """
        found = self.answered(text)
        if self.file == NQ_SYNTH:
            return exact_match(found, [self.answer])
        return _words(found) == _words(self.answer)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


# ---- which items ----


def rank(seed: int, key: str) -> float:
    """A number in [0, 1) of a key: the order of items, and which part they belong to."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def make_cases(sizes: Mapping[str, Sizes], seed: int) -> list[Case]:
    """The cases of all files: validation first, then tests; clusters in the seed's order.

    A cluster belongs to one part in every file, whatever the sizes are.

    Raises
    ------
    ArgumentError
        There is no such file.
    """
    unknown = sorted(sizes.keys() - set(FILES))
    if unknown:
        raise ArgumentError(f"sizes: no file {unknown[0]!r}; there are: {', '.join(FILES)}")
    cases: list[Case] = []
    for file, size in sizes.items():
        cases += _cases_of(file, size, seed)
    return sorted(cases, key=lambda case: case.part == "test")


def check_cases(cases: Sequence[Case]) -> None:
    """That every task has validation and test items, and no cluster has both.

    Raises
    ------
    TypeError
        Something else is among them.
    ArgumentError
        It is not so, or two items of a file have the same id.
    """
    for case in cases:
        if not isinstance(case, Case):
            raise TypeError(f"cases must hold DecoderCase, not {type(case).__name__}")
    if not cases:
        raise ArgumentError("there are no cases")
    for task in {case.task for case in cases}:
        for part in ("validation", "test"):
            if not any(case.task == task and case.part == part for case in cases):
                raise ArgumentError(f"{task} has no {part} items; ask for more of them")
    parts: dict[str, str] = {}
    for case in cases:
        if parts.setdefault(case.cluster, case.part) != case.part:
            raise ArgumentError(f"cluster {case.cluster!r} has validation and test items")
    ids = Counter(case.id for case in cases)
    for id, count in ids.items():
        if count > 1:
            raise ArgumentError(f"two cases have the id {id!r}")


def _cases_of(file: str, size: Sizes, seed: int) -> list[Case]:
    groups: dict[str, list[TwoClassItem | QAExample]] = {}
    for item in _items(file, size.longest):
        groups.setdefault(_cluster(item), []).append(item)
    ranks = {cluster: rank(seed, cluster) for cluster in groups}
    ordered = sorted(groups, key=lambda cluster: ranks[cluster])
    kept = {
        "validation": [c for c in ordered if ranks[c] < VALIDATION_SHARE][: size.validation],
        "test": [c for c in ordered if ranks[c] >= VALIDATION_SHARE][: size.test],
    }
    whole = size.validation is None and size.test is None
    cases = []
    for part, clusters in kept.items():
        for place, cluster in enumerate(clusters):
            coda = part == "validation" or size.coda is None or place < size.coda
            members = sorted(groups[cluster], key=lambda item: rank(seed, _id(item)))
            for item in members if whole else members[:1]:
                cases.append(_case(file, item, part, coda))  # type: ignore[arg-type]
    return cases


def _items(file: str, longest: int | None) -> Iterable[TwoClassItem | QAExample]:
    if file != NQ_SYNTH:
        return memotrap(file)
    most = float("inf") if longest is None else longest
    return [example for example in nq_synth() if len(example.context.split()) <= most]


def _cluster(item: TwoClassItem | QAExample) -> str:
    return item.stem if isinstance(item, TwoClassItem) else item.query


def _id(item: TwoClassItem | QAExample) -> str:
    return item.id if isinstance(item, TwoClassItem) else item.uid


def _case(file: str, item: TwoClassItem | QAExample, part: Part, coda: bool) -> Case:
    if isinstance(item, QAExample):
        whole, bare = QUESTION
        return Case(
            file,
            item.uid,
            item.query,
            part,
            coda,
            whole.format(context=item.context, question=item.query),
            bare.format(question=item.query),
            None,
            item.texts[0],
            EXAMPLES[0],
        )
    wanted, other = item.classes[item.wanted], item.classes[1 - item.wanted]
    without = without_instruction(item)
    return Case(file, item.id, item.stem, part, coda, item.prompt, without, (wanted, other), wanted)


def without_instruction(item: TwoClassItem) -> str:
    """A prompt of MemoTrap without its context.

    That is the beginning of the proverb without the instruction, or the two choices without the
    event.

    Examples
    --------
    >>> prompt = 'Write a quote that ends in the word "down": He who does not advance goes'
    >>> without_instruction(TwoClassItem("1", prompt, (" down.", " backwards."), 0,
    ...                                  "He who does not advance goes"))
    'He who does not advance goes'
    """
    if item.prompt.endswith(item.stem):
        return item.stem
    return item.prompt.split("\n", 1)[1]


def check_lengths(model: Model, cases: Sequence[Case]) -> None:
    """That every prompt with what follows it fits into the model's context.

    Raises
    ------
    ArgumentError
        One does not; names the item.
    """
    context = int(model.config["context_length"])
    for case in cases:
        n = len(model.encode(case.prompt)) + case.max_tokens
        if n > context:
            raise ArgumentError(
                f"{case.id} takes {n} tokens; {model.name} has a context of {context}"
            )
