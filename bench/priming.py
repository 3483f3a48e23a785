"""Twelve texts learned one after another and measured before and after: km and PyTorch.

One text a keyword. Each is learned in three AdamW steps from the same float32 weights, without a
background; before and after, the keyword is scored in its text, after the probes of its theme and
after some of other themes, and eight neutral sentences are scored. PyTorch does it with
transformers: one batch of padded texts a measurement, P_before of a probe measured once, weights
copied back in place. Everyone gets the same token ids and takes turns; the ratio is the median over
rounds of peer seconds / km seconds, both without loading the model. Differences in value are
between log ratios, nats.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from common import Peer, in_turn, largest_gap, machine_line, make_parser, median_seconds, ratio

import km
from km.loading import load, locate
from km.priming_plan import encode_item
from km.studies.priming_arms import text_items

CATEGORY = "fantasy"
PRESENTATIONS = 3
LEARNING_RATE = 1e-4


def main() -> int:
    """Print seconds a text, the ratio, and how far the log ratios are apart."""
    args = make_parser(__doc__, 3).parse_args()
    model = load("smollm2", threads=args.threads)
    texts = list(km.datasets.priming_texts(1, categories=CATEGORY))
    items = [[encode_item(model, item, "joint") for item in text_items(text)] for text in texts]
    job = {
        "model": str(locate("smollm2")),
        "threads": args.threads,
        "presentations": PRESENTATIONS,
        "lr": LEARNING_RATE,
        "texts": [
            {
                "ids": model.encode(text.text),
                "items": [[list(ids.given), list(ids.scored)] for ids in own],
            }
            for text, own in zip(texts, items, strict=True)
        ],
    }
    peer = Peer("PyTorch", args.peers, "priming_peers.py", job)

    def ours() -> dict[str, Any]:
        begin = time.perf_counter()
        study = km.studies.priming(
            model,
            texts=texts,
            presentations=PRESENTATIONS,
            optimizer=km.AdamW(lr=LEARNING_RATE),
            in_context=False,
            controls=(),
            progress=False,
        )
        seconds = time.perf_counter() - begin
        flat = iter(study.table["log_ratio"])
        return {"seconds": seconds, "values": [[next(flat) for _ in own] for own in items]}

    results = in_turn(ours, [peer], args.rounds)
    peer.close()
    print(machine_line(model.context))
    n = len(texts)
    for name in ("km", "PyTorch"):
        print(f"{name:10s} {median_seconds(results, name) / n:6.2f} s a text")
    first, other = results["km"][0]["values"], results["PyTorch"][0]["values"]
    gaps = [
        abs(a - b) for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True)
    ]
    print(f"km is {ratio(results, 'PyTorch'):.2f}x as fast")
    print(
        f"log ratios: largest difference {largest_gap(first, other):.1e}, "
        f"mean {statistics.mean(gaps):.1e} nats"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
