"""What the rows of a priming study say: correlation, regression, controls, threshold, verdicts.

The input has one row a (text, arm, probe): the probability of the text's keyword after the probe,
before and after what the arm did. Columns read: text, keyword, arm, probe, logp_keyword_before (of
the keyword in its own text), logp_before, logp_after, same_theme. Arms read: "learned";
"keyword_control" (the same text with another keyword) and "text_control" (an unrelated text), both
of the same dose and looked at with the learned text's keyword; any other arm but "in_context" is
taken as a mitigation. The analysis and why it is done so: docs/measures/priming_analysis.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import stats
from km.arguments import coverage, real_number
from km.errors import ArgumentError
from km.priming_shapes import SHAPE_COLUMNS, compare_shapes, threshold_verdict
from km.regression import Mixed, fit_mixed, t_quantile, within_permutation, within_slope
from km.scores.priming import THRESHOLD, predictor, scores
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Prediction", "PrimingAnalysis", "Verdict", "analyse", "judge"]

Verdict: TypeAlias = Literal["consistent", "inconsistent", "equivalent to none", "inconclusive"]

LEARNED = "learned"
CONTROLS = ("keyword_control", "text_control")
NO_MITIGATION = (LEARNED, *CONTROLS, "in_context")
POWER = 0.8
# Times that P_after is dealt out at random to see what the ratio's denominator does alone.
DEALS = 200

EFFECT_COLUMNS = [
    Column("prediction", "text", "", "What is predicted: priming, slope, or a mitigation."),
    Column("arm", "text", "", "The arm looked at."),
    Column("against", "text", "", "What it is compared with; null: the probability before."),
    Column("direction", "int64", "", "Sign that is predicted."),
    Column("smallest", "double", "", "Smallest effect of interest, in the estimate's unit."),
    Column("detectable", "double", "", "Smallest effect seen four times in five with these rows."),
    Column("estimate", "double", "", "Mean difference, or slope."),
    Column("unit", "text", "", "Its unit."),
    Column("low", "double", "", "Lower end of the interval."),
    Column("high", "double", "", "Upper end."),
    Column("equivalence_low", "double", "", "Lower end of the interval of both one-sided tests."),
    Column("equivalence_high", "double", "", "Upper end."),
    Column("df", "double", "", "Degrees of freedom of the intervals."),
    Column("p", "double", "", "Permutation: signs of keywords, or texts within keywords."),
    Column("p_adjusted", "double", "", "The same after Holm over the predictions."),
    Column("verdict", "text", "", "One of the ledger's words."),
    Column("n", "int64", "texts", "Texts."),
    Column("n_clusters", "int64", "keywords", "Keywords."),
]


@dataclass(frozen=True)
class Prediction:
    """What is said to be found, before it is looked at.

    Attributes
    ----------
    name : str
    direction : {1, -1}
    smallest : float
        Smallest effect of interest: intervals inside plus and minus this mean "equivalent to
        none".
    unit : str
    """

    name: str
    direction: int
    smallest: float
    unit: str


def judge(
    prediction: Prediction,
    interval: tuple[float, float],
    equivalence: tuple[float, float],
    p: float | None,
    alpha: float,
) -> Verdict:
    """A verdict on one effect.

    Parameters
    ----------
    prediction : Prediction
    interval : (float, float)
        With coverage 1 - alpha.
    equivalence : (float, float)
        With coverage 1 - 2 alpha: two one-sided tests at alpha.
    p : float or None
        Of the permutation test; None or NaN: not tested.
    alpha : float

    Returns
    -------
    {"consistent", "inconsistent", "equivalent to none", "inconclusive"}
        "equivalent to none" also where a smaller effect was found. "consistent" and
        "inconsistent" need interval and permutation test to agree.
    """
    if not all(math.isfinite(end) for end in (*interval, *equivalence)):
        return "inconclusive"
    if -prediction.smallest < equivalence[0] and equivalence[1] < prediction.smallest:
        return "equivalent to none"
    if p is None or not p <= alpha:
        return "inconclusive"
    sign = 1 if interval[0] > 0 else -1 if interval[1] < 0 else 0
    if sign == 0:
        return "inconclusive"
    return "consistent" if sign == prediction.direction else "inconsistent"


class PrimingAnalysis:
    """What :func:`analyse` returns.

    Attributes
    ----------
    effects : Table
        One row a prediction and comparison, with interval, permutation test and verdict.
    shapes : Table
        Errors of constant, step, linear and smooth dependence for keywords left out.
    verdicts : dict of str to str
        Of each prediction, and of "threshold", over all comparisons.
    description : dict
        The paper's correlations over texts, and what they are when P_after is dealt out at random.
    predictions : list of Prediction
        What was to be found; `prediction_hash` is the SHA-256 of them and of alpha.
    findings : list of str
        Sentences with all of this.
    left_out : int
        Rows without a finite log-probability.
    """

    def __init__(self, work: _Work) -> None:
        self._work = work
        self.left_out = work.left_out
        self.predictions = work.predictions
        self.prediction_hash = _hash(work)
        self.description = _describe(work)
        rows = _effects(work)
        self.verdicts: dict[str, Verdict] = _settle(work, rows)
        self.effects = Table.from_rows(EFFECT_COLUMNS, rows)
        texts, covariate = _shape_data(work)
        shapes = compare_shapes(
            texts.x, covariate, texts.value, texts.keyword, work.threshold, work.seed
        )
        self.shapes = Table.from_rows(SHAPE_COLUMNS, shapes)
        self.verdicts["threshold"] = threshold_verdict(shapes, work.alpha)
        self.findings = list(_say(self))

    @property
    def mixed(self) -> Mixed:
        """log P_after of the learned arm on both log P_before, crossed random intercepts.

        Raises
        ------
        ArgumentError
            There are too few rows for it.
        """
        rows = self._work.rows[LEARNED]
        fixed = {"logp_keyword_before": rows.x, "logp_before": rows.before}
        groups = {"keyword": rows.keyword, "probe": rows.probe, "text": rows.text}
        return fit_mixed(rows.after, fixed, groups)

    def __repr__(self) -> str:
        return "\n".join(["<km.PrimingAnalysis>", *self.findings])


def analyse(
    table: Table | Mapping[str, Sequence[Any]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    smallest: float = math.log(1.25),
    smallest_slope: float = 0.05,
    threshold: float = THRESHOLD,
    draws: int = 4000,
) -> PrimingAnalysis:
    """Analyse the rows of a priming study.

    Parameters
    ----------
    table : Table or mapping of column name to values
        As the module says.
    confidence : float
        Coverage of intervals; verdicts are at 1 - confidence.
    seed : int
        Of permutations.
    smallest : float
        Smallest mean change of log-probability of interest, nats; the default is a quarter more.
    smallest_slope : float
        Smallest slope of interest: nats of priming a nat of the keyword's log-probability.
    threshold : float
        Probability at which the paper sees priming begin.
    draws : int
        Permutations within keywords.

    Raises
    ------
    ArgumentError
        A column is missing, or there are no rows of the arm "learned".

    Notes
    -----
    Within a keyword log P_before of a probe is the same for all texts, so it drops out of the slope
    of log P_after on the keyword's log-probability there, and out of every difference from a
    control: neither can hold the artefact of the ratio.
    """
    coverage(confidence)
    real_number("smallest", smallest, 0, math.inf)
    real_number("smallest_slope", smallest_slope, 0, math.inf)
    real_number("threshold", threshold, 0, 1)
    return PrimingAnalysis(
        _Work(table, confidence, seed, smallest, smallest_slope, threshold, draws)
    )


# ---- the rows ----


@dataclass(frozen=True)
class _Rows:
    """Rows of one arm, same-theme probes, as arrays."""

    text: NDArray[Any]
    keyword: NDArray[Any]
    probe: NDArray[Any]
    x: Floats
    before: Floats
    after: Floats


@dataclass(frozen=True)
class _Texts:
    """One figure a text, with its keyword and the keyword's log-probability before."""

    text: NDArray[Any]
    keyword: NDArray[Any]
    x: Floats
    value: Floats


class _Work:
    """Rows by arm, and differences between arms by text."""

    def __init__(
        self,
        table: Table | Mapping[str, Sequence[Any]],
        confidence: float,
        seed: int,
        smallest: float,
        smallest_slope: float,
        threshold: float,
        draws: int,
    ) -> None:
        self.alpha = 1 - confidence
        self.seed = seed
        self.threshold = threshold
        self.draws = draws
        self.rows, self.left_out = _read(table)
        if LEARNED not in self.rows:
            raise ArgumentError('there are no rows of probes in the arm "learned"')
        self.controls = [arm for arm in CONTROLS if arm in self.rows]
        self.mitigations = [arm for arm in self.rows if arm not in NO_MITIGATION]
        self.predictions = [
            Prediction("priming", 1, smallest, "nats"),
            Prediction("slope", -1, smallest_slope, "nats/nat"),
            *(Prediction(arm, -1, smallest, "nats") for arm in self.mitigations),
        ]

    def difference(self, arm: str, against: str | None) -> _Texts:
        """Mean over shared probes of log P_after less that of another arm, or less log P_before."""
        import numpy as np

        rows = self.rows[arm]
        if against is None:
            keep, other = np.ones(len(rows.text), bool), rows.before
        else:
            keep, other = _matched(rows, self.rows[against])
        return _text_means(rows, rows.after - other, keep)

    def priming(self) -> list[tuple[str | None, _Texts]]:
        """The learned arm against each control; without any, against the probability before."""
        against: list[str | None] = [*self.controls] or [None]
        return [(name, self.difference(LEARNED, name)) for name in against]


def read_columns(
    table: Table | Mapping[str, Sequence[Any]], names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Floats]]:
    """Columns of a study's rows: those of `names`, and log-probabilities with NaN for null.

    Raises
    ------
    ArgumentError
        A column is missing.
    """
    import numpy as np

    numbers = ("logp_keyword_before", "logp_before", "logp_after")
    there = table.names if isinstance(table, Table) else list(table)
    missing = [name for name in (*names, *numbers) if name not in there]
    if missing:
        raise ArgumentError(f"the rows of a priming study need a column {missing[0]!r}")
    columns = {name: np.asarray(table[name]) for name in names}
    return columns, {name: _floats(table[name]) for name in numbers}


def _floats(values: Any) -> Floats:
    import numpy as np

    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _read(table: Table | Mapping[str, Sequence[Any]]) -> tuple[dict[str, _Rows], int]:
    import numpy as np

    texts, values = read_columns(table, ("text", "keyword", "arm", "probe", "same_theme"))
    own = texts["same_theme"].astype(bool)
    good = own & np.all([np.isfinite(v) for v in values.values()], axis=0)
    arms: dict[str, _Rows] = {}
    for arm in dict.fromkeys(texts["arm"].tolist()):
        keep = good & (texts["arm"] == arm)
        if keep.any():
            arms[arm] = _Rows(
                texts["text"][keep],
                texts["keyword"][keep],
                texts["probe"][keep],
                values["logp_keyword_before"][keep],
                values["logp_before"][keep],
                values["logp_after"][keep],
            )
    return arms, int(own.sum() - good.sum())


def _matched(rows: _Rows, other: _Rows) -> tuple[NDArray[Any], Floats]:
    """Which rows have one of the same text and probe in the other arm, and its log P_after."""
    import numpy as np

    found = {
        (text, probe): value
        for text, probe, value in zip(
            other.text.tolist(), other.probe.tolist(), other.after.tolist(), strict=True
        )
    }
    values = np.array(
        [
            found.get(key, math.nan)
            for key in zip(rows.text.tolist(), rows.probe.tolist(), strict=True)
        ]
    )
    return np.isfinite(values), values


def _text_means(rows: _Rows, values: Floats, keep: NDArray[Any]) -> _Texts:
    import numpy as np

    ids, first, codes = np.unique(rows.text[keep], return_index=True, return_inverse=True)
    means = np.bincount(codes, values[keep]) / np.maximum(np.bincount(codes), 1)
    return _Texts(ids, rows.keyword[keep][first], rows.x[keep][first], means)


def _hash(work: _Work) -> str:
    what = {"alpha": work.alpha, "predictions": [asdict(p) for p in work.predictions]}
    what["threshold"] = work.threshold
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


# ---- description ----


def _describe(work: _Work) -> dict[str, float]:
    """The paper's correlation over texts, and the same with P_after dealt out at random."""
    import numpy as np

    rows = work.rows[LEARNED]
    order = np.argsort(rows.text, kind="stable")
    ids, starts = np.unique(rows.text[order], return_index=True)
    x = rows.x[order][starts]
    before, after = rows.before[order], rows.after[order]
    counts = np.diff(np.append(starts, len(order)))

    def log_s_prime(values: Floats) -> Floats:
        ratios = values - before
        top = np.maximum.reduceat(ratios, starts)
        sums = np.add.reduceat(np.exp(ratios - np.repeat(top, counts)), starts)
        return np.asarray(top + np.log(sums / counts))

    seen = predictor(x, log_s_prime(after), threshold=work.threshold)
    generator = np.random.Generator(np.random.PCG64(work.seed))
    dealt = [
        predictor(x, log_s_prime(generator.permutation(after)), threshold=work.threshold).spearman
        for _ in range(DEALS)
    ]
    worst = scores(before, after)
    return {
        "pearson": seen.pearson,
        "spearman": seen.spearman,
        "n": float(len(ids)),
        "n_surprising": float(seen.n_surprising),
        "mean_surprising": seen.mean_surprising,
        "mean_unsurprising": seen.mean_unsurprising,
        "n_unstable": float(worst.n_unstable),
        "spearman_dealt": float(np.mean(dealt)),
        "spearman_dealt_low": float(np.quantile(dealt, 0.05)),
        "spearman_dealt_high": float(np.quantile(dealt, 0.95)),
    }


# ---- effects ----


def _effects(work: _Work) -> list[dict[str, Any]]:
    """A row for each prediction and comparison."""
    mean, slope, *mitigations = work.predictions
    rows = []
    for against, texts in work.priming():
        rows.append(_mean_row(work, mean, LEARNED, against, texts))
    for against, texts in work.priming():
        rows.append(_slope_row(work, slope, against, texts))
    for prediction in mitigations:
        texts = work.difference(prediction.name, LEARNED)
        rows.append(_mean_row(work, prediction, prediction.name, LEARNED, texts))
    return rows


def _blank(prediction: Prediction, arm: str, against: str | None, texts: _Texts) -> dict[str, Any]:
    return {
        "prediction": prediction.name,
        "arm": arm,
        "against": against,
        "direction": prediction.direction,
        "smallest": prediction.smallest,
        "unit": prediction.unit,
        "n": len(texts.text),
        "n_clusters": len(set(texts.keyword.tolist())),
    }


def _mean_row(
    work: _Work, prediction: Prediction, arm: str, against: str | None, texts: _Texts
) -> dict[str, Any]:
    """Mean over texts; keywords are the clusters."""
    row = _blank(prediction, arm, against, texts)
    if row["n"] == 0:
        return row
    row["estimate"] = float(texts.value.mean())
    if row["n_clusters"] < 2:
        return row
    spread = stats.clustered_bootstrap(texts.value, texts.keyword, method="t")
    row |= _intervals(work, row["estimate"], spread.se, spread.df)
    row["p"] = stats.permutation_test(texts.value, texts.keyword, seed=work.seed).p
    return row


def _slope_row(
    work: _Work, prediction: Prediction, against: str | None, texts: _Texts
) -> dict[str, Any]:
    """Slope on the keyword's log-probability within keywords."""
    row = _blank(prediction, LEARNED, against, texts)
    found = within_slope(texts.x, texts.value, texts.keyword)
    if math.isfinite(found.estimate):
        row["estimate"] = found.estimate
        row |= _intervals(work, found.estimate, found.se, found.df)
        p = within_permutation(
            texts.x, texts.value, texts.keyword, draws=work.draws, seed=work.seed
        )
        row["p"] = p if math.isfinite(p) else None
        row["n"], row["n_clusters"] = found.n, found.n_clusters
    return row


def _intervals(
    work: _Work, estimate: float, se: float | None, df: float | None
) -> dict[str, float | None]:
    if se is None or df is None or not math.isfinite(se) or not df > 0:
        return {}
    wide = t_quantile(1 - work.alpha / 2, df) * se
    narrow = t_quantile(1 - work.alpha, df) * se
    return {
        "df": df,
        "low": estimate - wide,
        "high": estimate + wide,
        "equivalence_low": estimate - narrow,
        "equivalence_high": estimate + narrow,
        "detectable": wide + t_quantile(POWER, df) * se,
    }


def _settle(work: _Work, rows: list[dict[str, Any]]) -> dict[str, Verdict]:
    """Adjust p over the predictions, judge each row, and each prediction over its rows.

    A prediction with two controls must hold against both, so its p is the larger one and needs no
    adjustment for there being two (an intersection-union test); Holm's goes over the predictions.
    """
    worst: dict[str, float] = {}
    for row in rows:
        if row.get("p") is not None:
            worst[row["prediction"]] = max(worst.get(row["prediction"], 0), row["p"])
    adjusted = dict(zip(worst, stats.holm(list(worst.values())).tolist(), strict=True))
    by_name = {prediction.name: prediction for prediction in work.predictions}
    verdicts: dict[str, list[Verdict]] = {}
    for row in rows:
        factor = adjusted[row["prediction"]] / worst[row["prediction"]] if row.get("p") else 1
        row["p_adjusted"] = min(1.0, row["p"] * factor) if row.get("p") is not None else None
        row["verdict"] = judge(
            by_name[row["prediction"]],
            (row.get("low", math.nan), row.get("high", math.nan)),
            (row.get("equivalence_low", math.nan), row.get("equivalence_high", math.nan)),
            row["p_adjusted"],
            work.alpha,
        )
        verdicts.setdefault(row["prediction"], []).append(row["verdict"])
    return {
        name: found[0] if len(set(found)) == 1 else "inconclusive"
        for name, found in verdicts.items()
    }


# ---- threshold ----


def _shape_data(work: _Work) -> tuple[_Texts, Floats]:
    """Priming of each text beyond the first control; without one log P_after and log P_before.

    The second is a covariate then, so that no ratio stands on either side.
    """
    import numpy as np

    if work.controls:
        texts = work.difference(LEARNED, work.controls[0])
        return texts, np.zeros(len(texts.text))
    rows = work.rows[LEARNED]
    everything = np.ones(len(rows.text), bool)
    return (
        _text_means(rows, rows.after, everything),
        _text_means(rows, rows.before, everything).value,
    )


# ---- words ----

_WORDS: dict[str, str] = {
    "consistent": "Consistent",
    "inconsistent": "Inconsistent",
    "equivalent to none": "Equivalent to none: no effect as large as would matter",
    "inconclusive": "Inconclusive",
}


def _say(analysis: PrimingAnalysis) -> Iterator[str]:
    rows = [row for row in analysis.effects.rows() if row["prediction"] in ("priming", "slope")]
    yield from _say_detectable(rows)
    yield _say_description(analysis.description)
    for name, words in (
        ("priming", "learning raises log P_after of probes beyond the controls"),
        ("slope", "the less probable the keyword was in its text, the more its probes are primed"),
    ):
        own = [row for row in rows if row["prediction"] == name]
        yield (
            f"{_WORDS[analysis.verdicts[name]]}: {words}; "
            + "; ".join(_say_effect(row) for row in own)
            + "."
        )
    if not analysis._work.controls:
        yield (
            "There is no control of the same dose in these rows: the mean change may be of any "
            "training; the slope is taken within keywords all the same."
        )
    yield from _say_shapes(analysis)
    if analysis.left_out:
        yield f"{analysis.left_out} rows without a finite log-probability were left out."


def _say_detectable(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    parts = [
        f"{row['prediction']}"
        + (f" against {row['against'].replace('_', ' ')}" if row["against"] else "")
        + f" {row['detectable']:.2g} {row['unit']} (of interest: {row['smallest']:.2g})"
        for row in rows
        if row["detectable"] is not None
    ]
    if parts:
        yield "Smallest effects seen four times in five with these rows: " + "; ".join(parts) + "."
    else:
        yield "Too few keywords or texts for an interval: nothing below is more than description."


def _say_description(found: Mapping[str, float]) -> str:
    if math.isnan(found["pearson"]):
        return "Too few texts for the paper's correlation."
    return (
        f"Description, as in the paper: over {found['n']:.0f} texts log S_prime against log "
        f"keyword probability has Pearson {found['pearson']:.2f} and Spearman "
        f"{found['spearman']:.2f}. "
        "This is not evidence: log S_prime has log P_before in its denominator, and with the same "
        f"P_after dealt out at random Spearman's is {found['spearman_dealt']:.2f} "
        f"[{found['spearman_dealt_low']:.2f}, {found['spearman_dealt_high']:.2f}]."
    )


def _say_effect(row: Mapping[str, Any]) -> str:
    against = "the probability before" if row["against"] is None else row["against"]
    words = "slope" if row["prediction"] == "slope" else "mean"
    if row["estimate"] is None:
        return f"{words} against {against.replace('_', ' ')} not estimable"
    text = f"{words} against {against.replace('_', ' ')} {row['estimate']:+.3f} {row['unit']}"
    if row["low"] is None:
        return text
    p = "" if row["p_adjusted"] is None else f", p = {row['p_adjusted']:.2g}"
    return (
        f"{text} [{row['low']:+.3f}, {row['high']:+.3f}]{p}, {row['n']} texts, "
        f"{row['n_clusters']} keywords"
    )


def _say_shapes(analysis: PrimingAnalysis) -> Iterator[str]:
    rows = {row["shape"]: row for row in analysis.shapes.rows()}
    if not rows:
        yield "Too few keywords to compare a threshold with a smooth curve."
        return
    verdict = analysis.verdicts["threshold"]
    words = {
        "consistent": "Consistent: a step at the threshold predicts keywords left out better than "
        "any smooth curve",
        "inconsistent": "Inconsistent: a smooth curve predicts keywords left out better than a "
        "step at the threshold",
    }.get(verdict, "Inconclusive: a step at the threshold and smooth curves predict about equally")
    errors = ", ".join(f"{name} {row['error']:.3g}" for name, row in rows.items())
    yield f"{words}; mean squared errors (nats²): {errors}."
