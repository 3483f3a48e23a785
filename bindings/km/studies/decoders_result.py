"""What a decoder study returns: tables of one model and of several, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km.display import escape
from km.ledger import Verdict, predictions, verdict_word
from km.result import ChunkedResult, Result
from km.studies.decoders_compare import (
    COMPARISON_COLUMNS,
    METRICS,
    SELECTION_COLUMNS,
    TASKS,
    compare_decoders,
    select_settings,
    share_interval,
)
from km.studies.decoders_settings import DECODERS, GREEDY
from km.studies.decoders_words import conclude, describe_findings
from km.table import Column, Table

if TYPE_CHECKING:
    from km.ledger import Prediction

DECODERS_ID = "overshadow.decoders"
DECODERS_VERSION = 1
VALIDATION_ID = "overshadow.decoders_validation"

SHARE_COLUMNS = [
    Column("model", "text", "", "Name of the model."),
    Column("file", "text", "", "File of items."),
    Column("metric", "text", "", "match: exact match; right: two classes."),
    Column("decoder", "text", "", "Name of the decoder."),
    Column("setting", "text", "", "Its hyper-parameters, as JSON."),
    Column("n", "int64", "items", "Test items it decoded."),
    Column("share", "double", "", "Of matches or right classes."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("greedy", "double", "", "Greedy decoding on the same items."),
]

FINDING_COLUMNS = [
    Column("model", "text", "", "Name of the model."),
    Column("quantity", "text", "", "What is estimated: a decoder less greedy decoding."),
    Column("estimate", "double", "", "Difference of the shares."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("n", "int64", "items", "Items both decoded."),
    Column("unit", "text", "", "Of the estimate."),
    Column("p", "double", "", "Adjusted within its family."),
    Column("word", "text", "", "Verdict on the prediction; null where none was made."),
]


def prediction_id(task: str, decoder: str) -> str:
    """Of the prediction that a decoder raises the exact matches of a task."""
    return f"decoders-{decoder.lower()}-{task.replace('_', '-')}"


def shipped_predictions() -> dict[str, Prediction]:
    """The study's predictions by id."""
    return {prediction.id: prediction for prediction in predictions("decoders")}


class ModelDecoders(ChunkedResult):
    """Decoders of one model: one row a case and setting, validation first.

    Attributes
    ----------
    selection : Table
        What each setting reached on validation items, and which was chosen.
    comparisons : Table
        Every decoder beside greedy decoding on the same test items, with the smallest difference
        that would have been seen.
    shares : Table
        Shares of every decoder and file: what a figure shows.
    words : dict of str to str
        Of each prediction's id, the verdict's word.
    verdicts : list of Verdict
        Where they were frozen before the run; empty for a study read from a knowledge base.
    findings : Table
    lines : list of str
        The same in plain words, smallest detectable differences first.
    n_measured : int
        Chunks measured by this call; the others were found in the knowledge base.
    evidence : list of dict
    """

    MEASURE_ID = DECODERS_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
        n_measured: int = 0,
    ) -> None:
        super().__init__(chunks, provenance, run)
        self.n_measured = n_measured
        confidence = float(self.parameters["confidence"])
        seed = int(self.parameters["seed"])
        rows = list(self.table.rows())
        validation = [row for row in rows if row["part"] == "validation"]
        self.selection = Table.from_rows(SELECTION_COLUMNS, select_settings(validation))
        answers = compare_decoders(rows, confidence, seed)
        self.comparisons = Table.from_rows(COMPARISON_COLUMNS, answers)
        self.words = dict(_words(answers))
        self.verdicts: list[Verdict] = []
        name = str(self.provenance["model"]["name"])
        self.shares = Table.from_rows(SHARE_COLUMNS, _shares(name, rows, confidence, seed))
        self.findings = Table.from_rows(FINDING_COLUMNS, _findings(name, answers, self.words))
        self.lines = describe_findings(self)
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        return "\n".join([f"<km.studies.ModelDecoders {self._title()}>", *self.lines])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.lines)
        return (
            f"<div><b>{escape(self._title())}</b><ul>{lines}</ul>"
            f"{self.comparisons._repr_html_()}{super()._repr_html_()}</div>"
        )


class DecodersStudy(Result):
    """What :func:`km.studies.decoders` returns: the studies of all models.

    Attributes
    ----------
    of : list of ModelDecoders
        One a model, each recorded as a run of its own.
    findings, rows : Table
        Those of all models; `rows` is also `table`.
    conclusion : str
        What a reader may conclude, and what not.
    """

    def __init__(self, of: Sequence[ModelDecoders]) -> None:
        first = of[0].provenance
        parameters = {
            "models": [study.provenance["model"]["fingerprint"] for study in of],
            "runs": [study.run for study in of],
        }
        super().__init__(
            Table.concat(study.table for study in of),
            {**first, "model": None, "parameters": parameters},
        )
        self.of = list(of)
        self.rows = self.table
        self.findings = Table.concat(study.findings for study in of)
        self.conclusion = conclude(of)

    @property
    def verdicts(self) -> list[Verdict]:
        """Those of all models."""
        return [verdict for study in self.of for verdict in study.verdicts]

    def series(self) -> Table:
        """What a figure shows: share and interval by model, file, metric and decoder."""
        return Table.concat(study.shares for study in self.of)

    def __repr__(self) -> str:
        return "\n\n".join([*map(repr, self.of), self.conclusion])

    def _repr_html_(self) -> str:
        parts = "".join(study._repr_html_() for study in self.of)
        return f"<div><p>{escape(self.conclusion)}</p>{parts}</div>"


def _words(answers: Iterable[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    """The verdicts' words; they need nothing but the figures."""
    known = shipped_predictions()
    for row in answers:
        if row["family"] == "confirmatory":
            prediction = known[prediction_id(row["task"], row["decoder"])]
            yield (
                prediction.id,
                verdict_word(
                    prediction,
                    row["difference"],
                    row["difference_low"],
                    row["difference_high"],
                    row["n_clusters"],
                    row["p_adjusted"],
                ),
            )


def _shares(
    model: str, rows: Sequence[dict[str, Any]], confidence: float, seed: int
) -> Iterable[dict[str, Any]]:
    test = [row for row in rows if row["part"] == "test"]
    for file in dict.fromkeys(row["file"] for row in test):
        for metric in METRICS:
            kept = [row for row in test if row["file"] == file and row[metric] is not None]
            greedy = {row["item"]: row[metric] for row in kept if row["decoder"] == GREEDY}
            for decoder in (GREEDY, *DECODERS):
                own = [row for row in kept if row["decoder"] == decoder]
                if not own:
                    continue
                values = [float(row[metric]) for row in own]
                low, high = share_interval(values, [r["cluster"] for r in own], confidence, seed)
                yield {
                    "model": model,
                    "file": file,
                    "metric": metric,
                    "decoder": decoder,
                    "setting": own[0]["setting"],
                    "n": len(own),
                    "share": sum(values) / len(values),
                    "low": low,
                    "high": high,
                    "greedy": sum(greedy[row["item"]] for row in own) / len(own),
                }


def _findings(
    model: str, answers: Iterable[dict[str, Any]], words: dict[str, str]
) -> Iterable[dict[str, Any]]:
    for row in answers:
        where = TASKS[row["task"]] if row["file"] == "all" else row["file"]
        known = row["family"] == "confirmatory"
        yield {
            "model": model,
            "quantity": f"{METRICS[row['metric']]}, {where}: {row['decoder']} less greedy",
            "estimate": row["difference"],
            "low": row["difference_low"],
            "high": row["difference_high"],
            "n": row["n"],
            "unit": "share of items",
            "p": row["p_adjusted"],
            "word": words[prediction_id(row["task"], row["decoder"])] if known else None,
        }


def _evidence(study: ModelDecoders) -> list[dict[str, Any]]:
    """Paired differences over whole tasks with their intervals."""
    return [
        {
            "node": node,
            "measure": DECODERS_ID,
            "statistic": f"{row['metric']}_difference_{row['decoder']}_{row['task']}",
            "value": row["difference"],
            "low": row["difference_low"],
            "high": row["difference_high"],
            "n": row["n"],
            "unit": "share",
            "baseline": row["greedy"],
            "note": f"{METRICS[row['metric']]}, {row['decoder']} {json.loads(row['setting'])} less "
            f"greedy decoding on {TASKS[row['task']]}; {row['n_clusters']} clusters; "
            f"{row['family']}, adjusted p = {row['p_adjusted']:.2g}.",
        }
        for row in study.comparisons.rows()
        if row["file"] == "all"
        for node in ("cause-decoding", "conflict-context-memory")
    ]
