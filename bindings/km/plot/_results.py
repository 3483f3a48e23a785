"""How results are plotted: the kinds each offers, the first by default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from km.diff_relations import EVERYTHING
from km.errors import ArgumentError
from km.plot._choice import PLOTS, kind_of, plot_table
from km.plot._reliability import two_way
from km.plot._style import model_name
from km.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from km.result import Result

# What a kind of plot of a result is made of: the plot, its rows, its options.
Made = tuple[str, Any, dict[str, Any]]
Maker = Callable[..., Made]

TWO_WAY = "confidence in the likelier of two answers"
GREEDY = "Greedy"  # as studies of decoders name it


def plot_result(
    result: Result, ax: Axes | None = None, kind: str | None = None, **options: Any
) -> Axes:
    """Plot a result; what :meth:`km.Result.plot` does.

    Raises
    ------
    ArgumentError
        The result has no such plot; those it has are named.
    """
    makers = _makers(result)
    chosen = kind or next(iter(makers), None)
    if chosen is None:
        return plot_table(result.table, None, ax, **_named(result, options))
    if chosen not in makers:
        raise ArgumentError(
            f"{type(result).__name__} has no plot {chosen!r}; it has {', '.join(makers)}"
        )
    own = list(inspect.signature(makers[chosen]).parameters)[1:]
    taken = {name: options.pop(name) for name in own if name in options}
    plot, rows, given = makers[chosen](result, **taken)
    return PLOTS[plot](rows, ax, **(given | _named(result, options)))


def _makers(result: Result) -> Mapping[str, Maker]:
    """Plots of a result by kind: those of its class, else of the table it shows first."""
    for cls in type(result).__mro__:
        if cls.__name__ in _MAKERS:
            return _MAKERS[cls.__name__]
    for name in ("findings", "comparisons", "table"):
        table = getattr(result, name, None)
        kind = kind_of(table.names) if isinstance(table, Table) else None
        if kind is not None:
            return {kind: _of(kind, name)}
    return {}


def _named(result: Result, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the model that the result was measured on."""
    return {"model": _model(result), **options}


def _model(result: Result) -> str:
    of = getattr(result, "of", None)
    names = [model_name(study) for study in of] if isinstance(of, list) else [model_name(result)]
    return ", ".join(dict.fromkeys(name for name in names if name))


def _of(kind: str, table: str, title: str = "", **options: Any) -> Maker:
    """A plot of one of a result's tables."""

    def make(result: Result) -> Made:
        return kind, getattr(result, table), {"title": title, **options} if title else options

    return make


# ---- recall ----


def _recall_reliability(result: Any) -> Made:
    """Each answer beside its best rival: the confidence in the likelier one."""
    rows = [
        {
            TWO_WAY: None if row["margin"] is None else two_way(row["margin"], 0.0),
            "correct": row["correct"],
        }
        for row in result.table.rows()
    ]
    title = "Reliability of the choice between an answer and its best rival"
    return "reliability", rows, {"confidence": TWO_WAY, "title": title}


# ---- two models ----


def _diff_slopes(result: Any) -> Made:
    """Recall of relations in both models; the row of all facts is no relation."""
    rows = [row for row in result.relations.rows() if row["relation"] != EVERYTHING]
    names = [result.parameters[side]["name"] for side in ("before", "after")]
    title = f"Recall by relation: {names[0]} and {names[1]}"
    return "slopes", rows, {"labels": "relation", "title": title}


# ---- studies ----


def _series(result: Any, series: str = "P") -> Made:
    table = result.series(series)
    if series == "training":
        return "curves", table, {"x": "tokens", "group": "part", "title": "Loss along training"}
    factor = series[0]
    title = f"Overshadowing by {factor}" + (" at equal loss" if series.endswith("loss") else "")
    options = {"x": factor, "y": "R", "group": "part", "points": True, "log": True}
    predicted = {"predicted": "predicted"} if result.laws[series] is not None else {}
    return "curves", table, {**options, **predicted, "title": title}


def _decoder_slopes(result: Any, decoder: str = "CoDa") -> Made:
    shares = result.series() if hasattr(result, "series") else result.shares
    rows = [row for row in shares.rows() if row["decoder"] == decoder]
    if not rows:
        known = ", ".join(name for name in dict.fromkeys(shares["decoder"]) if name != GREEDY)
        raise ArgumentError(f"no decoder {decoder!r}; there are {known}")
    several = len({row["model"] for row in rows}) > 1
    named = [
        {
            GREEDY: row["greedy"],
            decoder: row["share"],
            "of": f"{row['model'] + ', ' if several else ''}{row['file']}, {row['metric']}",
        }
        for row in rows
    ]
    title = f"Greedy decoding beside {decoder}: shares by file"
    return "slopes", named, {"before": GREEDY, "after": decoder, "labels": "of", "title": title}


def _decoder_reliability(result: Any, decoder: str = GREEDY) -> Made:
    """Two classes: the confidence in the likelier one."""
    rows = [
        {
            TWO_WAY: two_way(row["logp_wanted"], row["logp_other"]),
            "right": row["right"],
        }
        for row in result.table.rows()
        if row["part"] == "test" and row["decoder"] == decoder and row["right"] is not None
    ]
    options = {"confidence": TWO_WAY, "correct": "right"}
    return "reliability", rows, {**options, "title": f"Reliability of two classes, {decoder}"}


def _conflict_slopes(result: Any) -> Made:
    """Without a passage and with the original one, relation by relation."""
    rows = _by(result.ratios.rows(), "group", "relation") or list(result.ratios.rows())
    rows = list({row["value"]: row for row in rows}.values())
    named = [
        {
            "without a passage": row["closed_original"],
            "with the passage": row["context_original"],
            "of": row["value"],
        }
        for row in rows
    ]
    options = {"before": "without a passage", "after": "with the passage", "labels": "of"}
    return "slopes", named, {**options, "title": "Right answers without and with the passage"}


def _priming_slopes(result: Any, arm: str = "learned") -> Made:
    rows = [
        row
        for row in result.table.rows()
        if row["arm"] == arm and row["kind"] in ("theme", "other_theme")
    ]
    title = f"Log-probability of the keyword before and after, arm {arm}"
    return "slopes", rows, {"before": "logp_before", "after": "logp_after", "title": title}


def _by(rows: Iterable[dict[str, Any]], column: str, value: str) -> list[dict[str, Any]]:
    return [row for row in rows if row[column] == value]


_FINDINGS = _of("forest", "findings", "Findings")
_DECODERS: dict[str, Maker] = {
    "slopes": _decoder_slopes,
    "forest": _FINDINGS,
    "reliability": _decoder_reliability,
}
_MAKERS: dict[str, dict[str, Maker]] = {
    "Recall": {
        "forest": _of("forest", "relations", "Recall by relation", sort=True),
        "spread": _of("spread", "table"),
        "survival": _of("survival", "survival"),
        "reliability": _recall_reliability,
    },
    "Diff": {
        "slopes": _diff_slopes,
        "forest": _of("forest", "shares", "Shares of facts that changed", estimate="net"),
    },
    "Priming": {"slopes": _priming_slopes},
    "PrimingStudy": {
        "forest": _of("forest", "comparisons", "Comparisons of arms"),
        "slopes": _priming_slopes,
    },
    "OvershadowingStudy": {"curves": _series, "forest": _FINDINGS},
    "ModelDecoders": _DECODERS,
    "DecodersStudy": _DECODERS,
    "Conflict": {
        "slopes": _conflict_slopes,
        "forest": _of("forest", "ratios", "Memorization ratio", estimate="ratio"),
    },
    "ConflictStudy": {
        "forest": _FINDINGS,
        "ratios": _of("forest", "ratios", "Memorization ratio", estimate="ratio"),
    },
}
