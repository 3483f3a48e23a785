"""Facts scored a second: km beside transformers and llama-cpp-python, on the same token ids.

A fact is one prompt with up to 20 candidate answers, each scored whole (sum of log-probabilities).
The three take turns round by round, so that a change in the machine's speed meets all of them; the
ratio is the median over rounds of peer seconds / km seconds. Values are compared as well.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import sys
import time
from array import array
from typing import Any

from common import (
    Peer,
    encode_facts,
    in_turn,
    largest_gap,
    machine_line,
    make_parser,
    median_seconds,
    ratio,
)

from km import _km, datasets
from km.loading import load, locate
from km.recall_plan import make_plan

RELATIONS = ("country_capital_city", "landmark_in_country", "person_occupation", "adj_antonym")
PEERS = ("transformers", "llama-cpp-python")


def workload(model: Any, per_relation: int) -> list[dict[str, Any]]:
    """Prompts and candidates as token ids, the same for everyone."""
    facts: list[dict[str, Any]] = []
    for relation in datasets.facts(RELATIONS).select(per_relation=per_relation):
        facts += encode_facts(model, make_plan(relation, 0, 20, 0))
    return facts


def km_round(model: Any, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds and scores of km, building its token tree included."""
    begin = time.perf_counter()
    ids, offsets, lengths = array("i"), array("q", [0]), array("q")
    for fact in facts:
        for candidate in fact["candidates"]:
            ids.extend(fact["prompt"] + candidate)
            offsets.append(len(ids))
            lengths.append(len(fact["prompt"]))
    flat = iter(_km.continuations_run(model._model, ids, offsets, lengths)[2].tolist())
    scores = [[next(flat) for _ in fact["candidates"]] for fact in facts]
    return {"seconds": time.perf_counter() - begin, "scores": scores}


def main() -> int:
    """Print a table of facts a second, ratios and differences."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--per-relation", type=int, default=10)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    facts = workload(model, args.per_relation)
    n_candidates = sum(len(fact["candidates"]) for fact in facts)
    job = {"model": str(locate("smollm2")), "facts": facts, "threads": args.threads}
    peers = [Peer(name, args.peers, "facts_per_second_peers.py", job) for name in PEERS]
    km_round(model, facts[:2])
    results = in_turn(lambda: km_round(model, facts), peers, args.rounds)
    for peer in peers:
        peer.close()

    print(machine_line(model.context))
    print(f"{len(facts)} facts, {n_candidates} candidates, {args.rounds} rounds\n")
    print("| | facts/s (median) | km is faster by | largest difference, nats |")
    print("|---|---|---|---|")
    print(f"| km | {len(facts) / median_seconds(results, 'km'):.2f} | | |")
    for name in PEERS:
        gap = max(
            largest_gap(ours["scores"], theirs["scores"])
            for ours, theirs in zip(results["km"], results[name], strict=True)
        )
        rate = len(facts) / median_seconds(results, name)
        print(f"| {name} | {rate:.2f} | {ratio(results, name):.1f}× | {gap:.1e} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
