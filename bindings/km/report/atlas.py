"""What the explorable taxonomy of a page holds: nodes, works one by one, what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from km.draw._taxonomy import KINDS
from km.report.grids import plain_cell

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.report.verdicts import Verdicts
    from km.taxonomy import Taxonomy

MARKS = {
    "paper": "the survey says so",
    "seed": "from the work's abstract",
    "known": "general knowledge",
    "guess": "our judgement, to be checked first",
}

_WORKS = "SELECT key, title, authors, year, venue, arxiv FROM works ORDER BY year, key"
_EDGES = """
SELECT e.node, e.work, e.relation, e.evidence, e.note FROM edges AS e
JOIN works AS w ON w.key = e.work ORDER BY w.year, w.key, e.relation
"""
_MEASURES = """
SELECT mn.node, m.id, m.status, m.title FROM measure_nodes AS mn
JOIN measures AS m ON m.id = mn.measure ORDER BY m.status, m.id
"""


def atlas(kb: KnowledgeBase, taxonomy: Taxonomy, verdicts: Verdicts) -> dict[str, Any]:
    """Nodes with places of their parents, works, edges, evidence, verdicts and measures by node."""
    place = {node["id"]: number for number, node in enumerate(taxonomy.nodes)}
    nodes: list[dict[str, Any]] = [
        {
            "id": node["id"],
            "parent": place.get(node["parent"], -1),
            "name": node["name"],
            "kind": node["kind"],
            "about": node["summary"],
            "mark": node["evidence"],
            "section": node["survey_section"] or "",
        }
        for node in taxonomy.nodes
    ]
    works = list(kb.sql(_WORKS).rows())
    numbers = {work["key"]: number for number, work in enumerate(works)}
    for row in kb.sql(_EDGES).rows():
        edge = [numbers[row["work"]], row["relation"], row["evidence"], row["note"] or ""]
        nodes[place[row["node"]]].setdefault("works", []).append(edge)
    for row in kb.sql(_MEASURES).rows():
        measure = [row["id"], row["status"], row["title"] or ""]
        nodes[place[row["node"]]].setdefault("measures", []).append(measure)
    _add_measured(nodes, place, taxonomy, verdicts)
    return {
        "nodes": nodes,
        "works": [_work(work) for work in works],
        "marks": MARKS,
        "kinds": {kind: [shape, colour, name] for kind, (shape, colour, _, name) in KINDS.items()},
    }


def _work(row: dict[str, Any]) -> list[Any]:
    return [row["key"], row["title"], _authors(row["authors"]), row["year"], row["venue"] or "",
            row["arxiv"] or ""]  # fmt: skip


def _authors(text: str) -> str:
    """At most three names of a JSON array or a text."""
    try:
        names = json.loads(text)
    except ValueError:
        return str(plain_cell(text))
    if not isinstance(names, list):
        return str(plain_cell(text))
    shown = ", ".join(str(name) for name in names[:3])
    return shown + (" and others" if len(names) > 3 else "")


def _add_measured(
    nodes: list[dict[str, Any]], place: dict[str, int], taxonomy: Taxonomy, verdicts: Verdicts
) -> None:
    for row in taxonomy.evidence:
        model = " ".join(str(row[name]) for name in ("model", "precision") if row[name])
        figures = [plain_cell(row[name]) for name in ("value", "low", "high", "n")]
        entry = [row["statistic"].replace("_", " "), *figures, row["unit"] or "", model, row["run"]]
        nodes[place[row["node"]]].setdefault("evidence", []).append(entry)
    for group in verdicts.nodes:
        for judged in group.judged:
            for at in judged.nodes:
                own = nodes[place[at["id"]]].setdefault("verdicts", [])
                own += [
                    [said.verdict.word, judged.anchor, judged.prediction.id, said.reading,
                     said.verdict.run]
                    for said in judged.said
                ]  # fmt: skip
