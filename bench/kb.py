"""The knowledge base with a million measured rows, beside pandas and sqlite3 doing the same.

250 runs of a recall measure, 4,000 rows of 16 columns each, a chunk a relation, with the model and
the evidence a result brings. Timed are the recording of the rows, each named question on the full
file (the median of three), and opening it. The limits are 200,000 rows/s, 100 ms and 50 ms; exit
code 1 when one is missed. The peers keep plain columns without content keys, digests or types.

Processor time stands beside the seconds on the clock: on a machine that others use, it tells what
the machine would do alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from common import Peer, cpu_name
from kb_data import COLUMNS, RELATIONS, columns_of

import km

ROWS_A_SECOND, QUESTION_SECONDS, OPENING_SECONDS = 200_000, 0.100, 0.050
PEERS = ("pandas", "sqlite3")
NEEDED = {"lineage": {"model": "model 1"}, "nodes-not-surveyed": {"work": "wang2024survey"}}
MODELS = 5


def provenance(run: int) -> dict[str, Any]:
    """What a recall run says when it begins."""
    return {
        "measure": "memorization.recall",
        "version": 1,
        "parameters": {"run": run, "relations": []},
        "seed": run,
        "model": {"name": f"model {run % MODELS}", "fingerprint": f"{run % MODELS:064x}"},
    }


def evidence(run: int) -> list[dict[str, Any]]:
    """Statistics of a run."""
    return [
        {
            "node": "memorization",
            "measure": "memorization.recall",
            "statistic": name,
            "value": run / 1000,
            "low": 0.0,
            "high": 1.0,
            "n": 1000,
        }
        for name in ("recall", "commonest", "subject removed", "exact")
    ]


def record(kb: km.KnowledgeBase, runs: int, rows: int) -> tuple[float, float, float]:
    """Write all rows; seconds of storing them, of all of the runs, and of the processor."""
    storing = whole = processor = 0.0
    n = rows // RELATIONS
    for run in range(runs):
        tables = [km.Table(COLUMNS, columns_of(run, r, n)) for r in range(RELATIONS)]
        keys = [hashlib.sha256(f"{run} {r}".encode()).hexdigest() for r in range(RELATIONS)]
        begin = time.perf_counter()
        with kb.transaction():
            id = kb.begin_run(provenance(run))
            start, used = time.perf_counter(), time.process_time()
            for key, table in zip(keys, tables, strict=True):
                kb.store_chunk(id, key, table)
            storing += time.perf_counter() - start
            processor += time.process_time() - used
            kb._kb.put_evidence(id, km.result.canonical_json(evidence(run)))
            kb.finish_run(id)
            start, used = time.perf_counter(), time.process_time()
        storing += time.perf_counter() - start  # the end of the transaction writes the rows
        processor += time.process_time() - used
        whole += time.perf_counter() - begin
    return storing, whole, processor


def questions(path: str) -> dict[str, tuple[float, float]]:
    """Seconds of each named question, on the clock and of the processor."""
    found = {}
    with km.KnowledgeBase(path, read_only=True) as kb:
        for name in kb.questions()["name"]:
            clock, processor = [], []
            for _ in range(3):
                start, used = time.perf_counter(), time.process_time()
                kb.ask(name, **NEEDED.get(name, {}))
                clock.append(time.perf_counter() - start)
                processor.append(time.process_time() - used)
            found[name] = (statistics.median(clock), statistics.median(processor))
    return found


def opening(path: str) -> float:
    """Seconds of opening the file for writing and reading one figure."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        kb = km.KnowledgeBase(path)
        kb.sql("SELECT count(*) FROM runs")
        times.append(time.perf_counter() - start)
        kb.close()
    return statistics.median(times)


def peer(python: str, name: str, job: dict[str, Any]) -> dict[str, Any]:
    """One task of a peer."""
    process = Peer(name, python, "kb_peers.py", job)
    try:
        return process.run()
    finally:
        process.close()


def main() -> int:
    """Print two tables; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python of an environment with pandas; without: km alone")
    parser.add_argument("--runs", type=int, default=250)
    parser.add_argument("--rows", type=int, default=4000, help="of each run")
    args = parser.parse_args()
    total = args.runs * args.rows
    print(f"{cpu_name()}, load {os.getloadavg()[0]:.1f}; {total:,} rows in {args.runs} runs\n")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "km.db")
        with km.KnowledgeBase(path) as kb:
            storing, whole, processor = record(kb, args.runs, args.rows)
        asked, open_seconds = questions(path), opening(path)
        size = os.path.getsize(path)
        theirs: dict[str, dict[str, Any]] = {}
        for name in PEERS if args.peers else ():
            job = {"path": os.path.join(folder, name), "runs": args.runs, "rows": args.rows}
            written = peer(args.peers, name, job | {"task": "record"})
            answers = peer(args.peers, name, job | {"task": "ask"})
            theirs[name] = {
                "record": written["seconds"],
                "processor": written["processor"],
                "open": answers["seconds"],
                "size": os.path.getsize(job["path"]),
                **answers["questions"],
            }
    print("| | rows/s | rows/s of processor time | opening, ms | MiB |\n|---|---|---|---|---|")
    print(
        f"| km: rows | {total / storing:,.0f} | {total / processor:,.0f}"
        f" | {1e3 * open_seconds:.1f} | {size >> 20} |"
    )
    print(f"| km: runs with evidence and frozen predictions | {total / whole:,.0f} | | | |")
    for name, found in theirs.items():
        ratio = found["record"] / storing
        print(
            f"| {name} (km is {ratio:.2f} times as fast) | {total / found['record']:,.0f}"
            f" | {total / found['processor']:,.0f} | {1e3 * found['open']:.1f}"
            f" | {found['size'] >> 20} |"
        )
    print(
        "\n| question | km, ms | of the processor |"
        + "".join(f" {name}, ms | ratio |" for name in theirs)
    )
    print("|---|---|---|" + "---|---|" * len(theirs))
    for name, (seconds, used) in sorted(asked.items(), key=lambda item: -item[1][0]):
        cells = "".join(
            f" {1e3 * found[name]:.1f} | {found[name] / seconds:.2f} |" if name in found else " | |"
            for found in theirs.values()
        )
        print(f"| {name} | {1e3 * seconds:.2f} | {1e3 * used:.2f} |{cells}")
    slow = [name for name, (seconds, _) in asked.items() if seconds > QUESTION_SECONDS]
    missed = [f"the question {name}" for name in slow]
    missed += ["recording"] if total / storing < ROWS_A_SECOND else []
    missed += ["opening"] if open_seconds > OPENING_SECONDS else []
    print(f"\nlimits missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
