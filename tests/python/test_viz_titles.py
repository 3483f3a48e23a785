"""Every picture's own title names its model and its n; a caller's title stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from learning_bases import model, record_priming, record_recall, record_training, some_states
from test_viz import EVIDENCE, LENS, NODES, RECALL, SVG, parse
from test_viz_conflict import ROWS as CONFLICT
from test_viz_learning import curve, priming_tables

import km

Draw = Callable[..., km.Picture]
MODEL = "toy-model F32"
PROVENANCE = {"model": {"name": "toy-model", "precision": "F32"}}
MEANS = [
    {"part": part, "layer": 0, "head": head, "mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    for part, head in (("head", 0), ("mlp", None))
]
SURVIVAL = [{"layer": i, "not_leading": 1 - 0.2 * i, "n": 12} for i in range(4)]
GRID = {
    "prompt": "The capital is", "answer": " a", "tokens": ["The", " capital", " is"],
    "subject": (0, 2), "scores": [[0.1, 0.2]] * 3, "low": 0.1, "high": 0.9,
}  # fmt: skip


def result(**parts: Any) -> SimpleNamespace:
    return SimpleNamespace(provenance=PROVENANCE, parameters={}, **parts)


WITHOUT_A_BASE: dict[str, tuple[Draw, Any, dict[str, Any], str]] = {
    "attribution": (km.draw.attribution, result(means=MEANS), {}, "3 prompts"),
    "causal_trace": (km.draw.causal_trace, GRID, {"model": MODEL}, "1 fact"),
    "conflict": (km.draw.conflict, CONFLICT, {"model": MODEL}, "120 examples"),
    "lens": (km.draw.lens, LENS, {"prompt": "p", "answer": "a", "model": MODEL}, "1 fact"),
    "recall": (km.draw.recall, result(relations=RECALL, overall=None), {}, "70 facts"),
    "survival": (km.draw.survival, result(survival=SURVIVAL), {}, "12 answers"),
}


@pytest.mark.parametrize("name", WITHOUT_A_BASE)
def test_titles_of_results(name: str) -> None:
    draw, source, options, n = WITHOUT_A_BASE[name]
    title = parse(draw(source, **options).svg)[0].text or ""
    assert title.endswith(f", {MODEL}, n = {n}")
    if name not in ("causal_trace", "lens"):  # these are named by their prompt
        named = draw(source, **options, title="My own")
        assert parse(named.svg)[0].text == named.title == "My own"


def test_title_of_the_taxonomy() -> None:
    rows = [{**EVIDENCE[0], "model": "toy-model", "precision": "F32"}]
    title = parse(km.draw.taxonomy(NODES, rows).svg)[0].text
    assert title == f"Knowledge mechanisms: what was measured, {MODEL}, n = 1 of 6 nodes"


def test_titles_of_a_knowledge_base() -> None:
    states = some_states(20)
    with km.KnowledgeBase(":memory:") as kb:
        for name in ("one", "two"):
            record_recall(kb, model(name), states)
        record_priming(kb, priming_tables(), about=model("one"))
        record_training(kb, curve(5), about=model("one"))
        wanted = {
            km.draw.evolution: r"How knowledge changes, 2 models, n = 20 facts",
            km.draw.priming: r"What learning “.*” primes, one F32, n = \d+ contexts",
            km.draw.learning: r"Learning curves, one F32, n = 1 run",
            km.draw.lineage: r"Lineage, n = 2 models",
        }
        for draw, pattern in wanted.items():
            root = parse(draw(kb).svg)
            assert re.fullmatch(pattern, root[0].text or ""), root[0].text
            drawn = [t.text for t in root.iter(f"{SVG}text") if t.get("font-weight") == "bold"]
            assert "n = " in " ".join(text or "" for text in drawn)
            assert root[1].tag == f"{SVG}desc" and root[1].text
