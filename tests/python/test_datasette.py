"""Metadata for Datasette: every question is a canned query that gives what km gives."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from report_world import build

import km
from km import cli

pytestmark = pytest.mark.skipif(
    sqlite3.sqlite_version_info < (3, 38), reason="this Python's SQLite has no ->> operator"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasette") / "study.db"
    build(path, n_rows=20)
    return path


@pytest.fixture(scope="module")
def metadata(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("metadata") / "metadata.json"
    assert cli.main(["kb", "datasette", "--kb", str(study), "-o", str(out)]) == 0
    found: dict[str, object] = json.loads(out.read_text("utf-8"))
    return found["databases"]["study"]  # type: ignore[index,no-any-return]


def questions() -> list[dict[str, str]]:
    return list(km.KnowledgeBase.questions().rows())


@pytest.mark.parametrize("question", questions(), ids=lambda row: str(row["name"]))
def test_canned_queries(study: Path, metadata: dict[str, dict], question: dict[str, str]) -> None:
    """Parameters left empty, as Datasette sends them, have the question's defaults."""
    query = metadata["queries"][question["name"]]
    assert query["title"] == question["title"]
    words = question["parameters"].split()
    given = {word: "memorization" for word in words if "=" not in word}
    with km.KnowledgeBase(study, read_only=True) as kb:
        wanted = [list(row.values()) for row in kb.ask(question["name"], **given).rows()]
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as connection:
        values = {name: given.get(name, "") for name in query["params"]}
        found = [list(row) for row in connection.execute(query["sql"], values)]
    connection.close()
    assert found == wanted
    assert set(query["params"]) == {word.split("=")[0] for word in words}


def test_a_number_as_text(study: Path, metadata: dict[str, dict]) -> None:
    """Datasette's parameters are texts, also where a run is meant."""
    assert "nullif(:run, '')" in metadata["queries"]["recall"]["sql"]
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as connection:
        sql = metadata["queries"]["verdicts"]["sql"]
        rows = connection.execute(sql, {"node": "memorization"}).fetchall()
    connection.close()
    assert len(rows) == 5


def test_tables_are_described(study: Path, metadata: dict[str, dict]) -> None:
    with km.KnowledgeBase(study, read_only=True) as kb:
        tables = set(kb.sql("SELECT name FROM sqlite_schema WHERE type = 'table'")["name"])
        views = set(kb.sql("SELECT name FROM sqlite_schema WHERE type = 'view'")["name"])
    assert set(metadata["tables"]) <= tables | views
    assert {"nodes", "works", "runs", "ledger", "verdicts"} <= set(metadata["tables"])
