"""The study of conflict: what makes a model keep to its memory against a passage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from km import ledger
from km.arguments import coverage, whole_number
from km.chunk_work import ChunkWork, Job, counted
from km.conflict_measure import Conflict
from km.conflict_measure import conflict as measure_conflict
from km.datasets.conflict_set import QAExample
from km.datasets.fact_set import FactSet
from km.errors import ArgumentError
from km.ledger import Unit, Verdict
from km.progress import Progress, ProgressReporter
from km.result import Result, canonical_json, content_key, make_provenance
from km.studies.conflict_family import (
    FAMILY_ID,
    WORKERS,
    FamilyDesign,
    check_memory,
    family_cells,
    train_cell,
)
from km.studies.conflict_real import (
    MATCH,
    REAL_ID,
    RealDesign,
    Views,
    closed_key,
    closed_rows,
    example_key,
    first_of_each,
    real_rows,
    recall_of,
    study_examples,
    study_facts,
    tunings,
)
from km.studies.conflict_result import (
    STUDY_ID,
    STUDY_VERSION,
    ConflictPart,
    ConflictStudy,
    FamilyPart,
    Finding,
    RealPart,
)
from km.studies.conflict_rows import Row
from km.table import Table
from km.trainable import TrainableModel

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

PARTS_ID = "conflict.study_parts"
# Questions asked, and stored, together.
CHUNK_FACTS = 128

Chunks = list[tuple[str, Table]]


def conflict(
    model: Model | None = None,
    *,
    facts: FactSet | None = None,
    page_views: Views | None = None,
    full: bool = False,
    family: FamilyDesign | None = None,
    real: RealDesign | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> ConflictStudy:
    """Ask what makes a model keep to its memory against a passage: popularity, size, training.

    Three parts: a real model and its known facts against changed passages; the same model after
    fine-tuning on mixed and on unsubstituted examples; and a family of small models trained from
    scratch on a corpus with controlled counts. Definitions: docs/measures/conflict.md.

    Parameters
    ----------
    model : Model, optional
        None: :func:`km.load`.
    facts : FactSet, optional
        None: the shipped ones whose answer is not spelled in the subject.
    page_views : mapping of (relation, fact id) to float, optional
        Of facts. None are shipped: without them that prediction is not testable, and the model's
        own log-probability of naming the subject stands in, as another prediction.
    full : bool
        More facts of a relation, more seeds.
    family : FamilyDesign, optional
    real : RealDesign, optional
    confidence : float
        Of intervals that no prediction fixes.
    seed : int
        Of substitutes, the split of facts, random weights and bootstraps.
    kb : KnowledgeBase, optional
        Every part is looked up in it and stored when it is done, so that a stopped study goes on
        where it was; predictions are frozen in it first, verdicts and the result recorded. A recall
        of the model that is in it says how well facts were known.
    progress : bool or callable, optional

    Returns
    -------
    ConflictStudy

    Raises
    ------
    ArgumentError
        The model is trainable, or options are wrong.
    MemoryError
        The trainings do not fit into memory together.
    KeyboardInterrupt, CancelledError
        What was finished is kept in `kb`.

    Examples
    --------
    >>> with km.KnowledgeBase("conflict.db") as kb:  # doctest: +SKIP
    ...     print(km.studies.conflict(kb=kb))
    """
    coverage(confidence)
    whole_number("seed", seed, 0)
    base = _checked(model)
    study = _Study(base, *_designs(full, family, real, seed), kb, progress)
    check_memory(study.family)
    chosen = study_facts(facts, study.real)
    return study.run(chosen, page_views, confidence, seed, full)


def _checked(model: Model | None) -> Model:
    from km.loading import load

    if isinstance(model, TrainableModel):
        raise ArgumentError("a study needs an immutable model: give .frozen()")
    return load() if model is None else model


def _designs(
    full: bool, family: FamilyDesign | None, real: RealDesign | None, seed: int
) -> tuple[FamilyDesign, RealDesign]:
    if family is None:
        family = FamilyDesign(seeds=tuple(range(8))) if full else FamilyDesign()
    if real is None:
        real = RealDesign(per_relation=150, training_seeds=(0, 1, 2, 3)) if full else RealDesign()
        real = replace(real, seed=seed)
    return family, real


class _Study:
    """One call's work."""

    def __init__(
        self,
        model: Model,
        family: FamilyDesign,
        real: RealDesign,
        kb: KnowledgeBase | None,
        progress: Progress,
    ) -> None:
        self.model = model
        self.family = family
        self.real = real
        self.kb = kb
        self.progress = progress
        self.n_measured = 0

    def run(
        self, facts: FactSet, views: Views | None, confidence: float, seed: int, full: bool
    ) -> ConflictStudy:
        """Freeze, measure or find everything, analyse, judge."""
        units = self._units(facts, views)
        frozen = ledger.predictions("conflict")
        for measure, unit in units.items():
            ledger.freeze(self.kb, [p for p in frozen if p.measure == measure], unit)
        parameters: dict[str, Any] = {
            "family": self.family.describe(),
            "real": self.real.describe(),
            "n_facts": len(facts),
            "page_views": views is not None,
            "predictions": {p.id: p.digest for p in frozen},
            "confidence": confidence,
            "full": full,
        }
        # What is asked depends on what is known, so that the parts are measured under a run of
        # their own and the study, which names them all, is recorded behind it.
        parts = make_provenance(PARTS_ID, STUDY_VERSION, self.model, parameters, seed)
        work = ChunkWork(self.kb, parts)
        real = self._real(work, facts, views, seed, units[REAL_ID].digest)
        family = self._family(work)
        if self.kb is not None and work.run_id is not None:
            self.kb.finish_run(work.run_id)
        runs = {
            REAL_ID: self._record_part(RealPart, self.model, real, confidence, seed),
            FAMILY_ID: self._record_part(FamilyPart, None, family, confidence, seed),
        }
        parameters["chunks"] = [key for key, _ in (*real, *family)]
        provenance = make_provenance(STUDY_ID, STUDY_VERSION, self.model, parameters, seed)
        result = ConflictStudy([*real, *family], provenance, n_measured=self.n_measured)
        result.run = self._record(result)
        result.verdicts = [
            self._judge(one, units, runs, provenance["command"])
            for one in result.found
            if one.prediction is not None
        ]
        return result

    def _units(self, facts: FactSet, views: Views | None) -> dict[str, Unit]:
        """What verdicts are about, by the measure of their predictions."""
        real = {"recipe": self.real.recipe(), "match": MATCH, "page_views": _plain(views)}
        asked = [[r.name, list(r.templates), [list(f.answers) for f in r.facts]] for r in facts]
        family = self.family.recipe()
        described = {
            "fingerprint": content_key(FAMILY_ID, STUDY_VERSION, family, "", []),
            "name": f"conflict family of {len(self.family.shapes)} sizes from scratch",
            "precision": "F32",
        }
        return {
            REAL_ID: Unit.of(self.model, facts=asked, recipe=real),
            FAMILY_ID: Unit.of(described, recipe=family),
        }

    def _record_part(
        self,
        kind: type[ConflictPart],
        model: Model | None,
        chunks: Chunks,
        confidence: float,
        seed: int,
    ) -> int | None:
        """Rows as a run of their own, so that verdicts rest on nothing else."""
        parameters = {"confidence": confidence, "chunks": [key for key, _ in chunks]}
        version = STUDY_VERSION
        provenance = make_provenance(kind.MEASURE_ID, version, model, parameters, seed)
        return self._record(kind(chunks, provenance))

    def _record(self, result: Result) -> int | None:
        if self.kb is None or self.kb.read_only:
            return None
        return self.kb.record(result)

    def _judge(
        self,
        one: Finding,
        units: Mapping[str, Unit],
        runs: Mapping[str, int | None],
        command: str | None,
    ) -> Verdict:
        assert one.prediction is not None
        figure, measure = one.figure, one.prediction.measure
        return ledger.judge(
            self.kb, runs[measure], one.prediction, units[measure], estimate=figure.estimate,
            low=figure.low, high=figure.high, n=figure.n, p_value=one.p_adjusted,
            rows=f"the chunks of run {runs[measure]}", command=command,
        )  # fmt: skip

    # ---- the real model ----

    def _real(
        self, work: ChunkWork, facts: FactSet, views: Views | None, seed: int, unit: str
    ) -> Chunks:
        examples = study_examples(self.model, facts, self.real)
        first = first_of_each(examples)
        parts = [first[i : i + CHUNK_FACTS] for i in range(0, len(first), CHUNK_FACTS)]
        chunks = self._work(
            work,
            "questions without a passage",
            [
                (closed_key(self.model, part, self.real, unit),
                 partial(closed_rows, self.model, part, self.real))
                for part in parts
            ],
        )  # fmt: skip
        closed = [row for _, table in chunks for row in table.rows()]
        known = {(row["relation"], row["fact"]) for row in closed if row["known"]}
        if not known:
            return chunks
        chunks.append(self._against(work, examples, closed, known, views, seed, unit))
        arms = tunings(examples, known, self.real)
        jobs: list[Job] = [
            (arm.key(self.model, unit), partial(arm.run, self.model)) for arm in arms
        ]
        return chunks + self._work(work, "fine-tuning", jobs)

    def _against(
        self,
        work: ChunkWork,
        examples: Sequence[QAExample],
        closed: Sequence[Row],
        known: set[tuple[str, str]],
        views: Views | None,
        seed: int,
        unit: str,
    ) -> tuple[str, Table]:
        """Known facts against passages, random weights beside; recorded as a measure of its own."""
        told = [example for example in examples if example_key(example) in known]
        measured: Conflict = measure_conflict(
            self.model, told, match=MATCH, max_tokens=self.real.max_tokens, inter_context=False,
            paraphrases=self.real.paraphrases, recall=recall_of(self.kb, self.model), seed=seed,
            kb=self.kb, progress=self.progress,
        )  # fmt: skip
        parameters = {"chunks": [key for key, _ in measured.chunks], "unit": unit}
        key = content_key(f"{REAL_ID}_rows", STUDY_VERSION, parameters, self.model.fingerprint, [])
        return work.run([(key, lambda: real_rows(measured, closed, views))])[0]

    # ---- the family ----

    def _family(self, work: ChunkWork) -> Chunks:
        cells = family_cells(self.family)
        keys = [cell.key for cell in cells]
        stored = self._stored(keys)
        stop = Event()
        jobs: list[Job] = [(c.key, partial(train_cell, c, stop.is_set)) for c in cells]
        name = f"family ({len(stored)} known)" if stored else "family"
        with ProgressReporter(self.progress, name, unit="trainings", total=len(cells)) as report:
            chunks = work.run_together(jobs, WORKERS, report, stop)
        self.n_measured += len(cells) - len(stored)
        return chunks

    def _stored(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys the knowledge base has."""
        if self.kb is None:
            return set()
        sql = "SELECT key FROM chunks WHERE key IN (SELECT value FROM json_each(?))"
        return set(self.kb.sql(sql, [json.dumps(list(keys))])["key"])

    # ---- shared ----

    def _work(self, work: ChunkWork, name: str, jobs: Sequence[Job]) -> Chunks:
        with ProgressReporter(self.progress, name, unit="parts", total=len(jobs)) as report:
            return work.run(counted(self._counting(jobs), report))

    def _counting(self, jobs: Iterable[Job]) -> Iterable[Job]:
        for key, measure in jobs:
            yield key, partial(self._count, measure)

    def _count(self, measure: Callable[[], Table]) -> Table:
        table = measure()
        self.n_measured += 1
        return table


def _plain(views: Mapping[tuple[str, str], float] | None) -> str | None:
    """Page views as canonical JSON, for the recipe."""
    if views is None:
        return None
    return canonical_json({"/".join(key): float(value) for key, value in views.items()})
