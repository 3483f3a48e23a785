"""km.plot: what is drawn stands where the figures say; kinds are chosen by columns."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import conflict_simulation
import learning_bases
import numpy as np
import overshadow_simulation
import pytest

import km
from km import stats
from km._kmviz import paint_hex
from km.draw._recall import BASELINES
from km.errors import ArgumentError
from km.plot import _results
from km.plot._reliability import calibration, calibration_error, two_way
from km.result import Result, make_provenance
from km.studies import DecodersStudy, ModelDecoders, decoders_settings
from km.studies.conflict_result import STUDY_ID, STUDY_VERSION, ConflictStudy
from km.studies.conflict_rows import COLUMNS as CONFLICT_COLUMNS
from km.studies.decoders_compare import ROW_COLUMNS
from km.studies.decoders_result import DECODERS_ID
from km.table import Table

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

DATA = Path(__file__).parents[1] / "golden_data"


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def lines(ax: Axes, gid: str) -> list[Any]:
    return [line for line in ax.lines if line.get_gid() == gid]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def title_of(ax: Axes) -> str:
    """The title in one line but for the first break, which parts it from what it rests on."""
    first, *rest = ax.get_title(loc="left").split("\n")
    return "\n".join([first, " ".join(rest)])


def rows_labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def findings(**more: list[Any]) -> Table:
    columns: list[Any] = [("quantity", "text"), ("estimate", "double"), ("low", "double"),
                          ("high", "double"), ("n", "int64")]  # fmt: skip
    data: list[list[Any]] = [["a", "b", "c"], [0.5, -0.2, None], [0.3, -0.4, None],
                             [0.7, 0.1, None], [30, 40, 2]]  # fmt: skip
    return Table([*columns, *((name, "text") for name in more)], [*data, *more.values()])


# ---- forest plots ----


def test_forest_puts_estimates_and_intervals_in_rows(ax: Axes) -> None:
    assert findings().plot(ax=ax, title="Effects", model="toy") is ax
    assert [list(line.get_data()) for line in lines(ax, "estimate")] == [
        [[0.5], [0]],
        [[-0.2], [1]],
    ]
    spans = [line.get_xydata().tolist() for line in lines(ax, "interval")]
    assert spans == [[[0.3, 0], [0.7, 0]], [[-0.4, 1], [0.1, 1]]]
    assert rows_labels(ax) == ["a", "b"]
    assert ax.get_ylim() == (1.6, -0.6)  # the first row is at the top
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0.50 [0.30, 0.70], n = 30", "-0.20 [-0.40, 0.10], n = 40"]
    assert title_of(ax) == "Effects\n2 estimates, n = 30 to 40, toy"


def test_verdicts_have_colour_mark_and_name(ax: Axes) -> None:
    words = ["consistent", "inconsistent", "equivalent to none", "inconclusive",
             "not testable here"]  # fmt: skip
    table = Table(
        [("quantity", "text"), ("estimate", "double"), ("low", "double"), ("high", "double"),
         ("word", "text")],
        [list("abcde"), [0.0] * 5, [-1.0] * 5, [1.0] * 5, words],
    )  # fmt: skip
    km.plot.forest(table, ax, null=0.0, smallest=0.25)
    marks = lines(ax, "estimate")
    assert [line.get_marker() for line in marks] == ["o", "^", "s", "o", "D"]
    hues = ["blue", "vermilion", "purple", "orange", "muted"]
    assert [to_hex(line.get_color()) for line in marks] == [paint_hex(hue) for hue in hues]
    filled = [to_hex(line.get_markerfacecolor()) != paint_hex("paper") for line in marks]
    assert filled == [True, True, False, False, False]
    assert legend(ax) == ["below the smallest effect of interest", "no effect", *words]
    assert next(line.get_xdata() for line in ax.lines) == [0.0, 0.0]
    band = ax.patches[0].get_bbox()
    assert (band.x0, band.x1) == (-0.25, 0.25)


def test_predictions_bring_their_null_and_smallest_effect(ax: Axes) -> None:
    chosen = km.ledger.predictions("conflict")[0]
    km.plot.forest(findings(prediction=["nobody's", chosen.id, chosen.id]), ax)
    (bar,) = ax.patches
    assert bar.get_x() == pytest.approx(chosen.null - chosen.smallest_effect)
    assert bar.get_width() == pytest.approx(2 * chosen.smallest_effect)
    assert bar.get_y() + bar.get_height() / 2 == pytest.approx(1)  # the second row, and it alone
    assert [chosen.null] * 2 in [list(line.get_xdata()) for line in ax.lines]


def test_one_unit_stands_on_an_axis_and_the_rest_is_counted(ax: Axes) -> None:
    table = findings(unit=["nats", "share", "nats"])
    km.plot.forest(table, ax, unit="share")
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == [-0.2]
    assert ax.get_xlabel() == "estimate (share)"
    assert "2 in other units left out (nats)" in title_of(ax)
    with pytest.raises(ArgumentError, match="unit 'bits'; there are nats, share"):
        km.plot.forest(table, ax, unit="bits")


def test_recall_has_the_baselines_of_its_picture(ax: Axes) -> None:
    columns = ["relation", "n", "recall", "low", "high", *BASELINES]
    kinds = ["text", "int64", *["double"] * (len(columns) - 2)]
    data = [["x", "y"], [40, 40], [0.3, 0.8], [0.2, 0.7], [0.4, 0.9], [0.0, 0.0], [0.25, 0.5],
            [0.1, None], [0.2, 0.6]]  # fmt: skip
    table = Table(list(zip(columns, kinds, strict=True)), data)
    km.plot.forest(table, ax, sort=True)
    assert rows_labels(ax) == ["y", "x"]
    clear, unclear = lines(ax, "estimate")
    assert to_hex(clear.get_markerfacecolor()) == paint_hex("blue")
    assert to_hex(unclear.get_markerfacecolor()) == paint_hex("paper")
    assert [list(line.get_xdata()) for line in lines(ax, "shuffled")] == [[0.1]]
    assert set(legend(ax)) == {
        "recall, above every baseline", "recall, not above them",
        *(words for *_, words in BASELINES.values()),
    }  # fmt: skip


def test_forest_refuses_what_has_no_interval(ax: Axes) -> None:
    table = Table([("estimate", "double"), ("low", "double")], [[1.0], [0.0]])
    with pytest.raises(ArgumentError, match="low and high; there are estimate, low"):
        table.plot("forest", ax)
    empty = Table([("estimate", "double"), ("low", "double"), ("high", "double")])
    with pytest.raises(ArgumentError, match="no row"):
        empty.plot(ax=ax)


def test_data_frames_and_rows_are_taken_too(ax: Axes) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"names": ["a", "b"], "units": ["x", "y"], "estimate": [0.5, None],
                              "low": [0.1, None], "high": [0.9, None]})  # fmt: skip
    km.plot.forest(frame, ax, labels="names")
    assert rows_labels(ax) == ["a"]
    uneven = [{"estimate": 1.0}, {"estimate": 0.5, "low": 0.1, "high": 0.9}]
    km.plot.forest(uneven, Figure().subplots())
    steps = [{"step": 1, "loss": 2.0}, {"step": 2}]
    assert lines(km.plot.curves(steps, Figure().subplots()), "curve")[0].get_xdata().tolist() == [1]


# ---- spread ----


def test_spread_has_a_point_a_prompt(ax: Axes) -> None:
    states = {("r", "1"): "robust", ("r", "2"): "prompt-dependent", ("s", "3"): "not shown"}
    rows = learning_bases.recall_rows(states, n_templates=4)
    table = Table.from_rows(learning_bases.RECALL_COLUMNS, rows)
    table.plot(ax=ax)
    assert rows_labels(ax) == ["r", "s"]  # the widest first
    points = [sorted(line.get_xdata()) for line in lines(ax, "prompts")]
    assert points == [[0.5, 0.5, 1.0, 1.0], [0.0] * 4]
    assert "n = 3 facts, 4 prompts" in title_of(ax)
    middle = [line for line in ax.lines if line.get_linewidth() == 1.6]
    assert [line.get_xdata()[0] for line in middle] == [0.75, 0.0]
    # Points that are equal stand beside each other.
    assert len({y for _, y in lines(ax, "prompts")[1].get_xydata().tolist()}) == 4


def test_spread_of_facts(ax: Axes) -> None:
    rows = learning_bases.recall_rows({("r", "1"): "robust", ("r", "2"): "prompt-dependent"})
    km.plot.spread(rows, ax, by="fact")
    assert rows_labels(ax) == ["r / 2", "r / 1"]
    assert sorted(lines(ax, "prompts")[0].get_xdata()) == [-1.0, -1.0, 1.0, 1.0, 1.0]
    many = learning_bases.recall_rows({("r", str(i)): "robust" for i in range(60)})
    km.plot.spread(many, ax, by="fact")
    assert "the 40 widest of 60 facts" in title_of(ax)


# ---- survival ----

# Weeks in remission under 6-mercaptopurine, Freireich et al. 1963, with the estimates and standard
# errors that textbooks give.
WEEKS = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSE = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
KNOWN = {6: (0.857, 0.0764), 7: (0.807, 0.0869), 10: (0.753, 0.0963), 13: (0.690, 0.1068),
         16: (0.627, 0.1141), 22: (0.538, 0.1282), 23: (0.448, 0.1346)}  # fmt: skip


def test_kaplan_meier_gives_the_figures_of_textbooks() -> None:
    found = stats.kaplan_meier(WEEKS, RELAPSE)
    for time, (survival, error) in KNOWN.items():
        at = found.time.tolist().index(time)
        assert found.survival[at] == pytest.approx(survival, abs=6e-4)
        # log(-log S) has the error error / (S |log S|).
        log = math.log(survival)
        half = 1.959964 * error / (survival * abs(log))
        assert found.low[at] == pytest.approx(survival ** math.exp(half), abs=3e-3)
        assert found.high[at] == pytest.approx(survival ** math.exp(-half), abs=3e-3)
    assert found.median == 23
    assert found.n == 21
    assert int(found.events.sum()) == 9
    assert int(found.censored.sum()) == 12


def test_without_censoring_survival_is_the_share_that_is_left() -> None:
    times = np.array([3.0, 1.0, 2.0, 2.0, 5.0, 4.0, 4.0, 9.0])
    found = stats.kaplan_meier(times, np.ones(8, bool))
    assert found.survival.tolist() == pytest.approx([(times > t).mean() for t in found.time])
    # Greenwood's variance is then the binomial's.
    at = 2
    s = found.survival[at]
    half = 1.959964 * math.sqrt((1 - s) / s / 8) / abs(math.log(s))
    assert found.low[at] == pytest.approx(s ** math.exp(half), rel=1e-6)
    assert math.isnan(found.low[-1]) and found.survival[-1] == 0.0
    nothing = stats.kaplan_meier([1.0, 2.0], [False, False])
    assert nothing.survival.tolist() == nothing.low.tolist() == nothing.high.tolist() == [1.0, 1.0]
    assert nothing.median is None


@pytest.mark.parametrize(
    ("time", "event", "why"),
    [([], [], "no observation"), ([-1.0], [True], "negative"), ([math.inf], [True], "finite"),
     ([1.0, 2.0], [True], "have")],
)  # fmt: skip
def test_kaplan_meier_refuses(time: list[float], event: list[bool], why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        stats.kaplan_meier(time, event)


def test_survival_curves_by_group(ax: Axes) -> None:
    groups = ["a"] * 21 + ["_b"] * 3
    table = Table(
        [("time", "double", "steps"), ("event", "bool"), ("group", "text")],
        [[*map(float, WEEKS), 1.0, 2.0, None], [*map(bool, RELAPSE), True, True, True], groups],
    )
    table.plot(ax=ax)
    first, second = lines(ax, "survival")
    known = stats.kaplan_meier(WEEKS, RELAPSE)
    assert first.get_xdata().tolist() == [0.0, *known.time]
    assert first.get_ydata().tolist() == [1.0, *known.survival]
    assert first.get_drawstyle() == "steps-post"
    assert second.get_ydata().tolist() == [1.0, 0.5, 0.0]
    assert to_hex(second.get_color()) == paint_hex("vermilion")
    assert lines(ax, "censored")[0].get_xdata().tolist() == known.time[known.censored > 0].tolist()
    assert [text.strip() for text in legend(ax)] == ["a, n = 21, 9 events", "_b, n = 2, 2 events"]
    assert "1 rows without a time or an event left out" in title_of(ax)
    assert ax.get_xlabel() == "time (steps)"


def test_survival_by_layer(ax: Axes) -> None:
    rows = [{"layer": i, "not_leading": 1 - i / 4, "n": 10, "random_init": 1.0, "n_random_init": 8}
            for i in range(4)]  # fmt: skip
    km.plot.survival(rows, ax)
    (model,), (random,) = lines(ax, "not_leading"), lines(ax, "random_init")
    assert model.get_ydata().tolist() == [1.0, 0.75, 0.5, 0.25]
    assert random.get_ydata().tolist() == [1.0] * 4
    assert to_hex(random.get_color()) == paint_hex("muted")
    assert legend(ax) == ["not yet leading", "the same with random weights"]


def test_facts_over_models_of_a_knowledge_base() -> None:
    shown = {("r", "1"): "robust", ("r", "2"): "prompt-dependent", ("r", "3"): "robust",
             ("r", "4"): "not shown"}  # fmt: skip
    pruned = shown | {("r", "2"): "not shown"}
    more = pruned | {("r", "2"): "robust", ("r", "1"): "another answer"}
    with km.KnowledgeBase(":memory:") as kb:
        for name, states in (("base", shown), ("p10", pruned), ("p30", more)):
            learning_bases.record_recall(kb, learning_bases.model(name), states)
        kb.add_model(learning_bases.model("unasked"))
        table = km.plot.facts_over_models(kb, ["base", "p10", "p30"], [0.0, 0.1, 0.3])
        found = {row["fact"]: (row["time"], row["event"]) for row in table.rows()}
        assert found == {"1": (0.3, True), "2": (0.1, True), "3": (0.3, False)}
        assert km.plot.kind_of(table.names) == "survival"
        with pytest.raises(km.NotFoundError, match="unasked has no finished recall"):
            km.plot.facts_over_models(kb, ["base", "unasked"])
        with pytest.raises(ArgumentError, match="ascend"):
            km.plot.facts_over_models(kb, ["base", "p10"], [1.0, 1.0])


# ---- reliability ----


def test_bins_hold_counts_shares_and_intervals() -> None:
    pairs = [(0.1, False)] * 9 + [(0.1, True)] + [(0.8, True)] * 3 + [(0.9, False)]
    low, middle, high = calibration(pairs, bins=10)
    assert (low.confidence, low.right.estimate, low.right.n) == (pytest.approx(0.1), 0.1, 10)
    assert (low.right.low, low.right.high) == (stats.wilson(1, 10).low, stats.wilson(1, 10).high)
    assert (middle.right.n, high.right.estimate) == (3, 0.0)
    error = (10 * 0.0 + 3 * 0.2 + 1 * 0.9) / 14
    assert calibration_error([low, middle, high]) == pytest.approx(error)
    assert [one.right.n for one in calibration(pairs, bins=2, by="count")] == [7, 7]
    (all_in_one,) = calibration([(1.0, True), (0.0, True)], bins=1)
    assert all_in_one.confidence == 0.5


def test_reliability_diagram(ax: Axes) -> None:
    table = Table(
        [("confidence", "double"), ("correct", "bool")],
        [[0.2, 0.2, 0.7, 0.7, None], [False, True, True, True, True]],
    )
    table.plot(ax=ax, bins=5, model="toy")
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert points.get_xydata().tolist() == pytest.approx(np.array([[0.2, 0.5], [0.7, 1.0]]))
    (bars,) = [c for c in ax.collections if hasattr(c, "get_segments")]
    tops = [segment[1][1] for segment in bars.get_segments()]
    assert tops == pytest.approx([stats.wilson(1, 2).high, stats.wilson(2, 2).high])
    assert [text.get_text() for text in ax.texts] == ["2", "2"]
    title = title_of(ax)
    assert "n = 4, expected calibration error 0.300 in 2 bins, toy" in title
    assert "1 rows without a figure left out" in title
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        km.plot.reliability([{"confidence": 1.5, "correct": True}], ax)


def test_two_way_confidence() -> None:
    assert two_way(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert two_way(math.log(0.1), math.log(0.3)) == pytest.approx(0.75)
    assert two_way(-800.0, 0.0) == 1.0


# ---- slopes, curves ----


def test_slopes_tell_rises_from_falls(ax: Axes) -> None:
    table = Table(
        [("relation", "text"), ("recall_before", "double", "share"), ("recall_after", "double")],
        [["a", "b", "c", "d", "e"], [0.1, 0.5, 0.4, 0.2, None], [0.3, 0.2, 0.4, 0.9, 1.0]],
    )
    table.plot(ax=ax, labels="relation")
    drawn = {c.get_gid(): [s.tolist() for s in c.get_segments()] for c in ax.collections}
    assert drawn == {
        "rose": [[[0, 0.1], [1, 0.3]], [[0, 0.2], [1, 0.9]]],
        "fell": [[[0, 0.5], [1, 0.2]]],
        "the same": [[[0, 0.4], [1, 0.4]]],
    }
    (mean,) = lines(ax, "mean")
    assert mean.get_ydata() == pytest.approx([0.3, 0.45])
    assert legend(ax) == ["rose: 2", "fell: 1", "the same: 1", "mean"]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c", "d"]
    assert "n = 4 pairs, 1 without both figures left out" in title_of(ax)
    assert ax.get_ylabel() == "recall (share)"


def test_slopes_on_a_logarithmic_axis(ax: Axes) -> None:
    rows = [{"before": 0.01, "after": 0.1}, {"before": 1.0, "after": 0.1}]
    km.plot.slopes(rows, ax, log=True)
    assert lines(ax, "mean")[0].get_ydata() == pytest.approx([0.1, 0.1])
    with pytest.raises(ArgumentError, match="above zero"):
        km.plot.slopes([{"before": 0.0, "after": 1.0}], ax, log=True)


def test_learning_curves(ax: Axes) -> None:
    table = Table([("step", "int64"), ("loss", "double", "nats")], [[2, 1, 3], [1.5, 2.0, None]])
    table.plot(ax=ax)
    assert lines(ax, "curve")[0].get_xydata().tolist() == [[1, 2.0], [2, 1.5]]
    assert ax.get_ylabel() == "loss (nats)"


# ---- the choice ----


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["time", "event", "low", "high", "estimate"], "survival"),
        (["layer", "not_leading"], "survival"),
        (["confidence", "correct", "relation", "fact", "template"], "reliability"),
        (["relation", "fact", "template", "correct", "low", "high", "recall"], "spread"),
        (["recall_before", "recall_after", "change", "low", "high"], "slopes"),
        (["state_before", "state_after"], None),
        (["step", "loss"], "curves"),
        (["share", "greedy", "difference", "difference_low", "difference_high"], "forest"),
        (["ratio", "low", "high"], "forest"),
        (["low", "high"], None),
    ],
)
def test_kind_follows_the_columns(names: list[str], kind: str | None) -> None:
    assert km.plot.kind_of(names) == kind


def test_own_intervals_come_before_plain_ones(ax: Axes) -> None:
    table = Table(
        [(n, "double") for n in ("low", "high", "difference", "difference_low", "difference_high")],
        [[0.0], [1.0], [0.2], [0.1], [0.3]],
    )
    table.plot(ax=ax)
    assert list(lines(ax, "interval")[0].get_xdata()) == [0.1, 0.3]


def test_a_table_of_no_kind_says_what_is_needed() -> None:
    with pytest.raises(
        ArgumentError, match=r"fits the columns x.*survival: time and event.*forest"
    ):
        Table([("x", "double")], [[1.0]]).plot()
    with pytest.raises(ArgumentError, match="no kind of plot 'pie'; there are survival"):
        findings().plot("pie")
    with pytest.raises(ArgumentError, match="needs a column 'template'"):
        Table([("relation", "text"), ("fact", "text")], [["r"], ["1"]]).plot("spread")


# ---- what holds for all ----


def test_the_page_of_plots_runs(recall: km.Recall) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plots.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    known: dict[str, Any] = {}
    exec(second, known)
    drawn = [known[name] for name in ("findings", "facts", "answers", "pairs", "curve")]
    kinds = ["forest", "survival", "reliability", "slopes", "curves"]
    assert [km.plot.kind_of(table.names) for table in drawn] == kinds
    exec(first, known)
    with pytest.raises(ArgumentError, match="no row"):  # the tiny model has no layers to show
        known["figure"](recall)
    for kind in (*kinds, "spread"):
        assert f"| `{kind}` |" in page


@pytest.mark.parametrize("text", ["$x_1$", "\\$5 & 50%", "a$", "_hidden", "<b>\x07", "x" * 500])
def test_labels_are_data(ax: Axes, text: str) -> None:
    table = Table(
        [("quantity", "text"), ("estimate", "double"), ("low", "double"), ("high", "double")],
        [[text], [0.5], [0.1], [0.9]],
    )
    table.plot(ax=ax, title=text)
    ax.figure.savefig(Path("/dev/null"), format="svg")
    (tick,) = ax.get_yticklabels()
    shown, is_math = tick._preprocess_math(tick.get_text())
    assert is_math is False
    expected = text.replace("\x07", "\\x07") if len(text) < 72 else text[:71] + "…"
    assert shown.strip() == expected


def test_dark_grounds(ax: Axes) -> None:
    findings().plot(ax=ax, theme="dark")
    assert to_hex(ax.get_facecolor()) == paint_hex("paper", dark=True)
    assert to_hex(lines(ax, "estimate")[0].get_color()) == paint_hex("ink", dark=True)
    with pytest.raises(ArgumentError, match="light or dark"):
        findings().plot(ax=ax, theme="sepia")


def test_pyplot_is_not_touched_when_axes_are_given() -> None:
    code = """
import sys, km
from matplotlib.figure import Figure
ax = Figure().subplots()
t = km.Table([("step", "int64"), ("loss", "double")], [[1, 2], [2.0, 1.0]])
assert t.plot(ax=ax) is ax
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
matplotlib.use("Agg")
made = t.plot()
from matplotlib import pyplot
assert pyplot.get_fignums() == [1] and made is pyplot.gca()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(
    ax: Axes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'km\[plot\]'"):
        findings().plot(ax=ax)


# ---- results ----


@pytest.fixture(scope="module")
def recall() -> km.Recall:
    model = km.load(DATA / "tiny_llama", threads=1)
    facts = km.datasets.facts("country_capital_city").select(per_relation=6)
    return km.memorization(model, facts, templates=[0, 1])


def test_recall_offers_four_plots(recall: km.Recall) -> None:
    ax = recall.plot(Figure().subplots())
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == recall.relations["recall"]
    assert recall.provenance["model"]["name"] in title_of(ax)
    with pytest.raises(ArgumentError, match="no row"):  # every first token is a lone blank
        recall.plot(Figure().subplots(), "survival")
    ax = recall.plot(Figure().subplots(), "spread", by="fact")
    assert len(lines(ax, "prompts")) == 6
    ax = recall.plot(Figure().subplots(), "reliability", bins=4)
    ranked = [row for row in recall.table.rows() if row["correct"] is not None]
    assert f"n = {len(ranked)}," in title_of(ax)
    counted = sum(int(text.get_text()) for text in ax.texts if text.get_gid() == "n")
    assert counted == len(ranked)
    with pytest.raises(ArgumentError, match="Recall has no plot 'pie'; it has forest, spread"):
        recall.plot(kind="pie")


def test_an_overshadowing_study_has_curves_and_findings(ax: Axes) -> None:
    study = overshadow_simulation.simulate(overshadow_simulation.log_linear, 0)
    study.plot(ax, series="L")
    cells = list(study.series("L").rows())
    drawn = sorted((x, y) for line in lines(ax, "curve") for x, y in line.get_xydata().tolist())
    assert drawn == sorted((row["L"], row["R"]) for row in cells if row["R"] is not None)
    (law,) = lines(ax, "predicted")
    assert set(law.get_ydata()) == {row["predicted"] for row in cells}
    assert ax.get_xscale() == "log"
    unit = study.findings["unit"][0]
    ax = study.plot(Figure().subplots(), "forest", unit=unit)
    own = [row for row in study.findings.rows() if row["unit"] == unit]
    kept = [row["estimate"] for row in own if row["estimate"] is not None]
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == kept
    words = [word for word in legend(ax) if word in km.ledger.WORDS]
    assert words


def test_a_conflict_study_has_findings(ax: Axes) -> None:
    rows = conflict_simulation.simulate(0)
    provenance = make_provenance(STUDY_ID, STUDY_VERSION, None, {"confidence": 0.95}, 0)
    study = ConflictStudy([("k", Table.from_rows(CONFLICT_COLUMNS, rows))], provenance)
    study.plot(ax)
    commonest = [row for row in study.findings.rows() if row["estimate"] is not None]
    assert 0 < len(lines(ax, "estimate")) <= len(commonest)
    ax = study.plot(Figure().subplots(), "ratios")
    known = [row["ratio"] for row in study.ratios.rows() if row["ratio"] is not None]
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == known


def test_other_results_are_plotted_by_their_table(ax: Axes) -> None:
    provenance = {"measure": "m", "version": 1, "parameters": {}, "model": {"name": "toy"}}
    Result(findings(), provenance).plot(ax)
    assert "toy" in title_of(ax)
    with pytest.raises(ArgumentError, match="fits the columns x"):
        Result(Table([("x", "double")], [[1.0]]), provenance).plot(ax)


def test_long_labels_and_titles_are_broken_at_blanks(ax: Axes) -> None:
    words = "accuracy without a passage, mixed less unsubstituted fine-tuning"
    findings(relation=[words] * 3).plot(ax=ax, labels="relation", title="a title " * 20)
    assert rows_labels(ax)[0] == words.replace("less ", "less\n")
    assert max(map(len, ax.get_title(loc="left").split("\n"))) <= 84


@pytest.fixture(scope="module")
def tiny() -> km.Model:
    return km.load(DATA / "tiny_llama", threads=1)


def segments(ax: Axes) -> list[list[float]]:
    """Both ends of every slope."""
    found = [s for c in ax.collections for s in c.get_segments()]
    return sorted(segment[:, 1].tolist() for segment in found)


def test_a_diff_has_slopes_of_relations(tiny: km.Model, ax: Axes) -> None:
    facts = km.datasets.facts(["country_capital_city", "person_mother"]).select(per_relation=4)
    diff = km.diff(tiny, tiny.random_like(1), facts, progress=False)
    diff.plot(ax)
    rows = [row for row in diff.relations.rows() if row["relation"] != "all facts"]
    assert segments(ax) == sorted([row["recall_before"], row["recall_after"]] for row in rows)
    assert [text.get_text() for text in ax.texts] == ["country_capital_city", "person_mother"]
    assert title_of(ax).startswith("Recall by relation: tiny_llama and tiny_llama (random weights")
    ax = diff.plot(Figure().subplots(), "forest")
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == diff.shares["net"]


def test_priming_has_slopes_of_an_arm(ax: Axes) -> None:
    tables = {
        arm: [
            learning_bases.priming_row(arm, "theme", "a", "colours", "The sky is", -9.0, change),
            learning_bases.priming_row(arm, "other_theme", "b", "food", "I ate", -12.0, 0.5),
            learning_bases.priming_row(arm, "neutral", "c", "", "It rains.", -20.0, -1.0),
        ]
        for arm, change in (("learned", 3.0), ("text_control", -1.0))
    }
    with km.KnowledgeBase(":memory:") as kb:
        priming = km.Priming.from_knowledge_base(kb, learning_bases.record_priming(kb, tables))
    priming.plot(ax)
    assert segments(ax) == [[-12.0, -11.5], [-9.0, -6.0]]
    ax = priming.plot(Figure().subplots(), arm="text_control")
    assert segments(ax) == [[-12.0, -11.5], [-9.0, -10.0]]


def test_a_priming_study_has_its_comparisons(tiny: km.Model, ax: Axes) -> None:
    texts = [
        km.datasets.PrimingText(f"{word}-{stem}", theme, "odd", word, stem, f"{stem} {word}.")
        for word, theme in (("mauve", "colour"), ("haggis", "food"))
        for stem in ("It is", "We all like")
    ]
    study = km.studies.priming(tiny, texts=texts, optimizer=km.AdamW(lr=3e-3), progress=False)
    study.plot(ax)
    rows = list(study.comparisons.rows())
    units = [row["unit"] for row in rows]
    commonest = max(units, key=units.count)
    kept = [r["difference"] for r in rows if r["unit"] == commonest and r["difference"] is not None]
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == kept


def decoded(decoder: str, item: int, match: bool, gap: float, part: str = "test") -> dict[str, Any]:
    """A row of a decoder study about a proverb."""
    return {
        "part": part, "task": "memotrap", "file": "proverb_ending", "item": f"{part} {item}",
        "cluster": f"{part} {item}", "decoder": decoder, "setting": "{}", "text": "", "answer": "",
        "match": match, "other": " at", "logp_wanted": gap, "logp_other": 0.0, "right": gap > 0,
    }  # fmt: skip


def test_a_decoder_study_has_slopes_from_greedy_decoding(ax: Axes) -> None:
    matches = {"Greedy": [True, False, False, False], "CoDa": [True, True, True, False]}
    rows = [
        decoded(decoder, i, match, gap, part)
        for part in ("validation", "test")
        for decoder, found in matches.items()
        for i, (match, gap) in enumerate(zip(found, (2.0, -1.0, 0.5, -3.0), strict=True))
    ]
    parameters = {"confidence": 0.95, "seed": 0, "sizes": None}
    provenance = {"measure": DECODERS_ID, "version": 1, "parameters": parameters,
                  "model": learning_bases.model("toy"), "seed": 0}  # fmt: skip
    study = ModelDecoders([("k", Table.from_rows(ROW_COLUMNS, rows))], provenance)
    assert _results.GREEDY == decoders_settings.GREEDY
    study.plot(ax)
    assert segments(ax) == [[0.25, 0.75], [0.5, 0.5]]  # exact match; two classes
    assert "proverb_ending, match" in [text.get_text() for text in ax.texts]
    ax = DecodersStudy([study]).plot(Figure().subplots(), "reliability", bins=1)
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    confidence = np.mean([1 / (1 + math.exp(-gap)) for gap in (2.0, 1.0, 0.5, 3.0)])
    assert points.get_xydata().tolist() == [[pytest.approx(confidence), 0.5]]
    assert "toy F32" in title_of(ax)
    ax = study.plot(Figure().subplots(), "forest")
    assert [line.get_xdata()[0] for line in lines(ax, "estimate")] == study.findings["estimate"]
    with pytest.raises(ArgumentError, match="no decoder 'DoLa'; there are"):
        study.plot(decoder="DoLa")


def test_conflict_has_slopes_without_and_with_the_passage(tiny: km.Model, ax: Axes) -> None:
    wordings = ("{} of {{}} is", "{{}} has {}")
    answers = {"ball": ("red", "blue", "green"), "hat": ("tall", "flat", "wide")}
    relations = [
        km.datasets.Relation(
            name, "factual", tuple(wording.format(name) for wording in wordings), "it",
            tuple(km.datasets.Fact(s, s, (a,)) for s, a in zip("ABC", found, strict=True)),
        )
        for name, found in answers.items()
    ]  # fmt: skip
    conflict = km.conflict(tiny, km.datasets.counterfactuals(relations), by="score", progress=False)
    conflict.plot(ax)
    rows = {row["value"]: row for row in conflict.ratios.rows() if row["group"] == "relation"}
    ends = [[row["closed_original"], row["context_original"]] for row in rows.values()]
    assert segments(ax) == sorted(ends)
    assert {text.get_text() for text in ax.texts} == {"ball", "hat"}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "without a passage", "with the passage",
    ]  # fmt: skip
