"""Causal tracing of one fact: what restoring each token at each layer brings back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from km._kmviz import Graph
from km.draw._common import figure, footnote, headline, hover, model_name, token, visible
from km.draw._matrix import draw_matrix
from km.picture import Picture

MAX_TOKENS = 80
NAMES = {
    "state": "the residual stream after a block",
    "mlp": "MLP outputs of a window of blocks",
    "attention": "attention outputs of a window of blocks",
}


def _data(source: Any, fact: int, kind: str) -> dict[str, Any]:
    if isinstance(source, Mapping):
        grid = dict(source)
    else:
        grid = source.grid(fact, kind)
    for name in ("tokens", "scores", "low", "high", "subject"):
        if name not in grid:
            raise ValueError(f"a trace needs tokens, scores, low, high, subject; {name} is missing")
    if not 0 < len(grid["tokens"]) <= MAX_TOKENS:
        raise ValueError(f"{len(grid['tokens'])} tokens; from 1 to {MAX_TOKENS} can be drawn")
    return grid


def causal_trace(
    source: Any,
    *,
    fact: int = 0,
    kind: str = "state",
    model: str | None = None,
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the indirect effect of restoring each token at each layer, for one fact.

    Parameters
    ----------
    source : km.CausalTrace or mapping
        A mapping as :meth:`km.CausalTrace.grid` gives it: tokens, scores (T, L), low, high,
        subject (first token, the one after the last), and optionally layers, prompt, answer, kind.
    fact : int
        Which traced fact of a result.
    kind : {"state", "mlp", "attention"}
        Which kind of a result.
    model : str, optional
        Name of the model; None: from the result.
    provenance : str, optional
        Footnote; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture
        Squares whose area is the indirect effect, p_restored - p_corrupt.

    Raises
    ------
    ValueError
        Something is missing, or there are more than 80 tokens.
    """
    grid = _data(source, fact, kind)
    name = model_name(source, model)
    low, high = float(grid["low"]), float(grid["high"])
    values = [[float(p) - low for p in row] for row in grid["scores"]]
    layers = [str(layer) for layer in grid.get("layers", range(len(values[0])))]
    tokens = [token(text) for text in grid["tokens"]]
    begin, end = grid["subject"]
    answer = visible(grid.get("answer", "")).strip()
    asked = hover(f"{visible(grid.get('prompt', '')).strip()} → {answer}")
    title = headline(asked, name, "1 fact")
    restored = NAMES.get(str(grid.get("kind", kind)), "states")
    subtitle = visible(
        f"Causal tracing{f' of {name}' if name else ''}, n = 1 fact. Restoring {restored} in runs "
        f"with a corrupted subject; squares: probability of “{answer}” brought back. "
        f"Corrupted {figure(low)}, clean {figure(high)}."
    )

    def text(i: int, j: int) -> str:
        return hover(
            f"{tokens[i]}, layer {layers[j]}\np restored {figure(low + values[i][j])}, "
            f"indirect effect {figure(values[i][j])}"
        )

    graph = Graph("fixed", title, subtitle, subtitle, footnote(source, provenance))
    bold = [begin <= i < end for i in range(len(tokens))]
    draw_matrix(graph, values, tokens, layers, text, bold=bold, unit="probability")
    return Picture(graph, title, theme)
