"""A matrix of squares whose area stands for a value, shared by pictures of tokens and layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from km._kmviz import Graph, text_width
from km.draw._common import figure, fit

ROW = 17.0
MOST_WIDTH = 620.0
MOST_PITCH = 17.0
NAME_WIDTH = 170.0
MAX_LABELS = 20


def _side(value: float, largest: float, pitch: float) -> float:
    """Side of a square of this value; the largest one fills its cell."""
    full = min(pitch, ROW) - 2.0
    return full * math.sqrt(min(abs(value) / largest, 1.0)) if largest > 0 else 0.0


def _draw_rows(graph: Graph, names: Sequence[str], bold: Sequence[bool], width: float) -> None:
    for i, name in enumerate(names):
        y = ROW * i
        graph.add_node(
            title="", shape="box", fill="pale-orange" if bold[i] else "faint", stroke="none",
            x=0.5 * width, y=y, width=width, height=ROW - 1.0,
        )  # fmt: skip
        shown = fit(name, NAME_WIDTH, 9.0, bold[i])
        length = text_width(shown, 9.0, bold[i]) + 2.0
        graph.add_node(
            shown, title="", shape="plain", stroke="none", align="right", bold=bold[i], size=9.0,
            x=-8.0 - 0.5 * length, y=y, width=length, height=12.0,
        )  # fmt: skip


def _draw_columns(graph: Graph, names: Sequence[str], pitch: float, bottom: float) -> None:
    every = -(-len(names) // MAX_LABELS)
    for i, name in enumerate(names):
        if i % every == 0:
            graph.add_node(
                name, title="", shape="plain", stroke="none", text="muted", size=9.0,
                x=pitch * (i + 0.5), y=bottom,
            )  # fmt: skip


def draw_matrix(
    graph: Graph,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    hover: Callable[[int, int], str],
    *,
    bold: Sequence[bool] = (),
    axis: str = "layer",
    unit: str = "",
) -> None:
    """Draw squares: blue above zero, vermilion below; the legend gives their scale.

    Parameters
    ----------
    values : (R, C) float or None
        None leaves a cell empty.
    hover : callable
        (row, column) to the text shown on hovering.
    bold : sequence of bool
        Rows that stand out.
    axis, unit : str
        Name of the columns; unit of the values.
    """
    pitch = min(MOST_PITCH, MOST_WIDTH / max(1, len(columns)))
    width = pitch * len(columns)
    marked = list(bold) or [False] * len(rows)
    present = [v for row in values for v in row if v is not None and math.isfinite(v)]
    largest = max((abs(v) for v in present), default=0.0)
    _draw_rows(graph, rows, marked, width)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is None or not math.isfinite(value):
                continue
            side = _side(value, largest, pitch)
            if side >= 0.75:
                graph.add_node(
                    title=hover(i, j), shape="box", fill="blue" if value > 0 else "vermilion",
                    stroke="none", x=pitch * (j + 0.5), y=ROW * i, width=side, height=side,
                )  # fmt: skip
    bottom = ROW * len(rows) - 0.5 * ROW + 9.0
    _draw_columns(graph, columns, pitch, bottom)
    graph.add_node(
        axis, title="", shape="plain", stroke="none", text="muted", size=9.0, x=0.5 * width,
        y=bottom + 12.0,
    )  # fmt: skip
    for share in (1.0, 0.5, 0.1):
        side = _side(share * largest, largest, pitch)
        label = f"{figure(share * largest)}{f' {unit}' if unit else ''}"
        graph.add_legend(label, shape="box", fill="blue", stroke="none", width=side, height=side)
    if any(v < -0.001 * largest for v in present):
        graph.add_legend("below zero", shape="box", fill="vermilion", stroke="none", width=9.0)
    if any(marked):
        graph.add_legend("subject", shape="box", fill="pale-orange", stroke="none", width=18.0)
