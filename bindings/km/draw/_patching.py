"""Activation patching: the effect of each place of one point."""

from __future__ import annotations

from typing import Any

from km._kmviz import Graph
from km.draw._common import (
    count,
    figure,
    footnote,
    headline,
    hover,
    interval,
    model_name,
    records,
    token,
    visible,
)
from km.draw._matrix import draw_matrix
from km.picture import Picture

MAX_ROWS = 80


def _place(row: dict[str, Any], heads: bool) -> str:
    """The row of the matrix: the token, or the head where heads are patched at the last token."""
    return f"head {row['head']}" if heads else str(row["position"])


def patching(
    source: Any,
    *,
    point: str | None = None,
    direction: str = "denoising",
    position: int | None = None,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the effect of patching one point at each layer and token (or head).

    Parameters
    ----------
    source : km.ActivationPatching
        Its means over pairs are drawn; of pairs that differ in length, the first pair.
    point : str, optional
        None: the first.
    direction : {"denoising", "noising"}
    position : int, optional
        Of a point with heads: the token whose heads are drawn; None: the last.
    title : str
        Default: "Activation patching: " and the point.
    provenance : str, optional
        Footnote; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        Nothing of this kind was measured, or there are too many tokens.
    """
    first = [row for row in records(source.table) if row["pair"] == 0]
    name = point or first[0]["point"]
    rows = records(source.means) if source.means is not None else first
    rows = [row for row in rows if row["point"] == name and row["direction"] == direction]
    if not rows:
        raise ValueError(f"no {direction} of {name} was measured")
    heads = rows[0]["head"] is not None
    last = max(row["position"] for row in rows)
    if heads:
        rows = [row for row in rows if row["position"] == (last if position is None else position)]
    names = list(dict.fromkeys(_place(row, heads) for row in rows))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    if len(names) > MAX_ROWS:
        raise ValueError(f"{len(names)} rows; at most {MAX_ROWS} can be drawn")
    cells = {(_place(row, heads), row["layer"]): row for row in rows}
    values = [[cells[key, layer]["effect"] for layer in layers] for key in names]
    tokens = {str(row["position"]): token(row["token"]) for row in first}
    n = int(rows[0].get("n", 1))
    runs = records(source.pairs)
    verb = "clean into corrupted" if direction == "denoising" else "corrupted into clean"
    model = model_name(source)
    shown = visible(title) or headline(f"Activation patching: {name}", model, count(n, "pair"))
    subtitle = visible(
        f"{direction.capitalize()} ({verb}){f', {model}' if model else ''}, "
        f"n = {count(n, 'pair')}. Squares: share of the difference between the runs "
        f"that the patch makes; first pair: clean {figure(runs[0]['clean_metric'])}, corrupted "
        f"{figure(runs[0]['corrupted_metric'])} nats."
    )

    def text(i: int, j: int) -> str:
        row = cells[names[i], layers[j]]
        return hover(f"{name} {layers[j]}, {names[i]}: effect {interval(row, 'effect')}")

    graph = Graph("fixed", shown, subtitle, subtitle, footnote(source, provenance))
    labels = [key if heads else f"{tokens[key]}" for key in names]
    columns = ["" if layer is None else str(layer) for layer in layers]
    draw_matrix(graph, values, labels, columns, text)
    return Picture(graph, shown, theme)
