"""RESULTS.md out of what results.py has in its cache."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from km import stats
from km.cache import atomic_write

TITLES = {
    "flodial": "FloDial",
    "flodial-held-out": "FloDial, three flowcharts held out",
    "survey": "Ask the survey",
    "kdconv": "KdConv",
}
SELECTORS = {
    "random": "random (expectation)",
    "same": "same as last",
    "tfidf": "tf-idf",
    "bm25": "BM25",
    "bm25-unused": "BM25, used ones excluded",
    "mean-pooled": "mean-pooled hidden states",
    "likelihood": "likelihood of the answer (sees it; a part of the turns)",
    "context": "DiffKS, context only",
    "fused": "DiffKS, fused",
    "disentangled": "DiffKS, disentangled",
    "scheduled": "DiffKS, disentangled, scheduled sampling",
    "model": "DiffKS, disentangled, language model's embeddings",
    "states": "DiffKS, disentangled, language model's hidden states",
    "states-scheduled": "the same, scheduled sampling",
}
# Differences that are tested: the second selector is taken from the first.
PAIRS = (
    ("disentangled", "context"),
    ("disentangled", "fused"),
    ("disentangled", "bm25-unused"),
    ("scheduled", "disentangled"),
    ("model", "disentangled"),
    ("states", "disentangled"),
    ("states-scheduled", "states"),
    ("states", "bm25-unused"),
    ("states", "mean-pooled"),
)
KINDS = ("grounded", "first", "later")


class Runs:
    """All seeds of one selector on one data set.

    Attributes
    ----------
    seeds : list of dict
        What each job left, by label ("short", "long", or "" for selectors without training).
    """

    def __init__(self, seeds: Sequence[dict[str, Any]]) -> None:
        self.seeds = list(seeds)

    def shown_seeds(self) -> str:
        """How many trainings there were."""
        return "–" if "" in self.seeds[0] else str(len(self.seeds))

    def rows(self, label: str) -> list[dict[str, Any]]:
        """The rows of every seed after a length of training; "" has those without training."""
        found = [seed.get(label, seed.get("")) for seed in self.seeds]
        return [run["rows"] for run in found if run is not None]

    def values(
        self, label: str, split: str, mode: str, kind: str, column: str = "correct"
    ) -> list[dict[tuple[str, int], float]]:
        """Credit by (dialogue, turn) of every seed."""
        return [dict(_credit(rows, split, mode, kind, column)) for rows in self.rows(label)]

    def accuracies(self, *where: str) -> list[float]:
        """Percent of every seed; empty where there is no such turn."""
        found = [values for values in self.values(*where) if values]
        return [100 * fmean(values.values()) for values in found]


def _credit(
    rows: dict[str, list[Any]], split: str, mode: str, kind: str, column: str
) -> Iterator[tuple[tuple[str, int], float]]:
    names = ("history", "dialogue", "split", "turn", "gold", column)
    for history, dialogue, part, turn, gold, credit in zip(*(rows[n] for n in names), strict=True):
        if history != mode or part != split or (kind != "all" and not gold):
            continue
        if kind in ("all", "grounded") or (turn == 1) == (kind == "first"):
            yield (dialogue, turn), credit


def read_cache(cache: Path) -> dict[str, dict[str, Runs]]:
    """Finished jobs by data set and selector."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(cache.glob("*.json")):
        out = json.loads(path.read_bytes())
        job = out["job"]
        found.setdefault(job["data"], {}).setdefault(job["selector"], []).append(out["runs"])
    return {
        data: {name: Runs(seeds) for name, seeds in by_name.items()}
        for data, by_name in found.items()
    }


def write_page(cache: Path, path: Path, expected: Iterable[str] = ()) -> str:
    """Write the page; what was written in one line.

    Parameters
    ----------
    cache, path : Path
    expected : iterable of str
        Names of all jobs; the page says which are not finished.
    """
    found = read_cache(cache)
    parts = [_HEAD.strip()]
    missing = [name for name in expected if not (cache / f"{name}.json").exists()]
    if missing:
        parts.append(f"**Not finished:** {', '.join(missing)}.")
    for data, title in TITLES.items():
        if data in found:
            parts.append("\n\n".join(_data_part(data, title, found[data])))
    parts.append(_TAIL.strip())
    with atomic_write(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    n = sum(len(runs.seeds) for by_name in found.values() for runs in by_name.values())
    return f"{path.name}: {n} jobs of {len(found)} data sets, {len(missing)} not finished"


def _data_part(data: str, title: str, runs: dict[str, Runs]) -> Iterator[str]:
    yield f"## {title}"
    yield _INTRO[data].strip()
    first = next(each.rows("short") for each in runs.values())[0]
    trained = [each for each in runs.values() if "" not in each.seeds[0]]
    for split in dict.fromkeys(first["split"]):
        for label in ("short", "long"):
            if label == "long" and not any(each.rows(label) for each in trained):
                continue
            name = {"short": "12 epochs", "long": "up to 30 epochs"}[label]
            part = {"test_seen": "Seen topics", "test_unseen": "Unseen topics"}[split]
            yield f"### {part}, {name}"
            yield _table(runs, label, split)
            lines = list(_tests(runs, label, split))
            if lines:
                yield "\n".join([*_TEST_HEAD, *lines])


def _table(runs: dict[str, Runs], label: str, split: str) -> str:
    lines = [
        "| selector | seeds | own history | turn 1 | later | gold history | later "
        "| any good one, own history |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, shown in SELECTORS.items():
        if name not in runs or (label == "long" and "" in runs[name].seeds[0]):
            continue  # what is not trained stands in the table of the short training alone
        if not runs[name].rows(label):
            continue
        each = runs[name]
        cells = [_cell(each.accuracies(label, split, "own", kind)) for kind in KINDS]
        cells += [
            _cell(each.accuracies(label, split, "gold", kind)) for kind in ("grounded", "later")
        ]
        cells.append(_cell(each.accuracies(label, split, "own", "grounded", "accepted")))
        lines.append(f"| {shown} | {each.shown_seeds()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


_TEST_HEAD = (
    "Differences of accuracy on its own history, turns with a gold sentence, in points:",
    "",
    "| | difference | 95 % interval | p (sign flips of dialogues) |",
    "|---|---|---|---|",
)


def _tests(runs: dict[str, Runs], label: str, split: str) -> Iterator[str]:
    """A line a pair: mean credit over seeds, paired by turn, dialogues drawn anew."""
    for name, other in PAIRS:
        if any(one not in runs or not runs[one].rows(label) for one in (name, other)):
            continue
        a, b = (
            _mean_credit(runs[one].values(label, split, "own", "grounded")) for one in (name, other)
        )
        turns = [turn for turn in a if turn in b]
        clusters = [dialogue for dialogue, _ in turns]
        if len(set(clusters)) < 2:
            continue
        x, y = [a[turn] for turn in turns], [b[turn] for turn in turns]
        found = stats.paired_bootstrap(x, y, cluster=clusters, proportion=True)
        p = stats.permutation_test([u - v for u, v in zip(x, y, strict=True)], clusters).p
        yield (
            f"| {SELECTORS[name]} – {SELECTORS[other]} | {100 * found.estimate:+.1f} | "
            f"{100 * found.low:+.1f} to {100 * found.high:+.1f} | {_p(p)} |"
        )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else "–" if math.isnan(p) else f"{p:.3f}"


def _mean_credit(seeds: Iterable[dict[tuple[str, int], float]]) -> dict[tuple[str, int], float]:
    listed = list(seeds)
    return {turn: fmean(seed[turn] for seed in listed) for turn in listed[0]}


_HEAD = """
# Which sentence? Selectors compared

Made by `python grounded-dialog/results.py`. A selector chooses, at every turn of a dialogue,
the sentence that the answer rests on. Accuracy is the share, in percent, of turns with a gold
sentence at which the gold one was chosen; mean ± standard deviation over seeds (three where
trained). *Own history*: the selector knows what it chose itself at earlier turns, as in use.
*Gold history*: it is told what should have been chosen. Contexts hold the answers that were
given. No list of candidates is cut, and "no knowledge used" is never chosen.

Trained selectors have embeddings of 64, encoders of 2 × 64, dropout 0.2, Adam with a learning
rate of 0.002 and 8 dialogues a batch; the best epoch is chosen on the validation part, on the
selector's own history. "12 epochs" is the budget of the reference figures below; the long
training goes on from there and stops after 8 epochs without a better validation accuracy.
*Scheduled sampling* takes the model's own choices for the history of a growing share of turns
in training (from epoch 4, 75 % from epoch 10 on). *Hidden states* are those of
SmolLM2-135M-Instruct (Q4_1) at layer 15, on 64 principal axes of the training texts, in place
of embeddings; *its embeddings* are its token embeddings on 64 principal axes, with its tokens
in place of words; both stay as they are.

Differences are tested on credit averaged over seeds, paired by turn, with whole dialogues drawn
anew (bootstrap) or their signs flipped; they say nothing about other training data.
"""
_INTRO = {
    "flodial": """
English troubleshooting along flowcharts (Raghu et al. 2021; 524 dialogues to train, 70 to
validate, 127 to test, 41 candidates a turn). It states no licence, so it is no part of this
repository; `--flodial` names a copy. A PyTorch program written from the same equations reached,
with one seed, on its own history: context only 56.1, fused 46.4, disentangled 58.9 after 12
epochs and 66.3 after 19; with gold history fused 63.1, disentangled 78.3 and 80.2; random 2.6,
best BM25 8.7.
""",
    "flodial-held-out": """
The same dialogues; every dialogue on three of the eleven flowcharts (brake_problem, ticking,
wireless) is kept from training and validation and tested as unseen. The PyTorch program named
above fell to 3 to 7 % on unseen flowcharts, with random at about 2.5.
""",
    "survey": """
Written for this project's demonstration (`data/ask_the_survey`); it shows how the method works
and is no evidence about other conversations. Unseen topics occur nowhere in training.
Candidates were shuffled.
""",
    "kdconv": """
Chinese conversations about films, music and travel (Zhou et al. 2020, Apache-2.0;
`data/kdconv`), with triples as candidates. The PyTorch program reached, with one seed, context
only 26.3, fused 17.6, disentangled 25.7; BM25 23.6.
""",
}
_TAIL = """
## What is not here

PostKS is not among the selectors. The likelihood of the answer sees the answer, so it is a
bound on what the answer gives away, not a selector for use; it was computed on the first
dialogues of each part only.
"""
