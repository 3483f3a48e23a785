"""What a priming study returns: its tables, and what they say in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from km.display import escape
from km.priming_analysis import PrimingAnalysis, analyse
from km.priming_measure import ARM_COLUMNS, summarise
from km.priming_plan import COLUMNS
from km.result import ChunkedResult
from km.studies.priming_compare import (
    COMPARISON_COLUMNS,
    QUESTIONS,
    compare_arms,
    mitigation_questions,
)
from km.studies.priming_words import conclude, describe_findings
from km.table import Column, Table

STUDY_ID = "learning.priming_study"
STUDY_VERSION = 1

TEXT_COLUMNS = [
    *COLUMNS[:4],
    Column("logp_keyword_before", "double", "nats", "Of the keyword in its text, before."),
    *ARM_COLUMNS,
]

BASE_ARMS = ("learned", "in_context", "keyword_control", "text_control")


class PrimingStudy(ChunkedResult):
    """What :func:`km.studies.priming` returns: one row a text, arm and probe.

    Attributes
    ----------
    texts : Table
        One row a text and arm: memorisation, priming, unstable denominators, neutral sentences.
    comparisons : Table
        Paired comparisons of arms, with intervals clustered by keyword and the smallest difference
        that would have been seen.
    analysis : PrimingAnalysis
        The paper's correlation, the regression that replaces it, the threshold.
    findings : list of str
        What this model shows of the paper, in plain words, detectable differences first.
    conclusion : str
        Two sentences: what a reader may conclude, and what not.
    n_measured : int
        Arms measured by this call; the others were found in the knowledge base.
    evidence : list of dict
    """

    MEASURE_ID = STUDY_ID

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
        rows = [_text_row(list(table.rows())) for _, table in chunks]
        self.texts = Table.from_rows(TEXT_COLUMNS, rows)
        arms = dict.fromkeys(row["arm"] for row in rows)
        self.mitigations = [arm for arm in arms if arm not in BASE_ARMS]
        questions = [*QUESTIONS, *mitigation_questions(self.mitigations)]
        answers = compare_arms(rows, questions, confidence, seed)
        self.comparisons = Table.from_rows(COMPARISON_COLUMNS, answers)
        self.analysis: PrimingAnalysis = analyse(
            probe_rows(self.table),
            confidence=confidence,
            seed=seed,
            threshold=float(self.parameters["threshold"]),
        )
        self.findings = describe_findings(self)
        self.conclusion = conclude(self)
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        return "\n".join([f"<km.PrimingStudy {self._title()}>", *self.findings, self.conclusion])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.findings)
        return (
            f"<div><b>{escape(self._title())}</b><p>{escape(self.conclusion)}</p><ul>{lines}</ul>"
            f"{self.comparisons._repr_html_()}{super()._repr_html_()}</div>"
        )


def _text_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    fixed = {name: first[name] for name in ("text", "theme", "category", "keyword")}
    return {**fixed, "logp_keyword_before": first["logp_keyword_before"], **summarise(rows)}


def probe_rows(table: Table) -> Table:
    """The rows of probes, with whether each is of the keyword's theme: what the analysis takes."""
    columns = [
        column
        for column in table.columns
        if column.name not in ("learned", "probe_text", "n_tokens", "kind", "log_ratio")
    ]
    names = [column.name for column in columns]
    same = Column("same_theme", "bool", "", "The probe is of the keyword's theme.")

    def rows() -> Iterable[dict[str, Any]]:
        for row in table.rows():
            if row["kind"] in ("theme", "other_theme"):
                kept = {name: row[name] for name in names}
                yield {**kept, "same_theme": row["kind"] == "theme"}

    return Table.from_rows([*columns, same], rows())


def _evidence(study: PrimingStudy) -> list[dict[str, Any]]:
    """Paired differences with their intervals."""
    n_texts = len({row["text"] for row in study.texts.rows()})
    return [
        {
            "node": "priming-spread",
            "measure": STUDY_ID,
            "statistic": row["question"].replace(" ", "_").replace(":", ""),
            "value": row["difference"],
            "low": row["low"],
            "high": row["high"],
            "n": row["n"],
            "unit": row["unit"],
            "baseline": row["mean_against"] if row["against"] is not None else None,
            "note": f"Mean over {row['n']} of {n_texts} texts, {row['n_clusters']} keywords as "
            f"clusters; exploratory. {study.findings[0]}",
        }
        for row in study.comparisons.rows()
    ]
