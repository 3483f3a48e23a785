"""What the benchmarks share: peers in processes of their own, rounds in turn, the machine."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Peer:
    """A peer library in its own process and environment.

    The script gets one JSON object on its first line of input, answers "ready", and for every line
    "run" prints one JSON object with at least "seconds".
    """

    def __init__(self, name: str, python: str, script: str, job: dict[str, Any]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._say(json.dumps({"peer": name, **job}))
        if self._read() != "ready":
            raise RuntimeError(f"{name} did not start; run bench/{script} by hand to see why")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self) -> dict[str, Any]:
        """One round; what the script answered."""
        self._say("run")
        answer: dict[str, Any] = json.loads(self._read())
        return answer

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


def serve(run: Callable[[], dict[str, Any]]) -> None:
    """The peer's side: say ready, then answer each "run"."""
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "run":
            print(json.dumps(run()), flush=True)


def in_turn(
    ours: Callable[[], dict[str, Any]], peers: list[Peer], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Rounds of km and each peer in turn, so that a change of the machine's speed meets all."""
    results: dict[str, list[dict[str, Any]]] = {"km": [], **{peer.name: [] for peer in peers}}
    for number in range(rounds):
        results["km"].append(ours())
        for peer in peers:
            results[peer.name].append(peer.run())
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return results


def ratio(results: dict[str, list[dict[str, Any]]], name: str) -> float:
    """Median over rounds of the peer's seconds / km's."""
    pairs = zip(results[name], results["km"], strict=True)
    return statistics.median(theirs["seconds"] / ours["seconds"] for theirs, ours in pairs)


def median_seconds(results: dict[str, list[dict[str, Any]]], name: str) -> float:
    """Median seconds of a round."""
    return statistics.median(result["seconds"] for result in results[name])


def largest_gap(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Largest absolute difference of two sets of scores, nats."""
    return max(
        abs(a - b)
        for row, other in zip(ours, theirs, strict=True)
        for a, b in zip(row, other, strict=True)
    )


def make_parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    """A parser of what every benchmark takes; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--peers", required=True, help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def encode_facts(model: Any, plan: Any) -> list[dict[str, Any]]:
    """Prompts of a recall plan's first template and all candidates, as token ids."""
    facts = []
    for fact in plan.facts:
        answers = (fact.answers[0], *fact.candidates)
        facts.append(
            {
                "prompt": model.encode(plan.templates[0].replace("{}", fact.subject)),
                "candidates": [model.encode(" " + answer, bos=False) for answer in answers],
            }
        )
    return facts


def products_job(config: dict[str, Any], n_tokens: int, threads: int) -> dict[str, Any]:
    """The model's matrix products alone, for the peer "sgemm": (rows, columns, how many) each.

    The last is the unembedding.
    """
    d, f, n = config["d_model"], config["d_ffn"], config["n_layers"]
    q, kv = config["n_heads"] * config["head_dim"], config["n_kv_heads"] * config["head_dim"]
    shapes = [
        [q, d, n], [kv, d, 2 * n], [d, q, n], [f, d, 2 * n], [d, f, n], [config["vocab_size"], d, 1]
    ]  # fmt: skip
    return {"task": "sgemm", "threads": threads, "m": n_tokens, "shapes": shapes}


def cpu_name() -> str:
    """The processor's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def machine_line(context: Any) -> str:
    """CPU, threads, variants, date and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    return (
        f"{cpu_name()}, {context.threads} threads, CPU variant {context.cpu}, OpenBLAS "
        f"{context.blas_core}; {datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}"
    )
