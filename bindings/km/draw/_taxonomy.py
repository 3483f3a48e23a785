"""The survey's taxonomy as a tree, with the evidence of one or more runs on its nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from km._kmviz import Graph, text_width
from km.draw._common import (
    figure,
    fit,
    footnote,
    headline,
    hover,
    interval,
    records,
    visible,
    wrap,
)
from km.draw._radial import INNER_WIDTH, LEAF_WIDTH, TEXT, radial
from km.picture import Picture

# kind -> shape, colour, pale colour, name in the legend
KINDS = {
    "aspect": ("box", "muted", "faint", "aspect"),
    "mechanism": ("ellipse", "blue", "pale-blue", "mechanism"),
    "hypothesis": ("diamond", "vermilion", "pale-vermilion", "hypothesis"),
    "phenomenon": ("triangle", "green", "pale-green", "phenomenon"),
    "analysis_method": ("hexagon", "purple", "pale-purple", "analysis method"),
    "open_question": ("invtriangle", "orange", "pale-orange", "open question"),
}
NBSP = "\u00a0"
MARK = 9.0
NAME_WIDTH = 165.0
CARD_WIDTH = 330.0
COLUMN_GAP = 26.0
ROW_GAP = 4.0
MAX_FIGURES = 4
MAX_NODES = 240  # more are summarised by cluster
LAYOUTS = ("tree", "radial")
MAX_DESCRIPTION = 2000  # characters, at most 8,000 bytes


@dataclass
class _Node:
    """One node of the tree with what is drawn of it."""

    data: Mapping[str, Any]
    depth: int = 0
    children: list[_Node] = field(default_factory=list)
    evidence: list[Mapping[str, Any]] = field(default_factory=list)
    below: int = 0  # nodes under this one
    measured: bool = False  # this node or one under it has evidence
    folded: int = 0  # nodes under this one that are not drawn
    inside: int = 0  # those of them that have evidence
    name: str = ""
    figures: list[str] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    y: float = 0.0


def _plain(source: Any, evidence: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Nodes and evidence from a knowledge base, a taxonomy object, a dict or a list."""
    taxonomy = getattr(source, "taxonomy", source)
    if evidence is None:
        evidence = getattr(taxonomy, "evidence", None)
    if isinstance(taxonomy, Mapping):
        nodes = taxonomy["nodes"]
    else:
        nodes = getattr(taxonomy, "nodes", taxonomy)
    return records(nodes), [] if evidence is None else records(evidence)


def _tree(nodes: Sequence[Mapping[str, Any]], evidence: Sequence[Mapping[str, Any]]) -> _Node:
    made = {n["id"]: _Node(n) for n in nodes}
    if len(made) != len(nodes):
        raise ValueError("the taxonomy names a node twice")
    roots = []
    for node in made.values():
        parent = node.data.get("parent")
        if parent is None:
            roots.append(node)
        elif parent not in made:
            raise ValueError(f"node {node.data['id']!r} has an unknown parent {parent!r}")
        else:
            made[parent].children.append(node)
    if len(roots) != 1:
        raise ValueError(f"a taxonomy has one root, this one has {len(roots)}")
    # Recall is the headline: it comes first on its card.
    for row in sorted(evidence, key=lambda r: not str(r.get("statistic", "")).startswith("recall")):
        if row["node"] not in made:
            raise ValueError(f"evidence names an unknown node {row['node']!r}")
        made[row["node"]].evidence.append(row)
    if _count(roots[0], 0) + 1 != len(made):
        raise ValueError("the taxonomy has a cycle")
    return roots[0]


def _count(node: _Node, depth: int) -> int:
    """Depths, numbers of descendants and where evidence lies; returns the descendants."""
    node.depth = depth
    node.below = sum(1 + _count(child, depth + 1) for child in node.children)
    node.measured = bool(node.evidence) or any(c.measured for c in node.children)
    return node.below


def _fold(node: _Node) -> None:
    """Keep the children of the root and of every node that has evidence below it."""
    below = any(c.measured for c in node.children)
    if node.depth > 0 and not below:
        node.folded = node.below
        node.children = []
    for child in node.children:
        _fold(child)


def _branch(root: _Node, id: str) -> _Node:
    """The node with this id as the root of what is drawn."""
    for node in _all(root):
        if node.data["id"] == id:
            _count(node, 0)
            return node
    raise ValueError(f"the taxonomy has no node {id!r} to draw the branch of")


def _with_evidence(nodes: Iterable[_Node]) -> int:
    return sum(bool(n.evidence) for node in nodes for n in _all(node))


def _summarise(root: _Node) -> int:
    """Fold what would be too much to read into clusters; returns their number.

    Level by level the branches with evidence are opened first, then the largest, as long as
    there is room; the others become clusters that say how many nodes they stand for.
    """
    if len(_all(root)) <= MAX_NODES:
        return 0
    left, clusters, level = MAX_NODES - 1, 0, [root]
    if len(root.children) > left:
        clusters += 1
        _keep_largest(root, left)
    while level:
        opened: list[_Node] = []
        for node in sorted(level, key=lambda n: (not n.measured, -n.below)):
            if len(node.children) <= left:
                left -= len(node.children)
                opened += node.children
            else:
                clusters += 1
                node.folded, node.inside = node.below, _with_evidence(node.children)
                node.children = []
        level = opened
    return clusters


def _keep_largest(root: _Node, room: int) -> None:
    """Put the smallest children of a node, which are too many, into one cluster."""
    ranked = sorted(root.children, key=lambda n: (not n.measured, -n.below))
    kept, rest = {id(n) for n in ranked[: room - 1]}, ranked[room - 1 :]
    cluster = _Node({"id": "", "name": "others", "kind": "aspect"}, depth=root.depth + 1)
    cluster.measured = any(n.measured for n in rest)
    cluster.folded = sum(1 + n.below for n in rest)
    cluster.inside = _with_evidence(rest)
    root.children = [*(n for n in root.children if id(n) in kept), cluster]


def _figure_line(row: Mapping[str, Any]) -> str:
    """Such as "recall 0.31 [0.24, 0.39], baseline 0.19, n = 312", in parts that wrap at commas."""
    name = visible(row.get("statistic") or row.get("measure") or "").replace("_", " ")
    unit = f" {row['unit']}" if row.get("unit") in ("nats", "bits", "layers", "tokens") else ""
    parts = [f"{name} {interval(row).replace(' ', NBSP)}{unit}"]
    baseline = row.get("baseline")
    if isinstance(baseline, str):
        parts.append(f"beside {visible(baseline)}")
    elif baseline is not None and "gain" not in name:
        parts.append(f"baseline{NBSP}{figure(baseline)}")
    if row.get("n") is not None:
        parts.append(f"n{NBSP}={NBSP}{int(row['n']):,}")
    whose = f" ({visible(row['whose'])})" if row.get("whose") else ""
    return ", ".join(parts) + whose


def _model(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[key]) for key in ("model", "precision") if row.get(key))


def _name_models(rows: list[dict[str, Any]]) -> str:
    """One model's name for the footnote; several models' names go to their figures instead."""
    models = {_model(row) for row in rows}
    if len(models) == 1:
        return models.pop()
    for row in rows:
        row["whose"] = _model(row)
    return ""


def _hidden(node: _Node) -> str:
    """How many nodes below it are not drawn."""
    text = f"{NBSP}+{node.folded:,}" if node.folded else ""
    return text + (f", {node.inside:,}{NBSP}with{NBSP}evidence" if node.inside else "")


def _size(node: _Node) -> None:
    card = bool(node.evidence)
    node.name = wrap(visible(node.data["name"]) + _hidden(node), NAME_WIDTH, 10.0, card)
    lines = [_figure_line(row) for row in node.evidence[:MAX_FIGURES]]
    more = len(node.evidence) - MAX_FIGURES
    node.figures = [wrap(line, CARD_WIDTH, 9.0, lines=2) for line in lines]
    node.figures += [f"and {more} more"] if more > 0 else []
    widths = [text_width(line, 10.0, card) for line in node.name.split("\n")]
    widths += [text_width(line, 9.0) for f in node.figures for line in f.split("\n")]
    rows = node.name.count("\n") + 1
    figure_rows = sum(f.count("\n") + 1 for f in node.figures)
    node.width = MARK + 6.0 + max(widths) + (24.0 if card else 3.0)
    node.height = 12.5 * rows + 11.5 * figure_rows + (10.0 if card else 3.0)
    for child in node.children:
        _size(child)


def _place(node: _Node, top: float) -> float:
    """Give the subtree a band that begins at `top`; returns the band's height."""
    total = 0.0
    for child in node.children:
        total += _place(child, top + total)
    own = node.height + ROW_GAP
    if own > total and node.children:
        _shift(node.children, 0.5 * (own - total))
    node.y = 0.5 * (node.children[0].y + node.children[-1].y) if node.children else top + 0.5 * own
    node.y = min(max(node.y, top + 0.5 * own), top + max(own, total) - 0.5 * own)
    return max(own, total)


def _shift(nodes: Iterable[_Node], by: float) -> None:
    for node in nodes:
        node.y += by
        _shift(node.children, by)


def _all(node: _Node) -> list[_Node]:
    return [node] + [n for child in node.children for n in _all(child)]


def _columns(nodes: Sequence[_Node]) -> dict[int, float]:
    """Left edge of each depth. A leaf has its rows to itself and may reach into later columns."""
    widest: dict[int, float] = defaultdict(float)
    for node in nodes:
        widest[node.depth] = max(widest[node.depth], node.width if node.children else 0.0)
    left, x = {}, 0.0
    for depth in sorted(widest):
        left[depth] = x
        x += widest[depth] + COLUMN_GAP
    return left


def _hover(node: _Node) -> str:
    parts = [str(node.data["name"]), str(node.data.get("summary") or "")]
    for row in node.evidence:
        line = f"{row.get('measure', '')}: {_figure_line(row)}"
        parts.append(line + (f" ({row['note']})" if row.get("note") else ""))
    return hover("\n".join(p for p in parts if p))


def _draw_node(graph: Graph, node: _Node, left: float) -> tuple[int, int]:
    """Draw one node; returns the graph nodes at which edges arrive and leave."""
    shape, color, pale, _ = KINDS.get(str(node.data.get("kind")), KINDS["aspect"])
    title, card = _hover(node), bool(node.evidence)
    pad = 7.0 if card else 0.0
    box = -1
    if card:
        box = graph.add_node(
            title=title, shape="round", fill=pale, stroke=color, pen=1.8,
            x=left + 0.5 * node.width, y=node.y, width=node.width, height=node.height,
        )  # fmt: skip
    name_height = 12.5 * (node.name.count("\n") + 1)
    top = node.y - 0.5 * node.height + (5.0 if card else 1.5)
    mark = graph.add_node(
        title=title, shape=shape, fill=color if card else "paper", stroke=color, pen=1.3,
        x=left + pad + 0.5 * MARK, y=top + 6.25 if card else node.y, width=MARK, height=MARK,
    )  # fmt: skip
    text_left = left + pad + MARK + 5.0
    room = node.width - pad - MARK - 5.0
    strong = node.measured
    name = graph.add_node(
        node.name, title=title, shape="plain", stroke="none", align="left", bold=card,
        text="ink" if strong else "muted",
        x=text_left + 0.5 * room, y=top + 0.5 * name_height, width=room, height=name_height,
    )  # fmt: skip
    if card:
        label = "\n".join(node.figures)
        height = 11.5 * (label.count("\n") + 1)
        graph.add_node(
            label, title=title, shape="plain", stroke="none", align="left", size=9.0,
            x=text_left + 0.5 * room, y=top + name_height + 0.5 * height, width=room, height=height,
        )  # fmt: skip
    return (box, box) if card else (mark, name)


def _draw_tree(graph: Graph, root: _Node) -> None:
    left = _columns(_all(root))
    ends = {id(n): _draw_node(graph, n, left[n.depth]) for n in _all(root)}
    for node in _all(root):
        for child in node.children:
            graph.add_edge(
                ends[id(node)][1],
                ends[id(child)][0],
                color="muted" if child.measured else "line",
                width=1.7 if child.measured else 0.8,
                route="across",
            )


def _name_radial(node: _Node) -> None:
    """One line: name, cut where it is too long, and numbers of nodes and of figures."""
    n = len(node.evidence)
    counts = _hidden(node) + (f"{NBSP}({n})" if n else "")
    room = (INNER_WIDTH if node.children else LEAF_WIDTH) - text_width(counts, TEXT, True)
    node.name = fit(visible(node.data["name"]), room, TEXT, True) + counts
    for child in node.children:
        _name_radial(child)


def _draw_radial(graph: Graph, root: _Node) -> None:
    """Marks of the nodes' kinds, filled where there is evidence, with small counts."""
    _name_radial(root)
    marks: dict[int, int] = {}
    for node, spot in radial(root):
        assert isinstance(node, _Node)
        shape, color, pale, _ = KINDS.get(str(node.data.get("kind")), KINDS["aspect"])
        title, strong = _hover(node), bool(node.evidence)
        marks[id(node)] = graph.add_node(
            title=title, shape=shape, fill=color if strong else "paper", stroke=color, pen=1.3,
            x=spot.x, y=spot.y, width=MARK, height=MARK,
        )  # fmt: skip
        graph.add_node(
            node.name, title=title, shape="plain", stroke="none", align=spot.align, size=TEXT,
            fill=pale if strong else "paper" if node.children else "none", bold=strong,
            text="ink" if node.measured else "muted", x=spot.left + 0.5 * spot.width,
            y=spot.text_y, width=spot.width, height=11.0,
        )  # fmt: skip
    for node in _all(root):
        for child in node.children:
            graph.add_edge(
                marks[id(node)], marks[id(child)], color="muted" if child.measured else "line",
                width=1.7 if child.measured else 0.8,
            )  # fmt: skip


def _legend(graph: Graph, nodes: Sequence[_Node], layout: str) -> None:
    used = {str(n.data.get("kind")) for n in nodes}
    for kind, (shape, color, _, name) in KINDS.items():
        if kind in used:
            graph.add_legend(name, shape=shape, fill="paper", stroke=color)
    if any(n.evidence for n in nodes) and layout == "tree":
        graph.add_legend(
            "has evidence", shape="round", fill="pale-blue", stroke="blue", width=20.0, height=11.0
        )
    elif any(n.evidence for n in nodes):
        graph.add_legend("filled: has evidence", shape="ellipse", fill="blue", stroke="blue")


def taxonomy(
    source: Any,
    evidence: Any = None,
    *,
    branch: str | None = None,
    layout: str = "tree",
    full: bool = False,
    level: float = 0.95,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the taxonomy of knowledge mechanisms with the evidence measured so far.

    Parameters
    ----------
    source : KnowledgeBase, taxonomy, dict or sequence of dicts
        Nodes {id, parent, name, kind, summary}; a knowledge base brings its evidence.
    evidence : iterable of dicts or table, optional
        {node, measure, statistic, value, low, high, n, unit, baseline, note, model, precision};
        where several models are among them, each figure names its own.
    branch : str, optional
        Id of a node: it and what is below it are drawn.
    layout : {"tree", "radial"}
        From left to right, with the figures; or around the root, with small counts of figures,
        which show on hovering.
    full : bool
        Draw branches without evidence too; else they are folded into "+12". More than 240 nodes
        are summarised by cluster, as the picture says.
    level : float
        Coverage of the intervals.
    title : str, optional
        Default: what is drawn, of which model, n nodes with evidence.
    provenance : str, optional
        Footnote: model, precision, date.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        The nodes are no tree, evidence is of a node that is not there, or there is no such branch
        or layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    nodes, rows = _plain(source, evidence)
    model = _name_models(rows)
    root = _tree(nodes, rows)
    about = "Knowledge mechanisms"
    if branch is not None:
        root = _branch(root, branch)
        about = str(root.data["name"])
    total, measured = root.below + 1, _with_evidence([root])
    if not full:
        _fold(root)
    clusters = _summarise(root)
    shown = _all(root)
    where = f" from {visible(model)}" if model else ""
    subtitle = f"{measured} of {total:,} nodes have evidence{where}; "
    subtitle += (
        f"figures are value [{100 * level:g} % interval], n."
        if layout == "tree"
        else "numbers in brackets count their figures."
    )
    if clusters:
        many = "1 cluster" if clusters == 1 else f"{clusters} clusters"
        subtitle += (
            f" {total:,} nodes are too many to read: this is a summary in {len(shown)} places, "
            f"and “+12” in {many} is the number of nodes that are not drawn."
        )
    elif len(shown) < total:
        subtitle += f" Drawn: {len(shown)}; “+12” counts folded nodes below, none with evidence."
    described = "; ".join(
        f"{n.data['name']}: {', '.join(_figure_line(r) for r in n.evidence)}"
        for n in shown
        if n.evidence
    )
    headed = headline(f"{about}: what was measured", model, f"{measured} of {total:,} nodes")
    title = visible(title) or headed
    graph = Graph(
        "fixed", title, visible(subtitle), visible(described)[:MAX_DESCRIPTION],
        footnote(source, provenance),
    )  # fmt: skip
    if layout == "radial":
        _draw_radial(graph, root)
    else:
        _size(root)
        _place(root, 0.0)
        _draw_tree(graph, root)
    _legend(graph, shown, layout)
    return Picture(graph, title, theme)
