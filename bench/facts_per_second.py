"""Facts scored a second: km beside transformers and llama-cpp-python, on the same token ids.

A fact is one prompt with up to 20 candidate answers, each scored whole (sum of log-probabilities).
The three take turns round by round, so that a change in the machine's speed meets all of them; the
ratio is the median over rounds of peer seconds / km seconds. Values are compared as well.

Run by ``make bench``; peers live in an environment of their own (bench/requirements.txt).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from km import _km, datasets
from km.model import load, locate
from km.recall_plan import make_plan

HERE = Path(__file__).resolve().parent
RELATIONS = ("country_capital_city", "landmark_in_country", "person_occupation", "adj_antonym")
PEERS = ("transformers", "llama-cpp-python")


def workload(model: Any, per_relation: int) -> list[dict[str, Any]]:
    """Prompts and candidates as token ids, the same for everyone."""
    facts = []
    for relation in datasets.facts(RELATIONS).select(per_relation=per_relation):
        plan = make_plan(relation, 0, 20, 0)
        for fact in plan.facts:
            prompt = model.encode(plan.templates[0].replace("{}", fact.subject))
            answers = (fact.answers[0], *fact.candidates)
            encoded = [model.encode(" " + answer, bos=False) for answer in answers]
            facts.append({"prompt": prompt, "candidates": encoded})
    return facts


def km_round(model: Any, facts: list[dict[str, Any]]) -> tuple[float, list[list[float]]]:
    """Seconds and scores of km, building its token tree included."""
    begin = time.perf_counter()
    ids, offsets, lengths = array("i"), array("q", [0]), array("q")
    for fact in facts:
        for candidate in fact["candidates"]:
            ids.extend(fact["prompt"] + candidate)
            offsets.append(len(ids))
            lengths.append(len(fact["prompt"]))
    flat = iter(_km.continuations_run(model._model, ids, offsets, lengths).tolist())
    scores = [[next(flat) for _ in fact["candidates"]] for fact in facts]
    return time.perf_counter() - begin, scores


class Peer:
    """A peer library in its own process and environment."""

    def __init__(self, name: str, python: str, job: dict[str, Any]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(HERE / "peers.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._say(json.dumps({"peer": name, **job}))
        if self._read() != "ready":
            raise RuntimeError(f"{name} did not start; run bench/peers.py by hand to see why")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def round(self) -> tuple[float, list[list[float]]]:
        """Seconds and scores of one pass over all facts."""
        self._say("run")
        answer = json.loads(self._read())
        return answer["seconds"], answer["scores"]

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


def largest_gap(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Largest absolute difference of two sets of scores, nats."""
    return max(
        abs(a - b)
        for row, other in zip(ours, theirs, strict=True)
        for a, b in zip(row, other, strict=True)
    )


def cpu_name() -> str:
    """The processor's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> int:
    """Print a table of facts a second, ratios and differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", required=True, help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-relation", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    model = load("smollm2", threads=args.threads)
    facts = workload(model, args.per_relation)
    n_candidates = sum(len(fact["candidates"]) for fact in facts)
    job = {"model": str(locate("smollm2")), "facts": facts, "threads": args.threads}
    peers = [Peer(name, args.peers, job) for name in PEERS]
    km_round(model, facts[:2])

    seconds: dict[str, list[float]] = {name: [] for name in ("km", *PEERS)}
    gaps = dict.fromkeys(PEERS, 0.0)
    for number in range(args.rounds):
        ours, scores = km_round(model, facts)
        seconds["km"].append(ours)
        for peer in peers:
            theirs, peer_scores = peer.round()
            seconds[peer.name].append(theirs)
            gaps[peer.name] = max(gaps[peer.name], largest_gap(scores, peer_scores))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    for peer in peers:
        peer.close()

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    print(
        f"{cpu_name()}, {args.threads} threads, CPU variant {model.context.cpu}, OpenBLAS "
        f"{model.context.blas_core}; {datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}"
    )
    print(f"{len(facts)} facts, {n_candidates} candidates, {args.rounds} rounds\n")
    print("| | facts/s (median) | km is faster by | largest difference, nats |")
    print("|---|---|---|---|")
    print(f"| km | {len(facts) / statistics.median(seconds['km']):.2f} | | |")
    for name in PEERS:
        rate = len(facts) / statistics.median(seconds[name])
        pairs = zip(seconds[name], seconds["km"], strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        print(f"| {name} | {rate:.2f} | {ratio:.1f}× | {gaps[name]:.1e} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
