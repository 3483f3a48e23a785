"""What an overshadowing study returns: its tables, and what they say in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from km import ledger, stats
from km.display import escape
from km.errors import ArgumentError
from km.ledger import Prediction, verdict_word
from km.overshadow.law import Law, fit
from km.result import ChunkedResult, stored_table
from km.scores.overshadow import rates
from km.studies.overshadow_design import STUDY_ID, STUDY_VERSION
from km.studies.overshadow_figures import Figure, mean_figure, rise_figure
from km.studies.overshadow_forecast import (
    SCORE_COLUMNS,
    SERIES,
    Series,
    as_cell,
    factor_of,
    score_forecast,
    series_rows,
    size_losses,
)
from km.studies.overshadow_words import conclude, describe
from km.table import Column, Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

__all__ = ["STUDY_ID", "STUDY_VERSION", "OvershadowingStudy"]

FINDING_COLUMNS = [
    Column("prediction", "text", "", "Prediction that the figure is about; null: description."),
    Column("quantity", "text", "", "What was estimated."),
    Column("estimate", "double", "", "Null where it is not identified."),
    Column("low", "double", "", "Of its interval."),
    Column("high", "double", "", "Of its interval."),
    Column("detectable", "double", "", "Smallest distance from none seen four times in five."),
    Column("unit", "text", "", "Its unit."),
    Column("n", "int64", "", "In units of `n_unit`."),
    Column("n_unit", "text", "", "What is counted."),
    Column("p", "double", "", "Two-sided, against no effect."),
    Column("p_adjusted", "double", "", "The same after Holm, over all predictions of the study."),
    Column("word", "text", "", "Verdict on the prediction."),
]

CELL_COLUMNS = [
    Column("series", "text", "", "The factor that varies, and how cells are compared."),
    Column("part", "text", "", "fit, fresh or held out."),
    *(Column(name, "double", "", "Factor of the cell.") for name in ("P", "L", "S")),
    Column("replicate", "int64", "", "Number of the cell among those of its setting."),
    Column("tokens", "int64", "tokens", "Trained on when it was asked."),
    Column("loss", "double", "nats", "Mean a target over the last epoch."),
    Column("RR", "double", "", "Share of A prompts answered with the popular answer."),
    Column("HR", "double", "", "Share of B prompts answered with it."),
    Column("right", "double", "", "Share of B prompts answered rightly."),
    Column("R", "double", "", "HR / RR; null without recall."),
    Column("low", "double", "", "Of its interval, prompts independent."),
    Column("high", "double", "", "Of that interval; null where it has no upper end."),
    Column("predicted", "double", "", "R by the log-linear law of the series; null without one."),
]


class OvershadowingStudy(ChunkedResult):
    """What :func:`km.studies.overshadowing` returns: one row a model and moment it was asked.

    Attributes
    ----------
    laws : dict of str to Law or None
        By series: "P", "L", "S" and "S at equal loss"; None where it is not identified.
    refused : dict of str to str
        Why not.
    equal_loss : float or None
        Loss at which the models of the last series are compared.
    forecast : Table
        The curves as they were written down before fresh and held-out cells were trained.
    scores : Table
        These curves by the counts they never saw.
    findings : Table
        A row a prediction: figure, interval, smallest detectable effect, p, verdict.
    lines : list of str
        The study in plain words.
    conclusion : str
        Two sentences: what a reader may conclude, and what not.
    verdicts : list of Verdict
        What the ledger keeps; empty in a study read from a knowledge base.
    n_measured : int
        Models trained by this call; the others were found in the knowledge base.
    evidence : list of dict
    """

    MEASURE_ID = STUDY_ID

    def __init__(
        self,
        chunks: Sequence[tuple[str, Table]],
        provenance: dict[str, Any],
        forecast: Table,
        run: int | None = None,
        n_measured: int = 0,
    ) -> None:
        super().__init__(chunks, provenance, run)
        self.forecast = forecast
        self.n_measured = n_measured
        self.verdicts: list[ledger.Verdict] = []
        self.trained = [list(table.rows()) for _, table in self.chunks]
        rung = float(self.parameters["design"]["rung"])
        self.equal_loss = size_losses(self.trained, rung)
        self.laws, self.refused = self._fit_laws()
        self.scores = Table.from_rows(SCORE_COLUMNS, score_forecast(forecast, self.trained))
        self.figures = self._judge()
        self.findings = Table.from_rows(FINDING_COLUMNS, _finding_rows(self.figures))
        self.lines = describe(self)
        self.conclusion = conclude(self)
        self.evidence = _evidence(self)

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Self:
        """The study that a run recorded.

        Raises
        ------
        NotFoundError
            There is no such finished run, it is of another measure, or a table is missing.
        """
        from km.result import stored_chunks

        chunks, provenance = stored_chunks(kb, run, STUDY_ID)
        forecast = stored_table(kb, run, provenance["parameters"]["forecast"])
        return cls(chunks, provenance, forecast, run)

    @property
    def rows(self) -> Table:
        """The whole table: one row a model and moment."""
        return self.table

    def series(self, name: Series | Literal["training"] = "P") -> Table:
        """A table ready to be drawn.

        Parameters
        ----------
        name : {"P", "L", "S", "S at equal loss", "training"}
            The cells of a series with R, its interval and the law; or all models along training.
        """
        if name == "training":
            return self.table
        if name not in SERIES:
            raise ArgumentError(f"no series {name!r}; there are {', '.join(SERIES)}, training")
        law = self.laws[name]
        loss = self.equal_loss
        found = []
        for part in ("fit", "fresh", "held out"):
            for row in series_rows(self.trained, name, part, loss):
                found.append(_cell_row(row, name, law, factor_of(name)))
        return Table.from_rows(CELL_COLUMNS, found)

    def _fit_laws(self) -> tuple[dict[str, Law | None], dict[str, str]]:
        confidence = float(self.parameters["confidence"])
        laws: dict[str, Law | None] = {}
        refused: dict[str, str] = {}
        for name in SERIES:
            rows = series_rows(self.trained, name, "fit", self.equal_loss)
            laws[name] = None
            try:
                if name == "S at equal loss" and self.equal_loss is None:
                    raise ArgumentError("no loss was reached by all sizes")
                cells = [as_cell(row) for row in rows]
                laws[name] = fit(cells, factor_of(name), confidence=confidence)
            except ArgumentError as error:
                refused[name] = str(error)
        return laws, refused

    def _judge(self) -> list[Figure]:
        """The figure of each prediction, in the order of the shipped file."""
        by_id = {p.id: p for p in ledger.predictions("overshadowing")}
        rises: dict[str, Series] = {
            "overshadowing-popularity": "P",
            "overshadowing-length": "L",
            "overshadowing-size": "S",
            "overshadowing-size-equal-loss": "S at equal loss",
        }
        found = [rise_figure(by_id[id], self.laws[name], name) for id, name in rises.items()]
        scores = [row for row in self.scores.rows() if row["series"] != "S at equal loss"]
        gains = _gains(scores)
        found.append(mean_figure(by_id["overshadowing-log-linear"], gains))
        errors = [
            (_setting(row), row["relative_error"])
            for row in scores
            if (row["part"], row["curve"]) == ("held out", "log-linear")
        ]
        found.append(mean_figure(by_id["overshadowing-forecast-error"], errors))
        return _adjusted(found)

    def __repr__(self) -> str:
        return "\n".join([f"<km.OvershadowingStudy {self._title()}>", *self.lines, self.conclusion])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.lines)
        return (
            f"<div><b>{escape(self._title())}</b><p>{escape(self.conclusion)}</p><ul>{lines}</ul>"
            f"{self.findings._repr_html_()}{super()._repr_html_()}</div>"
        )


def _setting(row: Mapping[str, Any]) -> tuple[float, ...]:
    return (row["P"], row["L"], row["S"])


def _gains(scores: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[float, ...], float | None]]:
    """Log score of the log-linear curve less that of the saturating one, cell by cell."""
    own = {}
    for row in scores:
        key = (row["series"], row["part"], _setting(row), row["replicate"])
        own[key, row["curve"]] = row["log_score"]
    return [
        (key[2], own[key, "log-linear"] - own[key, "saturating"])
        for key, curve in own
        if curve == "log-linear"
    ]


def _adjusted(figures: Sequence[Figure]) -> list[Figure]:
    """The figures with p after Holm, and their words."""
    tested = [(f, f.p) for f in figures if f.p is not None]
    adjusted = stats.holm([p for _, p in tested]).tolist() if tested else []
    for (figure, _), value in zip(tested, adjusted, strict=True):
        figure.p_adjusted = float(value)
    for figure in figures:
        figure.word = verdict_word(
            figure.prediction, figure.estimate, figure.low, figure.high, figure.n, figure.p_adjusted
        )
    return list(figures)


def _finding_rows(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    rows = []
    for figure in figures:
        p: Prediction = figure.prediction
        rows.append(
            {
                "prediction": p.id,
                "quantity": p.statistic,
                "unit": p.unit,
                "n_unit": p.n_unit,
                **{
                    name: getattr(figure, name)
                    for name in (
                        "estimate",
                        "low",
                        "high",
                        "detectable",
                        "n",
                        "p",
                        "p_adjusted",
                        "word",
                    )
                },
            }
        )
    return rows


def _cell_row(row: Mapping[str, Any], name: str, law: Law | None, factor: str) -> dict[str, Any]:
    found = rates(*(row[n] for n in ("n_a", "n_a_correct", "n_b", "n_b_hallucinated")))
    out = {n: row[n] for n in ("part", "P", "L", "S", "replicate", "tokens", "loss")}
    out |= {
        "series": name,
        "RR": found.recall.estimate,
        "HR": found.hallucination.estimate,
        "right": row["n_b_right"] / row["n_b"],
        "low": found.low,
        "high": found.high if math.isfinite(found.high) else None,
        "R": found.ratio if math.isfinite(found.ratio) else None,
        "predicted": None,
    }
    if law is not None:
        out["predicted"] = law.predict(extrapolate=True, **{factor: row[factor]}).estimate
    return out


def _evidence(study: OvershadowingStudy) -> list[dict[str, Any]]:
    """The figures that could be estimated."""
    return [
        {
            "node": node,
            "measure": STUDY_ID,
            "statistic": figure.prediction.id,
            "value": figure.estimate,
            "low": figure.low,
            "high": figure.high,
            "n": figure.n,
            "unit": figure.prediction.unit,
            "baseline": figure.prediction.null,
            "note": f"{figure.prediction.statistic}: {figure.word}. {study.lines[0]}",
        }
        for figure in study.figures
        if figure.estimate is not None
        for node in figure.prediction.nodes
    ]
