"""Log-probability of every token of a 512-token text: km beside PyTorch and llama.cpp.

The peers get the same token ids and the same file (transformers dequantises it). All take turns
round by round; ratios are medians over rounds of peer seconds / km seconds. "sgemm" is the time of
the model's matrix products alone, of the same number of tokens, through numpy's OpenBLAS.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from common import Peer, in_turn, machine_line, make_parser, median_seconds, products_job, ratio

from km import datasets
from km.loading import load, locate

PEERS = ("transformers float32", "transformers bfloat16", "llama-cpp-python")


def long_text(model: Any, n: int) -> list[int]:
    """n token ids of running text: statements of facts, one after another."""
    lines = []
    for relation in datasets.facts("all"):
        for fact in relation.facts:
            lines.append(relation.templates[0].replace("{}", fact.subject) + " " + fact.answers[0])
    ids: list[int] = model.encode(". ".join(lines[:: max(1, len(lines) // n)]))
    return ids[:n]


def main() -> int:
    """Print a table of tokens a second, ratios and differences."""
    parser = make_parser(__doc__, 5)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    ids = long_text(model, args.tokens)
    job = {"task": "text", "model": str(locate("smollm2")), "ids": ids, "threads": args.threads}
    products = products_job(model.config, len(ids), args.threads)
    peers = [Peer(name, args.peers, "engine_peers.py", job) for name in PEERS]
    peers.append(Peer("sgemm", args.peers, "engine_peers.py", products))

    def ours() -> dict[str, Any]:
        begin = time.perf_counter()
        values = model.logprobs(ids)
        return {"seconds": time.perf_counter() - begin, "values": values}

    ours()
    results = in_turn(ours, peers, args.rounds)
    for peer in peers:
        peer.close()

    print(machine_line(model.context))
    print(f"{len(ids)} tokens, {args.rounds} rounds\n")
    print("| | tokens/s (median) | km is faster by | largest, mean difference, nats |")
    print("|---|---|---|---|")
    print(f"| km | {len(ids) / median_seconds(results, 'km'):.0f} | | |")
    for name in PEERS:
        gaps = np.abs(np.subtract(results["km"][0]["values"], results[name][0]["values"]))
        rate = len(ids) / median_seconds(results, name)
        print(
            f"| {name} | {rate:.0f} | {ratio(results, name):.2f}× "
            f"| {gaps.max():.1e}, {gaps.mean():.1e} |"
        )
    share = ratio(results, "sgemm")
    print(f"\nkm runs at {100 * share:.0f} % of the speed of the matrix products alone (sgemm)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
