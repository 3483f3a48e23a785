"""One fact's way through the layers: the leading tokens after each layer, the answer's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from km._kmviz import Graph
from km.draw._common import (
    fit,
    footnote,
    headline,
    hover,
    model_name,
    number,
    token,
    visible,
)
from km.picture import Picture

BOX_WIDTH = 96.0
BOX_HEIGHT = 17.0
PITCH_X = 106.0
PITCH_Y = 31.0
LANE_GAP = 14.0
LANE_WIDTH = 128.0
MAX_LAYERS = 40


def _probability(value: object) -> str:
    p = number(value)
    if p is None:
        return "–"
    return f"{p:.2f}" if p >= 0.005 else f"{p:.0e}".replace("e-0", "e-")


def _fill(p: float) -> str:
    return "mid-blue" if p >= 0.5 else "pale-blue" if p >= 0.1 else "faint"


def _pick(layers: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` layers at even steps, the first and the last among them."""
    if len(layers) <= most:
        return layers
    last = len(layers) - 1
    steps = {round(i * last / (most - 1)) for i in range(most)}
    return [layer for i, layer in enumerate(layers) if i in steps]


def _lead(layers: Sequence[Mapping[str, Any]]) -> object | None:
    """The layer from which the answer ranks first and stays there; None where it never does."""
    first = None
    for layer in reversed(layers):
        if layer.get("target_rank") != 1:
            break
        first = layer["layer"]
    return first


def _draw_layer(
    graph: Graph, layer: Mapping[str, Any], y: float, k: int
) -> tuple[dict[str, int], int]:
    """Draw one row; returns its nodes by token text, and the answer's node."""
    rank = layer.get("target_rank")
    name = str(layer["layer"])
    graph.add_node(
        visible(name), title="", shape="plain", stroke="none", text="muted", align="right",
        size=9.0, x=-BOX_WIDTH / 2 - 24.0, y=y, width=34.0, height=12.0,
    )  # fmt: skip
    nodes: dict[str, int] = {}
    answer = -1
    for place, (text, p) in enumerate(layer["top"][:k]):
        hit = rank == place + 1
        shown = token(text)
        share = _probability(p)
        label = f"{fit(shown, BOX_WIDTH - 42.0, 9.0, hit)}  {share}"
        node = graph.add_node(
            label, title=hover(f"layer {name}, rank {place + 1}: {shown}, probability {share}"),
            shape="round", fill="pale-orange" if hit else _fill(number(p) or 0.0),
            stroke="vermilion" if hit else "line", pen=2.0 if hit else 0.8, bold=hit, size=9.0,
            x=PITCH_X * place, y=y, width=BOX_WIDTH, height=BOX_HEIGHT,
        )  # fmt: skip
        nodes[visible(text)] = node
        answer = node if hit else answer
    if answer < 0 and rank is not None:
        answer = _draw_lane(graph, layer, y, k)
    return nodes, answer


def _draw_lane(graph: Graph, layer: Mapping[str, Any], y: float, k: int) -> int:
    """The answer where it is not among the leading tokens."""
    share = _probability(layer.get("target_prob"))
    label = f"rank {int(layer['target_rank']):,}  {share}"
    return graph.add_node(
        label, title=hover(f"layer {layer['layer']}: the answer has {label}"), shape="round",
        fill="paper", stroke="vermilion", pen=1.4, size=9.0, line="dashed",
        x=PITCH_X * (k - 1) + 0.5 * BOX_WIDTH + LANE_GAP + 0.5 * LANE_WIDTH, y=y,
        width=LANE_WIDTH, height=BOX_HEIGHT,
    )  # fmt: skip


def _draw_edges(
    graph: Graph,
    above: tuple[dict[str, int], int],
    below: tuple[dict[str, int], int],
    layer: Mapping[str, Any],
) -> None:
    """Join what two neighbouring rows share; an edge is as wide as the lower probability asks."""
    shares = {visible(text): number(p) or 0.0 for text, p in layer["top"]}
    for text, node in below[0].items():
        if text in above[0] and node != below[1]:
            graph.add_edge(
                above[0][text], node, route="down", width=0.8 + 3.0 * shares.get(text, 0.0),
                title=hover(f"{token(text)} stays"),
            )  # fmt: skip
    if above[1] >= 0 and below[1] >= 0:
        p = number(layer.get("target_prob")) or 0.0
        graph.add_edge(
            above[1], below[1], route="down", color="vermilion", width=1.6 + 3.0 * p,
            title="the answer",
        )  # fmt: skip


def _draw_header(graph: Graph, k: int) -> None:
    y = -PITCH_Y * 0.5 - 8.0
    heads = [("layer", -BOX_WIDTH / 2 - 22.0)]
    heads += [(f"rank {i + 1}", PITCH_X * i) for i in range(k)]
    heads += [
        ("answer, when lower", PITCH_X * (k - 1) + 0.5 * BOX_WIDTH + LANE_GAP + 0.5 * LANE_WIDTH)
    ]
    for text, x in heads:
        graph.add_node(
            text, title="", shape="plain", stroke="none", text="muted", size=9.0, x=x, y=y
        )


def _legend(graph: Graph) -> None:
    graph.add_legend("the answer", fill="pale-orange", stroke="vermilion", width=20.0, height=11.0)
    for label, fill in (("p ≥ 0.5", "mid-blue"), ("0.1 ≤ p < 0.5", "pale-blue")):
        graph.add_legend(label, fill=fill, stroke="line", width=20.0, height=11.0)
    graph.add_legend("p < 0.1", fill="faint", stroke="line", width=20.0, height=11.0)
    graph.add_legend(
        "same token in the next layer, wider = more probable",
        shape="box", fill="line", stroke="none", width=18.0, height=2.0,
    )  # fmt: skip


def _data(source: Any) -> list[dict[str, Any]]:
    layers = getattr(source, "layers", source)
    layers = layers() if callable(layers) else layers
    rows = [dict(row) for row in layers]
    if not rows:
        raise ValueError("there is no layer to draw")
    for row in rows:
        if "layer" not in row or "top" not in row:
            raise ValueError("each layer needs the keys layer and top")
    return rows


def _subtitle(layers: list[dict[str, Any]], drawn: int, k: int, model: str) -> str:
    lead = _lead(layers)
    if all(row.get("target_rank") is None for row in layers):
        story = ""
    elif lead is None:
        story = " The answer does not lead after the last layer."
    elif isinstance(lead, int):
        story = f" The answer leads from layer {lead} on."
    else:
        story = f" The answer leads from “{visible(lead)}” on."
    fold = "" if drawn == len(layers) else f" {drawn} of {len(layers)} layers are drawn."
    return (
        f"Logit lens{f' of {model}' if model else ''}, n = 1 fact: the {k} most probable next "
        "tokens after each layer, read through the model's own final norm; ␣ is a blank."
        f"{story}{fold}"
    )


def lens(
    source: Any,
    *,
    prompt: object = None,
    answer: object = None,
    model: str | None = None,
    k: int = 5,
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw which tokens lead after each layer, and where the answer stands.

    Parameters
    ----------
    source : lens result or iterable of dicts
        One row a layer: layer (number or name), top (sequence of (text, probability), most
        probable first), target_rank (1: first), target_prob.
    prompt, answer : str or bytes, optional
        For the title; None: those of the lens result.
    model : str, optional
        Name of the model.
    k : int
        Tokens a layer, at most.
    provenance : str, optional
        Footnote: model, precision, date; None: from the result.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Notes
    -----
    Beyond 40 layers an even selection is drawn, and the subtitle says so.
    """
    layers = _data(source)
    prompt = getattr(source, "prompt", "") if prompt is None else prompt
    answer = getattr(source, "answer", "") if answer is None else answer
    model = model_name(source, model)
    k = max(1, min(k, max(len(row["top"]) for row in layers)))
    drawn = _pick(layers, MAX_LAYERS)
    asked = hover(f"{visible(prompt).rstrip()} → {visible(answer).strip()}")
    title = headline(asked, model, "1 fact")
    subtitle = visible(_subtitle(layers, len(drawn), k, model))
    graph = Graph("fixed", title, subtitle, subtitle, footnote(source, provenance))
    _draw_header(graph, k)
    rows = [_draw_layer(graph, row, PITCH_Y * i, k) for i, row in enumerate(drawn)]
    for i in range(1, len(rows)):
        _draw_edges(graph, rows[i - 1], rows[i], drawn[i])
    _legend(graph)
    return Picture(graph, title, theme)
