"""What a model answers when a passage contradicts what it remembers: shares and ratios by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km._kmviz import Graph, text_width
from km.draw._common import (
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
from km.errors import NotFoundError
from km.picture import Picture

if TYPE_CHECKING:
    from km.conflict_measure import Conflict
    from km.kb import KnowledgeBase

CONFLICT_ID = "conflict.memorization_ratio"
ROW = 26.0
HEAD = 20.0
PLOT = 400.0
NAME_WIDTH = 210.0
GAP = 12.0
N_AT = 165.0
BAR = 8.0
MAX_ROWS = 60

# column -> its counterpart with random weights, fill, outline, name
SHARES = {
    "p_original": ("random_original", "blue", "blue", "as remembered"),
    "p_substitute": ("random_substitute", "orange", "orange", "as the passage says"),
    "p_other": ("random_other", "grid", "muted", "neither"),
}
GROUPS = {
    "all": "All examples known without a passage",
    "all, known or not": "All examples, known or not",
    "position": "By the answer's place in the passage",
    "substitute": "By what was put in its place",
    "popularity": "By popularity",
    "known": "By state of recall",
    "relation": "By relation",
}


def _read(source: Any, run: int | None) -> Any:
    """The result, of a knowledge base the newest or the one that is named."""
    if not hasattr(source, "ask"):
        return source
    from km.conflict_measure import Conflict

    kb: KnowledgeBase = source
    if run is None:
        sql = "SELECT max(id) AS run FROM runs WHERE measure = ? AND status = 'done'"
        run = kb.sql(sql, [CONFLICT_ID])["run"][0]
    if run is None:
        raise NotFoundError(f"{kb.path}: holds no finished run of {CONFLICT_ID}")
    found: Conflict = Conflict.from_knowledge_base(kb, run)
    return found


def _rows(source: Any) -> list[dict[str, Any]]:
    rows = records(getattr(source, "ratios", source))
    for row in rows:
        for name in ("n", *SHARES, "ratio"):
            if name not in row:
                raise ValueError(f"a row of conflict needs n, shares and ratio; {name} is missing")
    rows = [row for row in rows if number(row["p_original"]) is not None]
    if not rows:
        raise ValueError("there is no example to draw: none was known without a passage")
    return rows


def _chosen(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, or those with most examples where there are too many, in their order."""
    if len(rows) <= MAX_ROWS:
        return list(rows)
    most = sorted(range(len(rows)), key=lambda i: (i > 0, -int(rows[i]["n"]), i))[:MAX_ROWS]
    return [rows[i] for i in sorted(most)]


def _name(row: Mapping[str, Any]) -> str:
    """Value of the group, with the passages where there are two."""
    value = visible(row.get("value") or row.get("relation") or "all").replace("_", " ")
    condition = str(row.get("condition") or "substitute")
    return value if condition == "substitute" else f"{value}: {condition.replace('_', ' ')}"


def _hover(row: Mapping[str, Any]) -> str:
    lines = [f"{_name(row)}, n = {int(row['n']):,}"]
    lines += [f"{SHARES[name][3]} {share(row[name])}" for name in SHARES]
    lines.append(f"memorization ratio {interval(row, 'ratio', share)}")
    if number(row.get("random_original")) is not None:
        parts = [f"{what} {share(row[random])}" for random, _, _, what in SHARES.values()]
        lines.append("random weights: " + ", ".join(parts))
    return hover("\n".join(lines))


def _text(graph: Graph, label: str, x: float, y: float, **options: Any) -> None:
    """Text whose left end is at x, or with align="right" its right end."""
    align, size = options.pop("align", "left"), options.pop("size", 10.0)
    width = text_width(label, size, options.get("bold", False)) + 2.0
    graph.add_node(
        label, title=options.pop("title", ""), shape="plain", stroke="none", align=align,
        size=size, x=x + (0.5 if align == "left" else -0.5) * width, y=y, width=width, height=13.0,
        **options,
    )  # fmt: skip


def _bar(graph: Graph, values: Sequence[float], y: float, height: float, title: str) -> None:
    """The three shares side by side."""
    left = 0.0
    for value, (_, fill, stroke, what) in zip(values, SHARES.values(), strict=True):
        if value > 0.0:
            graph.add_node(
                title=f"{title}\n{what} {share(value)}", shape="box", fill=fill, stroke=stroke,
                pen=0.5, x=(left + 0.5 * value) * PLOT, y=y, width=value * PLOT, height=height,
            )  # fmt: skip
        left += value


def _ratio(graph: Graph, row: Mapping[str, Any], y: float, title: str) -> None:
    """The ratio on the same scale, with its interval; nothing where all answers are neither."""
    ratio, low, high = (number(row.get(name)) for name in ("ratio", "low", "high"))
    if ratio is None:
        return
    if low is not None and high is not None:
        graph.add_node(
            title=title, shape="box", fill="ink", stroke="none", x=0.5 * (low + high) * PLOT, y=y,
            width=max((high - low) * PLOT, 1.0), height=1.6,
        )  # fmt: skip
    graph.add_node(
        title=title, shape="diamond", fill="ink" if low is not None else "paper", stroke="ink",
        pen=1.2, x=ratio * PLOT, y=y, width=9.0, height=8.0,
    )  # fmt: skip


def _draw_row(graph: Graph, row: Mapping[str, Any], y: float) -> None:
    title, strong = _hover(row), row.get("group") == "all"
    name = fit(_name(row), NAME_WIDTH, 10.0, strong)
    _text(graph, name, -GAP, y, align="right", title=title, bold=strong)
    _bar(graph, [float(row[name]) for name in SHARES], y - 5.0, BAR, title)
    _ratio(graph, row, y + 6.0, title)
    _text(graph, interval(row, "ratio", share), PLOT + GAP, y, title=title, bold=strong)
    _text(graph, f"{int(row['n']):,}", PLOT + GAP + N_AT, y, align="right", title=title)


def _draw_random(graph: Graph, row: Mapping[str, Any], y: float) -> None:
    """The same shares with random weights, thinner."""
    values = [float(row[random]) for random, _, _, _ in SHARES.values()]
    said = ", ".join(
        f"{what} {share(x)}" for (_, _, _, what), x in zip(SHARES.values(), values, strict=True)
    )
    title = f"random weights, n = {int(row['n']):,}: {said}"
    _text(graph, "random weights", -GAP, y, align="right", title=title, text="muted")
    _bar(graph, values, y, 0.5 * BAR, title)


def _draw_scale(graph: Graph, top: float, bottom: float) -> None:
    share_scale(graph, PLOT, top, bottom)
    _text(graph, "ratio [interval]", PLOT + GAP, top - 8.0, text="muted", size=9.0)
    _text(graph, "n", PLOT + GAP + N_AT, top - 8.0, text="muted", size=9.0, align="right")


def _draw(graph: Graph, rows: Sequence[Mapping[str, Any]]) -> None:
    """Group by group; the scale is below the bars."""
    y, group, heads, places = 0.0, None, [], []
    for row in rows:
        if row.get("group") != group:
            group = row.get("group")
            if group not in (None, "all"):
                heads.append((GROUPS.get(str(group), f"By {visible(group)}"), y + 2.0))
                y += HEAD
        places.append(y)
        y += ROW
        if row.get("group") == "all" and number(row.get("random_original")) is not None:
            y += 0.5 * ROW
    _draw_scale(graph, -0.5 * ROW, y - 0.5 * ROW)
    for text, place in heads:
        _text(graph, text, -GAP - NAME_WIDTH, place, text="muted", size=9.0)
    for row, place in zip(rows, places, strict=True):
        _draw_row(graph, row, place)
        if row.get("group") == "all" and number(row.get("random_original")) is not None:
            _draw_random(graph, row, place + 0.75 * ROW)


def _subtitle(rows: Sequence[Mapping[str, Any]], drawn: int, level: float) -> str:
    first = rows[0]
    excluded = int(first.get("n_excluded") or 0)
    left_out = f"; {excluded:,} that it does not know are left out" if excluded else ""
    text = (
        f"Answers where a passage gives another answer than the model's own, {int(first['n']):,} "
        f"examples{left_out}. Memorization ratio: as remembered among those that are one of the "
        f"two, {100 * level:g} % intervals; {share(first['p_other'])} of answers are neither, "
        "which it does not count."
    )
    if drawn < len(rows):
        text += f" Drawn: the {drawn} of {len(rows)} groups with most examples."
    return text


def conflict(
    source: Any,
    *,
    run: int | None = None,
    model: str | None = None,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw how often a model keeps its answer when a passage says otherwise.

    Parameters
    ----------
    source : KnowledgeBase, Conflict or rows
        A knowledge base with a run of :func:`km.conflict`, its result, or rows {group, value,
        condition, n, p_original, p_substitute, p_other, ratio, low, high}, the first of all.
    run : int, optional
        Of the knowledge base; None: the newest.
    model : str, optional
        None: that of the result.
    title, provenance : str, optional
        Default: what is shown with model and n, and the result's origin.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    NotFoundError
        The knowledge base has no such run.
    ValueError
        A column is missing, or no example was known.
    """
    result = _read(source, run)
    rows = _rows(result)
    drawn = _chosen(rows)
    parameters = result.parameters if hasattr(result, "provenance") else {}
    n = f"{int(rows[0]['n']):,} examples"
    shown = visible(title) or headline("Memory against context", model_name(result, model), n)
    subtitle = _subtitle(rows, len(drawn), float(parameters.get("confidence", 0.95)))
    said = "; ".join(hover(_hover(row)).replace("\n", ", ") for row in drawn)
    graph = Graph("fixed", shown, subtitle, visible(said)[:2000], footnote(result, provenance))
    _draw(graph, drawn)
    for _, fill, stroke, what in SHARES.values():
        graph.add_legend(what, shape="box", fill=fill, stroke=stroke, width=14.0, height=8.0)
    graph.add_legend("memorization ratio", shape="diamond", fill="ink", stroke="ink")
    graph.add_legend("its interval", shape="box", fill="ink", stroke="none", width=18.0, height=2.0)
    if any(number(row.get("low")) is None for row in drawn):
        graph.add_legend("ratio without an interval", shape="diamond", fill="paper", stroke="ink")
    return Picture(graph, shown, theme)
