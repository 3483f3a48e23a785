"""The from-scratch family of a conflict study: small models that learn facts and to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from km import _km
from km.arguments import real_number, whole_number
from km.conflict_plan import CLOSED, ORIGINAL, SUBSTITUTE
from km.errors import ArgumentError
from km.examples import Example
from km.model import Model
from km.optimizers import AdamW
from km.overshadow.tokens import next_logits
from km.result import content_key
from km.schedules import Cosine
from km.studies.byte_model import new_byte_model
from km.studies.conflict_rows import COLUMNS, FAMILY, PLAIN, RANDOM, Row
from km.studies.conflict_synthetic import ConflictCorpus, conflict_corpus
from km.table import Table
from km.trainer import Trainer
from km.training import Data

FAMILY_ID = "conflict.family"
FAMILY_VERSION = 1

READING = "reading"
# Trainings at once, each with one thread: faster than one after another with two threads each.
WORKERS = 2
PASS_TOKENS = 1024
FULL_RATE_WIDTH = 96
BYTES = 256  # ids that the tokenizer of bytes needs


@dataclass(frozen=True)
class Shape:
    """Width, layers and heads of a model of the family."""

    d_model: int
    n_layers: int
    n_heads: int


SHAPES = (Shape(48, 2, 2), Shape(96, 2, 4), Shape(160, 3, 4), Shape(256, 4, 4))


@dataclass(frozen=True)
class FamilyDesign:
    """What is trained; models of all sizes see the same documents in the same order.

    Attributes
    ----------
    shapes : tuple of Shape
        From the smallest to the largest.
    seeds : tuple of int
        Of corpus, first weights and order. Seeds from 900 on chose this recipe and are refused.
    counts, facts, relations, answers, readers, readings, sentences, unhelpful, held_out
        As of :func:`km.studies.conflict_corpus`.
    batch_size : int
        Documents of a step; each document is shown once.
    lr, clip : float
        Of AdamW, with a warm-up of `warmup` steps and a cosine to 0; `lr` of widths up to 96, and
        less in inverse proportion of wider ones, which else unlearn what they know.
    warmup : int
    """

    shapes: tuple[Shape, ...] = SHAPES
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    counts: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    facts: int = 32
    relations: int = 4
    answers: int = 32
    readers: int = 128
    readings: int = 16000
    sentences: int = 3
    unhelpful: float = 0.125
    held_out: int = 200
    batch_size: int = 32
    lr: float = 2e-3
    clip: float = 1.0
    warmup: int = 50

    def __post_init__(self) -> None:
        if not self.shapes or not self.seeds:
            raise ArgumentError("a family needs shapes and seeds")
        if len(set(self.seeds)) != len(self.seeds):
            raise ArgumentError("seeds of a family must differ")
        for seed in self.seeds:
            if whole_number("seeds", seed, 0) >= PILOT:
                raise ArgumentError(
                    f"seed {seed}: seeds from {PILOT} on were used to choose the recipe"
                )
        whole_number("batch_size", self.batch_size, 1)
        whole_number("warmup", self.warmup, 1)
        real_number("lr", self.lr, 1e-9, 1)

    def corpus(self, seed: int) -> ConflictCorpus:
        """The corpus of a seed."""
        return conflict_corpus(
            self.counts, facts=self.facts, relations=self.relations, answers=self.answers,
            readers=self.readers, readings=self.readings, sentences=self.sentences,
            unhelpful=self.unhelpful, held_out=self.held_out, seed=seed,
        )  # fmt: skip

    def rate(self, shape: Shape) -> float:
        """Learning rate of a shape."""
        return self.lr * min(1.0, FULL_RATE_WIDTH / shape.d_model)

    def config(self, shape: Shape, vocabulary: int) -> dict[str, Any]:
        """Of the model of a shape."""
        return {
            **asdict(shape),
            "name": f"conflict family {shape.d_model}x{shape.n_layers}",
            "vocab_size": max(vocabulary, BYTES),
            "context_length": 4 * self.sentences + 5,
        }

    def describe(self) -> dict[str, Any]:
        """Everything in it."""
        return asdict(self)

    def recipe(self) -> dict[str, Any]:
        """What verdicts are about: more seeds are more of the same."""
        out = asdict(self)
        del out["seeds"]
        return out


PILOT = 900


@dataclass(frozen=True)
class Cell:
    """One training: a shape and a seed."""

    design: FamilyDesign
    shape: Shape
    seed: int

    @property
    def key(self) -> str:
        """Content key of its rows."""
        recipe = self.design.recipe()
        parameters = {**recipe, "shape": asdict(self.shape), "seed": self.seed}
        return content_key(FAMILY_ID, FAMILY_VERSION, parameters, "", [])


def family_cells(design: FamilyDesign) -> list[Cell]:
    """All trainings, seed by seed, the largest first so that the last ones are short."""
    shapes = sorted(design.shapes, key=lambda s: s.d_model**2 * s.n_layers, reverse=True)
    return [Cell(design, shape, seed) for seed in design.seeds for shape in shapes]


# ---- one training ----


class StoppedError(Exception):
    """A training was given up because the study ends."""


def untrained(cell: Cell, vocabulary: int, threads: int = 1) -> Model:
    """The model of a cell with fresh weights. All is given as token ids: it reads bytes alone."""
    return new_byte_model(cell.design.config(cell.shape, vocabulary), cell.seed, threads)


def train_cell(cell: Cell, stopped: Callable[[], bool] = lambda: False, threads: int = 1) -> Table:
    """Train the model of a cell and ask it; rows of COLUMNS.

    Parameters
    ----------
    cell : Cell
    stopped : callable
        Asked between steps.
    threads : int
        The rows do not depend on it.

    Raises
    ------
    StoppedError
        `stopped` said so.
    """
    design = cell.design
    corpus = design.corpus(cell.seed)
    first = untrained(cell, corpus.vocabulary, threads)
    rows = family_rows(first, corpus, RANDOM, cell.seed)
    model = first.trainable()
    # Only answers enter the loss: what a passage says is drawn and cannot be learned.
    documents = [Example(ids, targets=len(ids) - 1).encode(model) for ids in corpus.documents]
    data = Data(documents, design.batch_size, cell.seed)
    trainer = Trainer(
        model, AdamW(lr=design.lr), clip=design.clip, steps=data.steps_per_epoch,
        schedule=Cosine(warmup=design.warmup),
    )  # fmt: skip
    while trainer.n_steps < data.steps_per_epoch:
        if stopped():
            raise StoppedError
        trainer.step_on(data.batch(trainer.n_steps), PASS_TOKENS)
    return Table.from_rows(COLUMNS, rows + family_rows(model, corpus, PLAIN, cell.seed))


def family_rows(model: Model, corpus: ConflictCorpus, arm: str, seed: int) -> list[Row]:
    """What a model answers: facts without a passage, with both passages, and unseen readings."""
    shared = {"part": FAMILY, "arm": arm, "seed": seed, "size": float(model.n_parameters)}
    closed = _argmax(model, [fact.question for fact in corpus.facts])
    rows = []
    known = []
    for fact, said in zip(corpus.facts, closed, strict=True):
        known.append(said == fact.answer)
        rows.append(_row(shared, fact, CLOSED, None, said, known[-1]))
    for condition in (ORIGINAL, SUBSTITUTE):
        for place in range(corpus.n_sentences):
            answers = [getattr(f, _STATED[condition]) for f in corpus.facts]
            prompts = [
                corpus.prompt(f, a, place) for f, a in zip(corpus.facts, answers, strict=True)
            ]
            for fact, said, right in zip(corpus.facts, _argmax(model, prompts), known, strict=True):
                rows.append(_row(shared, fact, condition, str(place), said, right))
    read = _argmax(model, [prompt for prompt, _, _ in corpus.held_out]) if corpus.held_out else []
    for i, ((_, answer, _), said) in enumerate(zip(corpus.held_out, read, strict=True)):
        bucket = "substitute" if said == answer else "other"
        rows.append(shared | {"fact": f"reading {i}", "condition": READING, "bucket": bucket})
    return rows


_STATED = {ORIGINAL: "answer", SUBSTITUTE: "substitute"}


def _row(
    shared: Row, fact: Any, condition: str, position: str | None, said: int, known: bool
) -> Row:
    bucket = {fact.answer: "original", fact.substitute: "substitute"}.get(said, "other")
    return shared | {
        "relation": str(fact.relation),
        "fact": str(fact.index),
        "condition": condition,
        "position": position,
        "bucket": bucket,
        "known": known,
        "count": fact.count,
        "matched": True,
    }


def _argmax(model: Model, prompts: Sequence[Sequence[int]]) -> list[int]:
    return [int(i) for i in next_logits(model, prompts).argmax(axis=1)]


# ---- all of them ----


def check_memory(design: FamilyDesign, workers: int = WORKERS) -> int:
    """Bytes that all workers need together, at most.

    Raises
    ------
    MemoryError
        There are not so many.
    """
    shape = max(design.shapes, key=lambda s: s.d_model**2 * s.n_layers)
    corpus = design.corpus(design.seeds[0])
    model = untrained(Cell(design, shape, 0), corpus.vocabulary)
    longest = 4 * design.sentences + 3
    work = max(PASS_TOKENS, longest)
    parts = _km.trainer_estimate(
        model._model, n_tokens=work, longest=longest, n_targets=work, recompute=False,
        clip=design.clip, **AdamW(lr=design.lr).numbers(),
    )  # fmt: skip
    asked = len(corpus.facts) * int(model.config["vocab_size"]) * 4
    needed = workers * (2 * parts[0] + sum(parts[1:]) + asked)
    if needed > _km.memory_available():
        raise MemoryError(
            f"{workers} trainings at once need {needed >> 20:,} MiB, "
            f"{_km.memory_available() >> 20:,} are available; give the family smaller shapes"
        )
    return int(needed)
