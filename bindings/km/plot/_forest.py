"""Forest plots: estimates with intervals, one a line, with the words of verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.draw._common import interval, share
from km.draw._recall import BASELINES, _clears
from km.errors import ArgumentError
from km.plot._style import (
    MARKERS,
    NO_WORD,
    WORDS,
    Colours,
    Theme,
    begin,
    counts,
    figure,
    finish,
    label,
    names_of,
    number,
    records,
    rows_of,
    safe,
    units_of,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Columns taken as the estimate, and as the name of a row, where none is given; the first there is.
ESTIMATES = (
    "estimate", "difference", "recall", "ratio", "net", "change", "accuracy", "coverage", "share",
    "disagreement", "forecast", "value",
)  # fmt: skip
LABELS = (
    "quantity", "question", "prediction", "relation", "statistic", "rate", "outcome", "group",
    "decoder", "keyword", "arm", "model",
)  # fmt: skip
MORE = ("value", "file", "metric", "condition", "split", "history", "turns")  # tell rows apart
ENDS = (("low", "high"), ("{}_low", "{}_high"))


def ends_of(names: Sequence[str], estimate: str) -> tuple[str, str] | None:
    """Columns of the interval of an estimate; its own come before plain low and high."""
    for low, high in reversed(ENDS):
        pair = low.format(estimate), high.format(estimate)
        if pair[0] in names and pair[1] in names:
            return pair
    return None


def find_estimate(names: Sequence[str]) -> str | None:
    """The column that a forest plot shows where none is named."""
    return next((n for n in ESTIMATES if n in names and ends_of(names, n) is not None), None)


def forest(
    source: Any,
    ax: Axes | None = None,
    *,
    estimate: str | None = None,
    labels: str | None = None,
    null: float | None = None,
    smallest: float | None = None,
    unit: str | None = None,
    sort: bool = False,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """Estimates with their intervals, one a line; the first row is at the top.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
        An estimate with the columns low and high, or ``<estimate>_low`` and ``<estimate>_high``.
        Of a column ``word`` or ``verdict``, the ledger's words give colour and mark. A column
        ``prediction`` brings null value and smallest effect of predictions that km ships. Baselines
        of recall are marked as :func:`km.draw.recall` does.
    ax : Axes, optional
        None: new ones of pyplot.
    estimate : str, optional
        Column; None: the first of estimate, difference, recall, ratio, net, change, accuracy,
        coverage, share, disagreement, forecast, value.
    labels : str, optional
        Column that names the rows; None: found likewise.
    null : float, optional
        Value without an effect, for all rows.
    smallest : float, optional
        Smallest effect of interest around it.
    unit : str, optional
        Only rows whose column ``unit`` is this; None: the commonest, and the title says how many
        rows that leaves out.
    sort : bool
        Largest estimate first; else as given.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes

    Raises
    ------
    ArgumentError
        A column is missing, or there is nothing to plot.
    """
    found = records(source)
    names = names_of(source, found)
    chosen = estimate or find_estimate(names)
    pair = ends_of(names, chosen) if chosen else None
    if chosen is None or pair is None:
        raise ArgumentError(
            "a forest plot needs an estimate with low and high; there are " + ", ".join(names)
        )
    rows = rows_of(found, (chosen, *pair), "a forest plot")
    rows, own_unit, left_out = _of_one_unit(rows, unit)
    rows = [_row(row, chosen, pair) for row in rows if number(row[chosen]) is not None]
    if not rows:
        raise ArgumentError(f"a forest plot: {chosen} is null in every row")
    if sort:
        rows.sort(key=lambda row: -row["_estimate"])
    colours = Colours(theme)
    ax = begin(ax, colours, (9.0, 1.8 + 0.36 * len(rows)))
    _draw_nulls(ax, rows, colours, null, smallest)
    for place, row in enumerate(rows):
        _draw_row(ax, row, place, colours)
    _label_rows(ax, rows, labels, names, colours)
    shown = own_unit or units_of(source).get(chosen, "")
    ax.set_xlabel(safe(with_unit(chosen, shown)))
    ns = [int(row["n"]) for row in rows if number(row.get("n")) is not None]
    facts = [f"{len(rows)} estimates", counts(ns, _noun(rows, source)), model, left_out]
    return finish(ax, colours, title or with_unit(chosen, ""), facts)


def _of_one_unit(
    rows: list[dict[str, Any]], unit: str | None
) -> tuple[list[dict[str, Any]], str, str]:
    """Rows of one unit, the unit, and what is said of the others."""
    found = Counter(str(row.get("unit") or "") for row in rows)
    if "unit" not in rows[0]:
        return rows, "", ""
    chosen = unit if unit is not None else found.most_common(1)[0][0]
    if chosen not in found:
        raise ArgumentError(f"no row has the unit {chosen!r}; there are {', '.join(found)}")
    kept = [row for row in rows if str(row.get("unit") or "") == chosen]
    others = ", ".join(name or "none" for name in found if name != chosen)
    left = f"{len(rows) - len(kept)} in other units left out ({others})" if others else ""
    return kept, chosen, left


def _row(row: Mapping[str, Any], estimate: str, pair: tuple[str, str]) -> dict[str, Any]:
    return {
        **row,
        "_estimate": number(row[estimate]),
        "_low": number(row.get(pair[0])),
        "_high": number(row.get(pair[1])),
        "_word": str(row.get("word") or row.get("verdict") or ""),
    }


def _noun(rows: Sequence[Mapping[str, Any]], source: Any) -> str:
    """What is counted, where all rows count the same."""
    nouns = {str(row.get("n_unit") or "") for row in rows}
    return nouns.pop() if len(nouns) == 1 and "n_unit" in rows[0] else units_of(source).get("n", "")


# ---- null values and what is too small to be of interest ----


def _draw_nulls(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    colours: Colours,
    null: float | None,
    smallest: float | None,
) -> None:
    """One line and band where they are given; else those of each row's prediction."""
    named = {"null": "no effect", "band": "below the smallest effect of interest"}
    if null is not None:
        if smallest:
            ax.axvspan(
                null - smallest, null + smallest, color=colours["grid"], lw=0, label=named["band"]
            )
        ax.axvline(null, color=colours["muted"], lw=1.0, label=named["null"])
        return
    known = _shipped()
    for place, row in enumerate(rows):
        prediction = known.get(str(row.get("prediction") or ""))
        if prediction is None:
            continue
        if prediction.smallest_effect:
            ax.barh(
                place, 2 * prediction.smallest_effect, 0.8, prediction.null
                - prediction.smallest_effect, color=colours["grid"], label=named.pop("band", None),
                zorder=0.5,
            )  # fmt: skip
        ax.plot(
            [prediction.null] * 2, [place - 0.4, place + 0.4], color=colours["muted"], lw=1.0,
            label=named.pop("null", None), zorder=1.0,
        )  # fmt: skip


def _shipped() -> dict[str, Any]:
    from km.ledger import predictions

    return {prediction.id: prediction for prediction in predictions()}


# ---- rows ----


def _mark(row: Mapping[str, Any], colours: Colours) -> tuple[str, str, str, str]:
    """Colour, mark, inside and name of a row."""
    if any(name in row for name in BASELINES) and "recall" in row:
        clear = _clears(row)
        name = f"recall, {'' if clear else 'not '}above {'every baseline' if clear else 'them'}"
        return colours["blue"], "o", colours["blue" if clear else "paper"], name
    hue, mark, filled = WORDS.get(row["_word"], NO_WORD)
    name = row["_word"] if row["_word"] in WORDS else ""
    return colours[hue], mark, colours[hue if filled else "paper"], name


def _draw_row(ax: Axes, row: Mapping[str, Any], place: int, colours: Colours) -> None:
    hue, mark, inside, name = _mark(row, colours)
    known = ax.get_legend_handles_labels()[1]
    if row["_low"] is not None and row["_high"] is not None:
        ax.plot([row["_low"], row["_high"]], [place, place], color=hue, lw=1.8, gid="interval")
    for column, (shape, _, stroke, _, _, height, words) in BASELINES.items():
        value = number(row.get(column))
        if value is not None:
            drawn = "|" if height > 10.0 else MARKERS[shape]
            ax.plot(
                [value], [place], drawn, color=colours[stroke], ms=5.0, gid=column,
                mfc="none" if column == "random_init" else colours[stroke], ls="none",
                label=None if safe(words) in known else safe(words),
            )  # fmt: skip
    ax.plot(
        [row["_estimate"]], [place], mark, color=hue, mfc=inside, mew=1.5, ms=6.0, ls="none",
        gid="estimate", label=None if not name or safe(name) in known else safe(name),
    )  # fmt: skip


def _label_rows(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    column: str | None,
    names: Sequence[str],
    colours: Colours,
) -> None:
    """Names on the left; figures and n on the right."""
    if column is not None and column not in names:
        raise ArgumentError(f"a forest plot: no column {column!r}; there are {', '.join(names)}")
    ax.set_yticks(range(len(rows)), [label(text) for text in _names(rows, column, names)])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for place, row in enumerate(rows):
        spoken = share if "recall" in row else figure
        drawn = {"value": row["_estimate"], "low": row["_low"], "high": row["_high"]}
        n = "" if number(row.get("n")) is None else f", n = {int(row['n']):,}"
        ax.annotate(
            interval(drawn, "value", spoken) + n, (1.01, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=colours["ink"], annotation_clip=False, gid="figures",
        )  # fmt: skip


def _names(
    rows: Sequence[Mapping[str, Any]], column: str | None, names: Sequence[str]
) -> list[str]:
    """What rows are called: the label, with more columns where it does not tell them apart."""
    first = column or next((n for n in LABELS if n in names), None)
    if first is None:
        return [str(place + 1) for place in range(len(rows))]
    used = [first]
    for more in (n for n in (*LABELS, *MORE) if n in names and n != first):
        made = [_joined(row, used) for row in rows]
        if len(set(made)) == len(rows) or column is not None:
            break
        if len({_joined(row, [*used, more]) for row in rows}) > len(set(made)):
            used.append(more)
    return [_joined(row, used) for row in rows]


def _joined(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    cells = [(n, str(row[n])) for n in columns if row.get(n) is not None]
    return ", ".join(c.replace("_", " ") if n == "relation" else c for n, c in cells)
