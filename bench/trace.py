"""Activations read a second: km beside llama.cpp's evaluation callback, from the same file.

Two pieces of work, both on SmolLM2 in Q4_1: the residual stream after every layer at the last
position of many short prompts; and residual stream, MLP output and attention pattern of every layer
at every position of a longer text. km and llama.cpp take turns round by round. llama.cpp runs
without flash attention, which has no pattern to show, and is stopped once the last wanted tensor is
there. Both are then compared with transformers in F32 on the dequantised weights: llama.cpp
computes with activations in 8 bits and a cache in 16.

Run by ``make bench``; a peer that is missing is left out, and named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Peer, in_turn, machine_line, make_parser, median_seconds, ratio

from km import datasets
from km.loading import load, locate

PEER, REFERENCE = "llama-cpp-python", "transformers"
RELATIONS = ("country_capital_city", "landmark_in_country", "person_occupation", "adj_antonym")
LONG = (
    "A lighthouse keeper on the northern coast wrote the same three facts in his log every "
    "evening: how far he could see, how high the water stood, and which ships had passed. When the "
    "light was made automatic, the log went on for a year, because nobody had told him to stop. "
)


def workloads(model: Any, per_relation: int, long_tokens: int) -> dict[str, dict[str, Any]]:
    """What is read of which token ids."""
    short = [
        model.encode(relation.templates[0].replace("{}", fact.subject))
        for relation in datasets.facts(RELATIONS).select(per_relation=per_relation)
        for fact in relation.facts
    ]
    long = model.encode(LONG * (1 + long_tokens // 60))[:long_tokens]
    return {
        "last position": {"texts": short, "points": ["resid_post"], "last": True},
        "every position": {
            "texts": [long],
            "points": ["resid_post", "mlp_out", "attn_pattern"],
            "last": False,
        },
    }


def km_arrays(model: Any, work: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """km's arrays, first axis texts."""
    positions = "last" if work["last"] else "all"
    with model.trace(work["texts"], work["points"], positions=positions) as trace:
        return {point: trace[point] for point in work["points"]}


def km_round(model: Any, work: dict[str, Any]) -> dict[str, Any]:
    """Seconds of km, building its token tree included."""
    begin = time.perf_counter()
    km_arrays(model, work)
    return {"seconds": time.perf_counter() - begin}


def start(name: str, python: str, job: dict[str, Any]) -> Peer | None:
    """The peer, or None with a line that says so."""
    try:
        return Peer(name, python, "trace_peers.py", job)
    except (RuntimeError, OSError) as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def read_peer(peer: Peer, points: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays a peer has written."""
    folder = Path(peer.run()["saved"])
    return {point: np.load(folder / f"{point}.npy", mmap_mode="r") for point in points}


def differences(
    ours: dict[str, np.ndarray[Any, Any]], truth: dict[str, np.ndarray[Any, Any]]
) -> dict[str, tuple[float, float, float]]:
    """Largest, mean and relative (root mean square over that of the truth) difference."""
    found = {}
    for point, values in truth.items():
        gap = np.abs(ours[point].astype(np.float64) - values)
        size = np.sqrt(np.mean(np.square(values, dtype=np.float64)))
        found[point] = (gap.max(), gap.mean(), np.sqrt(np.mean(gap * gap)) / size)
    return found


def report(
    model: Any, title: str, work: dict[str, Any], args: argparse.Namespace, folder: Path
) -> None:
    """Measure one piece of work and print its two tables."""
    job = {
        "model": str(locate("smollm2")),
        "threads": args.threads,
        "folder": str(folder / title.replace(" ", "-")),
        **work,
    }
    peer = start(PEER, args.peers, job)
    km_round(model, work)
    results = in_turn(lambda: km_round(model, work), [peer] if peer else [], args.rounds)
    n_tokens = sum(map(len, work["texts"]))
    print(
        f"\n{title}: {len(work['texts'])} texts, {n_tokens} tokens, {', '.join(work['points'])}\n"
    )
    print("| | tokens/s (median) | km is faster by |\n|---|---|---|")
    print(f"| km | {n_tokens / median_seconds(results, 'km'):.0f} | |")
    if peer:
        rate = n_tokens / median_seconds(results, PEER)
        print(f"| {PEER} | {rate:.0f} | {ratio(results, PEER):.2f}× |")
    reference = start(REFERENCE, args.peers, job)
    if reference:
        print_differences(model, work, peer, reference)
        reference.close()
    if peer:
        peer.close()


def print_differences(model: Any, work: dict[str, Any], peer: Peer | None, reference: Peer) -> None:
    """How far km and the peer are from the reference."""
    points = work["points"]
    truth = read_peer(reference, points)
    rows = {"km": differences(km_arrays(model, work), truth)}
    if peer:
        rows[PEER] = differences(read_peer(peer, points), truth)
    print(f"\n| difference from {REFERENCE} F32 | point | largest | mean | relative |")
    print("|---|---|---|---|---|")
    for name, found in rows.items():
        for point, (largest, mean, relative) in found.items():
            print(f"| {name} | {point} | {largest:.1e} | {mean:.1e} | {relative:.1e} |")


def main() -> int:
    """Print speeds and differences of both pieces of work."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--per-relation", type=int, default=20)
    parser.add_argument("--long-tokens", type=int, default=256)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    print(machine_line(model.context))
    with tempfile.TemporaryDirectory() as folder:
        for title, work in workloads(model, args.per_relation, args.long_tokens).items():
            report(model, title, work, args, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
