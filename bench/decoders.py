"""CoDa generating 8 tokens from Q4_1 weights: km beside loops over transformers' forward pass.

Every token of a prompt is left out in turn before each generated token, as the method is written
(`detect="each"`). The loops run whole texts each time: the variants one after another, or as one
batch, for they are equally long. All take turns round by round; ratios are medians over rounds of
peer seconds / km seconds. km reads the quantised file, transformers dequantises it to float32.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import sys
import time
from typing import Any

from common import Peer, in_turn, machine_line, make_parser, median_seconds, ratio

from km.contrast_decoders import CoDa
from km.loading import load, locate

PEERS = ("one by one", "one batch")
# In the manner of MemoTrap: a known ending that the instruction forbids.
PROMPTS = (
    'Write a proverb that ends in the word "spoon": Too many cooks spoil the',
    'Write a proverb that ends in the word "lamp": All that glitters is not',
    'Write a proverb that ends in the word "bicycle": You can lead a horse to water, but not',
    'Write a proverb that ends in the word "Tuesday": Rome was not built in a',
    'Write a proverb that ends in the word "moss": A rolling stone gathers no',
    'Write a proverb that ends in the word "ladder": Do not count your chickens before they',
)


def main() -> int:
    """Print a table of seconds, ratios and agreement."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    decoder = CoDa(detect="each")
    prompts = [model.encode(text) for text in PROMPTS[: args.prompts]]
    job = {
        "model": str(locate("smollm2")), "threads": args.threads, "n": args.tokens,
        "alpha": decoder.alpha, "prompts": prompts,
        "candidates": [decoder.candidates(ids, model) for ids in prompts],
    }  # fmt: skip
    peers = [Peer(name, args.peers, "decoders_peers.py", job) for name in PEERS]

    def ours() -> dict[str, Any]:
        begin = time.perf_counter()
        made = model.generate(prompts, max_tokens=args.tokens, eos=(), decoder=decoder)
        assert isinstance(made, list)
        return {"seconds": time.perf_counter() - begin, "values": [g.ids for g in made]}

    results = in_turn(ours, peers, args.rounds)
    for peer in peers:
        peer.close()

    lengths = [len(ids) for ids in prompts]
    print(machine_line(model.context))
    print(
        f"{args.tokens} tokens after each of {len(prompts)} prompts of {min(lengths)} to "
        f"{max(lengths)} tokens, {args.rounds} rounds\n"
    )
    print("| | seconds a prompt (median) | km is faster by | prompts with the same tokens |")
    print("|---|---|---|---|")
    print(f"| km | {median_seconds(results, 'km') / len(prompts):.3f} | | |")
    for name in PEERS:
        pairs = zip(results["km"][0]["values"], results[name][0]["values"], strict=True)
        same = sum(a == b for a, b in pairs)
        seconds = median_seconds(results, name) / len(prompts)
        print(
            f"| transformers, variants {name} | {seconds:.3f} | {ratio(results, name):.2f}× "
            f"| {same} of {len(prompts)} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
