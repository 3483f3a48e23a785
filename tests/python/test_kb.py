"""The knowledge base: recording, asking, searching, reading only, several writers, the command."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import km
from km import cli_kb
from km.kb import taxonomy_text
from km.result import Result
from km.table import Table

GOLDEN_DATA = Path(__file__).parents[1] / "golden_data"
TINY = GOLDEN_DATA / "tiny_llama"
PROVENANCE = {
    "measure": "memorization.recall",
    "version": 1,
    "parameters": {"k": 1, "templates": None},
    "seed": 3,
    "model": {
        "name": "toy",
        "path": "toy.gguf",
        "fingerprint": "f" * 64,
        "tokenizer_hash": "0" * 64,
        "precision": "F32",
        "architecture": "llama",
        "n_parameters": 12,
    },
    "km_version": "0.1.0",
    "cpu": "v3",
    "blas_core": "Zen",
    "time": "2024-01-01T00:00:00+00:00",
    "command": "km measure",
}
EVIDENCE = [
    {
        "node": "memorization",
        "measure": "memorization.recall",
        "statistic": "recall_micro",
        "value": 0.25,
        "low": 0.1,
        "high": 0.4,
        "n": 40,
        "unit": "share",
        "baseline": 0.2,
        "note": "",
    },
    {
        "node": "logit-lens",
        "measure": "memorization.lens",
        "statistic": "median_lead_layer",
        "value": math.nan,
    },
]


def small_table(shift: float = 0.0) -> Table:
    """Three rows as a recall run makes them."""
    return Table(
        [
            ("relation", "text"),
            ("fact", "text"),
            ("correct", "bool"),
            ("commonest_correct", "bool"),
            ("logp", "double", "nats", "Log-probability."),
        ],
        [
            ["capital", "capital", "currency"],
            ["1", "2", "1"],
            [True, False, None],
            [False, False, True],
            [-1.5 + shift, math.nan, None],
        ],
    )


def toy_result(shift: float = 0.0) -> Result:
    """A result with evidence, as a measure returns it."""
    result = Result(small_table(shift), PROVENANCE)
    result.evidence = EVIDENCE  # type: ignore[attr-defined]
    return result


@pytest.fixture
def kb(tmp_path: Path) -> km.KnowledgeBase:
    """An empty knowledge base with the package's taxonomy."""
    with km.KnowledgeBase(tmp_path / "study.db") as base:
        yield base


# ---- the taxonomy's own rules ----


def test_taxonomy_keeps_its_contract() -> None:
    taxonomy = json.loads(taxonomy_text())
    ids = [node["id"] for node in taxonomy["nodes"]]
    works = {work["key"] for work in taxonomy["works"]}
    assert len(set(ids)) == len(ids)
    assert len(works) == len(taxonomy["works"])
    for i, node in enumerate(taxonomy["nodes"]):
        assert (node["parent"] is None) == (i == 0)
        assert node["parent"] is None or node["parent"] in ids[:i]
        assert node["kind"] in taxonomy["kinds"]
        assert node["evidence"] in {"paper", "seed", "known", "guess"}
    for work in taxonomy["works"]:
        assert work["arxiv"] is None or re.fullmatch(r"\d{4}\.\d{4,5}", work["arxiv"])
    pairs = set()
    for edge in taxonomy["edges"]:
        assert edge["work"] in works
        assert edge["node"] in ids
        assert edge["relation"] in taxonomy["relations"]
        assert edge["evidence"] in {"paper", "seed", "known", "guess"}
        pairs.add((edge["work"], edge["node"], edge["relation"]))
    assert len(pairs) == len(taxonomy["edges"])
    assert len(taxonomy["seed_places"]) == 17
    for key, nodes in taxonomy["seed_places"].items():
        assert key in works
        assert set(nodes) <= set(ids)
    for measure in taxonomy["measurements"]:
        assert set(measure["nodes"]) <= set(ids)
        assert measure["status"] in {"available", "planned"}


def test_recall_bears_on_no_mechanism_hypothesis() -> None:
    """Recall and logit lens may not move the modularity or the connection hypothesis."""
    taxonomy = json.loads(taxonomy_text())
    parents = {node["id"]: node["parent"] for node in taxonomy["nodes"]}
    measures = [m for m in taxonomy["measurements"] if m["module"] == "memorization"]
    assert {m["id"] for m in measures} >= {
        "memorization.recall",
        "memorization.lens",
        "memorization.verbatim",
        "memorization.exposure",
    }
    for measure in measures:
        for node in measure["nodes"]:
            above: str | None = node
            while above is not None:
                assert above not in {"hyp-modular-region", "hyp-connection", "hyp-reuse"}
                above = parents[above]


def test_whole_taxonomy_is_stored(kb: km.KnowledgeBase) -> None:
    taxonomy = json.loads(taxonomy_text())
    counts = kb.info()
    assert int(counts["nodes"]) == len(taxonomy["nodes"]) == len(kb.taxonomy)
    assert int(counts["works"]) == len(taxonomy["works"])
    assert int(counts["edges"]) == len(taxonomy["edges"])
    for stored, node in zip(
        sorted(kb.taxonomy.nodes, key=lambda n: n["id"]),
        sorted(taxonomy["nodes"], key=lambda n: n["id"]),
        strict=True,
    ):
        assert {k: stored[k] for k in node} == node
    below = kb.sql(
        "SELECT d.id FROM nodes AS n JOIN nodes AS d"
        " ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave WHERE n.id = ?",
        ["fragility"],
    )["id"]
    parents = {node["id"]: node["parent"] for node in taxonomy["nodes"]}

    def under(id: str | None) -> bool:
        return id is not None and (id == "fragility" or under(parents[id]))

    assert sorted(below) == sorted(id for id in parents if under(id))


# ---- recording ----


def test_record_is_idempotent(kb: km.KnowledgeBase) -> None:
    run = kb.record(toy_result())
    before = kb.info()
    assert kb.record(toy_result()) == run
    after = kb.info()
    assert {k: v for k, v in before.items() if k != "bytes"} == {
        k: v for k, v in after.items() if k != "bytes"
    }
    assert (after["runs"], after["models"], after["evidence"]) == ("1", "1", "2")
    assert kb.record(toy_result(0.5)) == run + 1
    row = next(kb.runs().rows(1))
    assert (row["status"], row["model"], row["rows"], row["evidence"]) == ("done", "toy", 3, 2)
    assert kb.ask("recall", relation="capital")["fact"] == ["1", "2"]
    shares = {row["relation"]: row for row in kb.ask("recall-by-relation", run=run).rows()}
    assert shares["capital"]["recall"] == 0.5
    assert shares["currency"]["recall"] is None


def test_recall_questions_leave_the_random_control_out(kb: km.KnowledgeBase) -> None:
    relations = [{"name": "capital", "chunk": "real", "control": "random"}]
    provenance = PROVENANCE | {"parameters": {"relations": relations}}
    result = Result(small_table(), provenance)
    control = Table(
        [("relation", "text"), ("fact", "text"), ("correct", "bool")],
        [["capital"] * 3, ["1", "2", "3"], [False, False, True]],
    )
    result.chunks = [("real", small_table()), ("random", control)]  # type: ignore[attr-defined]
    kb.record(result)
    row = next(kb.ask("recall-by-relation").rows())
    assert (row["relation"], row["rows"], row["recall"]) == ("capital", 2, 0.5)
    assert row["random_init"] == pytest.approx(1 / 3)
    assert kb.ask("recall")["fact"] == ["1", "2", "1"]


def test_record_is_all_or_nothing(kb: km.KnowledgeBase) -> None:
    result = toy_result()
    result.evidence = [EVIDENCE[0] | {"node": "hyp-modular-region"}]  # type: ignore[attr-defined]
    with pytest.raises(km.ArgumentError, match="not declared to bear on"):
        kb.record(result)
    counts = kb.info()
    assert (counts["runs"], counts["models"], counts["chunks"]) == ("0", "0", "0")


def test_record_takes_up_the_run_of_the_measurement(kb: km.KnowledgeBase) -> None:
    run = kb.begin_run(PROVENANCE)
    kb.store_chunk(run, "part-1", small_table())
    result = Result(Table.concat([small_table(), small_table(1.0)]), PROVENANCE)
    result.chunks = [  # type: ignore[attr-defined]
        ("part-1", small_table()),
        ("part-2", small_table(1.0)),
    ]
    result.run = run  # type: ignore[attr-defined]
    assert kb.record(result) == run
    assert kb.record(result) == run
    assert kb.runs()["chunks"] == [2]
    assert kb.info()["chunks"] == "2"
    other = toy_result(2.0)  # says it belongs to that run, which has its result already
    other.run = run  # type: ignore[attr-defined]
    assert kb.record(other) == run + 1


def test_facts_are_recorded_and_found(kb: km.KnowledgeBase) -> None:
    facts = km.datasets.facts("country_capital_city")
    n = kb.add_facts(facts)
    assert n == sum(len(relation) for relation in facts)
    assert kb.add_facts(facts) == 0
    found = kb.search("Paris", kind="fact")
    assert "France" in found["title"]


def test_conflicts_are_reported_and_the_first_values_kept(kb: km.KnowledgeBase) -> None:
    run = kb.begin_run(PROVENANCE)
    assert kb.store_chunk(run, "k", small_table()) == "stored"
    assert kb.store_chunk(run, "k", small_table()) == "same"
    with pytest.warns(km.ConflictWarning, match="other values"):
        assert kb.store_chunk(run, "k", small_table(0.25)) == "differs"
    assert kb.load_chunk("k")["logp"][0] == -1.5
    assert kb.ask("conflicts")["max_difference"] == [0.25]


def test_transactions(kb: km.KnowledgeBase) -> None:
    def fail_halfway() -> None:
        with kb.transaction():
            kb.begin_run(PROVENANCE)
            kb.ask("no-such-question")

    with pytest.raises(km.NotFoundError):
        fail_halfway()
    assert len(kb.runs()) == 0
    with kb.transaction(), kb.transaction():
        kb.begin_run(PROVENANCE)
    assert len(kb.runs()) == 1


def test_own_measure(kb: km.KnowledgeBase) -> None:
    kb.add_measure("mine.score", ["hyp-modular-region"])
    result = Result(small_table(), PROVENANCE | {"measure": "mine.score"})
    result.evidence = [  # type: ignore[attr-defined]
        {"node": "hyp-modular-region", "measure": "mine.score", "statistic": "s", "value": 1}
    ]
    kb.record(result)
    assert kb.taxonomy["hyp-modular-region"]["measured"][0]["value"] == 1
    with pytest.raises(km.ArgumentError, match="no node"):
        kb.add_measure("mine.other", ["nowhere"])


def a_model(name: str, digit: str) -> dict[str, Any]:
    """A model as Model.describe() gives it."""
    return dict(PROVENANCE["model"]) | {"name": name, "fingerprint": digit * 64}


def test_lineage(kb: km.KnowledgeBase) -> None:
    base, tuned, pruned = a_model("base", "a"), a_model("tuned", "b"), a_model("pruned", "c")
    run = kb.begin_run(PROVENANCE)
    assert kb.add_lineage(tuned, base, "trained", run=run, step=20, recipe={"lr": 5e-5})
    assert not kb.add_lineage(tuned, base, "trained", step=3)
    assert kb.add_lineage(pruned, tuned["fingerprint"], "pruned")
    rows = list(kb.ask("lineage", model="tuned").rows())
    assert [(r["generation"], r["child"], r["parent"], r["kind"]) for r in rows] == [
        (-1, "tuned", "base", "trained"),
        (1, "pruned", "tuned", "pruned"),
    ]
    assert (rows[0]["run"], rows[0]["step"], rows[0]["seed"]) == (run, 20, 3)
    assert json.loads(rows[0]["recipe"]) == {"lr": 5e-5}
    assert len(kb.ask("lineage", model="a" * 8)) == 2
    assert len(kb.ask("lineage")) == 2
    assert kb.info()["lineage"] == "2"
    with pytest.raises(km.ArgumentError, match="comes from it"):
        kb.add_lineage(base, pruned, "merged")
    with pytest.raises(km.ArgumentError, match="kind"):
        kb.add_lineage(pruned, base, "guessed")  # type: ignore[arg-type]
    with pytest.raises(km.NotFoundError, match="record the model first"):
        kb.add_lineage("d" * 64, base, "edited")
    with pytest.raises(km.NotFoundError, match="no run 77"):
        kb.add_lineage(a_model("new", "e"), base, "edited", run=77)
    assert kb.info()["models"] == "4"  # a refused call records no model either


def test_lineage_takes_models(kb: km.KnowledgeBase) -> None:
    model = km.load(TINY)
    child = model.describe() | {"fingerprint": "e" * 64}
    assert kb.add_lineage(child, model, "edited")
    assert kb.ask("lineage")["parent_fingerprint"] == [model.fingerprint]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_files_of_older_versions_are_brought_up_to_date(
    version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.db"
    path.write_bytes((GOLDEN_DATA / f"kb_v{version}.db").read_bytes())
    before = path.read_bytes()
    with pytest.raises(km.UnsupportedError, match="km kb upgrade"):
        km.KnowledgeBase(path, read_only=True)
    assert path.read_bytes() == before
    assert run_command("upgrade", "--kb", str(path)) == 0
    assert "schema version 5" in capsys.readouterr().out
    with km.KnowledgeBase(path, read_only=True) as kb:
        assert len(kb.runs()) == 1
        assert len(kb.ask("lineage")) == min(version - 1, 1)
        assert len(kb.ask("verdicts")) == 0
        assert len(kb.check(full=True)) == 0
    with pytest.raises(km.NotFoundError, match="no such file"):
        run_command("upgrade", "--kb", str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


CELLS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=True),
    "bool": st.booleans(),
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of any types, names, units, values and nulls."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
    names = draw(st.lists(text.filter(bool), min_size=1, max_size=5, unique=True))
    n = draw(st.integers(0, 6))
    columns, data = [], []
    for name in names:
        kind = draw(st.sampled_from(sorted(CELLS)))
        columns.append((name, kind, draw(text), draw(text)))
        data.append(draw(st.lists(st.none() | CELLS[kind], min_size=n, max_size=n)))
    return Table(columns, data)


def cells(table: Table) -> list[list[Any]]:
    """All cells, with floats as their bits so that NaN and -0.0 compare."""
    return [
        [cell.hex() if isinstance(cell, float) else cell for cell in table._table.cells(i)]
        for i in range(len(table.names))
    ]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=tables())
def test_tables_come_back_identical(kb: km.KnowledgeBase, table: Table) -> None:
    run = kb.begin_run(PROVENANCE)
    key = f"key-{run}"
    assert kb.store_chunk(run, key, table) == "stored"
    back = kb.load_chunk(key)
    assert back is not None
    assert back._table.specs == table._table.specs
    assert len(back) == len(table)
    assert cells(back) == cells(table)
    assert kb.store_chunk(run, key, back) == "same"


# ---- asking ----


def test_every_question_answers(kb: km.KnowledgeBase) -> None:
    kb.record(toy_result())
    questions = list(kb.questions().rows())
    assert len(questions) >= 22
    for question in questions:
        assert question["title"].endswith("?")
        required = [p for p in question["parameters"].split() if "=" not in p]
        answer = kb.ask(question["name"], **dict.fromkeys(required, "huang2023hallucination"))
        assert answer.names


def test_answers_agree_with_the_taxonomy_file(kb: km.KnowledgeBase) -> None:
    taxonomy = json.loads(taxonomy_text())
    kinds = {node["id"]: node["kind"] for node in taxonomy["nodes"]}
    edges = taxonomy["edges"]
    against = [e for e in edges if e["relation"] == "contradicts"]
    assert len(kb.ask("contradictions")) == len(against)
    answer = kb.ask("contradicted-hypotheses")
    assert sorted(zip(answer["node"], answer["work"], strict=True)) == sorted(
        (e["node"], e["work"]) for e in against if kinds[e["node"]] == "hypothesis"
    )
    named = {edge["node"] for edge in edges}
    assert sorted(kb.ask("nodes-without-works")["node"]) == sorted(set(kinds) - named)
    assert len(kb.ask("guesses")) == sum(edge["evidence"] == "guess" for edge in edges)
    assert len(kb.ask("works-without-identifier")) == sum(
        work["arxiv"] is None for work in taxonomy["works"]
    )
    assert set(kb.ask("disagreeing-seeds")["contradicting"]) <= set(taxonomy["seed_places"])
    assert kb.ask("path-to-node", node="logit-lens")["node"][:5] == [
        "root",
        "foundations",
        "analysis-methods",
        "observation-methods",
        "logit-lens",
    ]
    assert kb.ask("measures-of-node", node="hyp-extrapolation")["measure"] == []
    assert "memorization.recall" in kb.ask("measurable-nodes")["measure"]


def test_unknown_questions_and_parameters(kb: km.KnowledgeBase) -> None:
    with pytest.raises(km.NotFoundError, match="contradicted-hypotheses"):
        kb.ask("contradicted")
    with pytest.raises(km.ArgumentError, match="no parameter 'x'"):
        kb.ask("timeline", x=1)
    with pytest.raises(km.ArgumentError, match="'work' is missing"):
        kb.ask("nodes-not-surveyed")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM nodes",
        "UPDATE nodes SET name = 'x'",
        "INSERT INTO meta VALUES ('a', 'b')",
        "CREATE TABLE t (x)",
        "ATTACH 'other.db' AS other",
        "PRAGMA user_version = 9",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA foreign_keys = OFF",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "SELECT 1; DELETE FROM nodes",
        "SELECT load_extension('x')",
        "SELECT",
        "",
    ],
)
def test_query_refuses_to_change_anything(
    kb: km.KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(km.ArgumentError):
        kb.sql(sql)
    assert set(tmp_path.iterdir()) == before
    assert len(kb.taxonomy) == 128


def test_query_parameters_limits_and_time(kb: km.KnowledgeBase) -> None:
    sql = "SELECT :a AS a, :b AS b, :c AS c, :d AS d"
    row = next(kb.sql(sql, {"a": 1, "b": 2.5, "c": "知识", "d": None}).rows())
    assert row == {"a": 1, "b": 2.5, "c": "知识", "d": None}
    with pytest.raises(km.Error, match="more than 5 rows"):
        kb.sql("SELECT id FROM nodes", max_rows=5)
    endless = (
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    )
    with pytest.raises(km.CancelledError):
        kb.sql(endless, timeout=0.1)


def test_search(kb: km.KnowledgeBase) -> None:
    assert kb.search("modular region")["ref"][0] == "hyp-modular-region"
    assert len(kb.search("memorized", kind="node")) >= 1
    kb.add_texts([{"id": "t", "title": "知识编辑", "body": "大型语言模型如何存储和回忆事实知识。"}])
    for words in ("语言模型", "事实", "知识编辑", "忆", "存储 知识"):
        assert kb.search(words)["ref"] == ["t"], words
    assert kb.search("型语")["ref"] == ["t"]
    assert len(kb.search("模语")) == 0
    assert len(kb.search('"modular OR* NEAR( -x')) == 0
    with pytest.raises(km.ArgumentError, match="no word"):
        kb.search("--")
    with pytest.raises(km.ArgumentError):
        kb.search("x", kind="nothing")


def test_taxonomy_object_and_displays(kb: km.KnowledgeBase) -> None:
    kb.record(toy_result())
    taxonomy = kb.taxonomy
    assert {row["statistic"] for row in taxonomy.evidence} == {"recall_micro", "median_lead_layer"}
    node = taxonomy["memorization"]
    assert node["parent"] == "utilization"
    assert "hyp-connection" in node["children"]
    assert node["measured"][0]["model"] == "toy"
    with pytest.raises(km.NotFoundError):
        taxonomy["nothing"]
    assert "recall_micro 0.25" in repr(taxonomy)
    assert "1 runs" in repr(kb)
    assert "<table" in kb._repr_html_()
    assert "Memorization" in taxonomy._repr_html_()
    assert "<svg" in taxonomy.draw().svg


def test_names_are_escaped_in_html(kb: km.KnowledgeBase) -> None:
    model = PROVENANCE["model"] | {"name": "<script>x</script>"}
    kb.record(Result(small_table(), PROVENANCE | {"model": model}))
    assert "<script>" not in kb._repr_html_()


# ---- files and processes ----


def test_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with pytest.raises(km.NotFoundError):
        km.KnowledgeBase(path, read_only=True)
    with km.KnowledgeBase(path) as kb:
        kb.record(toy_result())
    with km.KnowledgeBase(path, read_only=True) as kb:
        assert kb.read_only
        assert len(kb.runs()) == 1
        with pytest.raises(OSError, match="reading only") as caught:
            kb.record(toy_result(1.0))
        assert caught.value.filename == path
    with pytest.raises(km.BusyError, match="closed"):
        kb.runs()
    assert "closed" in repr(kb)
    kb.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 50, b"SQLite format 3\0" + b"\1" * 900]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(km.FormatError, match=re.escape(str(path))):
        km.KnowledgeBase(path)
    assert path.read_bytes() == content


def test_foreign_and_newer_databases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(km.FormatError, match="another program"):
        km.KnowledgeBase(path)
    path = tmp_path / "newer.db"
    km.KnowledgeBase(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1000")
    db.close()
    with pytest.raises(km.UnsupportedError, match="update km"):
        km.KnowledgeBase(path)


def test_any_sqlite_tool_reads_it(kb: km.KnowledgeBase) -> None:
    kb.record(toy_result())
    kb.close()
    db = sqlite3.connect(kb.path)
    rows = db.execute("SELECT data ->> 'relation' FROM measurements ORDER BY row").fetchall()
    assert rows == [("capital",), ("capital",), ("currency",)]
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def test_check_finds_a_changed_row(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with km.KnowledgeBase(path) as kb:
        kb.store_chunk(kb.begin_run(PROVENANCE), "k", small_table())
        assert len(kb.check(full=True)) == 0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE measurements SET data = replace(data, '-1.5', '-1.0')")
    db.close()
    with km.KnowledgeBase(path) as kb:
        assert kb.check(full=True)["what"] == ["chunk"]
        with pytest.raises(km.FormatError, match="changed after"):
            kb.load_chunk("k")


def write_many(path: str, worker: int, n: int) -> None:
    """Store n chunks, one in ten of them under a key that the other writer uses too."""
    with km.KnowledgeBase(path) as kb:
        run = kb.begin_run(PROVENANCE | {"command": f"worker {worker}"})
        for i in range(n):
            key = f"shared-{i}" if i % 10 == 0 else f"own-{worker}-{i}"
            kb.store_chunk(run, key, small_table())
        kb.finish_run(run)


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    """Both also make the file and its taxonomy at the same moment."""
    path = tmp_path / "study.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(str(path), w, 200)) for w in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with km.KnowledgeBase(path) as kb:
        assert int(kb.info()["chunks"]) == 20 + 2 * 180
        assert kb.runs()["chunks"] == [200, 200]
        assert set(kb.runs()["status"]) == {"done"}
        assert len(kb.check(full=True)) == 0
        assert len(kb.ask("conflicts")) == 0


def test_a_second_thread_gets_busy_error(kb: km.KnowledgeBase) -> None:
    endless = (
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    )
    started = threading.Event()

    def work() -> None:
        started.set()
        with pytest.raises(km.CancelledError):
            kb.sql(endless, timeout=1.0)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    seen = 0
    while thread.is_alive():
        try:
            kb.info()
        except km.BusyError:
            seen += 1
    thread.join()
    assert seen > 0
    assert len(kb.runs()) == 0


# ---- the command ----


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser("km")
    cli_kb.add_commands(parser.add_subparsers())
    args = parser.parse_args(["kb", *words])
    return args.handler(args)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "study.db")
    with km.KnowledgeBase(path) as kb:
        kb.record(toy_result())
    assert run_command("info", "--kb", path, "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["runs"] == "1"
    assert run_command("search", "modular", "region", "--kb", path, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["ref"] == "hyp-modular-region"
    assert run_command("query", "SELECT ? + 1 AS x", "41", "--kb", path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"x": 42}
    assert run_command("ask", "path-to-node", "node=grokking", "--kb", path) == 0
    assert "Grokking" in capsys.readouterr().out
    assert run_command("ask", "--list") == 0
    assert "contradicted-hypotheses" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        run_command("ask", "--kb", path)
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        run_command("search", "x", "--kb", path, "--limit", "0")
    assert caught.value.code == 2
    with pytest.raises(km.NotFoundError):
        run_command("info", "--kb", str(tmp_path / "none.db"))
