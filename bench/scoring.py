"""100 facts x 20 candidate answers, scored whole: km, lm-evaluation-harness and llama.cpp.

Everyone gets the same token ids. lm-evaluation-harness runs its hf model in float32 at its default
batch size of 1 and at others, of which the best counts; llama-cpp-python keeps the prompt's cache
while the candidates take turns. All take turns round by round; ratios are medians over rounds of
peer seconds / km seconds. The bound is the time numpy's OpenBLAS takes for the matrix products of
the distinct tokens, and of the unembedding of the rows that are read, alone.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
from common import (
    Peer,
    encode_facts,
    in_turn,
    largest_gap,
    machine_line,
    make_parser,
    median_seconds,
    products_job,
    ratio,
)

from km import datasets
from km.loading import load, locate
from km.recall_plan import make_plan

RELATIONS = (
    "country_capital_city",
    "company_ceo",
    "person_mother",
    "person_university",
    "star_constellation",
)
BATCHES = (1, 8, 16, 32, 64)
PEERS = (*(f"lm-eval hf, batch {n}" for n in BATCHES), "llama-cpp-python")
BLOCK = 512


def workload(model: Any, n_facts: int) -> list[dict[str, Any]]:
    """Prompts and up to 20 candidates each, as token ids."""
    facts: list[dict[str, Any]] = []
    each = -(-n_facts // len(RELATIONS))
    for relation in datasets.facts(RELATIONS).select(per_relation=max(25, each)):
        facts += encode_facts(model, make_plan(relation, 0, 19, 0))[:each]
    return facts[:n_facts]


def count_distinct(facts: list[dict[str, Any]]) -> tuple[int, int]:
    """Distinct tokens to compute, and distinct rows of logits to read."""
    nodes, rows = set(), set()
    for fact in facts:
        prompt = tuple(fact["prompt"])
        for candidate in fact["candidates"]:
            whole = (*prompt, *candidate[:-1])
            nodes.update(whole[:n] for n in range(1, len(whole) + 1))
            rows.update(whole[:n] for n in range(len(prompt), len(whole) + 1))
    return len(nodes), len(rows)


def bound_seconds(products: list[dict[str, Any]], n_tokens: int, n_rows: int) -> float:
    """Seconds of the products alone, from the times of BLOCK tokens."""
    blocks = statistics.median(sum(result["values"][:-1]) for result in products)
    unembedding = statistics.median(result["values"][-1] for result in products)
    return (n_tokens * blocks + n_rows * unembedding) / BLOCK


def main() -> int:
    """Print a table of pairs a second, ratios and differences."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--facts", type=int, default=100)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    facts = workload(model, args.facts)
    n_pairs = sum(len(fact["candidates"]) for fact in facts)
    n_tokens, n_rows = count_distinct(facts)
    path = str(locate("smollm2"))
    job = {"task": "score", "model": path, "facts": facts, "threads": args.threads}
    products = products_job(model.config, BLOCK, args.threads)
    peers = [Peer(name, args.peers, "engine_peers.py", job) for name in PEERS]
    peers.append(Peer("sgemm", args.peers, "engine_peers.py", products))
    prompts, lists = [f["prompt"] for f in facts], [f["candidates"] for f in facts]

    def ours() -> dict[str, Any]:
        begin = time.perf_counter()
        flat = iter(model.score(prompts, lists, progress=False).table["logp"])
        values = [[next(flat) for _ in own] for own in lists]
        return {"seconds": time.perf_counter() - begin, "values": values}

    ours()
    results = in_turn(ours, peers, args.rounds)
    for peer in peers:
        peer.close()

    print(machine_line(model.context))
    print(
        f"{len(facts)} facts, {n_pairs} pairs, {n_tokens} distinct tokens, {n_rows} rows of "
        f"logits, {args.rounds} rounds\n"
    )
    print("| | pairs/s (median) | km is faster by | largest difference, nats |")
    print("|---|---|---|---|")
    print(f"| km | {n_pairs / median_seconds(results, 'km'):.0f} | | |")
    for name in PEERS:
        gap = largest_gap(results["km"][0]["values"], results[name][0]["values"])
        rate = n_pairs / median_seconds(results, name)
        print(f"| {name} | {rate:.0f} | {ratio(results, name):.1f}× | {gap:.1e} |")
    best = min(PEERS[: len(BATCHES)], key=lambda name: median_seconds(results, name))
    bound = bound_seconds(results["sgemm"], n_tokens, n_rows)
    share = bound / median_seconds(results, "km")
    print(f"\nagainst lm-eval at its best ({best}): {ratio(results, best):.1f}×")
    print(f"km runs at {100 * share:.0f} % of the speed of the matrix products alone (sgemm)")
    values = np.concatenate([np.asarray(row) for row in results["km"][0]["values"]])
    assert np.isfinite(values).all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
