"""Draw docs/pictures/schema.svg from the schema of a fresh knowledge base.

    python tools/schema_diagram.py [OUT.svg]

All migrations of kb/schema run in an empty database, and tables, columns and references are what
SQLite says of it then. km must be installed, for the drawing.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

from km._kmviz import Graph

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures" / "schema.svg"
GROUPS = {
    "pale-green": ("taxonomy and literature", "nodes works edges seed_places taxonomy_conflicts"),
    "pale-blue": (
        "models and measurements",
        "models lineage facts texts runs chunks run_chunks measurements conflicts",
    ),
    "pale-orange": (
        "evidence and verdicts",
        "measures measure_nodes evidence predictions prediction_nodes rivals units freezings"
        " verdicts",
    ),
}


class Table(NamedTuple):
    """A table: (column, its place in the key or 0) and (columns, table referred to)."""

    name: str
    columns: tuple[tuple[str, int], ...]
    references: tuple[tuple[str, str], ...]


def fresh() -> sqlite3.Connection:
    """An empty database to which all migrations were applied."""
    db = sqlite3.connect(":memory:")
    for path in sorted((ROOT / "kb" / "schema").glob("*.sql")):
        db.executescript(path.read_text(encoding="utf-8"))
    return db


def schema(db: sqlite3.Connection) -> list[Table]:
    """The tables of a knowledge base, those of the full-text index apart."""
    names = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    return [
        table(db, name)
        for (name,) in names.fetchall()
        if not re.match(r"sqlite_|search_index", name)
    ]


def table(db: sqlite3.Connection, name: str) -> Table:
    """One table as SQLite describes it."""
    columns = [(row[1], row[5]) for row in db.execute(f"PRAGMA table_info({name})")]
    parts: dict[int, tuple[str, list[str]]] = {}
    for row in db.execute(f"PRAGMA foreign_key_list({name})"):
        parts.setdefault(row[0], (row[2], []))[1].append(row[3])
    references = sorted((", ".join(sorted(of)), to) for to, of in parts.values())
    return Table(name, tuple(columns), tuple(references))


def caption(one: Table) -> str:
    """What stands in a table's box: its name, then its columns, those of the key marked."""
    lines = [name + (" *" if key else "") for name, key in one.columns]
    return "\n".join([one.name.upper(), *lines])


def arrows(tables: list[Table]) -> list[tuple[str, str, str]]:
    """From table, to table, and the columns that refer, of every reference."""
    return [(one.name, to, columns) for one in tables for columns, to in one.references]


def draw(tables: list[Table]) -> bytes:
    """The picture as SVG."""
    paint = {name: fill for fill, (_, names) in GROUPS.items() for name in names.split()}
    graph = Graph(
        "right",
        title="Tables of a knowledge base",
        subtitle=f"{len(tables)} tables; an arrow leads to the table a column refers to",
        description="; ".join(f"{a} refers to {b} by {c}" for a, b, c in arrows(tables)),
        footnote="* part of the key. Without the tables of the full-text index.",
    )
    numbers = {
        one.name: graph.add_node(
            caption(one),
            title=one.name,
            shape="box",
            align="left",
            fill=paint.get(one.name, "faint"),
            size=9.0,
        )
        for one in tables
    }
    for source, target, columns in arrows(tables):
        title = f"{source}.{columns} refers to {target}"
        graph.add_edge(numbers[source], numbers[target], title=title, arrow=True)
    for fill, (label, _) in GROUPS.items():
        graph.add_legend(label, shape="box", fill=fill)
    graph.add_legend("about the file, search", shape="box", fill="faint")
    return graph.render("svg")


def main() -> None:
    """Write the picture to the first argument, or into docs/pictures."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_bytes(draw(schema(fresh())))


if __name__ == "__main__":
    main()
