"""Survival curves: Kaplan-Meier of facts, and answers that do not lead yet layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.kaplan_meier import kaplan_meier
from km.plot._style import (
    MAX_SERIES,
    SERIES,
    Colours,
    Theme,
    begin,
    finish,
    names_of,
    number,
    rows_of,
    safe,
    units_of,
    with_unit,
)
from km.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from km.kb import KnowledgeBase

FACT_COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("time", "double", "", "Of the first model that no longer shows it, or of the last."),
    Column("event", "bool", "", "It is no longer shown; false: the last model still shows it."),
]


def survival(
    source: Any,
    ax: Axes | None = None,
    *,
    time: str = "time",
    event: str = "event",
    group: str | None = None,
    confidence: float = 0.95,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """Kaplan and Meier's curves with pointwise intervals; small bars mark censored rows.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
        A time and whether the event happened then (else the row is censored then). Or layer,
        not_leading, random_init as ``Recall.survival`` has them, whose shares are drawn as they
        are.
    ax : Axes, optional
        None: new ones of pyplot.
    time, event : str
        Columns. Rows with a null are left out, and the title says how many.
    group : str, optional
        Column whose values get curves of their own; None: "group" where there is such a column.
    confidence : float
        Of the intervals, which take rows as independent.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes
    """
    colours = Colours(theme)
    rows = rows_of(source, (), "survival curves")
    names = names_of(source, rows)
    if time not in names and "not_leading" in names:
        return _by_layer(rows, begin(ax, colours), colours, title, model)
    rows = rows_of(source, (time, event), "survival curves")
    by = group if group is not None else "group" if "group" in names else None
    groups, dropped = _groups(rows, time, event, by)
    ax = begin(ax, colours)
    for hue, (name, (times, events)) in zip(SERIES, groups.items(), strict=False):
        found = kaplan_meier(times, events, confidence=confidence)
        x = [0.0, *found.time]
        low, high = ([1.0, *ends] for ends in (found.low, found.high))
        ax.fill_between(x, low, high, step="post", color=colours[hue], alpha=0.15, lw=0)
        words = f"{name + ', ' if name else ''}n = {found.n:,}, {int(found.events.sum()):,} events"
        ax.step(x, [1.0, *found.survival], where="post", color=colours[hue], label=safe(words),
                gid="survival")  # fmt: skip
        gone = found.censored > 0
        ax.plot(found.time[gone], found.survival[gone], "|", color=colours[hue], ms=7.0,
                gid="censored")  # fmt: skip
    ax.set_ylim(0.0, 1.02)
    ax.set_xlim(left=0.0)
    ax.set_xlabel(safe(with_unit(time, units_of(source).get(time, ""))))
    ax.set_ylabel("share that survives")
    n = sum(len(times) for times, _ in groups.values())
    facts = [f"n = {n:,}", f"{100 * confidence:g} % intervals", model]
    facts.append(f"{dropped:,} rows without a time or an event left out" if dropped else "")
    return finish(ax, colours, title or "Survival", facts)


def _groups(
    rows: Sequence[Mapping[str, Any]], time: str, event: str, by: str | None
) -> tuple[dict[str, tuple[list[float], list[bool]]], int]:
    """Times and events by group, and how many rows have none."""
    groups: dict[str, tuple[list[float], list[bool]]] = {}
    dropped = 0
    for row in rows:
        at, happened = number(row[time]), row[event]
        if at is None or happened is None:
            dropped += 1
            continue
        if by is not None and by not in row:
            raise ArgumentError(f"survival curves: no column {by!r}")
        times, events = groups.setdefault("" if by is None else str(row[by]), ([], []))
        times.append(at)
        events.append(bool(happened))
    if not groups:
        raise ArgumentError("survival curves: no row has a time and an event")
    if len(groups) > MAX_SERIES:
        raise ArgumentError(f"survival curves: {len(groups)} groups, at most {MAX_SERIES} are told "
                            "apart")  # fmt: skip
    return groups, dropped


def _by_layer(
    rows: Sequence[Mapping[str, Any]], ax: Axes, colours: Colours, title: str, model: str
) -> Axes:
    """Shares after each layer as :func:`km.draw.survival` has them, in its colours and words."""
    layers = [float(row["layer"]) for row in rows]
    ns: list[str] = []
    for column, count, hue, name in (
        ("not_leading", "n", "blue", "not yet leading"),
        ("random_init", "n_random_init", "muted", "the same with random weights"),
    ):
        known = [number(row.get(column)) for row in rows]
        values = [value for value in known if value is not None]
        if len(values) < len(rows):
            continue
        n = rows[0].get(count)
        ns += [] if n is None else [f"n = {int(n):,} rows{' of random weights' if ns else ''}"]
        ax.step(layers, values, where="post", color=colours[hue], label=name, gid=column)
    ax.set_ylim(0.0, 1.02)
    ax.set_xlabel("layer (the last is the output)")
    ax.set_ylabel("share of answers")
    return finish(ax, colours, title or "Answers not yet leading, by layer", [*ns, model])


def facts_over_models(
    kb: KnowledgeBase, models: Sequence[str], times: Sequence[float] | None = None
) -> Table:
    """Until when facts outlive pruning, editing or training, ready for :func:`survival`.

    Followed are the facts that the first model shows under some prompt and that all others were
    asked with the same prompts. The event is the first model that shows them under none: when it
    happened in between is not known, and facts that come back later stay gone.

    Parameters
    ----------
    kb : KnowledgeBase
        With a finished run of recall on each model; the newest counts.
    models : sequence of str
        Names or fingerprints, in order.
    times : sequence of float, optional
        Steps, or shares of weights pruned; None: 0, 1, 2, ...

    Returns
    -------
    Table
        relation, fact, time, event.

    Raises
    ------
    ArgumentError
        Fewer than two models, or times that do not ascend from 0 or more.
    NotFoundError
        A model is not there, or has no finished recall run.
    """
    from km.draw._stored import RANK, RECALL_ID, fact_states, named_model, newest_runs
    from km.draw._stored import stored_models as known_models
    from km.errors import NotFoundError

    at = [float(t) for t in (range(len(models)) if times is None else times)]
    if len(models) < 2 or len(at) != len(models):
        raise ArgumentError(f"{len(models)} models and {len(at)} times; give at least two of each")
    if at[0] < 0 or any(a >= b for a, b in itertools.pairwise(at)):
        raise ArgumentError("times must ascend, from 0 or more")
    known, runs = known_models(kb), newest_runs(kb, RECALL_ID)
    states = []
    for name in models:
        key = named_model(known, name)
        if key not in runs:
            raise NotFoundError(f"{known[key]['name']} has no finished recall run")
        states.append(fact_states(kb, runs[key]))
    rows = []
    for fact, first in states[0].items():
        later = [own.get(fact) for own in states[1:]]
        if RANK[first.state] == 0 or any(s is None or s.asked != first.asked for s in later):
            continue
        gone = [t for t, s in zip(at[1:], later, strict=True) if s and RANK[s.state] == 0]
        when = gone[0] if gone else at[-1]
        rows.append({"relation": fact[0], "fact": fact[1], "time": when, "event": bool(gone)})
    return Table.from_rows(FACT_COLUMNS, rows)
