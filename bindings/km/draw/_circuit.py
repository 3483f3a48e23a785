"""A knowledge circuit: heads and MLPs, edges as wide as their scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from km._kmviz import Graph
from km.draw._common import figure, footnote, headline, hover, model_name, records, share, visible
from km.picture import Picture

HEIGHT = 17.0
MAX_EDGES = 300
WIDEST = 6.0

_NAME = re.compile(r"(input|logits)|([am])(\d+)(?:\.(h|kv)(\d+))?")


def _node(name: str) -> tuple[str, str, str]:
    """Label, colour and hover text of a node as :class:`km.KnowledgeCircuit` names it."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no node: input, logits, a<layer>.h<head>, m<layer>")
    end, letter, layer, kind, head = found.groups()
    if end is not None:
        return end, "faint", "embeddings of the prompt" if end == "input" else "the answer's lead"
    if letter == "m":
        return f"MLP {layer}", "pale-green", f"MLP of layer {layer}"
    if kind == "kv":
        return f"kv {layer}.{head}", "paper", f"keys and values of group {head}, layer {layer}"
    if head is None:
        return f"attention {layer}", "pale-blue", f"attention of layer {layer}"
    return f"head {layer}.{head}", "pale-blue", f"head {head} of layer {layer}"


def _order(name: str) -> tuple[int, int, int]:
    """Layer, part and head: the order of the pass."""
    found = _NAME.fullmatch(name)
    end, letter, layer, kind, head = found.groups() if found else ("input",) + (None,) * 4
    if end is not None:
        return (-1 if end == "input" else 1 << 20, 0, 0)
    part = 2 if letter == "m" else 0 if kind == "kv" else 1
    return (int(layer or 0), part, int(head or 0))


def _groups(names: set[str], heads: Sequence[int] | None) -> list[tuple[str, str]]:
    """Keys and values of a group, and the heads of it that are there."""
    pairs = []
    for name in names:
        found = re.fullmatch(r"a(\d+)\.kv(\d+)", name)
        if found is None or heads is None:
            continue
        layer, group = found.groups()
        size = heads[0] // heads[1]
        own = [f"a{layer}.h{int(group) * size + i}" for i in range(size)]
        pairs += [(name, head) for head in own if head in names]
    return pairs


def _draw_nodes(graph: Graph, names: set[str]) -> dict[str, int]:
    """Nodes in the order of the pass, with their numbers in the picture."""
    numbers = {}
    for name in sorted(names, key=_order):
        label, fill, text = _node(name)
        numbers[name] = graph.add_node(
            label, title=hover(text), shape="round", fill=fill, stroke="muted", size=9.0,
            height=HEIGHT, line="dashed" if fill == "paper" else "solid",
        )  # fmt: skip
    return numbers


def _legend(graph: Graph, largest: float, groups: bool) -> None:
    for value in (1.0, 0.25):
        graph.add_legend(
            f"{figure(value * largest)} logits", shape="box", fill="blue", stroke="none",
            width=20.0, height=max(WIDEST * value, 0.7),
        )  # fmt: skip
    graph.add_legend(
        "below zero", shape="box", fill="vermilion", stroke="none", width=20.0, height=2.0
    )
    graph.add_legend("head", fill="pale-blue", stroke="muted", width=20.0, height=11.0)
    graph.add_legend("MLP", fill="pale-green", stroke="muted", width=20.0, height=11.0)
    if groups:
        graph.add_legend(
            "keys and values of a group of heads", fill="paper", stroke="muted", line="dashed",
            width=20.0, height=11.0,
        )  # fmt: skip


def _subtitle(source: Any, drawn: int, total: int, model: str) -> str:
    parameters = source.parameters if hasattr(source, "provenance") else {}
    texts = parameters.get("prompts")
    about = f" against “{texts[1].strip()}”" if texts else ""
    answers = parameters.get("answers")
    metric = f": {answers[0].strip()} over {answers[1].strip()}" if answers else ""
    recovered = getattr(source, "recovered", None)
    worth = ""
    if recovered is not None:
        random = getattr(source, "random_recovered", None)
        beside = "" if random is None else f", random circuits {share(round(random, 2) + 0.0)}"
        worth = (
            f" Run alone it recovers {share(round(recovered, 2) + 0.0)} of the difference{beside}."
        )
    return (
        f"Knowledge circuit{f' of {model}' if model else ''}, n = 1 pair{about}{metric}. The "
        f"{drawn} strongest of {total} edges; width: estimated loss of the answer's lead when the "
        f"edge is corrupted.{worth}"
    )


def circuit(
    source: Any,
    *,
    max_edges: int = 50,
    heads: tuple[int, int] | None = None,
    title: str = "",
    model: str | None = None,
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the strongest edges of a circuit between heads and MLPs.

    Parameters
    ----------
    source : km.KnowledgeCircuit, table, or iterable of dicts
        One row an edge: source, target, kind, score.
    max_edges : int
        At most 300.
    heads : (int, int), optional
        Query heads and key/value heads of a layer, to join a group of keys and values to its heads;
        None: from the result.
    title : str
        Default: the clean prompt and the answer.
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
        There is no edge, or a name is no node.
    """
    rows = records(getattr(source, "table", source))
    if not rows or not 0 < max_edges <= MAX_EDGES:
        raise ValueError(f"from 1 to {MAX_EDGES} edges can be drawn, and there must be one")
    drawn = sorted(rows, key=lambda row: -abs(row["score"]))[:max_edges]
    parameters = source.parameters if hasattr(source, "provenance") else {}
    shape = heads or parameters.get("heads")
    names = {row[end] for row in drawn for end in ("source", "target")}
    groups = _groups(names, shape)
    of = model_name(source, model)
    about = "Knowledge circuit"
    if parameters.get("prompts"):
        about = f"{parameters['prompts'][0].strip()} → {parameters['answers'][0].strip()}"
    n = "1 pair" if parameters else ""
    shown = hover(title) or headline(hover(about), of, n)
    subtitle = visible(_subtitle(source, len(drawn), len(rows), of))
    graph = Graph("down", shown, subtitle, subtitle, footnote(source, provenance))
    numbers = _draw_nodes(graph, names)
    for a, b in groups:
        graph.add_edge(
            numbers[a], numbers[b], line="dotted", width=1.0, weight=4.0,
            title="a head and its keys and values",
        )  # fmt: skip
    largest = abs(drawn[0]["score"])
    for row in reversed(drawn):
        width = WIDEST * abs(row["score"]) / largest if largest > 0 else 0.0
        text = f"{row['source']} → {row['target']} ({row['kind']}): {figure(row['score'])} logits"
        graph.add_edge(
            numbers[row["source"]], numbers[row["target"]],
            color="blue" if row["score"] > 0 else "vermilion", width=max(width, 0.7),
            title=hover(text),
        )  # fmt: skip
    _legend(graph, largest, any(".kv" in name for name in names))
    return Picture(graph, shown, theme)
