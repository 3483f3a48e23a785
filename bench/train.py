"""Training steps a second and their memory: km, PyTorch, and the matrix products alone.

Two pieces of work with AdamW in float32, 8 sequences of 128 tokens a step: SmolLM2-135M, and a
Llama of 3 million parameters that begins at random. Everyone runs in a process of its own, gets the
same token ids and takes turns; the ratio is the median over rounds of peer seconds / km seconds,
peak memory is that of the whole process. PyTorch is transformers' model with its fused AdamW, with
eager and with scaled-dot-product attention. "sgemm" is 6 N T operations of numpy's OpenBLAS at the
model's own shapes: y = x W', dx = dy W and dW = dy' x of every matrix. Losses are those of the
first steps, nats; the models start from the same weights in the first piece of work alone.

`bench/train_pass.c` measures a pass without its optimiser.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from common import HERE, Peer, machine_line, make_parser, products_job

from km.loading import load, locate

PEERS = ("transformers sdpa", "transformers eager", "sgemm")
SMALL = {"n_layers": 6, "d_model": 192, "n_heads": 6, "n_kv_heads": 3, "d_ffn": 512}
SMALL_VOCABULARY = 4096
TOKENIZER = HERE.parent / "tests" / "golden_data" / "arch" / "llama3"


def batches(vocabulary: int, sequences: int, length: int) -> list[list[list[int]]]:
    """Token ids of a few steps, drawn once."""
    import numpy as np

    random = np.random.default_rng(5)
    return random.integers(3, vocabulary, (4, sequences, length)).tolist()  # type: ignore[no-any-return]


def print_rows(results: dict[str, list[dict[str, Any]]], n_tokens: int) -> None:
    """One row of the table a peer."""
    print(
        "| | s a step | tokens/s | km is faster by | peak memory MiB | losses |\n"
        "|---|---|---|---|---|---|"
    )
    for name, rounds in results.items():
        seconds = statistics.median(r["seconds"] for r in rounds)
        pairs = zip(rounds, results["km"], strict=True)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
        memory, losses = (max(r[key] for r in rounds) for key in ("peak", "losses"))
        shown = ", ".join(f"{loss:.5f}" for loss in rounds[0]["losses"][:3])
        print(
            f"| {name} | {seconds:.2f} | {n_tokens / seconds:.0f} | {ratio:.2f} | "
            f"{memory / 2**20:.0f} | {shown if losses else ''} |"
        )


def compare(python: str, job: dict[str, Any], rounds: int, names: tuple[str, ...]) -> None:
    """Everyone in turn."""
    peers = [Peer("km", sys.executable, "train_peers.py", job)]
    for name in names:
        try:
            peers.append(Peer(name, python, "train_peers.py", job))
        except (RuntimeError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    results: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in peers:
            results[peer.name].append(peer.run())
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    for peer in peers:
        peer.close()
    print_rows(results, job["n_tokens"])


def main() -> int:
    """Print both tables."""
    parser = make_parser(__doc__, 3)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="steps of the large model a round")
    parser.add_argument("--only", choices=("large", "small"))
    args = parser.parse_args()
    model = load("smollm2", threads=args.threads)
    print(machine_line(model.context) + "\n")
    n_tokens = args.sequences * args.length
    job = {"threads": args.threads, "n_tokens": n_tokens, "model": str(locate("smollm2"))}
    if args.only != "small":
        config = model.config
        job |= products_job(config, n_tokens, args.threads) | {
            "small": None,
            "steps": args.steps,
            "batches": batches(config["vocab_size"], args.sequences, args.length),
        }
        print(f"SmolLM2-135M, {args.sequences} x {args.length} tokens\n")
        compare(args.peers, job, args.rounds, PEERS)
    if args.only != "large":
        small = SMALL | {"vocab_size": SMALL_VOCABULARY, "context_length": args.length}
        job |= {
            "small": small,
            "tokenizer": str(TOKENIZER),
            "steps": 10 * args.steps,
            "batches": batches(SMALL_VOCABULARY, args.sequences, args.length),
        }
        print(f"\n3 million parameters from scratch, {args.sequences} x {args.length} tokens\n")
        compare(args.peers, job, args.rounds, PEERS[:2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
