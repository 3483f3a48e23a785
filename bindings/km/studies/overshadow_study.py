"""The study of overshadowing: small models trained from scratch, one factor at a time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from km import _km, ledger
from km.arguments import coverage, need, whole_number
from km.chunk_work import ChunkWork
from km.progress import Progress, ProgressReporter
from km.result import canonical_json, content_key, make_provenance
from km.studies.overshadow_design import (
    STUDY_ID,
    STUDY_VERSION,
    OvershadowingDesign,
    Training,
    longest_first,
    trainings,
)
from km.studies.overshadow_forecast import (
    FORECAST_ID,
    FORECAST_VERSION,
    make_forecast,
)
from km.studies.overshadow_result import OvershadowingStudy
from km.studies.overshadow_train import estimate_bytes, new_model, train

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.table import Table

SEEDS, FULL_SEEDS = 3, 5
WORKERS = 2
# Steps whose time is taken for the estimate, after one that warms up.
TIMED_STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """What a study will take.

    Attributes
    ----------
    trainings, known : int
        Models to train in all, and those that are in the knowledge base.
    seconds : float
        For the rest, from the speed of a few steps; other work on the machine adds to it.
    bytes : int
        Memory of all workers together.
    """

    trainings: int
    known: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.trainings - self.known} of {self.trainings} models to train, about "
            f"{self.seconds / 60:.0f} min, {self.bytes / 2**20:.0f} MiB"
        )


def overshadowing(
    *,
    full: bool = False,
    seeds: int | None = None,
    design: OvershadowingDesign | None = None,
    workers: int = WORKERS,
    seed: int = 0,
    confidence: float = 0.95,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
    announce: Callable[[Estimate], object] | None = None,
) -> OvershadowingStudy:
    """Train small transformers from scratch and say whether R = HR / RR follows the law.

    One factor at a time around a centre: relative popularity P, relative length L, number of
    parameters S at equal tokens and at equal loss. Curves are fitted to the counts, written down,
    and then scored on models that are trained only after that: fitted settings with fresh seeds,
    and settings that no fit saw.

    Parameters
    ----------
    full : bool
        Five seeds a setting instead of three.
    seeds : int, optional
        So many, at least two.
    design : OvershadowingDesign, optional
        None: five sizes from 0.1M to 10M parameters, six values of P and of L, 250,000 tokens a
        cell.
    workers : int
        Models trained at once, each with one thread. Results do not depend on it.
    seed : int
        All corpora, weights and orders follow from it.
    confidence : float
        Coverage of the laws' intervals; those of predictions have their own level.
    kb : KnowledgeBase, optional
        Every model's counts are looked up in it and stored as soon as it is trained, so that a
        stopped study goes on where it was; forecasts, verdicts and the result are recorded in it.
    progress : bool or callable, optional
    announce : callable, optional
        Given the :class:`Estimate` before anything is trained.

    Returns
    -------
    OvershadowingStudy

    Raises
    ------
    ArgumentError
        Options or design make no sense.
    MemoryError
        The workers together do not fit into memory.
    KeyboardInterrupt, CancelledError
        Models that were trained to their end are kept in `kb`.

    Notes
    -----
    Zhang et al. 2025 (arXiv 2502.16143) report that R grows with the logarithm of each factor and
    that the law predicts with an error of about 8 %. docs/measures/overshadowing.md has design,
    recipe and statistics.

    Examples
    --------
    >>> with km.KnowledgeBase("study.db") as kb:  # doctest: +SKIP
    ...     print(km.studies.overshadowing(kb=kb))
    """
    need("design", design, OvershadowingDesign, "km.studies.OvershadowingDesign()")
    chosen = OvershadowingDesign() if design is None else design
    n_seeds = (FULL_SEEDS if full else SEEDS) if seeds is None else whole_number("seeds", seeds, 2)
    options = {
        "seeds": n_seeds,
        "seed": whole_number("seed", seed, 0),
        "confidence": coverage(confidence),
    }
    study = _Study(chosen, options, whole_number("workers", workers, 1, 64), kb, progress)
    return study.run(announce)


class _Study:
    """One call's work."""

    def __init__(
        self,
        design: OvershadowingDesign,
        options: dict[str, Any],
        workers: int,
        kb: KnowledgeBase | None,
        progress: Progress,
    ) -> None:
        self.design = design
        self.options = options
        self.workers = workers
        self.kb = kb
        self.progress = progress
        self.trainings = trainings(design, options["seeds"], options["seed"])
        self.keys = {own: own.key(design) for own in self.trainings}
        self.stop = threading.Event()
        self.n_measured = 0

    def run(self, announce: Callable[[Estimate], object] | None) -> OvershadowingStudy:
        """Train, or find, everything; freeze the curves between both parts; analyse."""
        estimate = self._estimate()
        if announce is not None:
            announce(estimate)
        unit = self._unit()
        shipped = ledger.predictions("overshadowing")
        ledger.freeze(self.kb, shipped, unit)
        fitted = [own for own in self.trainings if own.part == "fit"]
        later = [own for own in self.trainings if own.part != "fit"]
        forecast_key = self._forecast_key(fitted)
        provenance = self._provenance(forecast_key)
        work = ChunkWork(self.kb, provenance)
        total = len(self.trainings)
        name = f"overshadowing ({estimate})"
        with ProgressReporter(self.progress, name, unit="models", total=total) as report:
            first = self._train(work, fitted, report)
            forecast = self._forecast(forecast_key, fitted, first, later)
            report.start_part(len(fitted))
            second = self._train(work, later, report)
        tables = first | second
        chunks = [(self.keys[own], tables[own]) for own in self.trainings]
        result = OvershadowingStudy(chunks, provenance, forecast, work.run_id, self.n_measured)
        if self.kb is not None and not self.kb.read_only:
            result.run = self.kb.record(result)
        self._judge(result, unit)
        return result

    # ---- before ----

    def _estimate(self) -> Estimate:
        """Refuse what does not fit; the rest by the speed of a few steps of the centre."""
        each = estimate_bytes(self.design)
        needed, available = each * self.workers, _km.memory_available()
        if needed > available:
            raise MemoryError(
                f"{self.workers} workers need {needed >> 20:,} MiB and {available >> 20:,} MiB are "
                "available; take fewer workers or smaller sizes"
            )
        known = {own for own in self.trainings if self._known(self.keys[own])}
        rest = [own for own in self.trainings if own not in known]
        seconds = 0.0
        if rest:
            pace = _pace(self.design)
            sizes = self.sizes()
            work = [sizes[own.setting.size] * self.design.tokens for own in rest]
            seconds = pace * sum(work) / min(self.workers, len(rest))
        return Estimate(len(self.trainings), len(known), seconds, needed)

    def _known(self, key: str) -> bool:
        if self.kb is None:
            return False
        return len(self.kb.sql("SELECT 1 FROM chunks WHERE key = ?", [key])) == 1

    def sizes(self) -> list[float]:
        """Parameters of each size."""
        if not hasattr(self, "_sizes"):
            n = range(len(self.design.sizes))
            self._sizes = [float(new_model(self.design, i, 0).n_parameters) for i in n]
        return self._sizes

    def _unit(self) -> ledger.Unit:
        """What verdicts are about: the whole family of models, by its recipe.

        How many seeds there are is no part of it: more of them are more of the same.
        """
        recipe = {"seed": self.options["seed"], "design": self.design.describe()}
        digest = hashlib.sha256(canonical_json(recipe).encode("ascii")).hexdigest()
        sizes = self.sizes()
        name = f"llama from scratch, {sizes[0] / 1e6:.2g}M to {sizes[-1] / 1e6:.2g}M parameters"
        return ledger.Unit(digest, name, "F32", recipe=recipe)

    def _provenance(self, forecast_key: str) -> dict[str, Any]:
        parameters = {
            **self.options,
            "design": self.design.describe(),
            "forecast": forecast_key,
            "chunks": [self.keys[own] for own in self.trainings],
        }
        return make_provenance(STUDY_ID, STUDY_VERSION, None, parameters, int(self.options["seed"]))

    # ---- training ----

    def _train(
        self, work: ChunkWork, asked: Sequence[Training], report: Callable[[int], object]
    ) -> dict[Training, Table]:
        """The tables of some trainings, the largest models first."""
        order = longest_first(self.design, asked)
        jobs = [(self.keys[own], partial(self._one, own)) for own in order]
        found = work.run_together(jobs, self.workers, report, self.stop)
        return {own: table for own, (_, table) in zip(order, found, strict=True)}

    def _one(self, own: Training) -> Table:
        table = train(self.design, own, stopped=self.stop.is_set)
        self.n_measured += 1
        return table

    # ---- the forecast ----

    def _forecast_key(self, fitted: Sequence[Training]) -> str:
        about = {"design": self.design.describe(), "seeds": self.options["seeds"]}
        about["fitted"] = [self.keys[own] for own in fitted]
        return content_key(FORECAST_ID, FORECAST_VERSION, about, "", [])

    def _forecast(
        self,
        key: str,
        fitted: Sequence[Training],
        tables: dict[Training, Table],
        later: Sequence[Training],
    ) -> Table:
        """The frozen curves: found, or made and stored before anything they are scored on."""
        found = self.kb.load_chunk(key) if self.kb is not None else None
        if found is not None:
            return found
        frozen = not any(self._known(self.keys[own]) for own in later)
        rows = [list(tables[own].rows()) for own in fitted]
        forecast = make_forecast(rows, self.design, self.sizes(), frozen)
        if self.kb is not None and not self.kb.read_only:
            parameters = {
                "design": self.design.describe(),
                "fitted": [self.keys[own] for own in fitted],
            }
            run = self.kb.begin_run(
                make_provenance(FORECAST_ID, FORECAST_VERSION, None, parameters)
            )
            self.kb.store_chunk(run, key, forecast)
            self.kb.finish_run(run)
        return forecast

    # ---- after ----

    def _judge(self, result: OvershadowingStudy, unit: ledger.Unit) -> None:
        """A verdict for each prediction."""
        for figure in result.figures:
            verdict = ledger.judge(
                self.kb,
                result.run,
                figure.prediction,
                unit,
                estimate=figure.estimate,
                low=figure.low,
                high=figure.high,
                n=figure.n,
                p_value=figure.p_adjusted,
                rows=[self.keys[own] for own in self.trainings],
                command=result.provenance["command"],
            )
            result.verdicts.append(verdict)


def _pace(design: OvershadowingDesign) -> float:
    """Seconds a parameter and token with one thread, from a few steps of the centre."""
    from km.examples import Example
    from km.optimizers import AdamW
    from km.studies.overshadow_train import PASS_TOKENS
    from km.trainer import Trainer

    model = new_model(design, design.centre_size, 0, threads=1).trainable()
    trainer = Trainer(model, AdamW(lr=design.lr), clip=design.clip)
    line = list(range(design.prompt + 1))
    batch = [Example(line).encode(model)] * design.batch_size
    trainer.step_on(batch, PASS_TOKENS)
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        trainer.step_on(batch, PASS_TOKENS)
    n_tokens = TIMED_STEPS * sum(map(len, batch))
    return (time.perf_counter() - start) / (n_tokens * model.n_parameters)
