"""Verdicts by node of the taxonomy, and the predictions that have none yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from km.ledger import Prediction, Unit, Verdict, general
from km.report.forest import Axis, Mark, axis

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

MAX_HISTORY = 50  # verdicts shown of one prediction

_VERDICTS = """
SELECT l.prediction_digest, l.word, l.estimate, l.low, l.high, l.n, l.p_value, l.model,
       l.precision, l.fingerprint, l.prompts, l.facts, l.recipe, l.basis, l.frozen, l.judged, l.run,
       l.rows, l.command
FROM ledger AS l ORDER BY l.judged DESC, l.verdict DESC
"""
_PLACES = """
SELECT pn.prediction, n.id, n.name, n.kind FROM prediction_nodes AS pn
JOIN nodes AS n ON n.id = pn.node ORDER BY n.tree_enter
"""


@dataclass
class Said:
    """One verdict with its place on the axis."""

    verdict: Verdict
    mark: Mark

    @property
    def reading(self) -> str:
        """The verdict as a sentence."""
        return self.verdict.text


@dataclass
class Judged:
    """A prediction with its verdicts, newest first."""

    prediction: Prediction
    nodes: list[dict[str, Any]]
    axis: Axis
    said: list[Said]
    general: str
    older: int = 0

    @property
    def anchor(self) -> str:
        """Id of its element."""
        return f"prediction-{self.prediction.id}-{self.prediction.version}"


@dataclass
class NodeVerdicts:
    """A node with the predictions that bear on it."""

    id: str
    name: str
    kind: str
    works: list[dict[str, Any]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)


@dataclass
class Verdicts:
    """All verdicts of a knowledge base.

    Attributes
    ----------
    nodes : list of NodeVerdicts
        In the order of the taxonomy; a prediction stands at the first of its nodes.
    open : list of (Prediction, nodes)
        Without a verdict, those that can be tested first.
    by_run : dict of int to list of Said
    """

    nodes: list[NodeVerdicts]
    open: list[tuple[Prediction, list[str]]]
    by_run: dict[int, list[Said]]

    @property
    def newest(self) -> list[Said]:
        """The newest verdict of each prediction."""
        return [judged.said[0] for node in self.nodes for judged in node.judged]


def read_verdicts(kb: KnowledgeBase) -> Verdicts:
    """The verdicts of a knowledge base."""
    known = {
        row["digest"]: Prediction.from_dict(json.loads(row["content"]))
        for row in kb.sql("SELECT digest, content FROM predictions").rows()
    }
    places: dict[str, list[dict[str, Any]]] = {}
    for row in kb.sql(_PLACES).rows():
        places.setdefault(row["prediction"], []).append(row)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in kb.sql(_VERDICTS).rows():
        rows.setdefault(row["prediction_digest"], []).append(row)
    nodes: dict[str, NodeVerdicts] = {}
    by_run: dict[int, list[Said]] = {}
    for digest in sorted(rows, key=lambda d: (known[d].id, -known[d].version)):
        judged = _judged(kb, known[digest], places[digest], rows[digest])
        first = judged.nodes[0]
        node = NodeVerdicts(first["id"], first["name"], first["kind"])
        nodes.setdefault(first["id"], node).judged.append(judged)
        for said in judged.said:
            by_run.setdefault(said.verdict.run or 0, []).append(said)
    return Verdicts(_in_order(kb, nodes), _open(kb), by_run)


def _judged(
    kb: KnowledgeBase,
    prediction: Prediction,
    nodes: list[dict[str, Any]],
    rows: list[dict[str, Any]],
) -> Judged:
    shown = rows[:MAX_HISTORY]
    line = axis(shown, prediction.null, prediction.smallest_effect)
    said = [Said(_verdict(prediction, row), line.mark(row)) for row in shown]
    beyond = general(kb, prediction.id, version=prediction.version).text
    return Judged(prediction, nodes, line, said, beyond, len(rows) - len(shown))


def _verdict(prediction: Prediction, row: Mapping[str, Any]) -> Verdict:
    names = ("fingerprint", "model", "precision", "prompts", "facts")
    unit = Unit(**{name: row[name] for name in names}, recipe=json.loads(row["recipe"]))
    rest = ("word", "estimate", "low", "high", "n", "p_value", "rows", "command", "run", "frozen",
            "judged", "basis")  # fmt: skip
    return Verdict(prediction, unit, **{name: row[name] for name in rest})


def _in_order(kb: KnowledgeBase, nodes: dict[str, NodeVerdicts]) -> list[NodeVerdicts]:
    taxonomy = kb.taxonomy
    out = []
    for node in taxonomy.nodes:
        if node["id"] in nodes:
            found = nodes[node["id"]]
            found.works = taxonomy.works(node["id"])
            out.append(found)
    return out


def _open(kb: KnowledgeBase) -> list[tuple[Prediction, list[str]]]:
    found = kb.ledger("root").open
    names = {row["id"]: row["name"] for row in kb.sql("SELECT id, name FROM nodes").rows()}
    ordered = sorted(found, key=lambda p: (bool(p.not_testable), p.id))
    return [(p, [names[node] for node in p.nodes if node in names]) for p in ordered]
