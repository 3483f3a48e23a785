"""What a finished measure's rows say of the predictions about it: estimate, interval, n and p.

Each function here looks at the rows of one measure and at nothing else, so that a verdict follows
from the run alone. Intervals have the prediction's level, 2,000 resamples, relations as clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from km.ledger.predictions import Prediction
    from km.result import Result

Row: TypeAlias = Mapping[str, Any]
Read: TypeAlias = "Callable[[Any, Prediction], Figure | None]"

RESAMPLES = 2000


class Figure(NamedTuple):
    """A statistic of a run; p is of a two-sided test, before any correction."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None = None


def figures(result: Result, predictions: Iterable[Prediction]) -> dict[str, Figure]:
    """Figures of those predictions that this result says something about, by their ids.

    A result that is not of km's own class for its measure says nothing: its rows may mean anything.
    """
    module, _, name = CLASSES.get(result.measure, "").rpartition(".")
    if not module or not isinstance(result, getattr(import_module(module), name)):
        return {}
    found = {}
    for prediction in predictions:
        read = READERS.get(prediction.measure, {}).get(prediction.id)
        figure = read(result, prediction) if read is not None else None
        if figure is not None:
            found[prediction.id] = figure
    return found


def clustered_mean(
    values: Sequence[float],
    relations: Sequence[str],
    subjects: Sequence[str] | None,
    level: float,
    seed: int = 0,
    templates: Sequence[str] | None = None,
) -> Figure:
    """Mean with its interval and the permutation of its clusters' signs; n counts relations.

    With one relation subjects are the clusters of the interval, and n is 1 all the same.
    """
    from km import stats

    names = [str(name) for name in relations]
    n = len(set(names))
    if not values:
        return Figure(None, None, None, 0)
    estimate = math.fsum(values) / len(values)
    if n < 2:
        return Figure(estimate, None, None, n)
    own = [f"{a}\0{b}" for a, b in zip(names, subjects, strict=True)] if subjects else None
    asked = [f"{a}\0{b}" for a, b in zip(names, templates, strict=True)] if templates else None
    spread = stats.clustered_bootstrap(
        values, names, own, asked, replicates=RESAMPLES, confidence=level, seed=seed
    )
    p = stats.permutation_test(values, names, seed=seed).p
    return Figure(estimate, spread.low, spread.high, n, p)


# ---- recall ----


def _recall_gain(column: str) -> Read:
    """Recall less a baseline of the same rows."""

    def read(result: Any, prediction: Prediction) -> Figure:
        rows = [r for r in result.table.rows() if _both(r["correct"], r[column])]
        values = [float(r["correct"]) - float(r[column]) for r in rows]
        return _over_facts(values, rows, prediction)

    return read


def _recall_random(result: Any, prediction: Prediction) -> Figure | None:
    """Recall less that of random weights on the same prompts."""
    if result.control is None:
        return None
    beside = {_place(row): row["correct"] for row in result.control.rows()}
    rows = [r for r in result.table.rows() if _both(r["correct"], beside.get(_place(r)))]
    values = [float(r["correct"]) - float(beside[_place(r)]) for r in rows]
    return _over_facts(values, rows, prediction)


def _place(row: Row) -> tuple[Any, ...]:
    return row["relation"], row["fact"], row["template"]


def _both(a: object, b: object) -> bool:
    return a is not None and b is not None


def _over_facts(values: list[float], rows: list[Row], prediction: Prediction) -> Figure:
    return clustered_mean(
        values,
        [row["relation"] for row in rows],
        [row["subject"] for row in rows],
        prediction.level,
        templates=[str(row["template"]) for row in rows],
    )


# ---- layers ----


def _lens_lead(result: Any, prediction: Prediction) -> Figure | None:
    """How much earlier than with random weights targets lead, as a share of the depth."""
    from km.lens_batch import lead_rows

    if result.control is None:
        return None
    n_layers = int(result.parameters["n_layers"])
    own = [row["lead_layer"] for row in lead_rows(result.table, n_layers)]
    beside = [row["lead_layer"] for row in lead_rows(result.control, n_layers)]
    values = [(b - a) / (n_layers + 1) for a, b in zip(own, beside, strict=True)]
    return clustered_mean(values, [str(i) for i in range(len(values))], None, prediction.level)


# ---- causal tracing ----


def _trace(value: Callable[[list[Row]], float | None]) -> Read:
    """A figure of each traced fact, clustered by relation."""

    def read(result: Any, prediction: Prediction) -> Figure:
        groups = [list(table.rows()) for _, table in result.chunks]
        traced = [rows for rows in groups if rows[0]["kind"] is not None]
        found = [(value(rows), rows[0]) for rows in traced]
        kept = [(number, row) for number, row in found if number is not None]
        return clustered_mean(
            [number for number, _ in kept],
            [row["relation"] for _, row in kept],
            [row["fact"] for _, row in kept],
            prediction.level,
        )

    return read


def _total_effect(rows: list[Row]) -> float:
    return float(rows[0]["p_clean"] - rows[0]["p_corrupt"])


def _mean_restored(rows: list[Row], kind: str, last_subject: bool) -> float | None:
    """Mean probability with a state restored: of the subject's last token, or of other tokens.

    Neither the last token of the prompt, whose states hold the answer in the end, nor tokens
    before the subject, whose states the corruption does not reach, are among the others.
    """
    last = max(row["position"] for row in rows)
    first, own = rows[0]["subject_begin"], rows[0]["subject_end"] - 1
    kept = [
        row["p_restored"]
        for row in rows
        if row["kind"] == kind
        and first <= row["position"] < last
        and (row["position"] == own) is last_subject
    ]
    return math.fsum(kept) / len(kept) if kept else None


def _last_subject(rows: list[Row]) -> float | None:
    own, others = (_mean_restored(rows, "state", which) for which in (True, False))
    return None if own is None or others is None else own - others


def _mlp_over_attention(rows: list[Row]) -> float | None:
    mlp, attention = (_mean_restored(rows, kind, True) for kind in ("mlp", "attention"))
    return None if mlp is None or attention is None else mlp - attention


# ---- neurons ----


def _neurons(own: str, control: str) -> Read:
    """Relative change of the answer's probability, less that of a control, a fact at a time."""

    def read(result: Any, prediction: Prediction) -> Figure:
        by_fact: dict[tuple[str, str], list[float]] = {}
        for row in result.table.rows():
            if row[control] is not None:
                change = (row[own] - row[control]) / row["probability"]
                by_fact.setdefault((row["relation"], row["fact"]), []).append(change)
        return clustered_mean(
            [math.fsum(changes) / len(changes) for changes in by_fact.values()],
            [relation for relation, _ in by_fact],
            [fact for _, fact in by_fact],
            prediction.level,
        )

    return read


def _circuit_gain(result: Any, prediction: Prediction) -> Figure:
    from km.circuit_pairs import gain

    found: Figure = gain(result.table, prediction.level)
    return found


# ---- texts ----


def _extractable(result: Any, prediction: Prediction) -> Figure | None:
    from km import stats

    known = [bool(cell) for cell in result.table["extractable"] if cell is not None]
    if not known:
        return None
    found = stats.wilson(sum(known), len(known), confidence=prediction.level)
    return Figure(found.estimate, found.low, found.high, len(known))


def _exposure(result: Any, prediction: Prediction) -> Figure:
    values = [float(value) - prediction.null for value in result.table["exposure"]]
    found = clustered_mean(values, [str(i) for i in range(len(values))], None, prediction.level)
    moved = [None if v is None else v + prediction.null for v in found[:3]]
    return Figure(moved[0], moved[1], moved[2], found.n, found.p)


# ---- learning ----


def _priming(name: str, against: str) -> Read:
    """A row of the analysis's effects, whose intervals have the study's confidence."""

    def read(result: Any, prediction: Prediction) -> Figure | None:
        if not math.isclose(float(result.parameters["confidence"]), prediction.level):
            return None
        for row in result.analysis.effects.rows():
            if row["prediction"] == name and row["against"] == against:
                ends = (row["estimate"], row["low"], row["high"])
                return Figure(*ends, row["n_clusters"], row["p"])
        return None

    return read


def _lost_unrelated(result: Any, prediction: Prediction) -> Figure | None:
    from km import diff_facts
    from km.diff_shares import UNRELATED

    if not result.targeted:
        return None
    if not math.isclose(float(result.parameters["confidence"]), prediction.level):
        return None
    row = result.share(diff_facts.LOST, UNRELATED)
    return Figure(row["net"], row["low"], row["high"], row["n_clusters"] or 0)


CLASSES = {
    "memorization.recall": "km.recall.Recall",
    "interpretability.logit_lens": "km.lens_batch.LogitLens",
    "interpretability.causal_trace": "km.causal_tracing.CausalTrace",
    "interpretability.knowledge_neurons": "km.neurons.KnowledgeNeurons",
    "interpretability.circuit_transfer": "km.circuit_pairs.CircuitTransfer",
    "memorization.verbatim": "km.texts.Verbatim",
    "memorization.exposure": "km.texts.ExposureResult",
    "learning.priming_study": "km.studies.PrimingStudy",
    "learning.diff": "km.diff_models.Diff",
}

READERS: dict[str, dict[str, Read]] = {
    "memorization.recall": {
        "recall-beats-subject-removed": _recall_gain("subjectless_correct"),
        "recall-beats-commonest-answer": _recall_gain("commonest_correct"),
        "recall-beats-shuffled-subjects": _recall_gain("shuffled_correct"),
        "recall-beats-random-weights": _recall_random,
    },
    "interpretability.logit_lens": {"lens-leads-before-random-weights": _lens_lead},
    "interpretability.causal_trace": {
        "trace-subject-carries-answer": _trace(_total_effect),
        "trace-last-subject-token": _trace(_last_subject),
        "trace-mlp-over-attention": _trace(_mlp_over_attention),
    },
    "interpretability.knowledge_neurons": {
        "neurons-suppressed-beyond-random": _neurons("suppressed", "random_suppressed"),
        "neurons-enhanced-beyond-random": _neurons("enhanced", "random_enhanced"),
        "neurons-specific-to-fact": _neurons("suppressed", "other_suppressed"),
    },
    "interpretability.circuit_transfer": {"circuit-carries-held-out-facts": _circuit_gain},
    "memorization.verbatim": {"verbatim-extractable": _extractable},
    "memorization.exposure": {"exposure-beyond-chance": _exposure},
    "learning.priming_study": {
        "priming-beyond-unrelated-text": _priming("priming", "text_control"),
        "priming-beyond-other-keyword": _priming("priming", "keyword_control"),
        "priming-slope": _priming("slope", "text_control"),
    },
    "learning.diff": {"editing-loses-unrelated-facts": _lost_unrelated},
}
