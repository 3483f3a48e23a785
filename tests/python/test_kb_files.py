"""Whole knowledge bases: merging, copying one in use, exporting, checking."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from test_kb import EVIDENCE, PROVENANCE, run_command, small_table, toy_result

import km
from km import ledger
from km.result import Result


def other_result(name: str = "other", shift: float = 1.0) -> Result:
    """A result of another model."""
    model = dict(PROVENANCE["model"]) | {"name": name, "fingerprint": "e" * 64}
    result = Result(small_table(shift), PROVENANCE | {"model": model, "seed": 4})
    result.evidence = EVIDENCE  # type: ignore[attr-defined]
    return result


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two bases: one run in both, one run, facts and lineage in the second alone."""
    a, b = tmp_path / "a.db", tmp_path / "b.db"
    with km.KnowledgeBase(a) as kb:
        kb.record(toy_result())
    with km.KnowledgeBase(b) as kb:
        kb.record(other_result())
        kb.record(toy_result())
        kb.add_facts(km.datasets.facts("country_capital_city"))
        kb.add_lineage("e" * 64, "f" * 64, "trained", step=3)
    return a, b


def counts(kb: km.KnowledgeBase) -> dict[str, str]:
    """What a base holds, but for its size."""
    return {k: v for k, v in kb.info().items() if k not in ("bytes", "path", "created")}


def test_merging_makes_the_union_and_again_nothing(two: tuple[Path, Path]) -> None:
    a, b = two
    with km.KnowledgeBase(a) as kb, km.KnowledgeBase(b, read_only=True) as other:
        seen: list[tuple[int, int]] = []
        happened = kb.merge(b, progress=lambda done, total, info: seen.append((done, total)))
        added = {row["what"]: row["n"] for row in happened.rows() if row["outcome"] == "added"}
        assert (added["runs"], added["models"], added["lineage"], added["chunks"]) == (1, 1, 1, 1)
        assert all(row["outcome"] == "added" for row in happened.rows())
        assert counts(kb) == counts(other)
        assert kb.ask("lineage", model="other")["parent"] == ["toy"]
        assert kb.search("Paris", kind="fact")["title"][0] == "France"
        assert len(kb.merge(b)) == 0
        assert len(kb.check(full=True)) == 0
        assert len(kb.ask("evidence-on-node", node="memorization")) == 2


def test_merging_brings_verdicts_and_what_they_rest_on(tmp_path: Path) -> None:
    a, b = tmp_path / "a.db", tmp_path / "b.db"
    (p, *_) = [p for p in ledger.predictions() if p.measure == "memorization.recall"]
    unit = ledger.Unit.of(PROVENANCE["model"], prompts=["p"], facts=["f"], recipe={})
    with km.KnowledgeBase(b) as kb:
        ledger.freeze(kb, [p], unit)
        run = kb.begin_run(PROVENANCE)
        kb.store_chunk(run, "k", small_table())
        verdict = ledger.judge(
            kb, run, p, unit, estimate=0.5, low=0.4, high=0.6, n=10_000, rows="k"
        )
        kb.finish_run(run)
        rows = list(kb.ask("verdicts").rows())
    with km.KnowledgeBase(a) as kb:
        kb.record(other_result())
        kb.merge(b)
        (row,) = [r for r in kb.ask("verdicts").rows() if r["unit_digest"] == unit.digest]
        mine = {r["prediction_digest"]: r for r in rows if r["unit_digest"] == unit.digest}
        for name in ("prediction", "word", "estimate", "low", "high", "n", "frozen", "judged"):
            assert row[name] == mine[row["prediction_digest"]][name]
        assert row["word"] == verdict.word
        assert kb.load_chunk(row["rows"]) is not None
        assert len(kb.merge(b)) == 0


def test_differences_are_shown_and_ours_stay(two: tuple[Path, Path]) -> None:
    a, b = two
    with km.KnowledgeBase(a) as kb:
        kb.store_chunk(kb.begin_run(PROVENANCE), "same key", small_table())
    with km.KnowledgeBase(b) as kb:
        kb.store_chunk(kb.begin_run(PROVENANCE), "same key", small_table(0.25))
    with sqlite3.connect(b) as db:
        db.execute("UPDATE models SET precision = 'Q4' WHERE name = 'toy'")
    db.close()
    with km.KnowledgeBase(a) as kb:
        for _ in range(2):
            happened = kb.merge(b)
            differing = {row["what"]: row for row in happened.rows() if row["outcome"] == "differs"}
            assert set(differing) == {"models", "chunks"}
            assert json.loads(differing["models"]["ours"])[2] == "F32"
            assert json.loads(differing["models"]["theirs"])[2] == "Q4"
            assert differing["chunks"]["key"] == "same key"
        assert kb.ask("conflicts")["max_difference"] == [0.25]
        chunk = kb.load_chunk("same key")
        assert chunk is not None
        assert chunk["logp"][0] == -1.5


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE measurements SET data = replace(data, '-0.5', '-0.6')",
        "UPDATE runs SET parameters = '{x}'",
        "DROP TABLE facts; CREATE TABLE facts (id, relation, subject, answers, source, licence)",
    ],
)
def test_harmed_files_change_nothing(two: tuple[Path, Path], harm: str) -> None:
    a, b = two
    with sqlite3.connect(b) as db:
        db.executescript(harm)
    db.close()
    with km.KnowledgeBase(a) as kb:
        before = counts(kb)
        with pytest.raises(km.FormatError):
            kb.merge(b)
        assert counts(kb) == before


def test_merging_can_be_stopped(two: tuple[Path, Path]) -> None:
    a, b = two

    def stop(done: int, total: int, info: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with km.KnowledgeBase(b) as kb:
        run = kb.begin_run(PROVENANCE)
        with kb.transaction():
            for i in range(3000):
                kb.store_chunk(run, f"chunk {i}", small_table())
    with km.KnowledgeBase(a) as kb:
        before = counts(kb)
        with pytest.raises(KeyboardInterrupt):
            kb.merge(b, progress=stop)
        assert counts(kb) == before
        kb.merge(b)
        assert int(kb.info()["chunks"]) == 3002


def test_a_snapshot_of_a_base_in_use(tmp_path: Path) -> None:
    """Another connection writes all the while; the copy is one moment of it."""
    path, copy = tmp_path / "study.db", tmp_path / "copy.db"
    with km.KnowledgeBase(path) as kb:
        kb.record(toy_result())
    stop = threading.Event()

    def write() -> None:
        with km.KnowledgeBase(path) as other:
            run = other.begin_run(PROVENANCE)
            for i in range(100_000):
                if stop.is_set():
                    break
                other.store_chunk(run, f"chunk {i}", small_table())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with km.KnowledgeBase(path, read_only=True) as kb:
            for _ in range(5):
                kb.snapshot(copy, overwrite=True)
                with km.KnowledgeBase(copy, read_only=True) as copied:
                    assert len(copied.check(full=True)) == 0
    finally:
        stop.set()
        writer.join()
    with km.KnowledgeBase(path) as kb:
        with pytest.raises(km.ArgumentError, match="is there already"):
            kb.snapshot(copy)
        with pytest.raises(km.ArgumentError, match="a file of its own"):
            kb.snapshot(path, overwrite=True)
    assert not list(tmp_path.glob("copy.db.*"))  # no unfinished copy is left


def test_a_snapshot_is_as_it_was(two: tuple[Path, Path], tmp_path: Path) -> None:
    _, b = two
    with km.KnowledgeBase(b) as kb:
        kb.snapshot(tmp_path / "copy.db")
        with km.KnowledgeBase(tmp_path / "copy.db") as copied:
            assert counts(copied) == counts(kb)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("format", ["json", "parquet"])
def test_export_holds_every_row(two: tuple[Path, Path], tmp_path: Path, format: Any) -> None:
    _, b = two
    out = tmp_path / "out"
    with km.KnowledgeBase(b, read_only=True) as kb:
        rows = kb.export(out, format)
        schema = json.loads((out / "schema.json").read_text(encoding="utf-8"))
        tables = kb.sql(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'search_%'"
            " AND name NOT LIKE 'sqlite_%'"
        )
        assert set(rows) == set(tables["name"]) == set(schema["tables"])
        for name, about in schema["tables"].items():
            assert rows[name] == kb.sql(f"SELECT count(*) AS n FROM {name}")["n"][0]
            assert about["rows"] == rows[name]
            if format == "json":
                read = read_jsonl(out / about["file"])
            else:
                import pyarrow.parquet as pq

                read = pq.read_table(out / about["file"]).to_pylist()
            assert len(read) == rows[name]
    assert schema["tables"]["runs"]["references"][0]["table"] in ("models", "measures")
    if format == "json":
        measured = read_jsonl(out / "measurements.jsonl")
        assert measured[0] == {
            "chunk": 1,
            "row": 0,
            "data": {
                "relation": "capital",
                "fact": "1",
                "correct": True,
                "commonest_correct": False,
                "logp": -0.5,
            },
        }
        assert read_jsonl(out / "facts.jsonl")[0]["answers"]
    with (
        km.KnowledgeBase(b, read_only=True) as kb,
        pytest.raises(km.ArgumentError, match="is there already"),
    ):
        kb.export(out)


def test_export_pages_through_long_tables(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, b = two
    with km.KnowledgeBase(b, read_only=True) as kb:
        kb.export(tmp_path / "whole")
        monkeypatch.setattr("km.kb_export._PAGE", 2)
        kb.export(tmp_path / "pages")
    for file in sorted((tmp_path / "whole").glob("*.jsonl")):
        assert (tmp_path / "pages" / file.name).read_bytes() == file.read_bytes()


def test_commands(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two
    assert run_command("merge", str(b), "--kb", str(a)) == 0
    assert "runs: 1 added" in capsys.readouterr().out
    assert run_command("merge", str(b), "--kb", str(a)) == 0
    assert "nothing new" in capsys.readouterr().out
    assert run_command("snapshot", str(tmp_path / "c.db"), "--kb", str(a), "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == (tmp_path / "c.db").stat().st_size
    assert run_command("export", "--kb", str(a), "--out", str(tmp_path / "out")) == 0
    assert "24 tables" in capsys.readouterr().out
    assert run_command("check", "--kb", str(a)) == 0
    assert "sound" in capsys.readouterr().out
    with sqlite3.connect(a) as db:
        db.execute("UPDATE measurements SET data = '{}' WHERE row = 0")
    db.close()
    assert run_command("check", "--quick", "--kb", str(a)) == 0
    assert run_command("check", "--kb", str(a)) == 1
    assert "chunk" in capsys.readouterr().out
    with pytest.raises(km.NotFoundError):
        run_command("merge", str(b), "--kb", str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
