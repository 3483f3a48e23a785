"""Pictures of models that learn, from knowledge bases alone: counts, widths, places, statements."""

from __future__ import annotations

import math
import re
import sqlite3
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from learning_bases import (
    STATES,
    key_of,
    later,
    model,
    priming_row,
    record_diff,
    record_priming,
    record_recall,
    record_training,
    some_states,
)
from test_viz import HOSTILE, SVG, groups, lines, parse

import km
from km.cli import main
from km.draw._common import visible
from km.picture import Picture

BASE, TUNED, PRUNED = model("base", "Q4_1"), model("tuned"), model("pruned")


@pytest.fixture
def kb(tmp_path: Path) -> km.KnowledgeBase:
    """An empty knowledge base."""
    with km.KnowledgeBase(tmp_path / "study.db") as base:
        yield base


def title_of(group: ET.Element) -> str:
    title = group.find(f"{SVG}title")
    return "" if title is None else title.text or ""


def edge_widths(root: ET.Element) -> dict[str, float]:
    """Width of each edge by its title."""
    widths = {}
    for edge in groups(root, "edge"):
        path = edge.find(f"{SVG}path")
        assert path is not None
        widths[title_of(edge)] = float(path.get("stroke-width", "1"))
    return widths


def texts(root: ET.Element) -> list[str]:
    return [line for node in groups(root, "node") for line in lines(node)]


def words(root: ET.Element) -> str:
    """Title, description and everything that is written, as one line."""
    written = [text.text or "" for text in root.iter(f"{SVG}text")]
    return " ".join([root[0].text or "", root[1].text or "", *written])


# ---- evolution ----


def record_three(kb: km.KnowledgeBase) -> list[dict[tuple[str, str], str]]:
    """Three models, the last recorded first, with lineage."""
    first = some_states(60)
    states = [first, later(first, 1), later(first, 2)]
    for about, found in zip((PRUNED, TUNED, BASE), states[::-1], strict=True):
        record_recall(kb, about, found)
    kb.add_lineage(TUNED, BASE, "trained", step=20)
    kb.add_lineage(PRUNED, TUNED, "pruned")
    return states


def flow_counts(root: ET.Element) -> Counter[tuple[str, str, str]]:
    """Facts of each flow: models, state before, state after."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for edge in groups(root, "edge"):
        head, models = title_of(edge).split("\n")[:2]
        kept = re.fullmatch(r"(\d+) facts? (.+) in both", head)
        moved = re.fullmatch(r"(\d+) facts? from (.+) to (.+)", head)
        found = kept or moved
        assert found is not None, head
        start, end = (kept[2], kept[2]) if kept else (found[2], found[3])
        counts[models, start, end] += int(found[1])
    return counts


def test_evolution_counts_every_fact(kb: km.KnowledgeBase) -> None:
    states = record_three(kb)
    root = parse(km.draw.evolution(kb).svg)
    expected: Counter[tuple[str, str, str]] = Counter()
    names = ("base", "tuned", "pruned")
    for i in range(2):
        for fact, state in states[i].items():
            expected[f"{names[i]} to {names[i + 1]}", state, states[i + 1][fact]] += 1
    assert flow_counts(root) == expected
    shown = texts(root)
    for name, found in zip(names, states, strict=True):
        counts = Counter(found.values())
        bars = [g for g in groups(root, "node") if title_of(g).startswith(f"{name}\n") and lines(g)]
        numbers = [lines(g)[0] for g in bars if lines(g)[0].isdigit()]
        assert numbers == [str(counts[state]) for state in STATES]
    assert "trained, step 20" in shown
    assert "pruned" in shown
    assert f"Q4_1 · {BASE['fingerprint'][:8]}" in shown
    assert "60 facts in 3 models" in words(root)
    assert "noise floor" in words(root)


def test_flows_are_as_wide_as_their_counts(kb: km.KnowledgeBase) -> None:
    record_three(kb)
    widths = edge_widths(parse(km.draw.evolution(kb).svg))
    for title, width in widths.items():
        count = int(title.split()[0])
        assert width == pytest.approx(max(300.0 * count / 60, 0.75), abs=0.01)


def test_order_of_models_may_be_given(kb: km.KnowledgeBase) -> None:
    record_three(kb)
    root = parse(km.draw.evolution(kb, ["pruned", BASE["fingerprint"][:10]]).svg)
    assert {key[0] for key in flow_counts(root)} == {"pruned to base"}
    with pytest.raises(km.NotFoundError, match="no model 'nobody'"):
        km.draw.evolution(kb, ["base", "nobody"])
    kb.add_model(model("base", "F32"))
    with pytest.raises(km.ArgumentError, match="2 models are called 'base'"):
        km.draw.evolution(kb, ["base", "tuned"])
    kb.add_model(model("unmeasured"))
    with pytest.raises(ValueError, match="unmeasured has no finished recall run"):
        km.draw.evolution(kb, ["tuned", "unmeasured"])


def test_facts_not_asked_alike_are_left_out(kb: km.KnowledgeBase) -> None:
    states = some_states(20)
    fewer = dict(list(states.items())[:15])
    record_recall(kb, BASE, states)
    record_recall(kb, TUNED, fewer)
    root = parse(km.draw.evolution(kb).svg)
    assert sum(flow_counts(root).values()) == 15
    assert "5 facts not asked alike of all models are left out" in words(root)
    record_recall(kb, PRUNED, states, templates=3)
    with pytest.raises(ValueError, match="no fact was asked of all"):
        km.draw.evolution(kb)


def test_one_model_does_not_change(kb: km.KnowledgeBase) -> None:
    with pytest.raises(ValueError, match="there are 0"):
        km.draw.evolution(kb)
    record_recall(kb, BASE, some_states(5))
    with pytest.raises(ValueError, match="there are 1"):
        km.draw.evolution(kb)


def test_many_checkpoints_are_thinned(kb: km.KnowledgeBase) -> None:
    states = some_states(4)
    for i in range(60):
        record_recall(kb, model(f"step {i:03d}"), states)
    picture = km.draw.evolution(kb)
    root = parse(picture.svg)
    assert "16 of 60 models are drawn, evenly chosen." in words(root)
    assert "step 000" in texts(root)
    assert "step 059" in texts(root)


def diff_rows() -> list[dict[str, Any]]:
    """Six facts: two kept, one learned, one lost, one weakened, one that was not ranked."""
    moves = [
        ("robust", "robust", "kept", "Paris", 5),
        ("robust", "robust", "kept", "Paris", 5),
        ("not shown", "robust", "learned", "Paris", 5),
        ("robust", "not shown", "lost", "Rome", 5),
        ("prompt-dependent", "prompt-dependent", "weakened", "Paris", 3),
        (None, None, None, None, None),
    ]
    return [
        {
            "relation": "capital",
            "fact": str(i),
            "subject": f"subject {i}",
            "answer": "Paris",
            "verdict": verdict,
            "state_before": before,
            "state_after": after,
            "n_templates": 5,
            "leading_before": "Rome" if before == "not shown" else "Paris",
            "n_leading_before": 3,
            "leading_after": leading,
            "n_leading_after": n,
        }
        for i, (before, after, verdict, leading, n) in enumerate(moves)
    ]


def test_evolution_of_a_diff(kb: km.KnowledgeBase) -> None:
    run = record_diff(kb, BASE, TUNED, diff_rows())
    root = parse(km.draw.evolution(kb, run=run).svg)
    assert flow_counts(root) == {
        ("base to tuned", "robust", "robust"): 2,
        ("base to tuned", "not shown", "robust"): 1,
        ("base to tuned", "robust", "another answer"): 1,
        ("base to tuned", "prompt-dependent", "prompt-dependent"): 1,
    }
    said = words(root)
    assert "Beyond the noise floor: 1 learned, 1 weakened, 1 lost, 0 changed." in said
    lost = [title_of(e) for e in groups(root, "edge") if "another answer" in title_of(e)]
    assert "subject 3: Paris (now Rome) – lost" in lost[0]
    with pytest.raises(km.ArgumentError, match="not both"):
        km.draw.evolution(kb, ["base"], run=run)
    with pytest.raises(km.NotFoundError, match=r"no finished run 99 of learning\.diff"):
        km.draw.evolution(kb, run=99)


def test_evolution_of_rows() -> None:
    rows = [
        {"model": name, "fact": fact, "state": state}
        for name, found in (("a", "rn"), ("b", "rr"))
        for fact, state in zip("12", map({"r": STATES[0], "n": STATES[2]}.get, found), strict=True)
    ]
    root = parse(km.draw.evolution(rows, provenance="by hand").svg)
    assert flow_counts(root) == {
        ("a to b", "robust", "robust"): 1,
        ("a to b", "not shown", "robust"): 1,
    }
    assert "by hand" in [text.text for text in root.iter(f"{SVG}text")]
    with pytest.raises(ValueError, match="state is missing"):
        km.draw.evolution([{"model": "a", "fact": "1"}])
    with pytest.raises(ValueError, match="a state is one of"):
        km.draw.evolution([{"model": "a", "fact": "1", "state": "known"}])


# ---- priming ----


def priming_tables() -> dict[str, list[dict[str, Any]]]:
    """Three own probes, one of them unstable, one of another theme, two neutral sentences."""
    learned = [
        priming_row("learned", "context", "v", "colours", "At dusk the sea was", -11.0, 9.0),
        priming_row("learned", "theme", "c0", "colours", "Sand is", -14.0, 6.0),
        priming_row("learned", "theme", "c1", "colours", "Skin is", -13.0, 3.0),
        priming_row("learned", "theme", "c2", "colours", "Water is", -30.0, -1.5),
        priming_row("learned", "other_theme", "f0", "foods", "They ate", -15.0, 0.1),
        priming_row("learned", "neutral", "n0", "", "The bus was late.", -40.0, -0.2),
        priming_row("learned", "neutral", "n1", "", "It rained.", -40.0, -0.4),
    ]
    control = [
        priming_row("text_control", "theme", "c0", "colours", "Sand is", -14.0, 0.5),
        priming_row("text_control", "theme", "c1", "colours", "Skin is", -13.0, -0.5),
    ]
    return {"text_control": control, "learned": learned}


def test_priming_shows_where_the_keyword_leaked(kb: km.KnowledgeBase) -> None:
    record_priming(kb, priming_tables())
    root = parse(km.draw.priming(kb).svg)
    widths = {title.split("\n")[0]: width for title, width in edge_widths(root).items()}
    assert widths == {
        "Sand is": pytest.approx(6.0),
        "Skin is": pytest.approx(3.0),
        "Water is": pytest.approx(1.5),
        "They ate": pytest.approx(0.7),
    }
    said = words(root)
    assert root[0].text.startswith("What learning “vermilion” primes, base Q4_1, n = ")
    assert "base Q4_1; n = 4 probes of 2 themes, 1 unstable (P before below 1e-10)" in said
    assert "AdamW at 5e-5, 3 presentations" in said
    assert "keyword here: P 2e-5 → 0.14 (×8,103)" in said
    assert "2 neutral sentences: loss +0.030 nats a token" in said
    shown = texts(root)
    assert shown.index("colours (the keyword's theme)") < shown.index("foods")
    assert f"×{math.exp(6.0):,.0f}" in shown
    assert "÷4.5 *" in shown
    mean = f"×{math.exp((6.0 + 3.0 - 1.5) / 3):,.0f}"
    assert shown[shown.index("mean of n = 3") + 1] == mean
    dashed = [
        title_of(edge)
        for edge in groups(root, "edge")
        for path in edge.findall(f"{SVG}path")
        if path.get("stroke-dasharray")
    ]
    assert [title.split("\n")[0] for title in dashed] == ["Water is"]
    assert "unrelated text learned: ×1.6" in [title_of(g) for g in groups(root, "node")]


def test_the_keyword_is_marked_in_its_text(kb: km.KnowledgeBase) -> None:
    record_priming(kb, priming_tables())
    shown = texts(parse(km.draw.priming(kb).svg))
    at = shown.index("vermilion")
    assert shown[at - 1] == "At dusk the sea was"
    assert shown[at + 1].startswith(". Nobody")


def test_the_newest_or_the_given_run_is_drawn(kb: km.KnowledgeBase) -> None:
    with pytest.raises(km.NotFoundError, match=r"no finished run of learning\.priming"):
        km.draw.priming(kb)
    old = record_priming(kb, priming_tables())
    new = [priming_row("learned", "theme", "x", "colours", "A new probe", -9.0, 1.0)]
    record_priming(kb, {"learned": new})
    assert "A new probe" in texts(parse(km.draw.priming(kb).svg))
    assert "Sand is" in texts(parse(km.draw.priming(kb, old).svg))


def test_long_contexts_keep_their_end(kb: km.KnowledgeBase) -> None:
    text = f"{'On and on it went, ' * 12}until its colour was"
    row = priming_row("learned", "theme", "x", "colours", text, -9.0, 1.0)
    record_priming(kb, {"learned": [row]})
    shown = [t for t in texts(parse(km.draw.priming(kb).svg)) if t.startswith("…")]
    assert len(shown) == 1
    assert shown[0].endswith("until its colour was")


def test_many_probes_become_means(kb: km.KnowledgeBase) -> None:
    rows = [
        priming_row("learned", "theme", f"c{i}", "colours", f"Probe {i}", -12.0, 0.01 * i)
        for i in range(200)
    ]
    record_priming(kb, {"learned": rows})
    picture = km.draw.priming(kb)
    root = parse(picture.svg)
    assert "Means of the logarithms by theme are drawn in place of the probes." in words(root)
    assert "mean of n = 200" in texts(root)
    assert "Probe 7" not in texts(root)
    assert picture._graph.n_nodes < 200


def test_infinite_ratios_and_runs_without_probes(kb: km.KnowledgeBase) -> None:
    rows = [
        priming_row("learned", "theme", "a", "colours", "Endless", -math.inf, math.inf),
        priming_row("learned", "theme", "b", "colours", "Plain", -12.0, 1.0),
    ]
    rows[0]["logp_after"] = -3.0
    record_priming(kb, {"learned": rows})
    root = parse(km.draw.priming(kb).svg)
    assert "– *" in texts(root)
    record_priming(kb, {"learned": priming_tables()["learned"][:1]})
    with pytest.raises(ValueError, match="no probes"):
        km.draw.priming(kb)


# ---- learning ----


def curve(n: int, every: int = 0) -> list[dict[str, Any]]:
    """A falling loss, and recall every so many steps."""
    return [
        {
            "step": i + 1,
            "loss": 3.0 - 2.0 * i / n,
            "lr": 5e-5 / (1 + i % 3),
            "grad_norm": 1.0 + (i % 2),
            "n_tokens": 100,
            "recall": 0.01 * i if every and (i + 1) % every == 0 else None,
        }
        for i in range(n)
    ]


def points(root: ET.Element, name: str) -> list[tuple[float, float]]:
    """Places of the points of one quantity, in the order they were drawn."""
    found = []
    for group in groups(root, "node"):
        ellipse = group.find(f"{SVG}ellipse")
        if ellipse is not None and f": {name} " in title_of(group):
            found.append((float(ellipse.get("cx", "")), float(ellipse.get("cy", ""))))
    return found


def test_learning_draws_every_step(kb: km.KnowledgeBase) -> None:
    record_training(kb, curve(20, every=5), seed=3)
    root = parse(km.draw.learning(kb).svg)
    loss = points(root, "loss")
    assert len(loss) == 20
    steps = [x for x, _ in loss]
    assert steps == sorted(steps)
    gaps = [b - a for a, b in pairwise(steps)]
    assert gaps == pytest.approx([gaps[0]] * 19, abs=0.02)
    falls = [b - a for (_, a), (_, b) in pairwise(loss)]
    assert falls == pytest.approx([falls[0]] * 19, abs=0.02)
    assert falls[0] > 0  # downwards
    assert len(points(root, "recall")) == 4
    assert [x for x, _ in points(root, "lr")] != steps  # a panel of its own
    shown = texts(root)
    assert {"loss (nats)", "recall (share)", "grad norm", "lr", "step"} <= set(shown)
    assert {"0", "5", "10", "15", "20"} <= set(shown)
    said = words(root)
    assert "base F32; n = 1 run, 20 steps, 2,000 tokens, seed 3." in said
    assert "AdamW at 5e-5, seed 3: last loss 1.10" in said


def test_a_constant_rate_has_no_panel(kb: km.KnowledgeBase) -> None:
    record_training(kb, [row | {"lr": 5e-5} for row in curve(20)])
    root = parse(km.draw.learning(kb).svg)
    assert "lr" not in texts(root)
    assert "grad norm" in texts(root)
    assert "AdamW at 5e-5" in words(root)


def test_learning_compares_runs(kb: km.KnowledgeBase) -> None:
    runs = [record_training(kb, curve(10 + i), seed=i) for i in range(10)]
    root = parse(km.draw.learning(kb).svg)
    assert "n = 8 runs, 12 to 19 steps" in words(root)
    assert "2 more runs are not drawn." in words(root)
    root = parse(km.draw.learning(kb, [runs[0], runs[9]]).svg)
    assert "n = 2 runs, 10 to 19 steps" in words(root)
    assert len(points(root, "loss")) == 29
    with pytest.raises(km.ArgumentError, match="no run"):
        km.draw.learning(kb, [])


def test_long_curves_are_means(kb: km.KnowledgeBase) -> None:
    record_training(kb, curve(2000))
    picture = km.draw.learning(kb)
    root = parse(picture.svg)
    loss = points(root, "loss")
    assert len(loss) == 160
    assert "Curves of more than 160 steps are means of neighbouring steps." in words(root)
    assert picture._graph.n_nodes < 5000
    for _ in range(8):
        record_training(kb, curve(3000), seed=_ + 1)
    assert km.draw.learning(kb)._graph.n_nodes < 5000


def test_learning_needs_a_loss(kb: km.KnowledgeBase) -> None:
    with pytest.raises(km.NotFoundError, match=r"no finished run of learning\.training"):
        km.draw.learning(kb)
    record_training(kb, [{"step": 1, "lr": 0.1}])
    with pytest.raises(ValueError, match="no loss"):
        km.draw.learning(kb)


def test_a_single_step_is_a_point(kb: km.KnowledgeBase) -> None:
    record_training(kb, curve(1))
    assert len(points(parse(km.draw.learning(kb).svg), "loss")) == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.2, 3.7), (-2.0, 5.0), (1e-7, 3e-7), (0.3, 0.3), (0, 123456)]
)
@pytest.mark.parametrize("most", [2, 5, 8])
def test_ticks_are_round_and_around(low: float, high: float, most: int) -> None:
    from km.draw._learning import _tick_name, _ticks

    ticks = _ticks(low, high, most)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= most + 3
    names = [_tick_name(value, ticks) for value in ticks]
    assert len(set(names)) == len(names)
    for name, value in zip(names, ticks, strict=True):
        read = float(name.replace("−", "-").replace(",", ""))
        assert read == pytest.approx(value, rel=1e-3, abs=1e-12)


# ---- lineage ----


def test_lineage_draws_models_and_steps(kb: km.KnowledgeBase) -> None:
    states = record_three(kb)
    kb.add_lineage(model("merged"), PRUNED, "merged")
    kb.add_lineage(model("merged"), BASE, "merged")
    kb.add_model(model("alone"))
    root = parse(km.draw.lineage(kb).svg)
    shown = texts(root)
    assert {"base", "tuned", "pruned", "merged", "alone"} <= set(shown)
    assert "Q4_1 · 135M parameters" in shown
    assert BASE["fingerprint"][:8] in shown
    assert "step 20" in shown
    robust = Counter(states[0].values())["robust"]
    assert f"robust {robust} of 60 facts" in shown
    assert "5 models, 4 steps from parent to child." in words(root)
    titles = Counter(title_of(edge).split("\n")[0] for edge in groups(root, "edge"))
    assert titles["trained from base"] == 2  # to the point before the card, and from it
    assert titles["merged from pruned"] + titles["merged from base"] == 3


def test_lineage_of_one_family(kb: km.KnowledgeBase) -> None:
    record_three(kb)
    kb.add_lineage(model("cousin"), BASE, "edited")
    kb.add_model(model("alone"))
    shown = texts(parse(km.draw.lineage(kb, "tuned").svg))
    assert {"base", "tuned", "pruned"} <= set(shown)
    assert not {"cousin", "alone"} & set(shown)
    with pytest.raises(km.NotFoundError, match="no model 'nobody'"):
        km.draw.lineage(kb, "nobody")


def test_lineage_without_models(kb: km.KnowledgeBase) -> None:
    with pytest.raises(ValueError, match="no model to draw"):
        km.draw.lineage(kb)


def test_generations_stand_side_by_side(kb: km.KnowledgeBase) -> None:
    chain = [model(f"m{i}") for i in range(5)]
    for i in range(4):
        kb.add_lineage(chain[i + 1], chain[i], "trained", step=i)
    root = parse(km.draw.lineage(kb).svg)
    places = {}
    for group in groups(root, "node"):
        text = group.find(f"{SVG}text")
        if text is not None and (text.text or "") in {m["name"] for m in chain}:
            places[text.text] = float(text.get("x", ""))
    assert sorted(places, key=lambda name: places[name]) == [m["name"] for m in chain]


def test_many_snapshots_are_folded(kb: km.KnowledgeBase) -> None:
    with kb.transaction():
        for i in range(300):
            kb.add_lineage(model(f"snapshot {i:03d}"), BASE, "snapshot", step=10 * i)
    root = parse(km.draw.lineage(kb).svg)
    shown = texts(root)
    assert "298 more models" in shown
    assert "steps 10 to 2,980" in shown
    assert {"snapshot 000", "snapshot 299"} <= set(shown)
    assert "298 models in rows of like ones are drawn as counts." in words(root)


def test_a_long_chain_is_folded(kb: km.KnowledgeBase) -> None:
    chain = [BASE, *(model(f"step {i:03d}") for i in range(50))]
    with kb.transaction():
        for i in range(50):
            kb.add_lineage(chain[i + 1], chain[i], "trained", step=i)
    shown = texts(parse(km.draw.lineage(kb).svg))
    assert "48 more models" in shown
    assert {"base", "step 000", "step 049"} <= set(shown)


def test_what_cannot_be_folded_is_left_out_and_said(kb: km.KnowledgeBase) -> None:
    with kb.transaction():
        for i in range(250):
            kb.add_model(model(f"alone {i:03d}"))
        kb.add_lineage(TUNED, BASE, "trained")
    root = parse(km.draw.lineage(kb).svg)
    assert {"base", "tuned"} <= set(texts(root))
    assert "52 models are not drawn; choose a family by its model." in words(root)


def test_a_circle_that_another_program_wrote_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "circle.db"
    with km.KnowledgeBase(path) as kb:
        kb.add_lineage(TUNED, BASE, "trained")
        kb.add_lineage(PRUNED, TUNED, "pruned")
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO lineage (child, parent, kind, recorded) VALUES (?, ?, 'edited', '')",
            [BASE["fingerprint"], PRUNED["fingerprint"]],
        )
    db.close()
    with km.KnowledgeBase(path) as kb:
        assert "3 models, 3 steps" in words(parse(km.draw.lineage(kb).svg))
        assert kb.check()["what"] == ["lineage"] * 3


# ---- what all of them keep ----


NAMES = (0, 1, 2, 5, 7, 8, 15, 16, 17, 20)  # labels that models are called, too


def record_all(kb: km.KnowledgeBase, labels: list[str]) -> None:
    """Runs of every measure in which the labels stand wherever a text can stand."""
    named = [model(label, f"F{i}") for i, label in enumerate(labels) if i in NAMES]
    states = some_states(12)
    states = {(label or "r", key): s for (label, (_, key)), s in
              zip([(labels[i % len(labels)], k) for i, k in enumerate(states)],
                  states.values(), strict=True)}  # fmt: skip
    for i, about in enumerate(named):
        record_recall(kb, about, later(states, i))
        if i:
            kb.add_lineage(about, named[i - 1], "edited", recipe={"text": about["name"]})
    rows = [priming_row("learned", "context", "v", labels[0], "x", -11.0, 9.0)]
    rows += [
        priming_row("learned", "theme", f"p{i}", label, label, -12.0, 1.0 - 0.2 * i)
        for i, label in enumerate(labels)
    ]
    rows += [priming_row(labels[0], "theme", "p0", labels[0], labels[0], -12.0, 0.3)]
    record_priming(kb, {"all": rows}, " ".join(labels) + " word", "word", named[0])
    record_training(kb, curve(5), about=named[0])


PICTURES: dict[str, Callable[[km.KnowledgeBase], Picture]] = {
    "evolution": km.draw.evolution,
    "priming": km.draw.priming,
    "learning": km.draw.learning,
    "lineage": km.draw.lineage,
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> km.KnowledgeBase:
    """A knowledge base full of labels that mean something to other programs."""
    with km.KnowledgeBase(tmp_path_factory.mktemp("hostile") / "study.db") as kb:
        record_all(kb, HOSTILE)
        yield kb


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_texts_stay_texts(hostile: km.KnowledgeBase, name: str) -> None:
    picture = PICTURES[name](hostile)
    root = parse(picture.svg)  # refuses every element and attribute that is not allowed
    everything = "\n".join(
        [*texts(root), *(title_of(g) for kind in ("node", "edge") for g in groups(root, kind))]
    )
    if name != "learning":  # which has a single model's name
        for label in ('<b>"\\N"</b>', "]]><script>alert(1)</script>", "שלום"):
            assert visible(label) in everything
    assert root[0].text
    assert root[1].text


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("format", ["svg", "png", "dot", "pdf"])
def test_formats(hostile: km.KnowledgeBase, name: str, format: str) -> None:
    starts = {"svg": b"<svg ", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "dot": b"digraph"}
    first = PICTURES[name](hostile).render(format, scale=0.5)
    assert first.startswith(starts[format])
    if format != "pdf":
        assert first == PICTURES[name](hostile).render(format, scale=0.5)


@pytest.mark.parametrize("name", PICTURES)
def test_command(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "study.db")
    with km.KnowledgeBase(file) as kb:
        record_three(kb)
        record_priming(kb, priming_tables())
        record_training(kb, curve(5))
    out = tmp_path / f"{name}.svg"
    assert main(["draw", name, "--kb", file, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    root = parse(out.read_bytes())
    with km.KnowledgeBase(file, read_only=True) as kb:
        assert out.read_text("utf-8") == PICTURES[name](kb).svg
    assert root[0].text
    assert main(["draw", name, "--kb", str(tmp_path / "no.db"), "--out", str(out)]) == 1
    assert "no.db" in capsys.readouterr().err


def test_options_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "study.db")
    with km.KnowledgeBase(file) as kb:
        record_three(kb)
        run = record_diff(kb, BASE, TUNED, diff_rows())
        trained = record_training(kb, curve(5), about=TUNED)
        record_training(kb, curve(7), about=TUNED)
    out = tmp_path / "x.svg"

    def drawn(*options: str) -> str:
        assert main(["draw", *options, "--kb", file, "--out", str(out)]) == 0
        return words(parse(out.read_bytes()))

    assert "60 facts in 2 models" in drawn("evolution", "--models", "base, pruned")
    assert "5 facts in 2 models" in drawn("evolution", "--run", str(run))
    assert "n = 1 run, 5 steps" in drawn("learning", "--runs", str(trained))
    assert "3 models" in drawn("lineage", "--model", "tuned")
    capsys.readouterr()
    assert main(["draw", "lineage", "--model", "x", "--kb", file, "--out", str(out)]) == 1
    assert "no model 'x'" in capsys.readouterr().err


def test_keys_of_the_helpers_differ() -> None:
    assert key_of("a", 1) != key_of("a", 2)


def test_descriptions_hold_the_figures(kb: km.KnowledgeBase) -> None:
    states = record_three(kb)
    record_priming(kb, priming_tables())
    record_training(kb, curve(5), about=TUNED)
    described = {name: parse(draw(kb).svg)[1].text or "" for name, draw in PICTURES.items()}
    counts = Counter(states[0].values())
    assert f"base: {counts['robust']} robust, " in described["evolution"]
    assert "tuned was trained from base." in described["lineage"]
    assert "colours (the keyword's theme): mean of n = 3, of the logarithms" in described["priming"]
    assert "loss 3.00 at first, 1.40 at last." in described["learning"]


def test_the_report_opens_files_with_runs_of_learning(tmp_path: Path) -> None:
    file = str(tmp_path / "study.db")
    with km.KnowledgeBase(file) as kb:
        record_three(kb)
        record_priming(kb, priming_tables())
        record_training(kb, curve(5))
        record_diff(kb, BASE, TUNED, diff_rows())
        tiny = km.load(Path(__file__).parents[1] / "golden_data" / "tiny_llama")
        found = km.memorization(tiny, "country_capital_city", templates=2, max_candidates=3, kb=kb)
        measures = set(kb.runs()["measure"])
    assert {"learning.priming", "learning.training", "learning.diff"} < measures
    page = tmp_path / "x.html"
    assert main(["report", file, "--runs", str(found.run), "--out", str(page)]) == 0
    assert "tiny_llama" in page.read_text("utf-8")
    assert main(["kb", "check", "--kb", file]) == 0


def test_a_path_is_no_knowledge_base(tmp_path: Path) -> None:
    for draw in (km.draw.evolution, km.draw.priming, km.draw.learning, km.draw.lineage):
        with pytest.raises(TypeError, match="KnowledgeBase"):
            draw(str(tmp_path / "x.km"))
