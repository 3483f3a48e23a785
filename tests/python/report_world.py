"""A knowledge base for tests of reports: every verdict's word, hostile labels, many rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import km
from km.kb import taxonomy_text
from km.ledger import Prediction, Unit, freeze, judge
from km.result import Result
from km.table import Column, Table

HOSTILE = "<img src=x onerror=alert(1)>"
ENDING = "</script><script>alert(2)</script>\u2028"
MEASURE = "user.toy"
TALK = "dialog.conversation"
NODE = "memorization"
N_ROWS = 100_000
MODEL = {
    "name": f"toy {HOSTILE}",
    "precision": "F32",
    "architecture": "toy",
    "fingerprint": "ab" * 32,
    "path": "toy.gguf",
    "n_parameters": 1000,
}
WORDS = {
    "consistent": (0.5, 0.3, 0.7, 30),
    "inconsistent": (-0.5, -0.7, -0.3, 30),
    "equivalent to none": (0.0, -0.05, 0.05, 30),
    "inconclusive": (0.2, -0.3, 0.7, 30),
    "not testable here": (0.2, 0.1, 0.3, 3),
}


def build(path: Path, n_rows: int = N_ROWS) -> None:
    """Write the knowledge base."""
    with km.KnowledgeBase(path) as kb:
        kb.load_taxonomy(_taxonomy())
        kb.add_measure(MEASURE, [NODE])
        kb.add_facts([{"id": "r/1", "relation": "r", "subject": HOSTILE, "answers": [ENDING]}])
        _judge(kb)
        kb.record(_result(n_rows))
        _talk(kb)


def _taxonomy() -> dict[str, Any]:
    """The shipped one with a hostile name and summary on a leaf below memorization."""
    taxonomy: dict[str, Any] = json.loads(taxonomy_text())
    leaf = next(node for node in taxonomy["nodes"] if node["parent"] == NODE)
    leaf["name"], leaf["summary"] = HOSTILE, f"{ENDING} a summary that glows"
    return taxonomy


def _prediction(word: str) -> Prediction:
    return Prediction(
        id=f"toy-{word.replace(' ', '-')}",
        nodes=(NODE,),
        statement=f"A toy effect that comes out {word} {HOSTILE}.",
        measure=MEASURE,
        statistic="toy difference",
        direction="above",
        smallest_effect=0.1,
        unit="share",
        minimum_n=5,
        falsified_by="An interval below 0.",
        rivals=("chance",),
    )


def _judge(kb: km.KnowledgeBase) -> None:
    unit = Unit.of(MODEL, recipe={"seed": 0})
    chosen = {word: _prediction(word) for word in WORDS}
    freeze(kb, chosen.values(), unit)
    run = kb.begin_run(_provenance({"part": "verdicts"}), note=HOSTILE)
    table = Table([("item", "text"), ("score", "double")], [["a", "b"], [0.25, None]])
    kb.store_chunk(run, "0" * 64, table)
    for word, (estimate, low, high, n) in WORDS.items():
        judge(
            kb, run, chosen[word], unit, estimate=estimate, low=low, high=high, n=n,
            rows=f"SELECT {ENDING}", command=f"km {HOSTILE}",
        )  # fmt: skip
    kb.finish_run(run)


def _talk(kb: km.KnowledgeBase) -> None:
    """A conversation of two turns as the knowledge base keeps one."""
    columns = [("turn", "int64"), ("user", "text"), ("response", "text"), ("text", "text"),
               ("node", "text"), ("source", "text"), ("chosen", "bool")]  # fmt: skip
    rows = [[1, 1, 2], [f"Is {HOSTILE} kept?"] * 2 + ["Wine?"], ["It is."] * 2 + ["No answer."],
            [f"{HOSTILE} is kept.", "It is not.", None], [NODE, "root", None],
            ["work:x", None, None], [True, False, False]]  # fmt: skip
    run = kb.begin_run({"measure": TALK, "version": 1, "parameters": {}, "model": MODEL})
    kb.store_chunk(run, "1" * 64, Table(columns, rows))
    kb.finish_run(run)


def _provenance(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"measure": MEASURE, "version": 1, "parameters": parameters, "model": MODEL, "seed": 0}


def _result(n_rows: int) -> Result:
    columns = [
        Column("item", "text", "", f"What was asked {HOSTILE}."),
        Column("number", "int64", "", "Its number."),
        Column("score", "double", "nats", "Its score."),
    ]
    names = [HOSTILE if i == 0 else f"item {i}" for i in range(n_rows)]
    scores = [None if i % 50 == 7 else ((i * 7919) % n_rows) / 7.0 for i in range(n_rows)]
    table = Table(columns, [names, list(range(n_rows)), scores])
    result = Result(table, _provenance({"part": "rows"}) | {"command": f"km {ENDING}"})
    result.evidence = [  # type: ignore[attr-defined]
        {"node": NODE, "measure": MEASURE, "statistic": "toy_mean", "value": 0.5, "low": 0.4,
         "high": 0.6, "n": 30, "unit": "share", "note": ENDING},
    ]  # fmt: skip
    return result
