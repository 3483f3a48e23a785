"""Learning curves: loss by step of one or more runs, and what was measured on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from km._kmviz import Graph, text_width
from km.draw._common import count, figure, fit, footnote, headline, hover, number, visible
from km.draw._stored import check_source, described, file_name, optimizer_name, short
from km.errors import ArgumentError, NotFoundError
from km.picture import Picture
from km.result import stored_provenance

TRAINING_ID = "learning.training"

WIDTH, HEIGHT = 600.0, 210.0
SMALL, LOW = 176.0, 84.0
ACROSS = 3
MARGIN = 36.0  # between small panels
MAX_RUNS = 8
MAX_PANELS = 9
MAX_POINTS = 160
BUDGET = 3600  # points of all curves: a picture holds at most 5,000 nodes
NOT_DRAWN = ("step", "n_tokens", "n_targets")

# colour and line of each run in turn
STYLES = (
    ("blue", "solid"), ("vermilion", "solid"), ("green", "solid"), ("purple", "solid"),
    ("orange", "dashed"), ("sky", "dashed"), ("ink", "dashed"), ("muted", "dotted"),
)  # fmt: skip


@dataclass
class _Run:
    """One training run."""

    name: str
    title: str
    model: str
    seed: Any
    n_steps: int
    n_tokens: int
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass
class _Panel:
    """One quantity by step."""

    name: str
    unit: str
    left: float
    top: float
    width: float
    height: float
    x_ticks: list[float]
    y_ticks: list[float]

    def place(self, step: float, value: float) -> tuple[float, float]:
        """Where a point lies."""
        x0, x1 = self.x_ticks[0], self.x_ticks[-1]
        y0, y1 = self.y_ticks[0], self.y_ticks[-1]
        return (
            self.left + self.width * (step - x0) / (x1 - x0),
            self.top + self.height * (y1 - value) / (y1 - y0),
        )


# ---- reading ----


def _chosen(kb: Any, runs: Sequence[int] | None) -> list[int]:
    if runs is not None:
        if not runs:
            raise ArgumentError("runs names no run")
        return [int(run) for run in runs]
    sql = "SELECT id FROM runs WHERE measure = ? AND status = 'done' ORDER BY id DESC"
    found = [int(run) for run in kb.sql(sql, [TRAINING_ID])["id"]]
    if not found:
        raise NotFoundError(f"{kb.path} has no finished run of {TRAINING_ID}")
    return found[::-1]


def _tables(kb: Any, run: int) -> list[Any]:
    sql = (
        "SELECT k.key FROM run_chunks AS c JOIN chunks AS k ON k.id = c.chunk"
        " WHERE c.run = ? ORDER BY k.id"
    )
    tables = [kb.load_chunk(key) for key in kb.sql(sql, [run])["key"]]
    return [t for t in tables if t is not None and "step" in [c.name for c in t.columns]]


def _series(tables: Iterable[Any]) -> tuple[dict[str, list[tuple[float, float]]], dict[str, str]]:
    """Points of every numeric column by step, and the units of the columns."""
    points: dict[str, dict[float, float]] = {}
    units: dict[str, str] = {}
    for table in tables:
        names = [c.name for c in table.columns if c.type in ("int64", "double")]
        units |= {c.name: c.unit for c in table.columns if c.name in names}
        for row in table.rows():
            for name in names:
                value = number(row[name])
                if value is not None and row["step"] is not None:
                    points.setdefault(name, {})[float(row["step"])] = value
    return {name: sorted(found.items()) for name, found in points.items()}, units


def _name(parameters: Mapping[str, Any]) -> str:
    """What a run is called beside its number."""
    parts = [optimizer_name(parameters.get("optimizer"))]
    lora = parameters.get("lora") or {}
    parts += [f"LoRA of rank {lora['rank']}"] if lora.get("rank") else []
    return ", ".join(part for part in parts if part)


def _run(origin: Mapping[str, Any], tables: Sequence[Any], run: int | None) -> tuple[_Run, Any]:
    series, units = _series(tables)
    model = origin.get("model") or {}
    name = " ".join(str(model[k]) for k in ("name", "precision") if model.get(k))
    about = [f"run {run}" if run is not None else "this run", _name(origin["parameters"])]
    about += [f"seed {origin['seed']}"] if origin.get("seed") is not None else []
    shown = visible(", ".join(part for part in about if part))
    tokens = int(sum(value for _, value in series.get("n_tokens", [])))
    steps = len(series.get("loss", []))
    lines = [shown, visible(name), f"fingerprint {short(str(model.get('fingerprint', '')))}"]
    lines.append(f"{steps:,} steps, {tokens:,} tokens")
    if series.get("loss"):
        first, last = series["loss"][0][1], series["loss"][-1][1]
        lines.append(f"loss {figure(first)} at first, {figure(last)} at last")
    made = _Run(shown, hover("\n".join(lines)), name, origin.get("seed"), steps, tokens, series)
    return made, units


def _read(source: Any, runs: Sequence[int] | None) -> tuple[list[_Run], dict[str, str], int]:
    """Runs, units of their columns, and how many were left out."""
    check_source(source, "a knowledge base or what km.train returned")
    if not hasattr(source, "ask"):
        run, units = _run(source.provenance, [source.table], getattr(source, "run", None))
        return [run], units, 0
    numbers = _chosen(source, runs)
    kept = numbers[-MAX_RUNS:] if runs is None else numbers[:MAX_RUNS]
    found, units = [], {}
    for i in kept:
        provenance, _ = stored_provenance(source, i, TRAINING_ID)
        run, own = _run(provenance, _tables(source, i), i)
        found.append(run)
        units |= own
    return found, units, len(numbers) - len(kept)


# ---- scales and curves ----


def _ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round numbers around a range, about `most` steps apart; whole ones for counts."""
    if not high > low:
        spread = 1.0 if whole else 0.5 * (abs(low) or 1.0)
        low, high = low - spread, high + spread
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    rounds = (1.0, 2.0, 5.0, 10.0, 20.0) if whole else (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)
    step = next(size * m for m in rounds if size * m >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _tick_name(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    size = max(abs(ticks[0]), abs(ticks[-1]))
    if size >= 1e6 or size < 1e-3:
        mantissa, power = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(power)}" if value else "0"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += abs(step * 10**digits - round(step * 10**digits)) > 1e-6
    return f"{value + 0.0:,.{digits}f}".replace("-", "−")


def _thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Means over equal numbers of neighbouring steps where there are too many points."""
    if len(points) <= most:
        return list(points)
    size = len(points) / most
    groups = [points[round(i * size) : round((i + 1) * size)] for i in range(most)]
    return [
        (math.fsum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups
    ]


# ---- drawing ----


def _text(
    graph: Graph, label: str, x: float, y: float, align: str = "centre", **options: Any
) -> None:
    width = text_width(label, options.get("size", 10.0), options.get("bold", False)) + 2.0
    shift = {"left": 0.5, "right": -0.5}.get(align, 0.0) * width
    graph.add_node(
        label, title=options.pop("title", ""), shape="plain", stroke="none", align=align,
        x=x + shift, y=y, width=width, height=12.0, **options,
    )  # fmt: skip


def _rule(graph: Graph, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """A line below the curves, which only an edge can be."""
    ends = [
        graph.add_node(title="", shape="box", stroke="none", x=x, y=y, width=0.5, height=0.5)
        for x, y in (start, end)
    ]
    graph.add_edge(ends[0], ends[1], color=color)


def _draw_axes(graph: Graph, panel: _Panel, small: bool) -> None:
    size = 8.0 if small else 9.0
    right, bottom = panel.left + panel.width, panel.top + panel.height
    for value in panel.y_ticks:
        _, y = panel.place(panel.x_ticks[0], value)
        _rule(graph, (panel.left, y), (right, y), "grid")
        _text(graph, _tick_name(value, panel.y_ticks), panel.left - 5.0, y, "right", size=size,
              text="muted")  # fmt: skip
    steps = [panel.x_ticks[0], panel.x_ticks[-1]] if small else panel.x_ticks
    for step in steps:
        x, _ = panel.place(step, panel.y_ticks[0])
        _rule(graph, (x, bottom), (x, bottom + 4.0), "line")
        _text(graph, _tick_name(step, panel.x_ticks), x, bottom + 11.0, size=size, text="muted")
    unit = f" ({visible(panel.unit)})" if panel.unit else ""
    label = fit(f"{visible(panel.name).replace('_', ' ')}{unit}", panel.width + 20.0, 9.0, True)
    _text(graph, label, panel.left, panel.top - 12.0, "left", size=9.0, bold=True)
    if not small:
        _text(graph, "step", right, bottom + 23.0, "right", size=9.0, text="muted")


def _draw_curve(
    graph: Graph, panel: _Panel, run: _Run, style: tuple[str, str], most: int, small: bool
) -> None:
    """A line through the points; a point of its own where there is only one."""
    color, line = style
    points = _thin(run.series.get(panel.name, []), most)
    pen = 1.3 if small else 1.7
    before = None
    for step, value in points:
        x, y = panel.place(step, value)
        title = hover(f"{run.name}\nstep {step:,.0f}: {panel.name} {figure(value)}")
        size = pen if len(points) > 40 else 2.0 * pen + 1.0
        node = graph.add_node(
            title=title, shape="ellipse", fill=color, stroke="none", x=x, y=y, width=size,
            height=size,
        )  # fmt: skip
        if before is not None:
            graph.add_edge(before, node, title=run.title, color=color, width=pen, line=line)
        before = node


def _panel(
    name: str, unit: str, runs: Sequence[_Run], box: tuple[float, float, float, float], small: bool
) -> _Panel:
    found = [point for run in runs for point in run.series.get(name, [])]
    steps = [x for run in runs for points in run.series.values() for x, _ in points]
    left, top, width, height = box
    x_ticks = _ticks(min(steps), max(steps), 8, whole=True)
    if min(steps) >= 0.0 and x_ticks[0] < 0.0:
        x_ticks = [x for x in x_ticks if x >= 0.0]
    y_ticks = _ticks(min(y for _, y in found), max(y for _, y in found), 2 if small else 5)
    return _Panel(name, unit, left, top, width, height, x_ticks, y_ticks)


def _names(runs: Sequence[_Run]) -> list[str]:
    """Quantities that have values, the loss first."""
    names = dict.fromkeys(name for run in runs for name in run.series)
    constant = all(len({y for _, y in run.series.get("lr", [])}) <= 1 for run in runs)
    left_out = (*NOT_DRAWN, "loss", *(["lr"] if constant else []))  # the legend has it
    return [name for name in names if name not in left_out]


def _panels(runs: Sequence[_Run], units: Mapping[str, str], names: Sequence[str]) -> list[_Panel]:
    panels = [_panel("loss", units["loss"], runs, (0.0, 0.0, WIDTH, HEIGHT), False)]
    pitch = (WIDTH - SMALL) / (ACROSS - 1)
    for i, name in enumerate(names):
        row, column = divmod(i, ACROSS)
        top = HEIGHT + 70.0 + row * (LOW + 52.0)
        panels.append(_panel(name, units[name], runs, (pitch * column, top, SMALL, LOW), True))
    return panels


def _legend(graph: Graph, runs: Sequence[_Run]) -> None:
    for run, (color, _) in zip(runs, STYLES, strict=False):
        last = run.series["loss"][-1][1] if run.series.get("loss") else None
        label = f"{run.name}: last loss {figure(last)}"
        graph.add_legend(label, shape="box", fill=color, stroke="none", width=18.0, height=2.4)


def _subtitle(runs: Sequence[_Run], most: int, left_out: int, dropped: Sequence[str]) -> str:
    models = list(dict.fromkeys(visible(run.model) for run in runs if run.model))
    name = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
    seeds = ", ".join(dict.fromkeys(str(run.seed) for run in runs if run.seed is not None))
    steps = [run.n_steps for run in runs]
    tokens = sum(run.n_tokens for run in runs)
    parts = [f"{name or 'no model'}; n = {len(runs)} run{'s' if len(runs) != 1 else ''}"]
    least = f"{min(steps):,} to {max(steps):,}" if min(steps) != max(steps) else f"{steps[0]:,}"
    parts.append(f"{least} step{'s' if max(steps) != 1 else ''}")
    parts += [f"{tokens:,} tokens"] if tokens else []
    parts += [f"seed{'s' if ',' in seeds else ''} {seeds}"] if seeds else []
    text = ", ".join(parts) + ". Loss of the batches that were learned, not of other texts."
    if any(len(points) > most for run in runs for points in run.series.values()):
        text += f" Curves of more than {most} steps are means of neighbouring steps."
    if left_out:
        text += f" {left_out} more runs are not drawn."
    if dropped:
        text += f" Not drawn: {visible(', '.join(dropped))}."
    return text


def learning(
    source: Any,
    runs: Sequence[int] | None = None,
    *,
    title: str = "",
    provenance: str | None = None,
    theme: str = "auto",
) -> Picture:
    """Draw the learning curves of training runs: loss by step, and what was measured on the way.

    Parameters
    ----------
    source : KnowledgeBase or Training
    runs : sequence of int, optional
        Runs of :func:`km.train` in the knowledge base, at most 8 are drawn; None: the newest.
    title : str
        Default: "Learning curves".
    provenance : str, optional
        Footnote; None: the name of the file, or model, measure, date.
    theme : {"auto", "light", "dark"}

    Returns
    -------
    Picture

    Raises
    ------
    NotFoundError
        There is no such finished run.
    ValueError
        No run has a loss.
    """
    found, units, left_out = _read(source, runs)
    if not any(run.series.get("loss") for run in found):
        raise ValueError("there is no loss to draw")
    names = _names(found)
    dropped = names[MAX_PANELS:]
    panels = _panels(found, units, names[:MAX_PANELS])
    models = list(dict.fromkeys(visible(run.model) for run in found if run.model))
    whose = models[0] if len(models) == 1 else count(len(models), "model")
    shown = visible(title) or headline("Learning curves", whose, count(len(found), "run"))
    most = min(MAX_POINTS, BUDGET // (len(found) * len(panels)))
    if provenance is None and hasattr(source, "path"):
        provenance = f"{file_name(source)}, {TRAINING_ID}"
    subtitle = _subtitle(found, most, left_out, dropped)
    sentences = (run.title.replace("\n", ", ") + "." for run in found)
    description = described(subtitle, sentences)
    graph = Graph("fixed", shown, subtitle, description, footnote(source, provenance))
    for panel in panels:
        small = panel.name != "loss"
        _draw_axes(graph, panel, small)
        for run, style in zip(found, STYLES, strict=False):
            _draw_curve(graph, panel, run, style, most, small)
    _legend(graph, found)
    return Picture(graph, shown, theme)
