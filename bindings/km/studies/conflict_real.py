"""The real model of a conflict study: known facts against passages, and fine-tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from km.arguments import whole_number
from km.conflict_measure import Conflict, generated_answers
from km.conflict_plan import CLOSED, COMPLETION, ORIGINAL, PARAPHRASE, SUBSTITUTE
from km.datasets.answer_text import Match
from km.datasets.conflict_set import QAExample
from km.datasets.counterfactual import counterfactuals
from km.datasets.fact_set import FactSet
from km.datasets.substitution import mix_substituted
from km.examples import Example
from km.lora import LoRA
from km.optimizers import AdamW
from km.recall import RECALL_ID, Recall
from km.result import canonical_json, content_key
from km.scores.conflict import bucket
from km.studies.conflict_rows import (
    CLOSED_BOOK,
    COLUMNS,
    MITIGATION,
    MIXED,
    PLAIN,
    RANDOM,
    REAL,
    UNSUBSTITUTED,
    Row,
)
from km.table import Table
from km.training import train

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

REAL_ID, REAL_VERSION = "conflict.real", 1

# Page views by relation and fact.
Views: TypeAlias = "Mapping[tuple[str, str], float]"
Key: TypeAlias = "tuple[str, str]"

MATCH: Match = "start"
# What the subject follows when its familiarity is asked.
CARRIER = "This text is about"
# Relations whose answer can be read off the subject.
SPELLED = ("word_first_letter", "word_last_letter")


@dataclass(frozen=True)
class RealDesign:
    """What the real model is asked, and how it is fine-tuned.

    Attributes
    ----------
    per_relation : int
        Facts of a relation at most.
    positions : tuple of str
        As of :func:`km.datasets.counterfactuals`.
    fillers : int
        Sentences around the statement where it does not stand alone.
    max_tokens : int
        Of an answer.
    paraphrases : int
        Other wordings of a question, which say how well a fact is known.
    steps, batch_size, rank : int
        Of fine-tuning by low-rank adapters of queries and values.
    lr : float
    training_seeds : tuple of int
    seed : int
        Of substitutes and of the split.
    """

    per_relation: int = 40
    positions: tuple[str, ...] = ("only", "start", "end")
    fillers: int = 2
    max_tokens: int = 6
    paraphrases: int = 3
    steps: int = 24
    batch_size: int = 8
    rank: int = 8
    lr: float = 3e-4
    training_seeds: tuple[int, ...] = (0, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("per_relation", "fillers", "max_tokens", "steps", "batch_size", "rank"):
            whole_number(name, getattr(self, name), 1)
        whole_number("paraphrases", self.paraphrases, 0)

    def describe(self) -> dict[str, Any]:
        """Everything in it."""
        return asdict(self)

    def recipe(self) -> dict[str, Any]:
        """What verdicts are about: more seeds are more of the same."""
        out = asdict(self)
        del out["training_seeds"]
        return out


def study_facts(facts: FactSet | None, design: RealDesign) -> FactSet:
    """The facts asked: shipped ones whose answer is not in the subject, unless given."""
    from km.datasets.fact_set import facts as shipped

    if facts is None:
        every = shipped("all")
        facts = every.select([r.name for r in every if r.name not in SPELLED])
    return facts.select(per_relation=design.per_relation)


def study_examples(model: Model, facts: FactSet, design: RealDesign) -> list[QAExample]:
    """Each fact in every position, with a substitute that is like its answer to the model."""
    made = counterfactuals(
        facts, model, positions=design.positions, fillers=design.fillers, seed=design.seed
    )
    return list(made)


def example_key(example: QAExample) -> Key:
    """Relation and fact."""
    return str(example.metadata["relation"]), str(example.metadata["fact"])


def first_of_each(examples: Iterable[QAExample]) -> list[QAExample]:
    """The first position of every fact."""
    found: dict[Key, QAExample] = {}
    for example in examples:
        found.setdefault(example_key(example), example)
    return list(found.values())


def is_trained(key: Key, seed: int) -> bool:
    """Whether a fact belongs to the half that may be trained on."""
    return hashlib.sha256(f"{seed}\0{key[0]}\0{key[1]}".encode()).digest()[0] % 2 == 0


# ---- what is known ----


def closed_key(model: Model, examples: Sequence[QAExample], design: RealDesign, unit: str) -> str:
    """Content key of the closed-book rows of examples; `unit`: digest of what is judged.

    Rows of another unit do not count for this one, whose predictions were frozen after them.
    """
    shown = [[*example_key(e), _originals(e), list(e.accepted)] for e in examples]
    parameters = {
        "max_tokens": design.max_tokens, "carrier": CARRIER, "examples": shown, "unit": unit,
    }  # fmt: skip
    ids = [model.encode(example.query) for example in examples]
    return content_key(REAL_ID, REAL_VERSION, parameters, model.fingerprint, ids)


def closed_rows(model: Model, examples: Sequence[QAExample], design: RealDesign) -> Table:
    """Each question without a passage, and how likely the model is to name the subject."""
    said = generated_answers(model, [example.query for example in examples], design.max_tokens)
    subjects = [str(example.metadata["subject"]) for example in examples]
    named = model.score([CARRIER] * len(subjects), [[subject] for subject in subjects])
    rows = []
    for example, (text, logp), familiar in zip(examples, said, named.table["logp"], strict=True):
        name, _ = bucket(text, _originals(example), example.accepted, MATCH)
        relation, fact = example_key(example)
        rows.append(
            {
                "part": CLOSED_BOOK, "arm": PLAIN, "relation": relation, "fact": fact,
                "condition": CLOSED, "bucket": name, "known": name == "original",
                "familiarity": familiar, "logp": logp,
            }
        )  # fmt: skip
    return Table.from_rows(COLUMNS, rows)


def _originals(example: QAExample) -> list[str]:
    assert isinstance(example.original, QAExample)
    return list(example.original.accepted)


def recall_of(kb: KnowledgeBase | None, model: Model) -> Recall | None:
    """The newest recall of this model in the knowledge base."""
    if kb is None:
        return None
    sql = (
        "SELECT r.id FROM runs AS r JOIN models AS m ON m.id = r.model WHERE r.measure = ? "
        "AND r.status = 'done' AND m.fingerprint = ? ORDER BY r.id DESC LIMIT 1"
    )
    found = kb.sql(sql, [RECALL_ID, model.fingerprint])
    return Recall.from_knowledge_base(kb, found["id"][0]) if len(found) else None


# ---- against passages ----


def real_rows(measured: Conflict, closed: Iterable[Row], views: Views | None) -> Table:
    """What a measured conflict says, one row a prompt, random weights included."""
    about = {(row["relation"], row["fact"]): row for row in closed}
    rows = []
    control = [] if measured.control is None else list(measured.control.rows())
    for arm, part in ((PLAIN, measured.table.rows()), (RANDOM, control)):
        for row in part:
            key = (row["relation"], row["fact"])
            if row["condition"] not in (ORIGINAL, SUBSTITUTE, PARAPHRASE):
                continue
            rows.append(
                {
                    "part": REAL, "arm": arm, "relation": key[0], "fact": key[1],
                    "condition": row["condition"], "position": row["position"],
                    "bucket": row["bucket"], "known": bool(about[key]["known"]),
                    "page_views": None if views is None else views.get(key),
                    "familiarity": about[key]["familiarity"], "matched": row["matched"],
                    "state": row["known"], "logp": row["logp"],
                }
            )  # fmt: skip
    return Table.from_rows(COLUMNS, rows)


# ---- fine-tuning ----


@dataclass(frozen=True)
class FineTuning:
    """One arm and seed of the mitigation; arm "plain": the model as it is.

    Attributes
    ----------
    arm : str
    seed : int or None
    trained : tuple of QAExample
        Substituted examples of known facts; the arm decides what of them is shown.
    asked : tuple of QAExample
        Of other facts, known or not.
    known : frozenset of (str, str)
    design : RealDesign
    """

    arm: str
    seed: int | None
    trained: tuple[QAExample, ...]
    asked: tuple[QAExample, ...]
    known: frozenset[Key]
    design: RealDesign

    def key(self, model: Model, unit: str) -> str:
        """Content key of its rows; `unit` as of :func:`closed_key`."""
        parameters = {
            "arm": self.arm,
            "seed": self.seed,
            "recipe": self.design.recipe(),
            "unit": unit,
            "shown": _digest([(e.text, e.targets) for e in self.examples()]),
            "asked": _digest([(e.query, e.context, _originals(e), e.accepted) for e in self.asked]),
            "known": sorted(map(list, self.known)),
        }
        ids = [model.encode(example.query) for example in self.asked]
        return content_key(f"{REAL_ID}_tuning", REAL_VERSION, parameters, model.fingerprint, ids)

    def examples(self) -> list[Example]:
        """What is trained on: the answer alone is learned, behind passage and question."""
        if self.arm == PLAIN:
            return []
        originals = [e.original for e in self.trained if isinstance(e.original, QAExample)]
        shown = originals
        if self.arm == MIXED:
            shown = list(mix_substituted(originals, self.trained, seed=self.design.seed))
        return [_training_example(example) for example in shown]

    def run(self, model: Model) -> Table:
        """Train, unless the arm is "plain", and ask."""
        design = self.design
        if self.arm != PLAIN:
            training = train(
                model, self.examples(), steps=design.steps, batch_size=design.batch_size,
                lora=LoRA(rank=design.rank, alpha=2.0 * design.rank, seed=self.seed or 0),
                optimizer=AdamW(lr=design.lr), clip=1.0,
                seed=self.seed or 0, progress=False,
            )  # fmt: skip
            if training.interrupted:
                raise KeyboardInterrupt
            model = training.model
        return Table.from_rows(COLUMNS, self.rows(model))

    def rows(self, model: Model) -> list[Row]:
        """Without a passage all facts; with both passages those that were known before."""
        told = [example for example in self.asked if example_key(example) in self.known]
        originals = [e.original for e in told if isinstance(e.original, QAExample)]
        ways = (
            (CLOSED, list(self.asked), [example.query for example in self.asked]),
            (ORIGINAL, told, [with_passage(example) for example in originals]),
            (SUBSTITUTE, told, [with_passage(example) for example in told]),
        )
        rows = []
        for condition, examples, prompts in ways:
            said = generated_answers(model, prompts, self.design.max_tokens) if prompts else []
            for example, (text, logp) in zip(examples, said, strict=True):
                name, _ = bucket(text, _originals(example), example.accepted, MATCH)
                relation, fact = example_key(example)
                rows.append(
                    {
                        "part": MITIGATION, "arm": self.arm, "seed": self.seed,
                        "relation": relation, "fact": fact, "condition": condition,
                        "position": str(example.metadata["position"]), "bucket": name,
                        "known": (relation, fact) in self.known, "logp": logp,
                    }
                )  # fmt: skip
        return rows


def tunings(
    examples: Sequence[QAExample], known: Iterable[Key], design: RealDesign
) -> list[FineTuning]:
    """The arms of the mitigation: before, and both fine-tunings with every seed.

    Facts of one half that were known are trained on, where memory and original passage agree;
    the other half is asked.
    """
    first = first_of_each(examples)
    right = frozenset(known)
    trained = tuple(
        e for e in first if is_trained(example_key(e), design.seed) and example_key(e) in right
    )
    asked = tuple(e for e in first if not is_trained(example_key(e), design.seed))
    if not trained or not asked:
        return []
    arms: list[tuple[str, int | None]] = [(PLAIN, None)]
    arms += [(arm, seed) for seed in design.training_seeds for arm in (UNSUBSTITUTED, MIXED)]
    return [FineTuning(arm, seed, trained, asked, right, design) for arm, seed in arms]


def with_passage(example: QAExample) -> str:
    """Its passage, then its question."""
    return COMPLETION[0].replace("{context}", example.context).replace("{question}", example.query)


def _training_example(example: QAExample) -> Example:
    prompt = with_passage(example)
    return Example(f"{prompt} {example.answers[0].text}", targets=len(prompt.encode()))


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
