"""pandas and sqlite3 doing what bench/kb.py asks of the knowledge base.

Reads one JSON object from standard input: {"peer", "task", "path", "runs", "rows"}; for a line
"run" it does the task once and prints one JSON line with "seconds" and what belongs to it.

"pandas": a frame a relation, written with ``to_sql``, a transaction a run, answers with
``read_sql``. "sqlite3": the same table, rows with ``executemany`` from tuples that are there
already. Both keep plain columns with an index on run and relation, without content keys, digests
or checks; journal and synchronisation are those of km.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from common import serve
from kb_data import COLUMNS, RELATIONS, columns_of

TYPES = {"text": "TEXT", "int64": "INTEGER", "bool": "INTEGER", "double": "REAL"}
NAMES = ", ".join(name for name, _ in COLUMNS)
QUERIES = {
    "recall": (
        f"SELECT {NAMES} FROM measurements WHERE run = (SELECT max(id) FROM runs) ORDER BY rowid"
    ),
    "recall-by-relation": (
        "SELECT relation, count(DISTINCT fact) AS facts, count(*) AS rows, avg(correct) AS recall,"
        " avg(commonest_correct) AS commonest, avg(subjectless_correct) AS subject_removed,"
        " avg(shuffled_correct) AS shuffled, avg(exact) AS exact FROM measurements"
        " WHERE run = (SELECT max(id) FROM runs) GROUP BY relation ORDER BY recall DESC, relation"
    ),
    "facts-by-relation": (
        "SELECT relation, count(*) AS facts, sum(share > 0.5) AS recalled,"
        " sum(commonest > 0.5) AS commonest FROM (SELECT relation, fact, avg(correct) AS share,"
        " avg(commonest_correct) AS commonest FROM measurements"
        " WHERE run = (SELECT max(id) FROM runs) GROUP BY relation, fact) GROUP BY relation"
    ),
    "runs": (
        "SELECT r.id, (SELECT count(*) FROM measurements AS m WHERE m.run = r.id) AS rows"
        " FROM runs AS r ORDER BY r.id DESC"
    ),
}


def connect(path: str) -> sqlite3.Connection:
    """A connection with km's settings."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def make(path: str) -> sqlite3.Connection:
    """A new file with the tables."""
    if os.path.exists(path):
        os.remove(path)
    db = connect(path)
    columns = ", ".join(f"{name} {TYPES[type]}" for name, type in COLUMNS)
    db.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT)")
    db.execute(f"CREATE TABLE measurements (run INTEGER, {columns})")
    db.execute("CREATE INDEX measurements_run ON measurements (run, relation)")
    db.commit()
    return db


def record(job: dict[str, Any]) -> dict[str, Any]:
    """Write all rows; seconds of the writing alone, on the clock and of the processor."""
    seconds = processor = 0.0
    db = make(job["path"])
    n = job["rows"] // RELATIONS
    names = ["run", *(name for name, _ in COLUMNS)]
    insert = f"INSERT INTO measurements VALUES ({', '.join('?' * len(names))})"
    for run in range(job["runs"]):
        parts = [columns_of(run, relation, n) for relation in range(RELATIONS)]
        ready: list[Any]
        if job["peer"] == "pandas":
            import pandas as pd

            ready = [
                pd.DataFrame(dict(zip(names, [[run] * n, *part], strict=True))) for part in parts
            ]
        else:
            ready = [list(zip([run] * n, *part, strict=True)) for part in parts]
        start, used = time.perf_counter(), time.process_time()
        db.execute("INSERT INTO runs VALUES (?, datetime('now'))", [run])
        for rows in ready:
            if job["peer"] == "pandas":
                rows.to_sql("measurements", db, if_exists="append", index=False)
            else:
                db.executemany(insert, rows)
        db.commit()
        seconds += time.perf_counter() - start
        processor += time.process_time() - used
    db.close()
    return {"seconds": seconds, "processor": processor}


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of opening the file and of each question, median of three."""
    opening = []
    for _ in range(9):
        start = time.perf_counter()
        db = connect(job["path"])
        db.execute("SELECT count(*) FROM runs").fetchone()
        opening.append(time.perf_counter() - start)
        db.close()
    db = connect(job["path"])
    found = {}
    for name, sql in QUERIES.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            if job["peer"] == "pandas":
                import pandas as pd

                pd.read_sql(sql, db)
            else:
                db.execute(sql).fetchall()
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times)
    db.close()
    return {"seconds": statistics.median(opening), "questions": found}


def main() -> None:
    """Serve one task."""
    job = json.loads(sys.stdin.readline())
    tasks: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"record": record, "ask": ask}
    serve(lambda: tasks[job["task"]](job))


if __name__ == "__main__":
    main()
