"""An overshadowing study in plain words: what was trained, what was found, what may be said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.studies.overshadow_forecast import SERIES, Series, factor_of, series_rows

if TYPE_CHECKING:
    from km.studies.overshadow_figures import Figure
    from km.studies.overshadow_result import OvershadowingStudy

_NAMES = {
    "overshadowing-popularity": "relative popularity",
    "overshadowing-length": "relative length",
    "overshadowing-size": "size at equal tokens",
    "overshadowing-size-equal-loss": "size at equal loss",
}


def describe(study: OvershadowingStudy) -> list[str]:
    """Lines, the smallest detectable effects first, then finding by finding."""
    return [
        _unit(study),
        _detectable(study.figures),
        _rates(study),
        *(line for name in SERIES for line in _series(study, name)),
        *(_judged(figure) for figure in study.figures),
        *_held_out(study),
        *_curves(study),
    ]


def _unit(study: OvershadowingStudy) -> str:
    """What all that follows is about."""
    design = study.parameters["design"]
    sizes = [rows[0]["S"] for rows in study.trained]
    return (
        f"All figures are of {len(study.trained)} llama models of {_count(min(sizes))} to "
        f"{_count(max(sizes))} parameters, each trained from scratch on {design['tokens']:,} "
        f"tokens of its own random corpus ({design['groups']} groups of {design['lines']} lines of "
        f"{design['prompt'] + 1} tokens; AdamW at {design['lr']:g}); they say nothing of other "
        "recipes, of natural text, or of models beyond these sizes."
    )


def _detectable(figures: Sequence[Figure]) -> str:
    parts = [
        f"{_NAMES[f.prediction.id]} {f.detectable:.2g}"
        for f in figures
        if f.prediction.id in _NAMES and f.detectable is not None
    ]
    if not parts:
        return "With these cells no change of R could have been seen: there are no intervals."
    return (
        "Smallest change of R over the values tried that would have been seen four times in five: "
        + "; ".join(parts)
        + "."
    )


def _rates(study: OvershadowingStudy) -> str:
    """Before and after training, over all cells; the context alone as the baseline."""
    first = _pooled([rows[0] for rows in study.trained])
    last = _pooled([rows[-1] for rows in study.trained])
    n = sum(rows[-1]["n_shared"] or 0 for rows in study.trained)
    heard = sum(rows[-1]["n_shared_popular"] or 0 for rows in study.trained)
    alone = f"; the context alone gets the popular answer in {heard / n:.2f}" if n else ""
    return (
        f"Before training RR is {first[0]:.2f} and HR {first[1]:.2f}; after it, over all cells, RR "
        f"is {last[0]:.2f} and HR {last[1]:.2f}{alone}."
    )


def _pooled(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """RR and HR of all prompts together."""
    a, b = sum(row["n_a"] for row in rows), sum(row["n_b"] for row in rows)
    return (
        sum(row["n_a_correct"] for row in rows) / a,
        sum(row["n_b_hallucinated"] for row in rows) / b,
    )


def _series(study: OvershadowingStudy, name: Series) -> Iterator[str]:
    """R at each value of a factor, seeds together."""
    if name in study.refused:
        yield f"{name}: not identified, {study.refused[name]}."
        return
    factor = factor_of(name)
    by_value: dict[float, list[Mapping[str, Any]]] = {}
    for row in series_rows(study.trained, name, "fit", study.equal_loss):
        by_value.setdefault(row[factor], []).append(row)
    parts = []
    for value, rows in sorted(by_value.items()):
        rr, hr = _pooled(rows)
        ratio = f"{hr / rr:.2f}" if rr else "not defined"
        parts.append(f"{_count(value) if factor == 'S' else f'{value:g}'}: {ratio}")
    at = f" (loss {study.equal_loss:.2f})" if name == "S at equal loss" else ""
    yield f"R by {name}{at}, seeds together: " + "; ".join(parts) + "."


def _judged(figure: Figure) -> str:
    """A prediction with its figure and its word."""
    p = figure.prediction
    if figure.estimate is None:
        return f"{figure.word.capitalize()}: {p.statement} Nothing was estimated."
    text = f"{p.statistic} {figure.estimate:+.3g} {p.unit}".rstrip()
    if figure.low is not None and figure.high is not None:
        text += f" [{figure.low:+.3g}, {figure.high:+.3g}]"
    if figure.p_adjusted is not None:
        text += f", adjusted p = {figure.p_adjusted:.2g}"
    return f"{figure.word.capitalize()}: {p.statement} {text}, n = {figure.n} {p.n_unit}."


def _held_out(study: OvershadowingStudy) -> Iterator[str]:
    """Held-out settings one by one, as the frozen curves had them."""
    by_place: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in study.scores.rows():
        if (row["part"], row["curve"]) == ("held out", "log-linear"):
            place = (row["series"], row["P"], row["L"], row["S"], row["predicted"])
            by_place.setdefault(place, []).append(row)
    for (series, P, L, S, predicted), rows in by_place.items():
        seen = ", ".join("-" if r["seen"] is None else f"{r['seen']:.2f}" for r in rows)
        value = {"P": f"{P:g}", "L": f"{L:g}", "S": _count(S)}[factor_of(series)]
        yield f"Held out, {series} = {value}: predicted {predicted:.2f}, seen {seen}."
    if by_place:
        errors = {}
        for curve in ("constant", "log-linear", "saturating"):
            own = [
                row["relative_error"]
                for row in study.scores.rows()
                if (row["part"], row["curve"]) == ("held out", curve)
                and row["series"] != "S at equal loss"
                and row["relative_error"] is not None
            ]
            if own:
                errors[curve] = f"{curve} {100 * math.fsum(own) / len(own):.1f} %"
        yield from _without_error(study)
        frozen = all(study.forecast["frozen"])
        word = "written down before these cells were trained" if frozen else "not frozen before"
        yield (
            f"Mean relative error at held-out settings, {word}: "
            + "; ".join(errors.values())
            + " (the paper has about 8 % for its own models)."
        )


def _without_error(study: OvershadowingStudy) -> Iterator[str]:
    """Cells whose R is 0 or not defined have no relative error; their absolute one is said."""
    own = [
        row
        for row in study.scores.rows()
        if (row["part"], row["curve"]) == ("held out", "log-linear")
        and row["series"] != "S at equal loss"
    ]
    lost = [row for row in own if row["relative_error"] is None]
    if lost:
        missed = [abs(row["predicted"] - row["seen"]) for row in own if row["seen"] is not None]
        mean = math.fsum(missed) / len(missed) if missed else math.nan
        yield (
            f"{len(lost)} of {len(own)} held-out cells have an R of 0 or none and so no relative "
            f"error; the mean absolute error of all that have R is {mean:.2f}."
        )


def _curves(study: OvershadowingStudy) -> Iterator[str]:
    """The curves by what they never saw, and by leaving values out of the fit."""
    for series in SERIES:
        scores: dict[str, list[float]] = {}
        for row in study.scores.rows():
            if row["series"] == series:
                scores.setdefault(row["curve"], []).append(row["log_score"])
        if not scores:
            continue
        parts = [f"{curve} {math.fsum(x) / len(x):.2f}" for curve, x in scores.items()]
        law = study.laws[series]
        shape = "" if law is None else f"; values left out of the fit: {law.shape}"
        n = len(next(iter(scores.values())))
        yield (
            f"Log score of {n} new cells, {series}, nats a cell: " + "; ".join(parts) + f"{shape}."
        )


def conclude(study: OvershadowingStudy) -> str:
    """Two sentences: what may be concluded, and what not."""
    found: dict[str, list[str]] = {}
    for figure in study.figures:
        name = _NAMES.get(figure.prediction.id)
        if name is not None:
            found.setdefault(_change(figure), []).append(name)
    parts = [f"{words} {_listed(names)}" for words, names in found.items()]
    error = next(f for f in study.figures if f.prediction.id == "overshadowing-forecast-error")
    tail = (
        ""
        if error.estimate is None
        else ", and the law fitted before missed held-out cells by "
        f"{100 * error.estimate:.0f} % on average"
    )
    return (
        "In small transformers trained from scratch on random corpora with this recipe, R = HR / "
        f"RR {'; '.join(parts)}{tail}. What this does not show is how R behaves in large models, "
        "in natural text, after other numbers of epochs or with other learning rates, nor why it "
        "changes."
    )


def _change(figure: Figure) -> str:
    """What R does with a factor, said before the factor's name."""
    if figure.word == "consistent":
        return "grows with"
    return {
        "inconsistent": "falls with",
        "equivalent to none": "does not change with",
        "not testable here": "cannot be judged by",
    }.get(figure.word, "is not settled by")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _count(value: float) -> str:
    """Parameters as one says them."""
    return f"{value / 1e6:.2g}M" if value >= 1e5 else f"{value:,.0f}"
