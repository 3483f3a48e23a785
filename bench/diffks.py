"""Knowledge selection: an epoch of training and the choice of one turn, km beside PyTorch.

The sizes of the reference: embedding 64, encoders 2 x 64, decoder 128, dropout 0.2, Adam 2e-3,
batches of 8 dialogues, disentangled, gold histories. Without `--data` the dialogues are made up in
the shape of FloDial: about 7 turns, contexts of up to 100 words, 40 candidates, and 10 topics whose
dialogues share their candidates. Everyone begins with the same weights, gets the same words and
takes turns; the loss is that of the first batch without dropout, which must agree. The ratio is
the median over rounds of peer seconds / km seconds.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from common import Peer, cpu_name, make_parser

PEERS = ("torch", "torch shared")


def compare(python: str, job: dict[str, Any], rounds: int, names: tuple[str, ...]) -> None:
    """Everyone in turn, as one table."""
    peers = [Peer("km", sys.executable, "diffks_peers.py", job)]
    peers += [Peer(name, python, "diffks_peers.py", job) for name in names]
    results: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in peers:
            results[peer.name].append(peer.run())
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    for peer in peers:
        peer.close()
    unit, scale = ("s", 1.0) if job["task"] == "epoch" else ("ms", 1e3)
    print(f"| | {unit} | km is faster by | peak memory MiB | first loss |\n|---|---|---|---|---|")
    for name, answers in results.items():
        seconds = statistics.median(a["seconds"] for a in answers)
        pairs = zip(answers, results["km"], strict=True)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
        peak, loss = max(a["peak"] for a in answers), answers[0]["loss"]
        print(f"| {name} | {scale * seconds:.2f} | {ratio:.2f} | {peak / 2**20:.0f} | {loss:.5f} |")


def main() -> int:
    """Print three tables."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--data", help="JSONL of dialogues whose turns share their candidates")
    parser.add_argument("--dialogues", type=int, default=524, help="the first so many")
    parser.add_argument("--only", choices=("epoch", "decoder", "select"))
    args = parser.parse_args()
    print(f"{cpu_name()}, {args.threads} threads, {args.dialogues} dialogues\n")
    job = {"threads": args.threads, "data": args.data, "dialogues": args.dialogues}
    if args.only in (None, "epoch"):
        print("An epoch, selection loss alone\n")
        compare(args.peers, job | {"task": "epoch", "decoder": False}, args.rounds, PEERS)
    if args.only in (None, "decoder"):
        print("\nAn epoch with the decoder's loss\n")
        compare(args.peers, job | {"task": "epoch", "decoder": True}, args.rounds, PEERS)
    if args.only in (None, "select"):
        print("\nThe choice of one turn\n")
        compare(args.peers, job | {"task": "select", "decoder": False}, 3 * args.rounds, ("torch",))
    return 0


if __name__ == "__main__":
    sys.exit(main())
