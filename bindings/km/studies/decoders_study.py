"""The study of decoders: settings chosen on validation items, then compared on others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from km import ledger
from km.arguments import coverage, several, whole_number
from km.chunk_work import ChunkWork, Job, counted
from km.datasets.answer_text import answer_part, exact_match
from km.errors import ArgumentError, NotFoundError
from km.progress import Progress, ProgressReporter
from km.result import content_key, make_provenance
from km.studies.decoders_cases import (
    FILES,
    NQ_SYNTH,
    QUESTION,
    Case,
    Sizes,
    check_cases,
    check_lengths,
    make_cases,
)
from km.studies.decoders_compare import ROW_COLUMNS, chosen_settings
from km.studies.decoders_compare import select_settings as select
from km.studies.decoders_result import (
    DECODERS_ID,
    DECODERS_VERSION,
    VALIDATION_ID,
    DecodersStudy,
    ModelDecoders,
    prediction_id,
    shipped_predictions,
)
from km.studies.decoders_settings import GRID, Setting, all_settings
from km.studies.decoders_walk import Outcome, walk
from km.table import Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.ledger import Unit
    from km.model import Model

# Cases measured, and stored, together.
CHUNK_CASES = 8

DEFAULT_SIZES = {
    "proverb_ending": Sizes(32, 160, 120),
    "proverb_translation": Sizes(12, 120, 24),
    "history_of_science": Sizes(12, 73, 24),
    NQ_SYNTH: Sizes(12, 60, 16, longest=50),
}
FULL_SIZES = {file: Sizes() for file in FILES}


def decoders(
    models: Model | str | Sequence[Model | str] | None = None,
    *,
    full: bool = False,
    sizes: Mapping[str, Sizes] | None = None,
    cases: Iterable[Case] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    kb: KnowledgeBase | None = None,
    progress: Progress = None,
) -> DecodersStudy:
    """Greedy decoding and five contrastive decoders on MemoTrap and NQ-Synth.

    Each decoder's setting is chosen among four on validation items (as many for each decoder, the
    same items), then compared with greedy decoding on test items: exact match of what is generated,
    and which of two given continuations is the more probable by the decoder's own scores.

    Parameters
    ----------
    models : Model, name, or several, optional
        None: those of :func:`km.models` that are installed.
    full : bool
        All items of all four files; hours. Default: some hundred items, one a proverb, event or
        question, and CoDa on fewer of them.
    sizes : mapping of str to DecoderSizes, optional
        How many clusters of each file, instead of what `full` says.
    cases : iterable of DecoderCase, optional
        Items of one's own, validation and test, instead of the shipped ones.
    seed : int
        Of the split, the order of items and draws.
    confidence : float
        Coverage of the intervals.
    kb : KnowledgeBase, optional
        Every eight cases are looked up in it and stored as soon as they are done, so that a stopped
        study goes on where it was; predictions, result and verdicts are recorded in it.
    progress : bool or callable, optional

    Returns
    -------
    DecodersStudy

    Raises
    ------
    ArgumentError
        Options are wrong, or an item does not fit into a model's context.
    NotFoundError
        No model is installed.
    KeyboardInterrupt, CancelledError
        What was finished is kept in `kb`.

    Examples
    --------
    >>> with km.KnowledgeBase("decoders.db") as kb:  # doctest: +SKIP
    ...     print(km.studies.decoders(kb=kb))
    """
    coverage(confidence)
    whole_number("seed", seed, 0)
    wanted = sizes if sizes is not None else FULL_SIZES if full else DEFAULT_SIZES
    chosen = make_cases(wanted, seed) if cases is None else list(cases)
    check_cases(chosen)
    options = {
        "full": full,
        "sizes": None if cases is not None else {f: asdict(size) for f, size in wanted.items()},
        "seed": seed,
        "confidence": confidence,
        "grid": {name: list(found) for name, found in GRID.items()},
        "question": list(QUESTION),
    }
    loaded = [_loaded(model) for model in _installed(models)]
    for model in loaded:
        check_lengths(model, chosen)
    return DecodersStudy([_Study(model, options, kb).run(chosen, progress) for model in loaded])


def _installed(models: Any) -> list[Any]:
    from km.loading import models as known

    if models is not None:
        found = several("models", models) if not hasattr(models, "fingerprint") else [models]
        if not found:
            raise ArgumentError("models is empty; give at least one")
        return found
    table = known()
    names = [name for name, there in zip(table["name"], table["installed"], strict=True) if there]
    if not names:
        raise NotFoundError(f"no model is installed; get one with: {table['install'][0]}")
    return names


def _loaded(model: Any) -> Model:
    from km.loading import load

    return load(model) if isinstance(model, str) else model


class _Study:
    """One model's work."""

    def __init__(self, model: Model, options: dict[str, Any], kb: KnowledgeBase | None) -> None:
        self.model = model
        self.options = options
        self.kb = kb
        self.n_measured = 0

    def run(self, cases: Sequence[Case], progress: Progress) -> ModelDecoders:
        """Freeze, choose settings, test, judge."""
        predictions = shipped_predictions()
        unit = self._unit(cases)
        ledger.freeze(self.kb, predictions.values(), unit)
        validation = [case for case in cases if case.part == "validation"]
        test = [case for case in cases if case.part == "test"]
        tried = {task: all_settings() for task in {case.task for case in cases}}
        first = self._measure(VALIDATION_ID, validation, tried, [], "choosing", progress)
        rows = [row for _, table in first.chunks for row in table.rows()]
        chosen = chosen_settings(select(rows))
        found = self._measure(DECODERS_ID, test, chosen, first.chunks, "testing", progress)
        result = ModelDecoders(found.chunks, found.provenance, found.run_id, self.n_measured)
        if self.kb is not None and not self.kb.read_only:
            result.run = self.kb.record(result)
        result.verdicts = list(self._judge(result, unit))
        return result

    def _unit(self, cases: Sequence[Case]) -> Unit:
        return ledger.Unit.of(
            self.model,
            prompts=[[case.prompt, case.without] for case in cases],
            facts=[[case.id, case.part, case.answer, case.classes] for case in cases],
            recipe=self.options,
        )

    def _judge(self, result: ModelDecoders, unit: Unit) -> Iterator[ledger.Verdict]:
        known = shipped_predictions()
        for row in result.comparisons.rows():
            if row["family"] == "confirmatory":
                yield ledger.judge(
                    self.kb,
                    result.run,
                    known[prediction_id(row["task"], row["decoder"])],
                    unit,
                    estimate=row["difference"],
                    low=row["difference_low"],
                    high=row["difference_high"],
                    n=row["n_clusters"],
                    p_value=row["p_adjusted"],
                    rows=[key for key, _ in result.chunks],
                    command=result.provenance["command"],
                )

    def _measure(
        self,
        measure: str,
        cases: Sequence[Case],
        settings: dict[str, list[Setting]],
        before: Sequence[tuple[str, Table]],
        name: str,
        progress: Progress,
    ) -> _Measured:
        """Every case of a part with the settings of its task."""
        groups = _groups(cases)
        keys = [self._key(measure, group, settings[group[0].task]) for group in groups]
        provenance = make_provenance(
            measure,
            DECODERS_VERSION,
            self.model,
            {**self.options, "chunks": [key for key, _ in before] + keys},
            self.options["seed"],
        )
        work = ChunkWork(self.kb, provenance)
        jobs: list[Job] = [
            (key, partial(self._rows, group, settings[group[0].task]))
            for key, group in zip(keys, groups, strict=True)
        ]
        what = f"{self.model.name}: {name}"
        with ProgressReporter(progress, what, unit="chunks", total=len(jobs)) as report:
            chunks = work.run(counted(jobs, report))
        if before == [] and self.kb is not None and work.run_id is not None:
            self.kb.finish_run(work.run_id)
        return _Measured([*before, *chunks], provenance, work.run_id)

    def _key(self, measure: str, cases: Sequence[Case], settings: Sequence[Setting]) -> str:
        parameters = {
            "cases": [asdict(case) for case in cases],
            "settings": [[setting.decoder, json.loads(setting.options)] for setting in settings],
        }
        ids = [self.model.encode(text) for case in cases for text in (case.prompt, case.without)]
        return content_key(measure, DECODERS_VERSION, parameters, self.model.fingerprint, ids)

    def _rows(self, cases: Sequence[Case], settings: Sequence[Setting]) -> Table:
        self.n_measured += 1
        return measure_cases(self.model, cases, settings)


class _Measured:
    """Chunks of a part with those before, and the run they are kept in."""

    def __init__(
        self, chunks: list[tuple[str, Table]], provenance: dict[str, Any], run_id: int | None
    ) -> None:
        self.chunks = chunks
        self.provenance = provenance
        self.run_id = run_id


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Neighbours of one file, CHUNK_CASES at a time."""
    found: list[list[Case]] = []
    for case in cases:
        if not found or found[-1][0].file != case.file or len(found[-1]) == CHUNK_CASES:
            found.append([])
        found[-1].append(case)
    return found


def measure_cases(model: Model, cases: Sequence[Case], settings: Sequence[Setting]) -> Table:
    """One row a case and setting: rows of ROW_COLUMNS."""
    classes = _classes(model, cases)
    outcomes = walk(model, cases, classes, settings)
    rows = [
        _row(case, given, setting, outcome)
        for case, given, each in zip(cases, classes, outcomes, strict=True)
        for setting, outcome in zip(_settings_of(case, settings), each, strict=True)
    ]
    return Table.from_rows(ROW_COLUMNS, rows)


def _settings_of(case: Case, settings: Sequence[Setting]) -> list[Setting]:
    return [setting for setting in settings if setting.decodes(case)]


def _row(
    case: Case, given: tuple[str, str] | None, setting: Setting, outcome: Outcome
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "part": case.part,
        "task": case.task,
        "file": case.file,
        "item": case.id,
        "cluster": case.cluster,
        "decoder": setting.decoder,
        "setting": setting.options,
        "text": outcome.text,
        "answer": case.answered(outcome.text),
        "match": case.is_match(outcome.text),
        "left_out": outcome.left_out,
    }
    if given is not None and outcome.logps is not None:
        wanted, other = outcome.logps
        row |= {"other": given[1], "logp_wanted": wanted, "logp_other": other}
        row["right"] = wanted > other
    return row


def _classes(model: Model, cases: Sequence[Case]) -> list[tuple[str, str] | None]:
    """Two continuations of each case, the wanted one first.

    Where the data have no other one it is the answer that the model gives without the context; none
    where that is nothing, or the wanted answer.
    """
    asked = [case for case in cases if case.classes is None]
    own: dict[str, str] = {}
    if asked:
        made = model.generate(
            [case.without for case in asked], max_tokens=max(case.max_tokens for case in asked)
        )
        own = {c.id: answer_part(g.text) for c, g in zip(asked, made, strict=True)}
    found: list[tuple[str, str] | None] = []
    for case in cases:
        other = own.get(case.id)
        if case.classes is not None:
            found.append(case.classes)
        elif not other or exact_match(other, [case.answer]):
            found.append(None)
        else:
            found.append((f" {case.answer}", f" {other}"))
    return found
