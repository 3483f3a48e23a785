"""What each head and MLP adds to a logit: squares of layers and heads."""

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
    visible,
)
from km.draw._matrix import draw_matrix
from km.picture import Picture


def _name(row: dict[str, Any]) -> str:
    return f"h{row['head']}" if row["part"] == "head" else "MLP"


def attribution(
    source: Any,
    *,
    title: str = "",
    model: str | None = None,
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw what each head and each MLP adds to a logit, averaged over prompts.

    Parameters
    ----------
    source : km.LogitAttribution, table, or iterable of dicts
        One row a part: part ("head", "mlp" and others, which are named in the subtitle), layer,
        head, mean, n; optional low, high, shuffled.
    title : str
        Default: "Direct logit attribution".
    model : str, optional
        Name of the model; None: from the result.
    provenance : str, optional
        Footnote; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        There is no head or MLP.
    """
    rows = records(getattr(source, "means", source))
    drawn = {(row["layer"], _name(row)): row for row in rows if row["part"] in ("head", "mlp")}
    if not drawn:
        raise ValueError("there is no head or MLP to draw")
    layers = sorted({layer for layer, _ in drawn})
    heads = sorted({row["head"] for row in drawn.values() if row["part"] == "head"})
    names = ["MLP", *(f"h{head}" for head in heads)]
    values = [
        [row["mean"] if (row := drawn.get((layer, name))) else None for layer in layers]
        for name in names
    ]
    largest = max(abs(row["mean"]) for row in rows)
    rest = ", ".join(
        f"{row['part']} {figure(row['mean'])}"
        for row in rows
        if row["layer"] is None and abs(row["mean"]) > 0.01 * largest
    )
    of = model_name(source, model)
    n = count(int(rows[0]["n"]), "prompt")
    shown = visible(title) or headline("Direct logit attribution", of, n)
    subtitle = visible(
        f"Mean logits that each head and MLP{f' of {of}' if of else ''} adds to the answer "
        f"itself, n = {n}; norms' scales held." + (f" Also {rest}." if rest else "")
    )

    def text(i: int, j: int) -> str:
        row = drawn[layers[j], names[i]]
        control = row.get("shuffled")
        beside = "" if control is None else f"; for another prompt's answer {figure(control)}"
        return hover(f"layer {layers[j]} {names[i]}: {interval(row, 'mean')} logits{beside}")

    graph = Graph("fixed", shown, subtitle, subtitle, footnote(source, provenance))
    draw_matrix(graph, values, names, [str(layer) for layer in layers], text, unit="logits")
    return Picture(graph, shown, theme)
