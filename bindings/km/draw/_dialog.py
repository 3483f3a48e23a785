"""The path of a conversation's choices through the taxonomy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from km._kmviz import Graph
from km.draw._common import (
    count,
    fit,
    footnote,
    headline,
    hover,
    model_name,
    records,
    text_line,
    visible,
    wrap,
)
from km.draw._taxonomy import KINDS
from km.errors import NotFoundError
from km.picture import Picture

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

CONVERSATION_ID = "dialog.conversation"
CARD = 210.0
GAP = 46.0
ROW_GAP = 14.0
LINE = 12.5
MAX_TURNS = 60


@dataclass
class _Turn:
    """A turn and what its answer rests on."""

    number: int
    user: str
    text: str  # of the sentence; empty: nothing fitted
    node: str
    source: str


@dataclass
class _Card:
    """A node of the taxonomy on the way, or above one."""

    data: Mapping[str, Any]
    depth: int = 0
    children: list[_Card] = field(default_factory=list)
    turns: list[_Turn] = field(default_factory=list)
    y: float = 0.0

    @property
    def height(self) -> float:
        return 22.0 + (LINE * len(self.turns) + 3.0 if self.turns else 0.0)

    @property
    def x(self) -> float:
        return (CARD + GAP) * self.depth


def _turns(rows: Sequence[Mapping[str, Any]]) -> list[_Turn]:
    """One a turn, in order, from rows of candidates."""
    found: dict[int, _Turn] = {}
    for row in rows:
        number = int(row["turn"])
        turn = found.setdefault(number, _Turn(number, str(row["user"]), "", "", ""))
        if row.get("chosen"):
            turn.text, turn.node = str(row["text"]), str(row["node"])
            turn.source = str(row["source"])
    return [found[number] for number in sorted(found)][:MAX_TURNS]


def _tree(nodes: Sequence[Mapping[str, Any]], turns: Sequence[_Turn]) -> list[_Card]:
    """Cards of the nodes of the turns and everything above them, the root first."""
    known = {str(node["id"]): node for node in nodes}
    cards: dict[str, _Card] = {}
    for turn in turns:
        path, id = [], turn.node if turn.node in known else ""
        while id and id not in path:
            path.append(id)
            id = str(known[id]["parent"] or "")
        for place, name in enumerate(reversed(path)):
            cards.setdefault(name, _Card(known[name], place))
        if path:
            cards[turn.node].turns.append(turn)
    for name, card in cards.items():
        parent = card.data["parent"]
        if parent is not None:
            cards[str(parent)].children.append(cards[name])
    return list(cards.values())


def _place(card: _Card, top: float) -> float:
    """Leaves one below the other, parents beside their middle; returns where the next begins."""
    if not card.children:
        card.y = top + 0.5 * card.height
        return top + card.height + ROW_GAP
    end = top
    for child in card.children:
        end = _place(child, end)
    card.y = 0.5 * (card.children[0].y + card.children[-1].y)
    return max(end, card.y + 0.5 * card.height + ROW_GAP)


def _draw_card(graph: Graph, card: _Card) -> int:
    _, color, pale, _ = KINDS[str(card.data["kind"])]
    name = visible(card.data["name"])
    number = graph.add_node(
        title=hover(f"{name}\n{card.data['summary']}"), shape="round",
        fill=pale if card.turns else "paper", stroke=color if card.turns else "line",
        x=card.x, y=card.y, width=CARD, height=card.height,
    )  # fmt: skip
    left, y = card.x - 0.5 * CARD + 9.0, card.y - 0.5 * card.height + 11.0
    text_line(graph, fit(name, CARD - 18.0, 10.0, bool(card.turns)), name, left, y,
          bold=bool(card.turns), text="ink" if card.turns else "muted")  # fmt: skip
    for turn in card.turns:
        y += LINE
        shown = fit(visible(f"{turn.number}  {turn.user}"), CARD - 18.0, 9.0)
        title = hover(f"{turn.number}: {turn.user}\n{turn.text}\n[{turn.source}]")
        text_line(graph, shown, title, left, y + 2.0, size=9.0)
    return number


def _draw_path(
    graph: Graph, cards: Mapping[str, _Card], numbers: Mapping[str, int], turns: Sequence[_Turn]
) -> None:
    """An arrow wherever the conversation went to another node."""
    placed = [turn for turn in turns if turn.node in numbers]
    for before, after in pairwise(placed):
        if before.node != after.node:
            beside = cards[before.node].depth != cards[after.node].depth
            graph.add_edge(
                numbers[before.node], numbers[after.node],
                title=hover(f"{before.number} to {after.number}: {after.user}"),
                color="vermilion", width=1.8, arrow=True, route="across" if beside else "down",
            )  # fmt: skip


def _stored(kb: KnowledgeBase, run: int | None) -> list[dict[str, Any]]:
    rows = kb.sql(
        "SELECT m.data FROM measurements AS m JOIN chunks AS c ON c.id = m.chunk "
        "JOIN run_chunks AS k ON k.chunk = c.id WHERE k.run = coalesce(?, "
        "(SELECT max(id) FROM runs WHERE measure = ?)) ORDER BY c.id, m.row",
        [run, CONVERSATION_ID],
    )
    return [json.loads(row["data"]) for row in rows.rows()]


def dialog(
    source: Any,
    kb: KnowledgeBase | None = None,
    *,
    run: int | None = None,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw which nodes of the taxonomy the answers of a conversation came from, in order.

    Parameters
    ----------
    source : KnowledgeBase or table
        A knowledge base with a stored conversation, or the rows of one (``Conversation.rows``).
    kb : KnowledgeBase, optional
        Whose taxonomy it is, where `source` is rows.
    run : int, optional
        Of the knowledge base; None: the newest conversation.
    title, provenance : str, optional
        Default: "A conversation's path", and the conversation's origin.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    NotFoundError
        There is no conversation.
    ValueError
        No answer of it rests on a node of the taxonomy.
    """
    from_kb = hasattr(source, "ask")
    owner = source if from_kb else kb
    if owner is None:
        raise TypeError("rows need the knowledge base whose taxonomy they are of: give kb")
    turns = _turns(_stored(owner, run) if from_kb else records(source))
    if not turns:
        raise NotFoundError(f"{owner.path}: holds no such conversation")
    nodes = owner.sql("SELECT id, parent, name, kind, summary FROM nodes ORDER BY tree_enter")
    cards = _tree(list(nodes.rows()), turns)
    if not cards:
        raise ValueError("no answer of the conversation rests on a node of the taxonomy")
    _place(cards[0], 0.0)
    answered = sum(bool(turn.node) for turn in turns)
    words = [f"{turn.number}: {turn.user} - {turn.text or 'nothing fitted'}" for turn in turns]
    about = "A conversation's path through the taxonomy"
    shown = visible(title) or headline(about, model_name(source), count(len(turns), "turn"))
    graph = Graph(
        "fixed",
        title=shown,
        subtitle=(
            f"{count(len(turns), 'turn')}, {answered} answered from "
            f"{count(sum(bool(card.turns) for card in cards), 'node')}. Arrows follow the turns."
        ),
        description=wrap(hover("\n".join(words)).replace("\n", " "), 2000.0, lines=1),
        footnote=footnote(source, provenance) or visible(owner.path.rpartition("/")[2]),
    )
    numbers = {str(card.data["id"]): _draw_card(graph, card) for card in cards}
    for card in cards:
        for child in card.children:
            graph.add_edge(
                numbers[str(card.data["id"])], numbers[str(child.data["id"])], route="across"
            )
    _draw_path(graph, {str(card.data["id"]): card for card in cards}, numbers, turns)
    for kind in dict.fromkeys(str(card.data["kind"]) for card in cards if card.turns):
        _, color, pale, name = KINDS[kind]
        graph.add_legend(name, shape="round", fill=pale, stroke=color)
    return Picture(graph, shown, theme)
