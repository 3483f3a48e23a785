"""The logit lens of 200 prompts: km beside TransformerLens, on the same token ids and weights.

Every layer is read at the last position. The two take turns round by round; the ratio is the median
over rounds of the peer's seconds / km's. Values are compared as well. km runs without its
random-initialised control, which would double the work and which the peer does not have.

Run by ``make bench``; the peer lives in an environment of its own (bench/requirements.txt).
"""

from __future__ import annotations

import sys
import time
from typing import Any

from common import Peer, in_turn, machine_line, make_parser, median_seconds, ratio

import km
from km import datasets
from km.loading import load, locate

RELATIONS = (
    "country_capital_city", "landmark_in_country", "person_occupation", "adj_antonym",
    "company_hq", "product_by_company",
)  # fmt: skip


def workload(model: Any, n: int) -> tuple[list[list[int]], list[int]]:
    """Prompts and the first tokens of their answers."""
    prompts, targets = [], []
    for relation in datasets.facts(RELATIONS):
        for fact in relation.facts[: -(-n // len(RELATIONS)) * 2]:
            text = relation.templates[0].replace("{}", fact.subject)
            prompts.append(model.encode(text))
            targets.append(model.encode(f" {fact.answer}", bos=False)[0])
    if len(prompts) < n:
        raise SystemExit(f"only {len(prompts)} prompts")
    step = len(prompts) / n
    chosen = [int(i * step) for i in range(n)]
    return [prompts[i] for i in chosen], [targets[i] for i in chosen]


def km_round(model: Any, prompts: list[list[int]], targets: list[int]) -> dict[str, Any]:
    """Seconds and log-probabilities of km, its table and survival curve included."""
    begin = time.perf_counter()
    lens = km.logit_lens(model, prompts, targets, control=False)
    seconds = time.perf_counter() - begin
    n_layers = model.config["n_layers"]
    rows = lens.table.column("logprob").reshape(-1, n_layers + 1).tolist()
    return {"seconds": seconds, "logprobs": rows}


def main() -> int:
    """Print a table of prompts a second, the ratio and the difference."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--prompts", type=int, default=200)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    prompts, targets = workload(model, args.prompts)
    job = {
        "model": str(locate("smollm2")),
        "threads": args.threads,
        "prompts": prompts,
        "targets": targets,
    }
    peer = Peer("TransformerLens", args.peers, "lens_peers.py", job)
    km_round(model, prompts[:4], targets[:4])
    results = in_turn(lambda: km_round(model, prompts, targets), [peer], args.rounds)
    peer.close()

    gap = max(
        abs(a - b)
        for ours, theirs in zip(results["km"], results[peer.name], strict=True)
        for row, other in zip(ours["logprobs"], theirs["logprobs"], strict=True)
        for a, b in zip(row, other, strict=True)
    )
    print(machine_line(model.context))
    print(
        f"{len(prompts)} prompts, {sum(map(len, prompts))} tokens, last position, all "
        f"{model.config['n_layers']} layers, {args.rounds} rounds\n"
    )
    print("| | seconds (median) | km is faster by | largest difference, nats |")
    print("|---|---|---|---|")
    print(f"| km | {median_seconds(results, 'km'):.2f} | | |")
    print(
        f"| {peer.name} | {median_seconds(results, peer.name):.2f} | "
        f"{ratio(results, peer.name):.1f}× | {gap:.1e} |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
