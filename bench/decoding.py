"""Greedy decoding of 128 tokens from Q4_1 weights: km beside llama.cpp and PyTorch.

llama-cpp-python reads the same file; transformers dequantises it. All take turns round by round;
ratios are medians over rounds of peer seconds / km seconds, the prompt included. How many tokens
agree with km's shows what 8-bit activations (llama.cpp) and bfloat16 change.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import sys
import time
from typing import Any

from common import Peer, in_turn, machine_line, make_parser, median_seconds, ratio

from km.loading import load, locate

PEERS = ("llama-cpp-python", "transformers float32", "transformers bfloat16")
PROMPT = "The lighthouse keeper counted the ships twice, once at dusk and once before dawn, and"


def common_tokens(ours: list[int], theirs: list[int]) -> int:
    """Tokens that agree before the first that does not."""
    n = 0
    while n < min(len(ours), len(theirs)) and ours[n] == theirs[n]:
        n += 1
    return n


def main() -> int:
    """Print a table of tokens a second, ratios and agreement."""
    parser = make_parser(__doc__, 5)
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    ids = model.encode(PROMPT)
    job = {
        "task": "decode", "model": str(locate("smollm2")), "ids": ids, "n": args.tokens,
        "threads": args.threads,
    }  # fmt: skip
    peers = [Peer(name, args.peers, "engine_peers.py", job) for name in PEERS]

    def ours() -> dict[str, Any]:
        begin = time.perf_counter()
        made = model.generate(ids, max_tokens=args.tokens, eos=())
        assert not isinstance(made, list)
        return {"seconds": time.perf_counter() - begin, "values": made.ids}

    ours()
    results = in_turn(ours, peers, args.rounds)
    for peer in peers:
        peer.close()

    print(machine_line(model.context))
    print(f"{args.tokens} tokens after {len(ids)}, {args.rounds} rounds\n")
    print("| | tokens/s (median) | km is faster by | tokens in common |")
    print("|---|---|---|---|")
    print(f"| km | {args.tokens / median_seconds(results, 'km'):.1f} | | |")
    for name in PEERS:
        same = common_tokens(results["km"][0]["values"], results[name][0]["values"])
        rate = args.tokens / median_seconds(results, name)
        print(f"| {name} | {rate:.1f} | {ratio(results, name):.2f}× | {same} of {args.tokens} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
