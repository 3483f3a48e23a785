"""Metadata for Datasette: what the tables hold, and km's named questions as canned queries."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

TABLES = {
    "nodes": "The taxonomy of knowledge mechanisms. Everything below a node is a range of "
    "tree_enter.",
    "works": "Publications. They are listed and never summed into a score.",
    "edges": "What a work does with a node, and how we know that it does.",
    "measures": "Measures that km has or plans, and the user's own.",
    "measure_nodes": "The nodes a measure may bear on.",
    "models": "Models by fingerprint.",
    "lineage": "Which model came from which.",
    "facts": "Facts asked, with their accepted answers.",
    "texts": "Texts measured.",
    "runs": "One execution of a measure.",
    "chunks": "Tables of measurements with their content keys.",
    "measurements": "One row of a chunk, as a JSON object.",
    "conflicts": "Chunks measured again with other values.",
    "taxonomy_conflicts": "Where the taxonomy here says something else than km's or a file's.",
    "evidence": "One statistic of a run about a node.",
    "latest_evidence": "The newest evidence of each node, measure, statistic and model.",
    "predictions": "What is said to be found, before it is looked at.",
    "freezings": "When a prediction was fixed for a unit.",
    "verdicts": "What a run says of a prediction in a unit.",
    "ledger": "Every verdict with what it is about. Not to be counted up.",
}

_PARAMETER = re.compile(r"('(?:[^']|'')*')|(--[^\n]*)|:([a-z_]+)")


def datasette_metadata(kb: KnowledgeBase) -> dict[str, Any]:
    """Metadata of one knowledge base, as Datasette reads it from ``metadata.json``.

    Parameters
    ----------
    kb : KnowledgeBase

    Returns
    -------
    dict
        Descriptions of the tables, and each question of :meth:`KnowledgeBase.questions` as a canned
        query. A parameter that is left empty has the question's default.
    """
    present = set(kb.sql("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")["name"])
    about = kb.info()
    return {
        "title": "Knowledge base of km",
        "description": f"Taxonomy version {about['taxonomy_version']}, {about['models']} models, "
        f"{about['runs']} runs, {about['measurements']} measured rows.",
        "databases": {
            Path(kb.path).stem: {
                "tables": {
                    name: {"description": text} for name, text in TABLES.items() if name in present
                },
                "queries": {row["name"]: _query(row) for row in kb.questions().rows()},
            }
        },
    }


def _query(question: dict[str, Any]) -> dict[str, Any]:
    """A question as a canned query."""
    parameters = dict(_parameter(word) for word in question["parameters"].split())

    def filled(match: re.Match[str]) -> str:
        name = match[3]
        if name is None or parameters.get(name, "") == "":
            return f"nullif(:{name}, '')" if name else match[0]
        default = parameters[name].replace("'", "''")
        return f"coalesce(nullif(:{name}, ''), '{default}')"

    return {
        "title": question["title"],
        "description": question["description"],
        "sql": _PARAMETER.sub(filled, question["sql"]),
        "params": list(parameters),
    }


def _parameter(word: str) -> tuple[str, str]:
    name, _, default = word.partition("=")
    return name, default


def write_metadata(kb: KnowledgeBase, path: str | os.PathLike[str]) -> None:
    """Write :func:`datasette_metadata` as JSON."""
    text = json.dumps(datasette_metadata(kb), indent=2, ensure_ascii=False) + "\n"
    Path(path).write_text(text, encoding="utf-8")
