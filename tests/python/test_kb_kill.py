"""Kill a writing process at random moments: nothing it acknowledged is lost, the file is sound.

The writer prints a line for each chunk after the call that stored it has returned. Between its
birth and its death it makes the file, loads the taxonomy, stores chunks and records results.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import km

KILLS = 60
WRITER = """
import sys
import km
from km.result import Result
from km.table import Table

path, name = sys.argv[1:]
kb = km.KnowledgeBase(path)
provenance = {"measure": "memorization.recall", "version": 1, "parameters": {"writer": name}}
run = kb.begin_run(provenance)
print("run", run, flush=True)
for i in range(1_000_000):
    n = 1 + i * 7919 % 60
    table = Table(
        [("fact", "text"), ("value", "double")],
        [[f"{name}/{i}/{j}" for j in range(n)], [j / 7 for j in range(n)]],
    )
    kb.store_chunk(run, f"{name}-{i}", table)
    print("chunk", f"{name}-{i}", n, flush=True)
    if i % 10 == 9:
        result = Result(table, provenance)
        result.evidence = [
            {"node": "memorization", "measure": "memorization.recall", "statistic": "s", "n": i}
        ]
        print("record", kb.record(result), flush=True)
"""


def acknowledged(process: subprocess.Popen[str], seconds: float) -> list[list[str]]:
    """Lines the writer printed until it was killed, `seconds` after its first one."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "the writer never began"
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    text, _ = process.communicate()
    lines = text.split("\n")
    return [line.split() for line in lines[:-1]]  # what follows the last newline may be cut


def check_all(path: Path, lines: list[list[str]]) -> None:
    """Everything acknowledged is there and whole; nothing half-written is."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    rows = dict(db.execute("SELECT key, n_rows FROM chunks"))
    counted = dict(
        db.execute("SELECT key, count(m.row) FROM chunks LEFT JOIN measurements AS m ON chunk = id"
                   " GROUP BY id")
    )  # fmt: skip
    runs = dict(db.execute("SELECT id, status FROM runs"))
    evidence = {run for (run,) in db.execute("SELECT run FROM evidence")}
    db.close()
    assert rows == counted
    for kind, *rest in lines:
        if kind == "chunk":
            assert rows[rest[0]] == int(rest[1])
        elif kind == "run":
            assert runs[int(rest[0])] == "running"
        else:
            assert runs[int(rest[0])] == "done"
            assert int(rest[0]) in evidence


def test_kill_at_random_moments(tmp_path: Path) -> None:
    seeded = random.Random(11)
    path = tmp_path / "study.db"
    script = tmp_path / "writer.py"
    script.write_text(WRITER, encoding="utf-8")
    lines: list[list[str]] = []
    for kill in range(KILLS):
        if kill % 20 == 0:  # some are killed while the file is young, some when it has grown
            path = tmp_path / f"study-{kill}.db"
            lines = []
        process = subprocess.Popen(
            [sys.executable, str(script), str(path), f"w{kill}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        lines += acknowledged(process, seeded.choice([0.0, 0.01, 0.05, 0.2]) * seeded.random())
        if kill % 5 == 4:
            check_all(path, lines)
    check_all(path, lines)
    with km.KnowledgeBase(path) as kb:
        assert len(kb.check(full=True)) == 0
        stored = {line[1] for line in lines if line[0] == "chunk"}
        assert len(stored) > 50
        last = [line for line in lines if line[0] == "chunk"][-1]
        assert len(kb.load_chunk(last[1])) == int(last[2])


def test_kill_while_the_file_is_made(tmp_path: Path) -> None:
    """Before anything was acknowledged: the file is empty, or sound and usable."""
    seeded = random.Random(12)
    code = "import km, sys; print('x', flush=True); km.KnowledgeBase(sys.argv[1]).close()"
    with km.KnowledgeBase(tmp_path / "whole.db") as whole:
        version, n_nodes = whole.info()["schema_version"], len(whole.taxonomy)
    for kill in range(12):
        path = tmp_path / f"young-{kill}.db"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        acknowledged(process, 0.12 * seeded.random())
        with km.KnowledgeBase(path) as kb:
            assert len(kb.check(full=True)) == 0
            assert kb.info()["schema_version"] == version
            assert len(kb.taxonomy) == n_nodes > 100
