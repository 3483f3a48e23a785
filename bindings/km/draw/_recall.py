"""Recall of each relation beside its baselines: points, intervals and marks on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from km._kmviz import Graph, text_width
from km.draw._common import (
    count,
    fit,
    footnote,
    headline,
    hover,
    interval,
    model_name,
    number,
    records,
    share,
    share_scale,
    visible,
)
from km.picture import Picture

ROW = 21.0
PLOT = 430.0
NAME_WIDTH = 230.0
GAP = 12.0

# column -> shape, fill, outline, height above or below the row's middle, size, name
BASELINES = {
    "random_init": ("box", "none", "muted", 0.0, 6.0, 6.0, "random weights"),
    "commonest": ("box", "orange", "orange", 0.0, 2.6, 15.0, "commonest answer"),
    "shuffled": ("invtriangle", "green", "green", -5.5, 7.0, 6.0, "subjects shuffled"),
    "subject_removed": ("triangle", "purple", "purple", 5.5, 7.0, 6.0, "subject removed"),
}


def _rows(source: Any) -> list[dict[str, Any]]:
    """The rows, each with what a row of the picture needs."""
    rows = [] if source is None else records(source)
    for row in rows:
        for name in ("relation", "n", "recall"):
            if name not in row:
                raise ValueError(f"a row of recall needs relation, n, recall; {name} is missing")
    return rows


def _clears(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval lies above every baseline that was measured."""
    low = number(row.get("low"))
    floors = [v for v in (number(row.get(name)) for name in BASELINES) if v is not None]
    return low is not None and bool(floors) and low > max(floors)


def _share(value: object, name: str) -> float | None:
    x = number(value)
    if x is not None and not 0.0 <= x <= 1.0:
        raise ValueError(f"{name} is {x}, must lie between 0 and 1")
    return x


def _hover(row: Mapping[str, Any]) -> str:
    lines = [str(row["relation"]), f"recall {interval(row, 'recall')}, n = {int(row['n']):,}"]
    for name, (*_, label) in BASELINES.items():
        if number(row.get(name)) is not None:
            lines.append(f"{label} {share(row[name])}")
    return hover("\n".join(lines))


def _draw_marks(graph: Graph, row: Mapping[str, Any], y: float, title: str) -> None:
    low, high = (_share(row.get(name), name) for name in ("low", "high"))
    recall = _share(row["recall"], "recall")
    if low is not None and high is not None:
        graph.add_node(
            title=title, shape="box", fill="blue", stroke="none", x=0.5 * PLOT * (low + high), y=y,
            width=max(PLOT * (high - low), 0.5), height=2.4,
        )  # fmt: skip
    for name, (shape, fill, stroke, dy, width, height, label) in BASELINES.items():
        value = _share(row.get(name), name)
        if value is not None:
            graph.add_node(
                title=f"{label}: {share(value)}", shape=shape, fill=fill, stroke=stroke,
                x=PLOT * value, y=y + dy, width=width, height=height,
            )  # fmt: skip
    if recall is not None:
        graph.add_node(
            title=title, shape="ellipse", fill="blue" if _clears(row) else "paper", stroke="blue",
            pen=1.8, x=PLOT * recall, y=y, width=8.0, height=8.0,
        )  # fmt: skip


def _text(graph: Graph, text: str, x: float, y: float, align: str, title: str, bold: bool) -> None:
    """Text whose left or right end is at x."""
    width = text_width(text, 10.0, bold) + 2.0
    graph.add_node(
        text, title=title, shape="plain", stroke="none", align=align, bold=bold, y=y, width=width,
        x=x + (0.5 if align == "left" else -0.5) * width, height=13.0,
    )  # fmt: skip


def _draw_row(graph: Graph, row: Mapping[str, Any], y: float, odd: bool, bold: bool) -> None:
    title = _hover(row)
    name = fit(visible(row["relation"]).replace("_", " "), NAME_WIDTH, 10.0, bold)
    if odd or bold:
        graph.add_node(
            title=title, shape="box", fill="pale-blue" if bold else "faint", stroke="none",
            x=0.5 * PLOT, y=y, width=PLOT + 2.0 * GAP - 6.0, height=ROW,
        )  # fmt: skip
    _text(graph, name, -GAP, y, "right", title, bold)
    _text(graph, interval(row, "recall", share), PLOT + GAP, y, "left", title, bold)
    _text(graph, f"{int(row['n']):,}", PLOT + GAP + 145.0, y, "right", title, bold)


def _draw_header(graph: Graph, y: float) -> None:
    right = PLOT + GAP
    for text, x, align in (
        ("relation", -GAP, "right"),
        ("recall [interval]", right, "left"),
        ("n", right + 145.0, "right"),
    ):
        width = text_width(text, 9.0) + 2.0
        graph.add_node(
            text, title="", shape="plain", stroke="none", text="muted", size=9.0, align=align,
            x=x + (0.5 if align == "left" else -0.5) * width, y=y, width=width,
        )  # fmt: skip


def _legend(graph: Graph, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    graph.add_legend("recall, above every baseline", shape="ellipse", fill="blue", stroke="blue")
    graph.add_legend("recall, not above them", shape="ellipse", fill="paper", stroke="blue")
    graph.add_legend("interval", shape="box", fill="blue", stroke="none", width=18.0, height=2.4)
    for name, (shape, fill, stroke, _, width, height, label) in reversed(BASELINES.items()):
        if any(number(row.get(name)) is not None for row in rows):
            graph.add_legend(
                label, shape=shape, fill=fill, stroke=stroke, width=width, height=height
            )


def _draw_rows(graph: Graph, rows: list[dict[str, Any]], overall: list[dict[str, Any]]) -> None:
    """Bands and texts below the scale, marks above it."""
    places = [ROW * i for i in range(len(rows))]
    start = ROW * len(rows) + (8.0 if rows else 0.0)
    places += [start + ROW * i for i in range(len(overall))]
    for i, (row, y) in enumerate(zip(rows + overall, places, strict=True)):
        _draw_row(graph, row, y, i % 2 == 0, i >= len(rows))
    share_scale(graph, PLOT, -0.5 * ROW - 2.0, places[-1] + 0.5 * ROW + 2.0)
    _draw_header(graph, -0.5 * ROW - 10.0)
    for row, y in zip(rows + overall, places, strict=True):
        _draw_marks(graph, row, y, _hover(row))


def _subtitle(rows: list[dict[str, Any]], measure: str, level: float) -> str:
    facts = count(sum(int(row["n"]) for row in rows), "fact")
    clear = sum(_clears(row) for row in rows)
    return (
        f"{measure}. {facts} in {count(len(rows), 'relation')}; bars are {100 * level:g} % "
        f"intervals. Recall is above every baseline in {clear} of {len(rows)}."
    )


def recall(
    source: Any,
    overall: Any = None,
    *,
    title: str = "",
    measure: str = "Share of facts whose whole answer ranks first among the relation's candidates",
    level: float = 0.95,
    sort: bool = True,
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the recall of each relation, with its interval, beside its baselines.

    Parameters
    ----------
    source : km.Recall, table, or iterable of dicts
        One row a relation: relation, n, recall, low, high, and the baselines commonest,
        subject_removed, shuffled, random_init (each 0 to 1; None: not measured).
    overall : dict, iterable of dicts or table, optional
        Rows over all relations, drawn apart below. A km.Recall brings its own.
    title : str
        Default: "Recall by relation".
    measure : str
        What recall is a share of, for the line below the title.
    level : float
        Coverage of the intervals.
    sort : bool
        Highest recall first; else as given.
    provenance : str, optional
        Footnote: model, precision, prompts, date; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        A row lacks a column, or a share is outside 0 to 1.
    """
    if overall is None:
        overall = getattr(source, "overall", None)
    rows = _rows(getattr(source, "relations", source))
    totals = _rows(overall)
    if not rows and not totals:
        raise ValueError("there is no relation to draw")
    if sort:
        rows.sort(key=lambda row: -(number(row["recall"]) or 0.0))
    n = count(sum(int(row["n"]) for row in rows or totals), "fact")
    shown = visible(title) or headline("Recall by relation", model_name(source), n)
    subtitle = _subtitle(rows, measure, level)
    graph = Graph(
        "fixed", shown, visible(subtitle), visible(subtitle), footnote(source, provenance)
    )
    _draw_rows(graph, rows, totals)
    _legend(graph, rows + totals)
    return Picture(graph, shown, theme)
