"""How the states of facts change from model to model: columns of states, flows between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from km._kmviz import Graph, text_width
from km.draw._common import count, fit, footnote, headline, hover, records, visible, wrap
from km.draw._stored import (
    OTHER_ANSWER,
    RANK,
    RECALL_ID,
    STATES,
    Fact,
    FactState,
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
from km.errors import ArgumentError
from km.picture import Picture
from km.recall_summary import NOT_SHOWN
from km.result import stored_provenance, stored_table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

DIFF_ID = "learning.diff"
CHANGES = ("learned", "weakened", "lost", "changed")  # verdicts that say something changed
BAR = 40.0
PITCH = 176.0
HEIGHT = 300.0  # of all facts
GAP = 20.0
LABEL = 12.0
MAX_COLUMNS = 16
MAX_NAMES = 8  # facts named on hovering

KEPT, GAINED, LOST, ELSE = "faint", "mid-green", "mid-vermilion", "line"
PLACE = {state: i for i, state in enumerate(STATES)}


@dataclass
class _Column:
    """One model with the state of each fact."""

    name: str
    details: str
    step: str = ""
    states: dict[Fact, FactState] = field(default_factory=dict)
    tops: dict[str, float] = field(default_factory=dict)  # state -> upper end of its bar
    counts: Counter[str] = field(default_factory=Counter)


# ---- from a knowledge base ----


def _ordered(keys: Iterable[str], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parents before children; else as recorded."""
    keys = list(keys)
    names = {end for step in steps for end in (step["child"], step["parent"])} | set(keys)
    depth = generations(sorted(names), steps)
    return sorted(keys, key=lambda key: depth[key])


def _step_between(steps: Sequence[Mapping[str, Any]], parent: str, child: str) -> str:
    for step in steps:
        if (step["parent"], step["child"]) == (parent, child):
            number = f", step {step['step']:,}" if step["step"] is not None else ""
            return f"{step['kind']}{number}"
    return ""


def _from_recall(kb: KnowledgeBase, chosen: Sequence[str] | None) -> list[_Column]:
    models, steps, runs = stored_models(kb), stored_lineage(kb), newest_runs(kb, RECALL_ID)
    if chosen is None:
        keys = _ordered(runs, steps)
    else:
        keys = [named_model(models, name) for name in chosen]
    for key in keys:
        if key not in runs:
            raise ValueError(f"{models[key]['name']} has no finished recall run")
    columns = []
    for i, key in enumerate(keys):
        model = models[key]
        details = " · ".join(part for part in (model["precision"], short(key)) if part)
        step = _step_between(steps, keys[i - 1], key) if i else ""
        columns.append(_Column(model["name"], details, step, fact_states(kb, runs[key])))
    return columns


def _from_diff(parameters: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[_Column]:
    """The two models of a diff; facts that were not ranked are left out."""
    columns = []
    for side in ("before", "after"):
        about = parameters[side]
        details = [about.get("precision"), about.get("fingerprint") and short(about["fingerprint"])]
        name = str(about.get("name") or f"run {about.get('run')}")
        columns.append(_Column(name, " · ".join(str(part) for part in details if part)))
    for row in rows:
        if row["verdict"] is not None:
            for side, column in zip(("before", "after"), columns, strict=True):
                column.states[row["relation"], row["fact"]] = _diff_state(row, side)
    return columns


def _diff_state(row: Mapping[str, Any], side: str) -> FactState:
    """One candidate that leads under every one of several prompts is an answer of its own."""
    state, n = row[f"state_{side}"], row["n_templates"]
    settled = state == NOT_SHOWN and n > 1 and row[f"n_leading_{side}"] == n
    return FactState(
        OTHER_ANSWER if settled else state, str(row["subject"]), str(row["answer"]),
        str(row[f"leading_{side}"]), (), str(row["verdict"]),
    )  # fmt: skip


def _from_rows(source: Any) -> list[_Column]:
    columns: dict[str, _Column] = {}
    for row in records(source):
        for name in ("model", "fact", "state"):
            if name not in row:
                raise ValueError(f"a row needs model, fact and state; {name} is missing")
        if row["state"] not in STATES:
            raise ValueError(f"a state is one of {', '.join(STATES)}, not {row['state']!r}")
        column = columns.setdefault(str(row["model"]), _Column(str(row["model"]), ""))
        key = (str(row.get("relation", "")), str(row["fact"]))
        column.states[key] = FactState(
            row["state"], str(row.get("subject", row["fact"])), str(row.get("answer", "")), "", ()
        )
    return list(columns.values())


# ---- facts that can be compared, columns that can be drawn ----


def _common(columns: Sequence[_Column]) -> list[Fact]:
    """Facts asked in every column with the same prompts and numbers of candidates."""
    first = columns[0].states
    return [
        fact
        for fact, state in first.items()
        if all(fact in c.states and c.states[fact].asked == state.asked for c in columns[1:])
    ]


def _thin(columns: list[_Column]) -> list[_Column]:
    """Evenly chosen columns, the first and the last among them."""
    if len(columns) <= MAX_COLUMNS:
        return columns
    last = len(columns) - 1
    at = sorted({round(i * last / (MAX_COLUMNS - 1)) for i in range(MAX_COLUMNS)})
    thinned = [columns[i] for i in at]
    for i, column in enumerate(thinned):
        if i and at[i] - at[i - 1] > 1:
            column.step = ""
    return thinned


def _present(columns: Sequence[_Column], facts: Sequence[Fact]) -> list[str]:
    seen = {c.states[fact].state for c in columns for fact in facts}
    return [state for state in STATES if state in seen or state != OTHER_ANSWER]


# ---- drawing ----


def _facts(n: int) -> str:
    return f"{n:,} fact{'' if n == 1 else 's'}"


def _text(graph: Graph, label: str, title: str, x: float, y: float, **options: Any) -> None:
    graph.add_node(label, title=title, shape="plain", stroke="none", x=x, y=y, **options)


def _draw_head(graph: Graph, column: _Column, x: float) -> None:
    title = hover("\n".join(part for part in (column.name, column.details, column.step) if part))
    lines = wrap(visible(column.name), PITCH - 14.0, 10.0, True, lines=2).split("\n")
    rest = [(fit(visible(text), PITCH - 14.0, 9.0)) for text in (column.details, column.step)]
    y = -14.0 - 12.0 * sum(bool(text) for text in rest) - 12.5 * (len(lines) - 1)
    for line in lines:
        _text(graph, line, title, x, y, bold=True)
        y += 12.5
    for text in rest:
        if text:
            _text(graph, text, title, x, y, size=9.0, text="muted")
            y += 12.0


def _draw_bars(graph: Graph, column: _Column, x: float, scale: float, states: list[str]) -> None:
    n = sum(column.counts.values())
    y = 0.0
    for state in states:
        fill, ink, meaning = STATES[state]
        count = column.counts[state]
        height = scale * count
        column.tops[state] = y
        title = f"{visible(column.name)}\n{state}: {count:,} of {_facts(n)}\n{meaning}"
        graph.add_node(
            title=hover(title), shape="box", fill=fill, stroke="none", x=x,
            y=y + 0.5 * max(height, 0.75), width=BAR, height=max(height, 0.75),
        )  # fmt: skip
        inside = height >= LABEL
        _text(graph, f"{count:,}", hover(title), x, y + (0.5 * height if inside else -6.0),
              text=ink if inside else "ink")  # fmt: skip
        y += height + GAP


def _moves(a: _Column, b: _Column, facts: Sequence[Fact]) -> dict[tuple[str, str], list[Fact]]:
    moves: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        moves.setdefault((a.states[fact].state, b.states[fact].state), []).append(fact)
    return moves


def _flow_title(a: _Column, b: _Column, pair: tuple[str, str], facts: Sequence[Fact]) -> str:
    start, end = pair
    change = f"{start} in both" if start == end else f"from {start} to {end}"
    lines = [f"{_facts(len(facts))} {change}", f"{a.name} to {b.name}"]
    for fact in facts[:MAX_NAMES]:
        state = b.states[fact]
        beside = f" (now {state.top})" if end == OTHER_ANSWER and state.top else ""
        answer = f": {state.answer}" if state.answer else ""
        verdict = f" – {state.verdict}" if state.verdict else ""
        lines.append(f"{state.subject}{answer}{beside}{verdict}")
    if len(facts) > MAX_NAMES:
        lines.append(f"and {len(facts) - MAX_NAMES:,} more")
    return hover("\n".join(lines))


def _color(pair: tuple[str, str]) -> str:
    start, end = (RANK[state] for state in pair)
    if start == end:
        return KEPT if pair[0] == pair[1] else ELSE
    return GAINED if end > start else LOST


@dataclass(frozen=True)
class _Flow:
    """A band from one bar to the next."""

    pair: tuple[str, str]
    facts: list[Fact]
    start: float  # height of its middle at either end
    end: float
    title: str


def _flows(a: _Column, b: _Column, facts: Sequence[Fact], scale: float) -> list[_Flow]:
    """Bands stacked on either side in the order of the other side's states."""
    moves = _moves(a, b, facts)
    used_a, used_b = dict(a.tops), dict(b.tops)
    starts: dict[tuple[str, str], float] = {}
    for pair in sorted(moves, key=lambda p: (PLACE[p[0]], PLACE[p[1]])):
        starts[pair] = used_a[pair[0]] + 0.5 * scale * len(moves[pair])
        used_a[pair[0]] += scale * len(moves[pair])
    flows = []
    for pair in sorted(moves, key=lambda p: (PLACE[p[1]], PLACE[p[0]])):
        half = 0.5 * scale * len(moves[pair])
        title = _flow_title(a, b, pair, moves[pair])
        flows.append(_Flow(pair, moves[pair], starts[pair], used_b[pair[1]] + half, title))
        used_b[pair[1]] += 2.0 * half
    return sorted(flows, key=lambda flow: (flow.pair[0] != flow.pair[1], -len(flow.facts)))


def _draw_flow(graph: Graph, flow: _Flow, left: float, scale: float) -> None:
    width = max(scale * len(flow.facts), 0.75)
    ends = [
        graph.add_node(title="", shape="box", stroke="none", x=x, y=y, width=0.5, height=width)
        for x, y in ((left, flow.start), (left + PITCH - BAR, flow.end))
    ]
    graph.add_edge(
        ends[0], ends[1], title=flow.title, color=_color(flow.pair), width=width, route="across"
    )


def _on_curve(flow: _Flow, t: float) -> tuple[float, float]:
    """A point of a band's middle line, x as a share of the way."""
    return (
        1.5 * t * (1.0 - t) + t**3,
        flow.start + (flow.end - flow.start) * t * t * (3.0 - 2.0 * t),
    )


def _draw_numbers(graph: Graph, flows: Sequence[_Flow], left: float) -> None:
    """Counts on the bands that change, near their starts, where they do not cover one another."""
    taken: list[tuple[float, float, float]] = []
    for flow in sorted(flows, key=lambda flow: -len(flow.facts)):
        if flow.pair[0] == flow.pair[1]:
            continue
        label = f"{len(flow.facts):,}"
        width = text_width(label, 9.0) + 5.0
        for t in (0.3, 0.24, 0.36, 0.7, 0.76, 0.64, 0.18, 0.82, 0.42, 0.5, 0.58):
            share, y = _on_curve(flow, t)
            x = left + (PITCH - BAR) * share
            if all(abs(x - u) > 0.5 * (width + w) or abs(y - v) > LABEL for u, v, w in taken):
                taken.append((x, y, width))
                graph.add_node(
                    label, title=flow.title, fill="paper", stroke="none", size=9.0, x=x, y=y,
                    width=width, height=11.5,
                )  # fmt: skip
                break


def _draw(
    graph: Graph, columns: Sequence[_Column], facts: Sequence[Fact], states: list[str]
) -> None:
    scale = HEIGHT / max(len(facts), 1)
    for i, column in enumerate(columns):
        column.counts = Counter(column.states[fact].state for fact in facts)
        _draw_head(graph, column, PITCH * i)
        _draw_bars(graph, column, PITCH * i, scale, states)
    for i in range(len(columns) - 1):
        left = PITCH * i + 0.5 * BAR
        flows = _flows(columns[i], columns[i + 1], facts, scale)
        for flow in flows:
            _draw_flow(graph, flow, left, scale)
        _draw_numbers(graph, flows, left)


def _legend(graph: Graph, states: Sequence[str]) -> None:
    for state in states:
        graph.add_legend(state, shape="box", fill=STATES[state][0], stroke="none")
    names = [(KEPT, "as before"), (GAINED, "gained"), (LOST, "lost")]
    names += [(ELSE, "changed otherwise")] if OTHER_ANSWER in states else []
    for color, name in names:
        graph.add_legend(name, shape="box", fill=color, stroke="none", width=18.0, height=7.0)


def _subtitle(columns: Sequence[_Column], facts: Sequence[Fact], notes: Sequence[str]) -> str:
    text = (
        f"States of {_facts(len(facts))} in {len(columns)} models; bands and their numbers are "
        "facts that stay in a state or change it. Not shown means not under these prompts."
    )
    return " ".join([text, _beyond(columns, facts), *notes])


def _beyond(columns: Sequence[_Column], facts: Sequence[Fact]) -> str:
    """What the verdicts of a diff say of the changes; without one, that nothing is said."""
    verdicts = Counter(columns[-1].states[fact].verdict for fact in facts)
    if not any(verdicts):
        return (
            "Chance and the choice of prompts change states too; km.diff sets its noise floor "
            "beside the changes."
        )
    counts = ", ".join(f"{verdicts[name]:,} {name}" for name in CHANGES)
    return f"Beyond the noise floor: {counts}."


def _notes(columns: Sequence[_Column], facts: Sequence[Fact]) -> list[str]:
    asked = {fact for column in columns for fact in column.states}
    out = len(asked) - len(facts)
    return [f"{_facts(out)} not asked alike of all models are left out."] if out else []


def _sentence(column: _Column, facts: Sequence[Fact], states: Sequence[str]) -> str:
    """A column in words."""
    counts = Counter(column.states[fact].state for fact in facts)
    return f"{column.name}: {', '.join(f'{counts[state]:,} {state}' for state in states)}."


def _columns(source: Any, models: Sequence[str] | None, run: int | None) -> list[_Column]:
    """Columns from whatever holds them."""
    if getattr(source, "measure", None) == DIFF_ID:
        return _from_diff(source.parameters, source.facts.rows())
    if not hasattr(source, "ask"):
        if isinstance(source, str | Path):
            raise TypeError(f"km.KnowledgeBase({str(source)!r}) opens a file")
        return _from_rows(source)
    if run is None:
        return _from_recall(source, models)
    if models is not None:
        raise ArgumentError("a diff has its own two models: give run or models, not both")
    provenance, _ = stored_provenance(source, run, DIFF_ID)
    parameters = provenance["parameters"]
    table = stored_table(source, run, parameters["chunks"]["facts"])
    return _from_diff(parameters, table.rows())


def evolution(
    source: Any,
    models: Sequence[str] | None = None,
    *,
    run: int | None = None,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw how the states of facts change from model to model.

    Parameters
    ----------
    source : KnowledgeBase, Diff, table, or iterable of dicts
        A knowledge base: the newest recall run of each model. Rows: model, fact, state ("robust",
        "prompt-dependent", "not shown", "another answer"), optional relation, subject, answer.
    models : sequence of str, optional
        Names, fingerprints or their first 8 characters, in the order of the columns; None: all
        models with a recall run, parents before their children.
    run : int, optional
        A run of :func:`km.diff` in the knowledge base, whose two models are drawn.
    title : str
        Default: "How knowledge of facts changes".
    provenance : str, optional
        Footnote; None: the name of the file, or what the diff was measured with.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        Fewer than two models, a model without a recall run, or no fact asked of all of them with
        the same prompts.
    NotFoundError, ArgumentError
        No model, or more than one, has a name of `models`; there is no such run.
    """
    columns = _columns(source, models, run)
    if len(columns) < 2:
        raise ValueError(f"a change needs two models with recall runs; there are {len(columns)}")
    facts = _common(columns)
    if not facts:
        raise ValueError("no fact was asked of all these models with the same prompts")
    notes = _notes(columns, facts)
    drawn = _thin(columns)
    if len(drawn) < len(columns):
        notes.append(f"{len(drawn)} of {len(columns)} models are drawn, evenly chosen.")
    states = _present(drawn, facts)
    whose = count(len(columns), "model")
    shown = visible(title) or headline("How knowledge changes", whose, _facts(len(facts)))
    if provenance is None and hasattr(source, "path"):
        provenance = f"{file_name(source)}, {RECALL_ID if run is None else f'run {run}'}"
    subtitle = _subtitle(columns, facts, notes)
    description = described(subtitle, (_sentence(column, facts, states) for column in drawn))
    graph = Graph("fixed", shown, subtitle, description, footnote(source, provenance))
    _draw(graph, drawn, facts, states)
    _legend(graph, states)
    return Picture(graph, shown, theme)
