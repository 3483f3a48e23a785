"""After which layer the answers lead for good: shares by layer, beside random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from km._kmviz import Graph
from km.draw._common import count, footnote, headline, model_name, number, records, share, visible
from km.picture import Picture

PLOT = 560.0
HEIGHT = 150.0
MAX_LABELS = 16


def _rows(source: Any) -> list[dict[str, Any]]:
    rows = records(getattr(source, "survival", source))
    for row in rows:
        value = number(row.get("not_leading"))
        if "layer" not in row or value is None or not 0.0 <= value <= 1.0:
            raise ValueError("each row needs layer and not_leading, a share")
    if not rows:
        raise ValueError("there is no layer to draw")
    return rows


def _box(graph: Graph, title: str, fill: str, x: float, y: float, width: float, h: float) -> None:
    graph.add_node(
        title=title, shape="box", fill=fill, stroke="none", x=x, y=y, width=width, height=h
    )


def _draw_scale(graph: Graph) -> None:
    for step in range(5):
        y = -HEIGHT * step / 4.0
        _box(graph, "", "grid", 0.5 * PLOT, y, PLOT, 1.0)
        graph.add_node(
            f"{step / 4.0:.2f}", title="", shape="plain", stroke="none", text="muted", size=9.0,
            align="right", x=-22.0, y=y, width=34.0,
        )  # fmt: skip


def _draw_layers(graph: Graph, rows: Sequence[dict[str, Any]]) -> None:
    pitch = PLOT / len(rows)
    every = -(-len(rows) // MAX_LABELS)
    for i, row in enumerate(rows):
        x, value, random = pitch * (i + 0.5), row["not_leading"], number(row.get("random_init"))
        last = i == len(rows) - 1
        name = "output" if last else visible(row["layer"])
        beside = "" if random is None else f", random weights {share(random)}"
        title = f"after {name}: {share(value)} not yet leading{beside}"
        if value > 0.0:
            _box(graph, title, "blue", x, -0.5 * HEIGHT * value, 0.68 * pitch, HEIGHT * value)
        if random is not None:
            _box(graph, title, "muted", x, -HEIGHT * random, 0.94 * pitch, 3.0)
        if last or (i % every == 0 and len(rows) - 1 - i >= every):
            graph.add_node(
                name, title="", shape="plain", stroke="none", text="muted", size=9.0, x=x, y=12.0
            )


def survival(
    source: Any,
    *,
    title: str = "",
    over: str = "the candidates'",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw, layer by layer, the share of answers that do not lead for good yet.

    Parameters
    ----------
    source : km.Recall, table, or iterable of dicts
        One row a layer: layer, not_leading, n; for random weights random_init, n_random_init.
    title : str
        Default: "Answers not yet leading, by layer".
    over : str
        What an answer has to lead.
    provenance : str, optional
        Footnote: model, precision, date; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        There is no layer, or a row lacks a share.
    """
    rows = _rows(source)
    n, n_random = rows[0].get("n"), rows[0].get("n_random_init")
    of = "" if n is None else count(int(n), "answer")
    shown = visible(title) or headline("Answers not yet leading", model_name(source), of)
    subtitle = f"Share of answers whose first token does not lead {over} from this layer on"
    subtitle += f", n = {n:,}" if n is not None else ""
    subtitle += f"; random weights n = {n_random:,}." if n_random is not None else "."
    graph = Graph("fixed", shown, subtitle, subtitle, footnote(source, provenance))
    _draw_scale(graph)
    _draw_layers(graph, rows)
    graph.add_legend("not yet leading", shape="box", fill="blue", stroke="none", width=9.0)
    if n_random is not None:
        graph.add_legend(
            "the same with random weights", shape="box", fill="muted", stroke="none",
            width=18.0, height=3.0,
        )  # fmt: skip
    return Picture(graph, shown, theme)
