"""RESULTS.md out of what results.py has in its cache."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    "match": "DiffKS, disentangled, matching words",
    "postks": "PostKS, gold sentence in its loss",
    "states": "DiffKS, disentangled, language model's hidden states",
    "states-scheduled": "the same, scheduled sampling",
}
# Differences that are tested: the second selector is taken from the first.
PAIRS = (
    ("disentangled", "context"),
    ("disentangled", "fused"),
    ("disentangled", "postks"),
    ("disentangled", "same"),
    ("disentangled", "tfidf"),
    ("disentangled", "bm25"),
    ("disentangled", "bm25-unused"),
    ("disentangled", "mean-pooled"),
    ("scheduled", "disentangled"),
    ("match", "disentangled"),
    ("match", "bm25"),
    ("match", "bm25-unused"),
    ("states", "disentangled"),
    ("states-scheduled", "states"),
    ("states", "bm25-unused"),
    ("states", "mean-pooled"),
)
# What a PyTorch program written from the same equations reached, with one seed, percent: after how
# long, whose history.
REFERENCE = {
    "flodial": (
        ("context", "short", "own", 56.1),
        ("fused", "short", "own", 46.4),
        ("disentangled", "short", "own", 58.9),
        ("disentangled", "long", "own", 66.3),
        ("fused", "short", "gold", 63.1),
        ("disentangled", "short", "gold", 78.3),
        ("disentangled", "long", "gold", 80.2),
        ("bm25-unused", "", "gold", 8.7),
        ("random", "", "own", 2.6),
    ),
    "kdconv": (
        ("context", "short", "own", 26.3),
        ("fused", "short", "own", 17.6),
        ("disentangled", "short", "own", 25.7),
        ("bm25", "", "own", 23.6),
    ),
}
EPOCHS = {"short": "12 epochs", "long": "up to 30 epochs", "": "–"}
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
    for data, title in TITLES.items():
        if data in found:
            parts.append("\n\n".join(_data_part(data, title, found[data])))
    parts.append(_TAIL.strip())
    parts += _missing(missing)
    with atomic_write(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    n = sum(len(runs.seeds) for by_name in found.values() for runs in by_name.values())
    return f"{path.name}: {n} jobs of {len(found)} data sets, {len(missing)} not finished"


def _missing(names: Sequence[str]) -> Iterator[str]:
    """Trainings and evaluations that were planned and are not in the tables."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        job, _, seed = name.partition("-seed")
        seeds.setdefault(job, []).append(seed)
    if not seeds:
        return
    yield "Planned and not run, seeds in brackets where the others were:"
    lines = []
    for data, title in TITLES.items():
        listed = []
        for job, without in seeds.items():
            selector = job.removeprefix(f"{data}-")
            if selector in SELECTORS and job == f"{data}-{selector}":
                some = len(without) < 3 and without != [""]
                listed.append(SELECTORS[selector] + (f" ({', '.join(without)})" if some else ""))
        if listed:
            lines.append(f"- {title}: {'; '.join(listed)}.")
    yield "\n".join(lines)


def _reference(data: str, runs: Mapping[str, Runs]) -> Iterator[str]:
    """The PyTorch program's figures beside ours."""
    yield "The PyTorch program, one seed, beside km; turns with a gold sentence, percent:"
    lines = ["| | training | history | PyTorch | km | seeds |", "|---|---|---|---|---|---|"]
    for name, label, mode, figure in REFERENCE[data]:
        if name in runs and runs[name].rows(label):
            ours = _cell(runs[name].accuracies(label, "test_seen", mode, "grounded"))
            lines.append(
                f"| {SELECTORS[name]} | {EPOCHS[label]} | {mode} | {figure} | {ours} | "
                f"{runs[name].shown_seeds()} |"
            )
    yield "\n".join(lines)


class Figures:
    """Mean accuracies of one data set, for sentences."""

    def __init__(self, runs: Mapping[str, Runs]) -> None:
        self.runs = runs

    def has(self, *names: str, label: str = "long") -> bool:
        """Whether all these selectors were run, so long where they are trained."""
        return all(name in self.runs and self.runs[name].rows(label) for name in names)

    def __call__(self, name: str, label: str, split: str, mode: str = "own") -> float:
        """Mean over seeds, on turns with a gold sentence, percent."""
        return fmean(self.runs[name].accuracies(label, split, mode, "grounded"))


def _reading(data: str, runs: Mapping[str, Runs]) -> Iterator[str]:
    """What the tables that follow show, in words."""
    found = Figures(runs)
    sentences = {
        "flodial": _read_flodial, "flodial-held-out": _read_held_out, "survey": _read_survey,
        "kdconv": _read_kdconv,
    }[data](found)  # fmt: skip
    listed = list(sentences)
    if listed:
        yield "\n".join(f"- {sentence}" for sentence in listed)


def _than(a: float, b: float) -> str:
    return f"{abs(a - b):.1f} points {'above' if a >= b else 'below'}"


def _read_flodial(found: Figures) -> Iterator[str]:
    part = "test_seen"
    if not found.has("disentangled"):
        return
    ours = found("disentangled", "short", part)
    seeds = found.runs["disentangled"].accuracies("short", part, "own", "grounded")
    yield (
        f"After 12 epochs the disentangled selector's mean is {_than(ours, 58.9)} the one seed of "
        f"the PyTorch program, with single seeds from {min(seeds):.1f} to {max(seeds):.1f} %."
    )
    if found.has("scheduled"):
        for label in ("short", "long"):
            gaps = [
                found(name, label, part, "gold") - found(name, label, part)
                for name in ("disentangled", "scheduled")
            ]
            yield (
                f"{EPOCHS[label].capitalize()}: scheduled sampling is "
                f"{_than(found('scheduled', label, part), found('disentangled', label, part))} "
                "training on gold histories. Choosing on its own history instead of the gold one "
                f"costs {gaps[0]:.1f} points without it and {gaps[1]:.1f} with it."
            )
    if found.has("context"):
        context = found("context", "short", part)
        told = found("disentangled", "short", part, "gold")
        scheduled = (
            f", {_than(context, found('scheduled', 'short', part))} scheduled sampling"
            if found.has("scheduled")
            else ""
        )
        yield (
            f"The selector without history is {_than(context, ours)} the disentangled one on its "
            f"own history{scheduled} and {_than(context, told)} the one that is told the gold "
            "history (12 epochs): history helps as far as it is right."
        )
        yield (
            f"Context only is {_than(context, 56.1)} the PyTorch program's. That program "
            "trained it for 10 epochs, with one seed; what else differs was not looked into."
        )
    yield (
        "Every flowchart of the test part has dialogues in training, so this says how well a known "
        "flowchart is followed, not how well a new one is."
    )


def _read_held_out(found: Figures) -> Iterator[str]:
    part = "test_unseen"
    if not found.has("random", "tfidf", "bm25", "bm25-unused"):
        return
    chance = found("random", "", part)
    for name in ("disentangled", "states"):
        if found.has(name):
            yield (
                f"{SELECTORS[name]}: {found(name, 'short', part):.1f} % after 12 epochs on unseen "
                f"flowcharts, where chance is {chance:.1f} %."
            )
    words = max(("tfidf", "bm25", "bm25-unused"), key=lambda name: found(name, "", part))
    yield (
        f"The best of the selectors by words reaches {found(words, '', part):.1f} % there "
        f"({SELECTORS[words]})."
    )
    if not found.has("disentangled", "states"):
        yield "Whether hidden states carry over to new flowcharts is not answered here."


def _read_survey(found: Figures) -> Iterator[str]:
    for part, shown in (("test_seen", "Seen topics"), ("test_unseen", "Unseen topics")):
        if found.has("disentangled", "bm25", "random"):
            figures = [
                f"{SELECTORS[name]} {found(name, 'long', part):.1f} %"
                for name in ("disentangled", "scheduled", "match")
                if found.has(name)
            ]
            yield (
                f"{shown}, longest training: {', '.join(figures)}; BM25 "
                f"{found('bm25', '', part):.1f} %, chance {found('random', '', part):.1f} %."
            )
    if found.has("match"):
        yield (
            "A few hundred dialogues do not teach an encoder which words mean the same; matching "
            "words, as the shipped selector does, stands in for it. Whether that adds to BM25 is "
            "in the tests below."
        )


def _read_kdconv(found: Figures) -> Iterator[str]:
    if found.has("disentangled", "bm25"):
        ours = found("disentangled", "long", "test_seen")
        yield (
            f"After the longest training the disentangled selector is "
            f"{_than(ours, found('bm25', '', 'test_seen'))} BM25: small data, and turns whose next "
            "triple history does not decide."
        )


def _data_part(data: str, title: str, runs: dict[str, Runs]) -> Iterator[str]:
    yield f"## {title}"
    yield _INTRO[data].strip()
    if data in REFERENCE:
        yield from _reference(data, runs)
    yield from _reading(data, runs)
    first = next(each.rows("short") for each in runs.values())[0]
    trained = [each for each in runs.values() if "" not in each.seeds[0]]
    for split in dict.fromkeys(first["split"]):
        for label in ("short", "long"):
            if label == "long" and not any(each.rows(label) for each in trained):
                continue
            name = EPOCHS[label]
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
trained, fewer where the column says so). *Own history*: the selector knows what it chose itself
at earlier turns, as in use. *Gold history*: it is told what should have been chosen. Contexts
hold the answers that were given. No list of candidates is cut, and "no knowledge used" is never
chosen. *Any good one* accepts every sentence that the data mark as right (KdConv marks several).
Rows that were not run are left out, and listed at the end.

Trained selectors have embeddings of 64, encoders of 2 × 64, dropout 0.2, Adam with a learning
rate of 0.002 and 8 dialogues a batch; the best epoch is chosen on the validation part, on the
selector's own history. "12 epochs" is the budget of the reference figures below; the long
training goes on from there and stops after 8 epochs without a better validation accuracy.
*Scheduled sampling* takes the model's own choices for the history of a growing share of turns
in training (from epoch 4, 75 % from epoch 10 on). *Hidden states* are those of
SmolLM2-135M-Instruct (Q4_1) at layer 15, on 64 principal axes of the training texts, in place
of embeddings, and stay as they are. *Matching words* adds how alike candidates, question and
earlier choices are by their words.

Differences are tested on credit averaged over seeds, paired by turn, with whole dialogues drawn
anew (bootstrap) or their signs flipped; they say nothing about other training data, nor, where
there is one seed, about other seeds.
"""
_INTRO = {
    "flodial": """
English troubleshooting along flowcharts (Raghu et al. 2021; 524 dialogues to train, 70 to
validate, 127 to test, 41 candidates a turn). It states no licence, so it is no part of this
repository; `--flodial` names a copy. Random choice is right in 2.5 %.

A PyTorch program written from the same equations is the reference, with the sizes above. Its
disentangled selector was trained for 12 and for 19 epochs, its others for 10 and 11; ours for 12,
and for up to 30 with patience.
""",
    "flodial-held-out": """
The same dialogues; every dialogue on three of the eleven flowcharts (brake_problem, ticking,
wireless) is kept from training and validation and tested as unseen. The PyTorch program named
above fell to 3 to 7 % on unseen flowcharts, with random at about 2.5. Planned here is the
disentangled selector alone, on words and on a language model's hidden states, with and without
scheduled sampling.
""",
    "survey": """
Written for this project's demonstration (`data/ask_the_survey`); it shows how the method works
and is no evidence about other conversations. Unseen topics occur nowhere in training.
Candidates were shuffled.
""",
    "kdconv": """
Chinese conversations about films, music and travel (Zhou et al. 2020, Apache-2.0;
`data/kdconv`), with triples as candidates. The PyTorch program trained for 5 to 9 epochs.
""",
}
_TAIL = """
## What is not here

The likelihood of the answer sees the answer, so it is a bound on what the answer gives away, not
a selector for use; where there is a row, it is of the first dialogues of each part only. PostKS,
where there is a row, has the gold sentence in its loss (`supervision=1`), as the others do, and not
the decoder of its paper. No answers are generated: all figures are of choosing. Wizard of Wikipedia
and Holl-E, on which DiffKS was published, were not at hand; `km.dialog` reads both. Seeds change
first weights, order and dropout, never the split of the data.
"""
