"""What learning a text does to other contexts: the text, the contexts by theme, the controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from km._kmviz import Graph, text_width
from km.draw._common import (
    count,
    fit,
    footnote,
    headline,
    hover,
    model_name,
    number,
    text_line,
    visible,
)
from km.draw._stored import check_source, chosen_run, described, optimizer_name
from km.picture import Picture
from km.result import stored_chunks

PRIMING_ID = "learning.priming"

CARD = 270.0
FAN = 120.0
NAME = 300.0
PLOT = 330.0
ROW = 18.0
GROUP_GAP = 12.0
WIDEST = 6.0
MAX_LINES = 16
MAX_PROBES = 60
DOUBLE = math.log(2.0)

LEARNED, IN_CONTEXT = "learned", "in_context"
# arm -> shape, fill, outline, size, name
ARMS = {
    IN_CONTEXT: ("box", "paper", "muted", 6.5, "text in the prompt"),
    "text_control": ("triangle", "green", "green", 7.5, "unrelated text learned"),
    "keyword_control": ("invtriangle", "orange", "orange", 7.5, "other keyword learned"),
    LEARNED: ("ellipse", "vermilion", "vermilion", 8.0, "learned"),
}
MITIGATED = ("diamond", "purple", "purple", 9.0)


@dataclass
class _Row:
    """One context, or the mean of several, with the change in each arm."""

    name: str
    title: str
    ratios: dict[str, float] = field(default_factory=dict)  # arm -> nats
    unstable: bool = False
    before: float | None = None
    after: float | None = None
    bold: bool = False
    y: float = 0.0


@dataclass
class _Group:
    """Contexts of one theme."""

    name: str
    rows: list[_Row]


# ---- reading ----


def _read(source: Any, run: int | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Provenance and rows of a run or of a result."""
    check_source(source, "a knowledge base or what km.priming returned")
    if not hasattr(source, "ask"):
        return dict(source.provenance), list(source.table.rows())
    run = chosen_run(source, PRIMING_ID, run)
    chunks, provenance = stored_chunks(source, run, PRIMING_ID)
    return provenance, [row for _, table in chunks for row in table.rows()]


def _main_arm(rows: Iterable[Mapping[str, Any]]) -> str:
    """The arm whose edges are drawn: what was learned; else the last one."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    return LEARNED if LEARNED in arms else arms[-1]


def _probability(logp: float | None) -> str:
    if logp is None:
        return "–"
    p = math.exp(logp)
    return f"{p:.2g}" if p >= 1e-3 or p == 0.0 else f"{p:.0e}".replace("e-0", "e-")


def _ratio(nats: float | None) -> str:
    """A change as a factor."""
    if nats is None:
        return "–"
    factor = math.exp(min(abs(nats), 700.0))
    text = f"{factor:,.0f}" if 10.0 <= factor < 1e5 else f"{factor:.2g}"
    return f"{'×' if nats >= 0 else '÷'}{text}"


def _probe_rows(rows: Sequence[Mapping[str, Any]], main: str) -> list[tuple[str, _Row]]:
    """Theme and row of each probe, with its change in every arm."""
    made: dict[tuple[str, str], tuple[str, _Row]] = {}
    for row in rows:
        if row["kind"] not in ("theme", "other_theme"):
            continue
        key = (row["kind"], str(row["probe"]))
        theme = visible(row["probe_theme"] or "probes")
        if key not in made:
            made[key] = (theme, _Row(visible(row["probe_text"]), ""))
        probe = made[key][1]
        change = number(row["log_ratio"])
        if change is not None:
            probe.ratios[row["arm"]] = change
        if row["arm"] == main:
            probe.unstable = bool(row["unstable"]) or change is None
            probe.before, probe.after = number(row["logp_before"]), number(row["logp_after"])
    for theme, probe in made.values():
        probe.title = _probe_hover(theme, probe)
    return list(made.values())


def _probe_hover(theme: str, row: _Row) -> str:
    lines = [row.name, f"theme {theme}"]
    lines.append(f"P {_probability(row.before)} before, {_probability(row.after)} after")
    lines += [f"{_arm_name(arm)}: {_ratio(nats)}" for arm, nats in row.ratios.items()]
    if row.unstable:
        lines.append("unstable: P before is below 1e-10, or not a number")
    return hover("\n".join(lines))


def _mean_row(rows: Sequence[_Row]) -> _Row:
    arms = dict.fromkeys(arm for row in rows for arm in row.ratios)
    means = {}
    for arm in arms:
        values = [row.ratios[arm] for row in rows if arm in row.ratios]
        means[arm] = statistics.fmean(values)
    name = f"mean of n = {len(rows)}"
    lines = [f"{name}, of the logarithms"]
    lines += [f"{_arm_name(arm)}: {_ratio(nats)}" for arm, nats in means.items()]
    return _Row(name, hover("\n".join(lines)), means, bold=True)


def _groups(probes: Sequence[tuple[str, _Row]], own: str, main: str) -> list[_Group]:
    """The keyword's own theme first; too many probes become their means."""
    themes: dict[str, list[_Row]] = {}
    for theme, row in probes:
        themes.setdefault(theme, []).append(row)
    groups = []
    for theme in sorted(themes, key=lambda name: (name != own, name)):
        rows = sorted(themes[theme], key=lambda row: -row.ratios.get(main, -math.inf))
        listed = rows if len(probes) <= MAX_PROBES else []
        label = f"{theme} (the keyword's theme)" if theme == own else theme
        groups.append(_Group(label, [_mean_row(rows), *listed]))
    return groups


def _arm_name(arm: str) -> str:
    return ARMS[arm][-1] if arm in ARMS else visible(arm)


# ---- the scale ----


def _ticks(values: Iterable[float]) -> list[float]:
    """Round factors, in nats, around all values."""
    low, high = min([0.0, *values]), max([0.0, *values])
    unit = math.log(10.0) if high - low > math.log(12.0) else DOUBLE
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    last = max(last, first + 1)
    step = -(-(last - first) // 8)
    first = step * math.floor(first / step)
    last = step * -(-last // step)
    return [unit * i for i in range(first, last + 1, step)]


def _tick_name(nats: float) -> str:
    decades = nats / math.log(10.0)
    if abs(decades) > 3.5:
        power = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(round(abs(decades))))
        return f"{'×' if nats > 0 else '÷'}10{power}"
    return f"{'×' if nats >= 0 else '÷'}{round(math.exp(abs(nats))):,}"


@dataclass(frozen=True)
class _Scale:
    """Places of factors on the plot."""

    left: float
    ticks: list[float]

    def x(self, nats: float) -> float:
        """Place of a change."""
        low, high = self.ticks[0], self.ticks[-1]
        return self.left + PLOT * (nats - low) / (high - low)


# ---- drawing ----


@dataclass(frozen=True)
class _Piece:
    """A run of text on one line; the keyword is a piece of its own."""

    text: str
    key: bool
    blank: bool  # before it


def _pieces(text: str, keyword: str) -> list[_Piece]:
    """Words of the text, the keyword whole."""
    found: list[_Piece] = []
    parts = text.split(keyword) if keyword else [text]
    for i, part in enumerate(parts):
        if i:
            key = " ".join(keyword.split())
            found.append(_Piece(key, True, bool(parts[i - 1][-1:].isspace())))
        for j, word in enumerate(part.split()):
            found.append(_Piece(word, False, j > 0 or i == 0 or part[:1].isspace()))
    return found


def _lines(text: str, keyword: str, width: float) -> list[list[_Piece]]:
    """The text in lines; runs of plain words are joined, keywords stay apart."""
    lines: list[list[_Piece]] = [[]]
    used = 0.0
    for piece in _pieces(text, keyword):
        size = text_width(f"{piece.text} ", 10.0, piece.key)
        if used + size > width and piece.blank and lines[-1]:
            lines.append([])
            used = 0.0
        last = lines[-1]
        if last and piece.blank and not piece.key and not last[-1].key:
            last[-1] = _Piece(f"{last[-1].text} {piece.text}", False, last[-1].blank)
        else:
            last.append(piece)
        used += size
    return lines


def _draw_line(graph: Graph, line: Sequence[_Piece], left: float, y: float) -> None:
    start = left
    for piece in line:
        left += text_width(" ", 10.0) if piece.blank and left > start else 0.0
        shown = fit(piece.text, CARD - 24.0, 10.0, piece.key)
        width = text_width(shown, 10.0, piece.key)
        if piece.key:
            graph.add_node(
                shown, title="the keyword", shape="box", fill="pale-vermilion", stroke="none",
                bold=True, x=left + 0.5 * width + 2.0, y=y, width=width + 4.0, height=13.0,
            )  # fmt: skip
            width += 4.0
        else:
            text_line(graph, shown, "", left, y)
        left += width


def _draw_card(graph: Graph, text: str, keyword: str, notes: Sequence[str], y: float) -> int:
    """The learned text with its keyword marked, and what became of it."""
    lines = _lines(visible(text), visible(keyword), CARD - 24.0)
    cut = len(lines) > MAX_LINES
    shown = lines[:MAX_LINES]
    height = 14.0 * (len(shown) + cut) + 12.0 * len(notes) + 24.0
    node = graph.add_node(
        title=hover(text), fill="paper", stroke="muted", x=-0.5 * CARD, y=y, width=CARD,
        height=height,
    )  # fmt: skip
    left, top = -CARD + 12.0, y - 0.5 * height + 16.0
    for line in shown:
        _draw_line(graph, line, left, top)
        top += 14.0
    if cut:
        text_line(graph, "…", hover(text), left, top)
        top += 14.0
    for note in notes:
        top += 12.0
        text_line(graph, fit(visible(note), CARD - 24.0, 9.0), note, left, top - 8.0, size=9.0,
              text="muted")  # fmt: skip
    return node


def _draw_scale(graph: Graph, scale: _Scale, top: float, bottom: float) -> None:
    for nats in scale.ticks:
        x, one = scale.x(nats), nats == 0.0
        graph.add_node(
            title="", shape="box", fill="muted" if one else "grid", stroke="none", x=x,
            y=0.5 * (top + bottom), width=1.0, height=bottom - top,
        )  # fmt: skip
        for y in (top - 8.0, bottom + 8.0):
            graph.add_node(
                _tick_name(nats), title="", shape="plain", stroke="none", text="muted", size=9.0,
                x=x, y=y,
            )  # fmt: skip
    for name, shift in (("change", 30.0), ("P before → after", 92.0)):
        text_line(graph, name, "", scale.left + PLOT + shift, top - 8.0, size=9.0, text="muted")


def _draw_marks(graph: Graph, row: _Row, scale: _Scale, main: str) -> None:
    order = sorted(row.ratios, key=lambda arm: (arm == main, list(ARMS).index(arm) if arm in ARMS
                                                else len(ARMS)))  # fmt: skip
    for arm in order:
        shape, fill, stroke, size, name = ARMS.get(arm, (*MITIGATED, visible(arm)))
        hollow = row.unstable and not row.bold
        title = f"{name}: {_ratio(row.ratios[arm])}"
        graph.add_node(
            title=title, shape=shape, fill="paper" if hollow else fill, stroke=stroke,
            pen=1.4 if hollow else 1.0, x=scale.x(row.ratios[arm]), y=row.y, width=size,
            height=size,
        )  # fmt: skip


def _end(text: str, width: float) -> str:
    """The text, cut at its beginning: the keyword's probability is that behind its end."""
    if text_width(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if text_width(f"…{text[middle:].lstrip()}") <= width:
            high = middle
        else:
            low = middle + 1
    return f"…{text[low:].lstrip()}"


def _edge(row: _Row, main: str, widest: float) -> tuple[str, float, str]:
    """Colour, width and line of the edge to a context."""
    change = row.ratios.get(main)
    if change is None:
        return "line", 0.8, "dotted"
    color = "line" if abs(change) < DOUBLE else "vermilion" if change > 0 else "blue"
    width = max(WIDEST * abs(change) / widest, 0.7)
    return color, width, "dashed" if row.unstable else "solid"


def _draw_row(graph: Graph, row: _Row, card: int, scale: _Scale, main: str, widest: float) -> None:
    left = FAN
    shown = row.name if row.bold else _end(row.name, NAME - 12.0)
    text_line(graph, shown, row.title, left + 6.0, row.y, bold=row.bold,
          text="ink" if not row.unstable else "muted")  # fmt: skip
    _draw_marks(graph, row, scale, main)
    right = scale.left + PLOT + 30.0
    change = f"{_ratio(row.ratios.get(main))}{' *' if row.unstable else ''}"
    text_line(graph, change, row.title, right, row.y, bold=row.bold)
    if row.bold:
        return
    probabilities = f"{_probability(row.before)} → {_probability(row.after)}"
    text_line(graph, probabilities, row.title, right + 62.0, row.y, text="muted", size=9.0)
    color, width, line = _edge(row, main, widest)
    point = graph.add_node(
        title="", shape="box", stroke="none", x=left, y=row.y, width=0.5, height=0.5
    )
    graph.add_edge(
        card, point, title=row.title, color=color, width=width, line=line, route="across"
    )


def _place(groups: Sequence[_Group]) -> float:
    """Rows from the top; returns the bottom."""
    y = 0.0
    for group in groups:
        y += ROW  # the name of the group
        for row in group.rows:
            row.y = y
            y += ROW
        y += GROUP_GAP
    return y - GROUP_GAP - 0.5 * ROW


def _draw_group(graph: Graph, group: _Group, scale: _Scale) -> None:
    first, last = group.rows[0].y, group.rows[-1].y
    text_line(graph, fit(group.name, NAME - 12.0, 9.0), group.name, FAN + 6.0, first - ROW + 2.0,
          size=9.0, text="muted")  # fmt: skip
    right = scale.left + PLOT + 188.0
    graph.add_node(
        title="", shape="box", fill="faint", stroke="none", x=0.5 * (FAN + right),
        y=0.5 * (first + last), width=right - FAN, height=last - first + ROW,
    )  # fmt: skip


def _legend(graph: Graph, arms: Sequence[str], main: str, widest: float, unstable: int) -> None:
    for arm in [main, *(arm for arm in arms if arm != main)]:
        shape, fill, stroke, size, name = ARMS.get(arm, (*MITIGATED, visible(arm)))
        graph.add_legend(
            name if arm in ARMS else f"learned, {name}", shape=shape, fill=fill, stroke=stroke,
            width=size, height=size,
        )  # fmt: skip
    if unstable:
        graph.add_legend("* unstable", shape="ellipse", fill="paper", stroke="vermilion")
    for nats in (widest, 0.5 * widest):
        graph.add_legend(
            f"edge {_ratio(nats)}", shape="box", fill="vermilion", stroke="none", width=20.0,
            height=max(WIDEST * nats / widest, 0.7),
        )  # fmt: skip
    graph.add_legend("less likely", shape="box", fill="blue", stroke="none", width=20.0, height=2.0)
    graph.add_legend(
        "within a factor of 2", shape="box", fill="line", stroke="none", width=20.0, height=1.2
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    """How the text was learned, in one line."""
    parts = [optimizer_name(recipe.get("optimizer"))]
    presentations = recipe.get("presentations")
    if presentations is not None:
        parts.append(f"{presentations} presentation{'s' if presentations != 1 else ''}")
    if recipe.get("spacing", 1) != 1:
        parts.append(f"{recipe['spacing']} steps apart")
    if recipe.get("batch_size"):
        parts.append(f"batches of {recipe['batch_size']}")
    return visible(", ".join(part for part in parts if part))


def _counts(groups: Sequence[_Group], probes: Sequence[tuple[str, _Row]]) -> str:
    themes = len(groups)
    unstable = sum(row.unstable for _, row in probes)
    text = f"n = {len(probes)} probes of {themes} theme{'s' if themes != 1 else ''}"
    return text + (f", {unstable} unstable (P before below 1e-10)" if unstable else "")


def _subtitle(
    provenance: Mapping[str, Any], groups: Sequence[_Group], probes: Sequence[tuple[str, _Row]]
) -> str:
    model = provenance.get("model") or {}
    name = visible(" ".join(str(model[k]) for k in ("name", "precision") if model.get(k)))
    recipe = _recipe(provenance["parameters"]["recipe"])
    parts = [
        "How much more likely the keyword becomes where it was not learned: P after / P before.",
        f"{name}; {_counts(groups, probes)}; {recipe}.",
    ]
    if len(probes) > MAX_PROBES:
        parts.append("Means of the logarithms by theme are drawn in place of the probes.")
    return " ".join(parts)


def _own_notes(rows: Sequence[Mapping[str, Any]], main: str) -> list[str]:
    """What became of the keyword in its own text, and of neutral sentences."""
    notes = []
    for row in rows:
        if row["arm"] == main and row["kind"] == "context":
            before, after = number(row["logp_before"]), number(row["logp_after"])
            change = _ratio(number(row["log_ratio"]))
            notes.append(
                f"keyword here: P {_probability(before)} → {_probability(after)} ({change})"
            )
    neutral = [row for row in rows if row["arm"] == main and row["kind"] == "neutral"]
    changes = [number(row["log_ratio"]) for row in neutral]
    n_tokens = sum(row["n_tokens"] for row in neutral)
    if n_tokens and None not in changes:
        rise = -math.fsum(change or 0.0 for change in changes) / n_tokens
        text = f"{rise:+.3f}".replace("-", "−")
        notes.append(f"{len(neutral)} neutral sentences: loss {text} nats a token")
    return notes


def priming(
    source: Any,
    run: int | None = None,
    *,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw where a learned text's keyword leaked to, beside the controls.

    Parameters
    ----------
    source : KnowledgeBase or Priming
    run : int, optional
        A run of :func:`km.priming` in the knowledge base; None: the newest.
    title : str
        Default: the keyword that was learned.
    provenance : str, optional
        Footnote; None: model, measure, date.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    NotFoundError
        There is no such finished run.
    ValueError
        The run has no probes.
    """
    origin, rows = _read(source, run)
    parameters = origin["parameters"]
    if not rows:
        raise ValueError("the run has no rows")
    main = _main_arm(rows)
    probes = _probe_rows(rows, main)
    if not probes:
        raise ValueError("the run has no probes: contexts in which the keyword was not learned")
    groups = _groups(probes, visible(rows[0]["theme"] or "probes"), main)
    bottom = _place(groups)
    drawn = [row for group in groups for row in group.rows]
    values = [nats for row in drawn for nats in row.ratios.values()]
    widest = max([abs(row.ratios[main]) for row in drawn if main in row.ratios] + [DOUBLE])
    scale = _Scale(FAN + NAME, _ticks(values))
    about = f"What learning “{parameters['keyword']}” primes"
    n = count(len(probes), "context")
    shown = visible(title) or headline(about, model_name(_Origin(origin)), n)
    subtitle = _subtitle(origin, groups, probes)
    notes = _own_notes(rows, main)
    sentences = [f"{note}." for note in notes]
    sentences += [f"{g.name}: {', '.join(g.rows[0].title.splitlines())}." for g in groups]
    description = described(subtitle, sentences)
    graph = Graph("fixed", shown, subtitle, description, footnote(_Origin(origin), provenance))
    for group in groups:
        _draw_group(graph, group, scale)
    _draw_scale(graph, scale, 0.5 * ROW - 6.0, bottom + 2.0)
    card = _draw_card(graph, parameters["text"], parameters["keyword"], notes, 0.5 * bottom)
    for row in drawn:
        _draw_row(graph, row, card, scale, main, widest)
    arms = list(dict.fromkeys(arm for row in drawn for arm in row.ratios))
    _legend(graph, arms, main, widest, sum(row.unstable for _, row in probes))
    return Picture(graph, shown, theme)


@dataclass(frozen=True)
class _Origin:
    """What a footnote is made from."""

    provenance: Mapping[str, Any]
