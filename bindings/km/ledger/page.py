"""One node of the taxonomy: the literature, and what runs said, side by side and not summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from km.display import escape
from km.ledger.predictions import Prediction, predictions
from km.table import Column, Table

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

COLUMNS = [
    Column("source", "text", "", "work: the literature; verdict: a run; open: no verdict yet."),
    Column("node", "text", "", "Node below or at the one asked about."),
    Column("name", "text", "", "Key of the work, or id of the prediction."),
    Column("says", "text", "", "Relation of the work to the node, or the verdict's word."),
    Column("mark", "text", "", "How we know of a work's relation; basis of a verdict."),
    Column("year", "int64", "", "Of the work."),
    Column("model", "text", "", "Model and precision of the verdict's unit."),
    Column("estimate", "double", "", "Figure of the verdict."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("unit", "text", "", "Its unit."),
    Column("n", "int64", "", "In n_unit."),
    Column("n_unit", "text", "", "What n counts."),
    Column("run", "int64", "", "The run in the knowledge base."),
    Column("text", "text", "", "Title of the work; statement of the prediction; or why not."),
]

_WORKS = """
SELECT e.node, w.key, e.relation, e.evidence, w.year, w.title
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN edges AS e ON e.node = d.id
JOIN works AS w ON w.key = e.work
WHERE n.id = ?
ORDER BY d.tree_enter, w.year, w.key, e.relation
"""
_NODE_OF = """
SELECT pn.prediction, min(pn.node) AS node FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN prediction_nodes AS pn ON pn.node = d.id
WHERE n.id = ? GROUP BY pn.prediction
"""


class NodeLedger:
    """What :meth:`KnowledgeBase.ledger` returns.

    Attributes
    ----------
    node : dict
        As ``kb.taxonomy[id]`` gives it.
    works : list of dict
        node, key, relation, evidence (how we know of it), year, title: one a work and relation.
    verdicts : list of dict
        Of the question "verdicts", newest first.
    open : list of Prediction
        Shipped or frozen predictions on the node without a verdict; those that cannot be tested
        here say why.
    table : Table
        All of it, a row each.
    """

    def __init__(self, kb: KnowledgeBase, id: str) -> None:
        self.node = kb.taxonomy[id]
        self.works = list(kb.sql(_WORKS, [id]).rows())
        self.verdicts = list(kb.ask("verdicts", node=id).rows())
        found = kb.sql(_NODE_OF, [id])
        self._node_of = dict(zip(found["prediction"], found["node"], strict=True))
        below = kb.sql(
            "SELECT d.id FROM nodes AS n JOIN nodes AS d"
            " ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave WHERE n.id = ?",
            [id],
        )["id"]
        self.open = list(self._open(kb, set(below)))
        self.table = Table.from_rows(COLUMNS, self._rows())

    def _open(self, kb: KnowledgeBase, below: set[str]) -> Iterator[Prediction]:
        """Newest version of each prediction on these nodes that no verdict is about."""
        judged = {(row["prediction"], row["version"]) for row in self.verdicts}
        frozen = kb.sql("SELECT content FROM predictions ORDER BY id, version")["content"]
        known = {p.id: p for p in [*predictions(), *map(_read, frozen)]}
        for name in sorted(known):
            here = sorted(below.intersection(known[name].nodes))
            if here and (name, known[name].version) not in judged:
                self._node_of[known[name].digest] = here[0]
                yield known[name]

    def _rows(self) -> Iterator[dict[str, Any]]:
        for work in self.works:
            yield {
                "source": "work",
                "node": work["node"],
                "name": work["key"],
                "says": work["relation"],
                "mark": work["evidence"],
                "year": work["year"],
                "text": work["title"],
            }
        for row in self.verdicts:
            same = ("estimate", "low", "high", "unit", "n", "n_unit", "run")
            yield {
                "source": "verdict",
                "node": self._node_of[row["prediction_digest"]],
                "name": row["prediction"],
                "says": row["word"],
                "mark": row["basis"],
                "model": f"{row['model']} {row['precision']}".strip(),
                "text": row["statement"],
                **{name: row[name] for name in same},
            }
        for prediction in self.open:
            yield {
                "source": "open",
                "node": self._node_of[prediction.digest],
                "name": prediction.id,
                "says": "not testable here" if prediction.not_testable else "not judged",
                "text": prediction.not_testable or prediction.statement,
            }

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        node = self.node
        yield f"{node['name']} ({node['kind'].replace('_', ' ')}): {node['summary']}"
        yield f"Literature, work by work; {len(self.works)} entries, which are not counted up:"
        for work in self.works:
            yield (
                f"  {work['relation']} {work['node']} [{work['evidence']}] {work['key']}: "
                f"{work['title']} ({work['year'] or 'no year'})"
            )
        yield "Measured; a verdict holds for its model, precision, prompts, facts and recipe alone:"
        for row in self.verdicts:
            yield f"  {_say(row)}"
        if not self.verdicts:
            yield "  nothing yet"
        for prediction in self.open:
            if prediction.not_testable:
                yield f"  not testable here, {prediction.id}: {prediction.not_testable}"
            else:
                yield (
                    f"  not judged, {prediction.id}: {prediction.statement} "
                    f"({prediction.measure}; at least {prediction.minimum_n} {prediction.n_unit})"
                )

    def _repr_html_(self) -> str:
        lines = list(self._lines())
        rest = "".join(f"<div>{escape(line.strip())}</div>" for line in lines[1:])
        return f"<div><b>{escape(lines[0])}</b>{rest}</div>"


def _read(content: str) -> Prediction:
    import json

    return Prediction.from_dict(json.loads(content))


def _say(row: Mapping[str, Any]) -> str:
    """One verdict with its figures."""
    text = f"{row['word']}, {row['prediction']} in {row['model']} {row['precision']}:"
    if row["estimate"] is not None:
        text += f" {row['estimate']:.3g} {row['unit']}".rstrip()
    if row["low"] is not None and row["high"] is not None:
        text += f" [{row['low']:.3g}, {row['high']:.3g}]"
    how = "" if row["basis"] == "before" else ", prediction fixed by km's release"
    return f"{text}, n = {row['n']} {row['n_unit']} (run {row['run']}{how})"
