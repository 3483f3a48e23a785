"""What a conflict study returns: its figures, verdicts, and what they say in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from km import stats
from km.display import escape
from km.ledger import Prediction, Verdict, predictions, verdict_word
from km.result import ChunkedResult
from km.studies import conflict_analysis as analysis
from km.studies.conflict_analysis import RATIO_COLUMNS, Figure, ratio_rows
from km.studies.conflict_family import FAMILY_ID
from km.studies.conflict_real import REAL_ID
from km.studies.conflict_rows import MIXED, PLAIN, UNSUBSTITUTED, Row
from km.studies.conflict_words import conclude, describe
from km.table import Column, Table

STUDY_ID = "conflict.study"
STUDY_VERSION = 1

FINDING_COLUMNS = [
    Column("quantity", "text", "", "What was estimated."),
    Column("prediction", "text", "", "Id of the prediction it judges; null: described only."),
    Column("estimate", "double", "", "Null where nothing could be estimated."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("unit", "text", "", "Unit of the estimate."),
    Column("n", "int64", "", "Clusters of the interval."),
    Column("n_unit", "text", "", "What they are."),
    Column("n_items", "int64", "", "Answers or facts."),
    Column("p", "double", "", "Two-sided; null where the interval alone decides."),
    Column("p_adjusted", "double", "", "Holm for confirmatory, Benjamini-Hochberg for others."),
    Column("detectable", "double", "", "Smallest effect that four in five such studies see."),
    Column("beside", "text", "", "What has to be read with it."),
    Column("word", "text", "", "The verdict's word; null without a prediction."),
]


@dataclass(frozen=True)
class Finding:
    """A figure with the prediction it judges, if any.

    Attributes
    ----------
    quantity : str
    figure : Figure
    unit, n_unit : str
    prediction : Prediction or None
    p_adjusted : float or None
    """

    quantity: str
    figure: Figure
    unit: str
    n_unit: str
    prediction: Prediction | None = None
    p_adjusted: float | None = None

    @property
    def word(self) -> str | None:
        """The verdict's word."""
        f = self.figure
        if self.prediction is None:
            return None
        return verdict_word(self.prediction, f.estimate, f.low, f.high, f.n, self.p_adjusted)

    def row(self) -> dict[str, Any]:
        """A row of FINDING_COLUMNS."""
        f = self.figure
        return {
            "quantity": self.quantity,
            "prediction": None if self.prediction is None else self.prediction.id,
            **{
                name: getattr(f, name)
                for name in ("estimate", "low", "high", "n", "n_items", "p", "detectable", "beside")
            },
            "unit": self.unit,
            "n_unit": self.n_unit,
            "p_adjusted": self.p_adjusted,
            "word": self.word,
        }


def find(
    rows: Sequence[Row], chosen: Sequence[Prediction], level: float = 0.95, seed: int = 0
) -> list[Finding]:
    """Every figure of the study, the judged ones first.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the study.
    chosen : sequence of Prediction
        Those to be judged; each is estimated at its own level.
    level : float
        Of what is only described.
    seed : int
        Of bootstraps.
    """
    makers: dict[str, tuple[str, Callable[[float], Figure]]] = {
        "conflict-memory-persists": (
            "memorization ratio of known facts",
            lambda x: analysis.kept_memory(rows, x, seed),
        ),
        "conflict-passage-sways": (
            "original answers, original less changed passage",
            lambda x: analysis.passage_sways(rows, x, seed),
        ),
        "conflict-popularity-views": (
            "slope on log page views",
            lambda x: analysis.slope_within_relations(rows, analysis.log_views, x),
        ),
        "conflict-popularity-familiarity": (
            "slope on the subject's log-probability",
            lambda x: analysis.slope_within_relations(rows, analysis.familiarity, x),
        ),
        "conflict-mastery": (
            "slope on the share of other wordings answered rightly",
            lambda x: analysis.slope_within_relations(rows, analysis.paraphrase_mastery(rows), x),
        ),
        "conflict-count-family": (
            "family: slope on doublings of the count",
            lambda x: analysis.count_slope(rows, x),
        ),
        "conflict-size-family": (
            "family: slope on log10 of the parameters",
            lambda x: analysis.size_slope(rows, x),
        ),
        "conflict-mitigation-ratio": (
            "memorization ratio, mixed less unsubstituted fine-tuning",
            lambda x: analysis.mitigated_ratio(rows, x, seed),
        ),
        "conflict-mitigation-cost": (
            "accuracy without a passage, mixed less unsubstituted",
            lambda x: analysis.untouched_accuracy(rows, MIXED, UNSUBSTITUTED, x, seed),
        ),
    }
    judged = [
        Finding(makers[p.id][0], makers[p.id][1](p.level), p.unit, p.n_unit, p) for p in chosen
    ]
    return [*_adjusted(judged), *_described(rows, level, seed)]


def _described(rows: Sequence[Row], level: float, seed: int) -> list[Finding]:
    """Figures without a prediction: both fine-tunings against the model as it was."""
    out = []
    for arm in (UNSUBSTITUTED, MIXED):
        ratio = analysis.against_before(rows, arm, level, seed)
        right = analysis.untouched_accuracy(rows, arm, PLAIN, level, seed)
        out.append(Finding(f"memorization ratio, {arm} less before", ratio, "share", "relations"))
        name = f"accuracy without a passage, {arm} less before"
        out.append(Finding(name, right, "share", "relations"))
    return out


def _adjusted(found: Sequence[Finding]) -> list[Finding]:
    """P-values corrected within the confirmatory and within the exploratory family."""
    corrected: dict[int, float] = {}
    ways = {"confirmatory": stats.holm, "exploratory": stats.benjamini_hochberg}
    for family, correct in ways.items():
        own = [
            i
            for i, one in enumerate(found)
            if one.prediction is not None
            and one.prediction.family == family
            and one.figure.p is not None
        ]
        if own:
            values = correct([float(found[i].figure.p or 0.0) for i in own]).tolist()
            corrected |= dict(zip(own, values, strict=True))
    return [
        Finding(one.quantity, one.figure, one.unit, one.n_unit, one.prediction, corrected.get(i))
        for i, one in enumerate(found)
    ]


class ConflictStudy(ChunkedResult):
    """What :func:`km.studies.conflict` returns: one row an answer.

    Attributes
    ----------
    findings : Table
        Every figure with its interval, smallest detectable effect and the verdict's word.
    ratios : Table
        Original, substitute and other with the memorization ratio of every group, beside random
        weights.
    lines : list of str
        The findings as sentences, smallest detectable effects first.
    conclusion : str
        Two sentences: what a reader may conclude, and what not.
    verdicts : list of Verdict
        Of the call that measured; empty for a study read from a knowledge base, whose ledger has
        them.
    n_measured : int
        Parts measured by this call; the others were found in the knowledge base.
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
        self.rows: list[Row] = list(self.table.rows())
        level, seed = float(self.parameters["confidence"]), int(self.provenance["seed"])
        self.found = find(self.rows, predictions("conflict"), level, seed)
        self.findings = Table.from_rows(FINDING_COLUMNS, [one.row() for one in self.found])
        self.ratios = Table.from_rows(RATIO_COLUMNS, ratio_rows(self.rows, level, seed))
        self.verdicts: list[Verdict] = []
        judged = list(self.findings.rows())
        self.lines = describe(self.rows, judged, self.provenance)
        self.conclusion = conclude(judged, self.provenance)

    def series(self, group: str = "size and count") -> Table:
        """Rows of :attr:`ratios` of one group, ready to be drawn."""
        rows = [row for row in self.ratios.rows() if row["group"] == group]
        return Table.from_rows(RATIO_COLUMNS, rows)

    def __repr__(self) -> str:
        return "\n".join([f"<km.ConflictStudy {self._title()}>", *self.lines, self.conclusion])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.lines)
        return (
            f"<div><b>{escape(self._title())}</b><p>{escape(self.conclusion)}</p><ul>{lines}</ul>"
            f"{self.findings._repr_html_()}{self.ratios._repr_html_()}"
            f"{super()._repr_html_()}</div>"
        )


class ConflictPart(ChunkedResult):
    """The rows that the predictions of one measure rest on, recorded as a run of their own."""

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        run: int | None = None,
    ) -> None:
        super().__init__(chunks, provenance, run)
        judged = [p for p in predictions("conflict") if p.measure == self.MEASURE_ID]
        level, seed = float(self.parameters["confidence"]), int(self.provenance["seed"])
        self.evidence = _evidence(find(list(self.table.rows()), judged, level, seed))


class RealPart(ConflictPart):
    """Of the real model, as it is and fine-tuned."""

    MEASURE_ID = REAL_ID


class FamilyPart(ConflictPart):
    """Of the from-scratch family; a run without a model."""

    MEASURE_ID = FAMILY_ID


def _evidence(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """What was estimated says of nodes of the taxonomy."""
    return [
        {
            "node": node,
            "measure": one.prediction.measure,
            "statistic": one.prediction.id,
            "value": one.figure.estimate,
            "low": one.figure.low,
            "high": one.figure.high,
            "n": one.figure.n,
            "unit": one.unit,
            "baseline": one.prediction.null,
            "note": f"{one.quantity}, {one.prediction.family}; {one.figure.beside} ({one.word})",
        }
        for one in found
        if one.prediction is not None and one.figure.estimate is not None
        for node in one.prediction.nodes
    ]
