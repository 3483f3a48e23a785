"""What it costs to start: importing, opening a model, and the memory scoring needs.

Each figure comes from a process of its own. Import is CPU time over an interpreter that imports
nothing; opening is wall time of the first and of a later load; memory is the peak resident set of a
process that scores a 512-token text, beside the size of the model file. Peers: PyTorch,
transformers and TransformerLens, where the given environment has them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import machine_line

from km.loading import load, locate

OPEN = """
import json, sys, time
import km
begin = time.perf_counter()
model = km.load({model!r})
print(json.dumps(time.perf_counter() - begin))
"""
SCORE = """
import json, resource
import km
model = km.load({model!r}, threads={threads})
ids = [(37 * i) % 4000 + 100 for i in range(512)]
model.logprobs(ids)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""
PEERS = ("torch", "transformers", "transformer_lens")


def cpu_seconds(command: Sequence[str]) -> float | None:
    """User and system seconds of a process; None when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used if done.returncode == 0 else None


def import_seconds(python: str, module: str, rounds: int) -> float | None:
    """Median CPU seconds of importing a module, those of the bare interpreter taken off."""
    bare, loaded = [], []
    for _ in range(rounds):
        empty = cpu_seconds([python, "-c", "pass"])
        full = cpu_seconds([python, "-c", f"import {module}"])
        if empty is None or full is None:
            return None
        bare.append(empty)
        loaded.append(full)
    return statistics.median(loaded) - statistics.median(bare)


def answer(code: str) -> float:
    """The number a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def main() -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--model", default="smollm2", help="what km.load() takes; a .gguf file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    print(machine_line(load(args.model, threads=args.threads).context) + "\n")
    ours = import_seconds(sys.executable, "km", args.rounds)
    assert ours is not None
    print("| | CPU seconds to import |\n|---|---|")
    print(f"| km | {ours:.3f} |")
    for module in PEERS if args.peers else ():
        theirs = import_seconds(args.peers, module, args.rounds)
        print(f"| {module} | {'not installed' if theirs is None else f'{theirs:.2f}'} |")

    opened = statistics.median(answer(OPEN.format(model=args.model)) for _ in range(args.rounds))
    size = Path(locate(args.model)).stat().st_size / 2**20
    peak = answer(SCORE.format(model=args.model, threads=args.threads))
    print("\n| | |\n|---|---|")
    print(f"| opening {args.model} | {opened:.3f} s |")
    print(f"| size of the file | {size:.0f} MiB |")
    print(f"| peak memory of scoring 512 tokens | {peak:.0f} MiB, file size + {peak - size:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
