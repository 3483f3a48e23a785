"""Which model came from which: models as cards, steps as labelled edges, recall where measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from km._kmviz import Graph
from km.draw._common import count, fit, headline, hover, text_line, visible, wrap
from km.draw._stored import (
    RECALL_ID,
    STATES,
    count_name,
    described,
    fact_states,
    file_name,
    generations,
    named_model,
    newest_runs,
    short,
    stored_lineage,
    stored_models,
)
from km.picture import Picture

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

CARD = 172.0
GAP = 158.0
ROW_GAP = 14.0
ELBOW = 34.0
LINE = 12.5
MAX_CARDS = 200
MAX_GENERATIONS = 12

# kind -> colour, line; the colours of states mean states alone
KINDS = {
    "trained": ("green", "solid"),
    "edited": ("purple", "solid"),
    "pruned": ("orange", "solid"),
    "merged": ("muted", "solid"),
    "quantised": ("muted", "dashed"),
    "snapshot": ("muted", "dotted"),
}


@dataclass
class _Card:
    """A model, or several that are folded into one card."""

    key: str
    lines: list[str]  # the first `bold` of them are its name
    title: str
    bold: int = 1
    states: Counter[str] = field(default_factory=Counter)
    parents: list[Mapping[str, Any]] = field(default_factory=list)  # steps that lead here
    children: list[str] = field(default_factory=list)  # whose place in the tree is below this
    generation: int = 0
    folded: int = 0
    y: float = 0.0

    @property
    def height(self) -> float:
        return 14.0 + LINE * len(self.lines) + (20.0 if self.states else 0.0)

    @property
    def x(self) -> float:
        return (CARD + GAP) * self.generation


def _card(key: str, model: Mapping[str, Any], states: Counter[str]) -> _Card:
    facts = [str(model["precision"])] if model["precision"] else []
    if model["n_parameters"]:
        facts.append(f"{count_name(int(model['n_parameters']))} parameters")
    name = visible(model["name"])
    names = wrap(name, CARD - 20.0, 10.0, True, lines=2).split("\n")
    about = visible(" · ".join(facts))
    n = sum(states.values())
    title = [name, about, f"fingerprint {key}"]
    title += [f"{state}: {states[state]:,} of {n:,} facts" for state in STATES if states[state]]
    lines = [*names, *([about] if about else []), short(key)]
    return _Card(key, lines, hover("\n".join(title)), len(names), states)


def _counted(kb: KnowledgeBase, keys: Iterable[str]) -> dict[str, Counter[str]]:
    runs = newest_runs(kb, RECALL_ID)
    return {
        key: Counter(s.state for s in fact_states(kb, runs[key]).values())
        for key in keys
        if key in runs
    }


def _family(steps: Sequence[Mapping[str, Any]], model: str) -> set[str]:
    """A model, its ancestors and its descendants."""
    found = {model}
    for start, end in (("child", "parent"), ("parent", "child")):
        edges: dict[str, list[str]] = {}
        for step in steps:
            edges.setdefault(step[start], []).append(step[end])
        stack, seen = [model], {model}
        while stack:
            new = [name for name in edges.get(stack.pop(), ()) if name not in seen]
            seen.update(new)
            stack += new
        found |= seen
    return found


# ---- folding: what is too much to draw becomes one card with a count ----


def _foldable(cards: Mapping[str, _Card], keep: Iterable[str]) -> set[str]:
    """Models with one parent and at most one child below them."""
    kept = set(keep)
    users = Counter(step["parent"] for card in cards.values() for step in card.parents)
    return {
        key
        for key, card in cards.items()
        if len(card.parents) == 1 and users[key] <= 1 and key not in kept
    }


def _order(card: _Card) -> tuple[float, str]:
    step = card.parents[0]["step"] if card.parents else None
    return (float("inf") if step is None else float(step), card.key)


def _groups(cards: Mapping[str, _Card], foldable: set[str]) -> list[list[str]]:
    """Runs of models that follow one another, and leaves that share parent and kind."""
    groups: list[list[str]] = []
    following = {cards[key].parents[0]["parent"]: key for key in foldable}
    for key in sorted(foldable):
        if cards[key].parents[0]["parent"] in foldable or key not in following:
            continue
        chain = [key]
        while chain[-1] in following and following[chain[-1]] not in chain:
            chain.append(following[chain[-1]])
        groups.append(chain[1:-1])
    siblings: dict[tuple[str, str], list[str]] = {}
    parents = {step["parent"] for card in cards.values() for step in card.parents}
    for key in foldable - parents:
        step = cards[key].parents[0]
        siblings.setdefault((step["parent"], step["kind"]), []).append(key)
    for group in siblings.values():
        group.sort(key=lambda key: _order(cards[key]))
        groups.append(group[1:-1])
    return [group for group in groups if len(group) > 1]


def _steps_of(cards: Sequence[_Card]) -> str:
    numbers = [c.parents[0]["step"] for c in cards if c.parents[0]["step"] is not None]
    return f"steps {min(numbers):,} to {max(numbers):,}" if numbers else ""


def _fold(cards: dict[str, _Card], group: Sequence[str]) -> None:
    """Put one card in the place of a group."""
    members = [cards.pop(key) for key in group]
    first = members[0]
    lines = [f"{len(members):,} more models", _steps_of(members)]
    names = "\n".join(m.title.replace("\n", " · ") for m in members)
    cards[first.key] = _Card(
        first.key, [line for line in lines if line], hover(names), parents=first.parents,
        folded=len(members),
    )  # fmt: skip
    inside = set(group)
    for card in cards.values():
        card.parents = [
            {**step, "parent": first.key} if step["parent"] in inside else step
            for step in card.parents
        ]


def _reduce(cards: dict[str, _Card]) -> list[str]:
    """Fold until the picture can be read; says what was done."""
    notes = []
    deepest = max(generations(cards, _steps(cards)).values(), default=0)
    if len(cards) > MAX_CARDS or deepest >= MAX_GENERATIONS:
        n = len(cards)
        for group in _groups(cards, _foldable(cards, ())):
            if all(key in cards for key in group):
                _fold(cards, group)
        if len(cards) < n:
            folded = sum(card.folded for card in cards.values())
            notes.append(f"{folded:,} models in rows of like ones are drawn as counts.")
    if len(cards) > MAX_CARDS:
        notes.append(_drop(cards))
    return notes


def _drop(cards: dict[str, _Card]) -> str:
    """Leave out models without lineage first, then the farthest descendants."""
    depth = generations(cards, _steps(cards))
    used = {step["parent"] for card in cards.values() for step in card.parents}
    lone = [key for key, card in cards.items() if not card.parents and key not in used]
    rest = sorted((key for key in cards if key not in set(lone)), key=lambda key: -depth[key])
    gone = (lone[::-1] + rest)[: len(cards) - MAX_CARDS]
    for key in gone:
        del cards[key]
    for card in cards.values():
        card.parents = [step for step in card.parents if step["parent"] in cards]
    return f"{len(gone):,} models are not drawn; choose a family by its model."


def _steps(cards: Mapping[str, _Card]) -> list[Mapping[str, Any]]:
    return [step for card in cards.values() for step in card.parents]


# ---- places ----


def _place(cards: dict[str, _Card]) -> None:
    """Generations from left to right; children beside the middle of their parent's."""
    depth = generations(cards, _steps(cards))
    roots = []
    for key, card in cards.items():
        card.generation = depth[key]
        above = [s["parent"] for s in card.parents if depth[s["parent"]] < depth[key]]
        if above:
            cards[max(above, key=lambda name: depth[name])].children.append(key)
        else:
            roots.append(key)
    for card in cards.values():
        card.children.sort(key=lambda name: _order(cards[name]))
    row, pitch = 0, max(card.height for card in cards.values()) + ROW_GAP
    for root in sorted(roots, key=lambda name: not cards[name].children):
        row = _place_tree(cards, root, row, pitch)


def _place_tree(cards: Mapping[str, _Card], root: str, row: int, pitch: float) -> int:
    """Leaves one below the other, parents in the middle of their children; returns the next row."""
    order, stack = [], [root]
    while stack:
        key = stack.pop()
        order.append(key)
        stack += cards[key].children[::-1]
    for key in order:
        if not cards[key].children:
            cards[key].y = pitch * row
            row += 1
    for key in reversed(order):
        card = cards[key]
        if card.children:
            card.y = 0.5 * (cards[card.children[0]].y + cards[card.children[-1]].y)
    return row


# ---- drawing ----


def _draw_states(graph: Graph, card: _Card, left: float, y: float) -> None:
    """A bar of the states' shares and the counts below it."""
    n, at, width = sum(card.states.values()), left, CARD - 20.0
    for state, (fill, _, _) in STATES.items():
        part = width * card.states[state] / n
        if part > 0.0:
            graph.add_node(
                title=f"{state}: {card.states[state]:,} of {n:,} facts", shape="box", fill=fill,
                stroke="none", x=at + 0.5 * part, y=y, width=part, height=5.0,
            )  # fmt: skip
        at += part
    counts = f"robust {card.states['robust']:,} of {n:,} facts"
    text_line(graph, counts, card.title, left, y + 11.0, size=9.0)


def _draw_card(graph: Graph, card: _Card) -> int:
    number = graph.add_node(
        title=card.title, fill="faint" if card.folded else "paper", stroke="muted",
        line="dashed" if card.folded else "solid", x=card.x, y=card.y, width=CARD,
        height=card.height,
    )  # fmt: skip
    left, y = card.x - 0.5 * CARD + 10.0, card.y - 0.5 * card.height + 14.0
    for i, line in enumerate(card.lines):
        name = i < card.bold
        options: dict[str, Any] = {"bold": True} if name else {"size": 9.0, "text": "muted"}
        shown = fit(line, CARD - 20.0, options.get("size", 10.0), name)
        text_line(graph, shown, card.title, left, y, **options)
        y += LINE
    if card.states:
        _draw_states(graph, card, left, y + 1.0)
    return number


def _step_texts(steps: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What stands above and below the line to a card."""
    kinds = list(dict.fromkeys(str(step["kind"]) for step in steps))
    details = []
    for step in steps:
        parts = [f"step {step['step']:,}"] if step["step"] is not None else []
        parts += [f"run {step['run']}"] if step["run"] is not None else []
        details.append(" · ".join(parts))
    return ", ".join(kinds), next((d for d in details if d), "")


def _step_hover(step: Mapping[str, Any], cards: Mapping[str, _Card]) -> str:
    parent = cards[step["parent"]]
    lines = [f"{step['kind']} from {' '.join(parent.lines[: parent.bold])}"]
    for name in ("step", "run", "measure", "seed", "recipe"):
        if step[name] is not None:
            lines.append(f"{name} {step[name]}")
    return hover("\n".join(lines))


def _draw_steps(
    graph: Graph, card: _Card, cards: Mapping[str, _Card], numbers: Mapping[str, int]
) -> None:
    """Each parent's edge runs to a point before the card; from there one line, with its label."""
    start, end = card.x - 0.5 * CARD - GAP + ELBOW, card.x - 0.5 * CARD
    point = graph.add_node(
        title="", shape="ellipse", stroke="none", x=start, y=card.y, width=0.5, height=0.5
    )
    first = card.parents[0]
    color, line = KINDS.get(first["kind"], ("line", "solid"))
    for step in card.parents:
        own_color, own_line = KINDS.get(step["kind"], ("line", "solid"))
        graph.add_edge(
            numbers[step["parent"]], point, title=_step_hover(step, cards), color=own_color,
            line=own_line, width=1.4, route="across",
        )  # fmt: skip
    graph.add_edge(
        point, numbers[card.key], title=_step_hover(first, cards), color=color, line=line,
        width=1.4, arrow=True, route="across",
    )  # fmt: skip
    above, below = _step_texts(card.parents)
    room = end - start - 12.0
    title = _step_hover(first, cards)
    text_line(graph, fit(visible(above), room, 9.0, True), title, start + 2.0, card.y - 8.0,
          size=9.0, bold=True)  # fmt: skip
    if below and not card.folded:
        text_line(graph, fit(visible(below), room, 9.0), title, start + 2.0, card.y + 8.0, size=9.0,
              text="muted")  # fmt: skip


def _legend(graph: Graph, cards: Mapping[str, _Card]) -> None:
    states: Counter[str] = Counter()
    for card in cards.values():
        states += card.states
    for state, (fill, _, _) in STATES.items():
        if states[state]:
            graph.add_legend(state, shape="box", fill=fill, stroke="none")


def _subtitle(cards: Mapping[str, _Card], n_models: int, n_steps: int, notes: list[str]) -> str:
    measured = sum(bool(card.states) for card in cards.values())
    text = f"{n_models:,} model{'s' if n_models != 1 else ''}, "
    text += f"{n_steps:,} step{'s' if n_steps != 1 else ''} from parent to child."
    if measured:
        text += (
            f" Bars: states of the facts of the newest recall run of {measured:,} of them; each "
            "run's own facts."
        )
    return " ".join([text, *notes])


def _sentences(cards: Mapping[str, _Card]) -> list[str]:
    """The steps in words."""
    names = {key: " ".join(card.lines[: card.bold]) for key, card in cards.items()}
    return [
        f"{names[key]} was {step['kind']} from {names[step['parent']]}."
        for key, card in cards.items()
        for step in card.parents
    ]


def lineage(
    kb: KnowledgeBase,
    model: str | None = None,
    *,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw which model came from which, with the states of facts where recall was measured.

    Parameters
    ----------
    kb : KnowledgeBase
        What ``kb.add_lineage`` recorded.
    model : str, optional
        Only this model (name, fingerprint, or the first 8 characters of one), its ancestors and
        its descendants; None: all recorded models.
    title : str
        Default: "Lineage of models".
    provenance : str, optional
        Footnote; None: the name of the file.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        No model is recorded.
    NotFoundError, ArgumentError
        No model, or more than one, is called `model`.
    """
    if not hasattr(kb, "ask"):
        raise TypeError(f"kb must be a km.KnowledgeBase, not {type(kb).__name__}")
    models, steps = stored_models(kb), stored_lineage(kb)
    if model is not None:
        family = _family(steps, named_model(models, model))
        models = {key: row for key, row in models.items() if key in family}
    if not models:
        raise ValueError("there is no model to draw")
    steps = [s for s in steps if s["child"] in models and s["parent"] in models]
    counted = _counted(kb, models)
    cards = {key: _card(key, row, counted.get(key, Counter())) for key, row in models.items()}
    for step in steps:
        cards[step["child"]].parents.append(step)
    notes = _reduce(cards)
    _place(cards)
    shown = visible(title) or headline("Lineage", n=count(len(models), "model"))
    subtitle = _subtitle(cards, len(models), len(steps), notes)
    foot = file_name(kb) if provenance is None else provenance
    description = described(subtitle, _sentences(cards))
    graph = Graph("fixed", shown, subtitle, description, visible(foot, keep_lines=True))
    numbers = {key: _draw_card(graph, card) for key, card in cards.items()}
    for card in cards.values():
        if card.parents:
            _draw_steps(graph, card, cards, numbers)
    _legend(graph, cards)
    return Picture(graph, shown, theme)
