"""Decoders beside greedy decoding on the same items: choice of settings, differences, tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from km import stats
from km.studies.decoders_cases import MEMOTRAP, NQ_SYNTH
from km.studies.decoders_settings import DECODERS, GREEDY, Setting
from km.table import Column

Rows = Sequence[Mapping[str, Any]]

METRICS = {"match": "exact match", "right": "two classes"}
TASKS = {MEMOTRAP: "MemoTrap", NQ_SYNTH: "NQ-Synth"}
ALL = "all"
ALPHA = 0.05

ROW_COLUMNS = [
    Column("part", "text", "", "validation or test."),
    Column("task", "text", "", "memotrap or nq_synth."),
    Column("file", "text", "", "Its file."),
    Column("item", "text", "", "Identifier of the item."),
    Column("cluster", "text", "", "Proverb, event or question."),
    Column("decoder", "text", "", "Name of the decoder."),
    Column("setting", "text", "", "Its hyper-parameters, as JSON."),
    Column("text", "text", "", "What was generated."),
    Column("answer", "text", "", "The part of it that is the answer."),
    Column("match", "bool", "", "It equals the wanted answer."),
    Column("other", "text", "", "The other class; null where there is none."),
    Column("logp_wanted", "double", "nats", "Of the wanted class by the decoder's own scores."),
    Column("logp_other", "double", "nats", "Of the other class."),
    Column("right", "bool", "", "The wanted class is the more probable; null without another."),
    Column("left_out", "int64", "", "Position of the token that CoDa found; null: none."),
]

SELECTION_COLUMNS = [
    Column("task", "text", "", "memotrap or nq_synth."),
    Column("decoder", "text", "", "Name of the decoder."),
    Column("setting", "text", "", "Hyper-parameters, as JSON."),
    Column("n", "int64", "items", "Validation items."),
    Column("match", "double", "", "Share of exact matches."),
    Column("right", "double", "", "Share of right classes; null without classes."),
    Column("score", "double", "", "Mean of both shares, over files."),
    Column("chosen", "bool", "", "The highest score; the first of equals."),
]

COMPARISON_COLUMNS = [
    Column("task", "text", "", "memotrap or nq_synth."),
    Column("file", "text", "", "all: every file of the task."),
    Column("metric", "text", "", "match: exact match; right: two classes."),
    Column("decoder", "text", "", "Compared with greedy decoding on the same items."),
    Column("setting", "text", "", "Its hyper-parameters, as JSON."),
    Column("n", "int64", "items", "Items both decoded."),
    Column("n_clusters", "int64", "clusters", "Proverbs, events or questions."),
    Column("share", "double", "", "Of the decoder."),
    Column("low", "double", "", "Lower end of its interval."),
    Column("high", "double", "", "Upper end."),
    Column("greedy", "double", "", "Share of greedy decoding."),
    Column("difference", "double", "", "Decoder less greedy."),
    Column("difference_low", "double", "", "Lower end of its paired interval."),
    Column("difference_high", "double", "", "Upper end."),
    Column("gained", "int64", "items", "Right with the decoder alone."),
    Column("lost", "int64", "items", "Right with greedy decoding alone."),
    Column("p", "double", "", "Two-sided."),
    Column("p_adjusted", "double", "", "Holm, or Benjamini and Hochberg where exploratory."),
    Column("test", "text", "", "McNemar exact, or sign flips of whole clusters."),
    Column("family", "text", "", "confirmatory or exploratory."),
    Column("detectable", "double", "", "Smallest difference shown four times in five; null: none."),
]


# ---- choosing hyper-parameters ----


def select_settings(rows: Rows) -> list[dict[str, Any]]:
    """Rows of SELECTION_COLUMNS: what each setting reaches on validation items, and the best."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for decoder in (GREEDY, *DECODERS):
            own = [row for row in rows if (row["task"], row["decoder"]) == (task, decoder)]
            tried = [
                _reached(task, decoder, setting, [r for r in own if r["setting"] == setting])
                for setting in dict.fromkeys(row["setting"] for row in own)
            ]
            if tried:
                max(tried, key=lambda row: row["score"])["chosen"] = True
            found += tried
    return found


def _reached(task: str, decoder: str, setting: str, rows: Rows) -> dict[str, Any]:
    files = list(dict.fromkeys(row["file"] for row in rows))
    by_file = [[row for row in rows if row["file"] == file] for file in files]
    match = _mean([_share(each, "match") for each in by_file])
    right = _mean([_share(each, "right") for each in by_file])
    scores = [share for share in (match, right) if share is not None]
    return {
        "task": task,
        "decoder": decoder,
        "setting": setting,
        "n": len(rows),
        "match": match,
        "right": right,
        "score": sum(scores) / len(scores),
        "chosen": False,
    }


def _share(rows: Rows, metric: str) -> float | None:
    return _mean([row[metric] for row in rows])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def chosen_settings(selection: Iterable[Mapping[str, Any]]) -> dict[str, list[Setting]]:
    """By task, greedy decoding and the chosen setting of each decoder."""
    found: dict[str, list[Setting]] = {}
    for row in selection:
        if row["chosen"]:
            found.setdefault(row["task"], []).append(Setting(row["decoder"], row["setting"]))
    return found


# ---- comparisons ----


def compare_decoders(rows: Rows, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Rows of COMPARISON_COLUMNS: every decoder beside greedy decoding.

    Parameters
    ----------
    rows : sequence of mapping
        Of ROW_COLUMNS; the validation rows say how often a chosen setting and greedy decoding
        disagree, which the smallest detectable differences need.
    """
    test = [row for row in rows if row["part"] == "test"]
    tested = {(row["task"], row["decoder"], row["setting"]) for row in test}
    before = [
        row
        for row in rows
        if row["part"] == "validation" and (row["task"], row["decoder"], row["setting"]) in tested
    ]
    found = []
    for task, file, metric, decoder in _questions(test):
        pairs = _pairs(test, task, file, metric, decoder)
        if pairs:
            family = "confirmatory" if is_confirmatory(file, metric) else "exploratory"
            row: dict[str, Any] = {"task": task, "file": file, "metric": metric, "decoder": decoder}
            row |= {"family": family, **_compared(pairs, confidence, seed)}
            disagreeing = [
                a[metric] != b[metric] for a, b in _pairs(before, *list(row.values())[:4])
            ]
            row["detectable"] = _detectable(row["n_clusters"], disagreeing)
            found.append(row)
    for family, adjust in (("confirmatory", stats.holm), ("exploratory", stats.benjamini_hochberg)):
        members = [row for row in found if row["family"] == family]
        values = adjust([row["p"] for row in members]).tolist() if members else []
        for row, value in zip(members, values, strict=True):
            row["p_adjusted"] = value
    return found


def is_confirmatory(file: str, metric: str) -> bool:
    """Whether a comparison is one of those predicted: exact match over a whole task."""
    return file == ALL and metric == "match"


def _questions(test: Rows) -> Iterable[tuple[str, str, str, str]]:
    """(task, file, metric, decoder) of every comparison."""
    for task in dict.fromkeys(row["task"] for row in test):
        files = list(dict.fromkeys(row["file"] for row in test if row["task"] == task))
        for file in [ALL, *(files if len(files) > 1 else [])]:
            for metric in METRICS:
                for decoder in DECODERS:
                    yield task, file, metric, decoder


def _pairs(
    rows: Rows, task: str, file: str, metric: str, decoder: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Rows of a decoder and of greedy decoding, item by item."""
    kept = [
        row
        for row in rows
        if row["task"] == task and file in (ALL, row["file"]) and row[metric] is not None
    ]
    greedy = {row["item"]: row for row in kept if row["decoder"] == GREEDY}
    return [
        ({**row, "value": row[metric]}, {**other, "value": other[metric]})
        for row in kept
        if row["decoder"] == decoder and (other := greedy.get(row["item"])) is not None
    ]


def _compared(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], confidence: float, seed: int
) -> dict[str, Any]:
    ours, theirs = ([float(row["value"]) for row in side] for side in zip(*pairs, strict=True))
    clusters = [row["cluster"] for row, _ in pairs]
    gained = sum(a > b for a, b in zip(ours, theirs, strict=True))
    lost = sum(a < b for a, b in zip(ours, theirs, strict=True))
    n = len(pairs)
    low, high = share_interval(ours, clusters, confidence, seed)
    spread = _spread(ours, theirs, clusters, confidence, seed)
    alone = len(set(clusters)) == n
    if alone:
        test = stats.mcnemar(gained, lost)
    else:
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        test = stats.permutation_test(differences, clusters, seed=seed)
    return {
        "setting": pairs[0][0]["setting"],
        "n": n,
        "n_clusters": len(set(clusters)),
        "share": sum(ours) / n,
        "low": low,
        "high": high,
        "greedy": sum(theirs) / n,
        "difference": (gained - lost) / n,
        "difference_low": spread[0],
        "difference_high": spread[1],
        "gained": gained,
        "lost": lost,
        "p": test.p if gained + lost else 1.0,
        "test": "McNemar exact" if alone else "sign flips of clusters",
    }


def share_interval(
    values: Sequence[float], clusters: Sequence[str], confidence: float, seed: int
) -> tuple[float, float]:
    """Of a share: Wilson's interval where every cluster has one item, else clustered."""
    if len(set(clusters)) == len(clusters):
        found = stats.wilson(int(sum(values)), len(values), confidence=confidence)
    elif len(set(clusters)) == 1:
        return math.nan, math.nan
    else:
        found = stats.clustered_bootstrap(
            values, clusters, confidence=confidence, seed=seed, proportion=True
        )
    return found.low, found.high


def _spread(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[str],
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    if len(set(clusters)) == 1:
        return math.nan, math.nan
    found = stats.paired_bootstrap(
        ours, theirs, clusters, confidence=confidence, seed=seed, proportion=True
    )
    return found.low, found.high


def _detectable(n: int, disagreeing: Sequence[bool]) -> float | None:
    """Smallest difference shown with a power of 0.8 by the first step of Holm's procedure.

    How often the two disagree is estimated on validation items, with one more and one less than
    were seen, so that a disagreement never seen is not taken to be impossible.
    """
    share = (sum(disagreeing) + 1) / (len(disagreeing) + 2)
    n_tests = len(TASKS) * len(DECODERS)
    found = stats.power_paired(n, share, alpha=ALPHA / n_tests)
    return found if math.isfinite(found) else None
