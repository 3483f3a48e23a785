"""Spread over paraphrases: one strip and box a fact or relation, one point a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from km.errors import ArgumentError
from km.plot._style import (
    Colours,
    Theme,
    begin,
    finish,
    label,
    number,
    rows_of,
    safe,
    units_of,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_GROUPS = 40
VALUES = {"relation": "correct", "fact": "margin"}  # shown where no value is named


def spread(
    source: Any,
    ax: Axes | None = None,
    *,
    by: Literal["relation", "fact"] = "relation",
    value: str | None = None,
    title: str = "",
    model: str = "",
    theme: Theme = "light",
) -> Axes:
    """How figures vary over paraphrases, as rows of recall have them.

    Each point is a prompt: of a relation, the mean over its facts under one template; of a fact,
    its own row. Boxes span the quartiles over prompts, with a line at the median.

    Parameters
    ----------
    source : Table, data frame or iterable of dicts
        One row a fact and template: relation, fact, template, and the value.
    ax : Axes, optional
        None: new ones of pyplot.
    by : {"relation", "fact"}
    value : str, optional
        Column; None: correct of relations, margin of facts. Rows where it is null are left out.
    title, model : str
    theme : {"light", "dark"}

    Returns
    -------
    Axes
        The widest spread at the top; at most 40 groups, and the title says how many there are.
    """
    if by not in VALUES:
        raise ArgumentError(f"by must be relation or fact, not {by!r}")
    chosen = value or VALUES[by]
    needed = ("relation", "fact", "template", chosen)
    rows = rows_of(source, needed, "spread over paraphrases")
    groups = _groups(rows, by, chosen)
    if not groups:
        raise ArgumentError(f"spread over paraphrases: {chosen} is null in every row")
    colours = Colours(theme)
    shown = sorted(groups, key=lambda name: (min(groups[name]) - max(groups[name]), name))
    shown = shown[:MAX_GROUPS]
    ax = begin(ax, colours, (7.0, 1.8 + 0.36 * len(shown)))
    ax.boxplot(
        [groups[name] for name in shown], positions=range(len(shown)), orientation="horizontal",
        widths=0.55, showfliers=False, whis=(0, 100), manage_ticks=False,
        boxprops={"color": colours["line"]}, whiskerprops={"color": colours["line"]},
        capprops={"color": colours["line"]}, medianprops={"color": colours["ink"], "lw": 1.6},
    )  # fmt: skip
    for place, name in enumerate(shown):
        values = groups[name]
        ax.plot(
            values, _apart(values, place), "o", color=colours["blue"], ms=4.0, alpha=0.8,
            gid="prompts", label="one prompt" if place == 0 else None,
        )  # fmt: skip
    ax.set_yticks(
        range(len(shown)),
        [label(" / ".join((name[0].replace("_", " "), *name[1:]))) for name in shown],
    )
    ax.set_ylim(len(shown) - 0.4, -0.6)
    shown_name = f"mean of {chosen}" if by == "relation" else chosen
    ax.set_xlabel(safe(with_unit(shown_name, units_of(source).get(chosen, ""))))
    return finish(ax, colours, title or f"Spread over paraphrases by {by}", _facts(
        rows, by, chosen, len(groups), len(shown), model
    ))  # fmt: skip


def _facts(
    rows: Sequence[Mapping[str, Any]], by: str, value: str, n: int, shown: int, model: str
) -> list[str]:
    counted = [row for row in rows if number_or_truth(row[value]) is not None]
    facts = {(row["relation"], row["fact"]) for row in counted}
    prompts = {row["template"] for row in counted}
    left = f"the {shown} widest of {n:,} {by}s" if shown < n else ""
    return [f"n = {len(facts):,} facts", f"{len(prompts)} prompts", model, left]


def number_or_truth(value: object) -> float | None:
    """A number, 0 and 1 of a truth, or None."""
    return float(value) if isinstance(value, bool) else number(value)


def _groups(
    rows: Sequence[Mapping[str, Any]], by: str, value: str
) -> dict[tuple[str, ...], list[float]]:
    """Values by group, one a prompt, in the order of templates."""
    found: dict[tuple[str, ...], dict[Any, list[float]]] = {}
    for row in rows:
        x = number_or_truth(row[value])
        if x is not None:
            name = (str(row["relation"]),) + ((str(row["fact"]),) if by == "fact" else ())
            found.setdefault(name, {}).setdefault(row["template"], []).append(x)
    return {
        name: [math.fsum(own) / len(own) for _, own in sorted(prompts.items())]
        for name, prompts in found.items()
    }


def _apart(values: Sequence[float], place: float) -> list[float]:
    """Heights at which equal values stand beside each other, without chance."""
    seen: dict[float, int] = {}
    out = []
    for value in values:
        nth = seen[value] = seen.get(value, -1) + 1
        step = 0.07 * ((nth + 1) // 2)
        out.append(place + max(-0.28, min(0.28, step if nth % 2 else -step)))
    return out
