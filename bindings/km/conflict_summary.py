"""From rows of conflict to figures: ratios by group, disagreement, notes and evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from km.conflict_plan import (
    CLOSED,
    CONFLICT_ID,
    ORIGINAL,
    ORIGINAL_FIRST,
    PARAPHRASE,
    SUBSTITUTE,
    SUBSTITUTE_FIRST,
)
from km.datasets.answer_text import answer_part
from km.scores.conflict import MemorizationRatio, normalize_answer, ratio_of_buckets
from km.stats import clustered_bootstrap
from km.table import Column

Rows: TypeAlias = "list[dict[str, Any]]"

RATIO_COLUMNS = [
    Column("group", "text", "", "What the examples have in common."),
    Column("value", "text", "", "Its value."),
    Column("condition", "text", "", "Passages before the question."),
    Column("n", "int64", "examples", "Examples that count: the fact is known without a passage."),
    Column("n_excluded", "int64", "examples", "Not known without a passage."),
    Column("p_original", "double", "share", "Answered as remembered."),
    Column("p_substitute", "double", "share", "Answered as the changed passage says."),
    Column("p_other", "double", "share", "Answered neither."),
    Column("other_low", "double", "share", "Interval of p_other."),
    Column("other_high", "double", "share", "Interval of p_other."),
    Column("ratio", "double", "share", "Memorization ratio; null when all is other."),
    Column("low", "double", "share", "Interval of the ratio."),
    Column("high", "double", "share", "Interval of the ratio."),
    Column("n_both", "int64", "examples", "Counted as original, matching the substitute too."),
    Column("n_clusters", "int64", "clusters", "Relations or questions resampled as a whole."),
    Column("method", "text", "", "Of the ratio's interval."),
    Column("closed_original", "double", "share", "Of all: right without a passage."),
    Column("closed_substitute", "double", "share", "Of all: the substitute without a passage."),
    Column("context_original", "double", "share", "Of all: right with the original passage."),
    Column("random_original", "double", "share", "p_original of random weights."),
    Column("random_substitute", "double", "share", "p_substitute of random weights."),
    Column("random_other", "double", "share", "p_other of random weights."),
]

DISAGREEMENT_COLUMNS = [
    Column("between", "text", "", "paraphrases, without a passage, or orders of two passages."),
    Column("relation", "text", "", "Relation; all for all."),
    Column(
        "n", "int64", "questions", "Questions, or examples, that were asked in two ways or more."
    ),
    Column("disagreement", "double", "share", "Pairs of ways with different answers."),
    Column("low", "double", "share", "Interval."),
    Column("high", "double", "share", "Interval."),
    Column("n_clusters", "int64", "clusters", "Relations or questions."),
    Column("random_init", "double", "share", "Disagreement of random weights."),
]


# ---- memorization ratio ----


def counted_rows(rows: Rows, condition: str, known: str | None) -> tuple[Rows, Rows]:
    """Rows of a condition whose fact is known, and those whose is not.

    Parameters
    ----------
    rows : list of dict
    condition : str
    known : {"closed_book", "original"} or None
        Where the original answer must have been given; None: nowhere.
    """
    right = {row["uid"] for row in rows if row["condition"] == known and _is_right(row)}
    own = [row for row in rows if row["condition"] == condition]
    kept = [row for row in own if known is None or row["uid"] in right]
    return kept, [row for row in own if known is not None and row["uid"] not in right]


def _is_right(row: dict[str, Any]) -> bool:
    return bool(row["bucket"] == "original")


def rows_ratio(rows: Rows, n_excluded: int, confidence: float, seed: int) -> MemorizationRatio:
    """Memorization ratio of rows, clustered by relation or, within one, by question."""
    return ratio_of_buckets(
        [row["bucket"] for row in rows],
        clusters=_clusters(rows),
        n_both=sum(row["both"] for row in rows),
        n_excluded=n_excluded,
        confidence=confidence,
        seed=seed,
    )


def _clusters(rows: Rows) -> list[str]:
    relations = {row["relation"] for row in rows}
    by_relation = None not in relations and len(relations) > 1
    return [str(row["relation"] if by_relation else row["question"]) for row in rows]


def summarise_ratios(rows: Rows, confidence: float, seed: int, control: Rows | None = None) -> Rows:
    """Rows of RATIO_COLUMNS; `control`: the same rows with random weights."""
    out = []
    for condition in (SUBSTITUTE, ORIGINAL_FIRST, SUBSTITUTE_FIRST):
        kept, left = counted_rows(rows, condition, CLOSED)
        if not kept and not left:
            continue
        groups = _groups([*kept, *left]) if condition == SUBSTITUTE else iter([_ALL])
        for group, value, uids in groups:
            mine = [row for row in kept if uids is None or row["uid"] in uids]
            missed = sum(uids is None or row["uid"] in uids for row in left)
            ratio = rows_ratio(mine, missed, confidence, seed)
            baselines = _baselines(rows, uids) | _random(control, condition, mine)
            out.append(_ratio_row(group, value, condition, ratio) | baselines)
    kept, _ = counted_rows(rows, SUBSTITUTE, None)
    everything = rows_ratio(kept, 0, confidence, seed)
    whole = _ratio_row("all, known or not", "all", SUBSTITUTE, everything)
    return [*out, whole | _random(control, SUBSTITUTE, kept)]


def _random(control: Rows | None, condition: str, counted: Rows) -> dict[str, float | None]:
    """What random weights answer to the prompts that count."""
    uids = {row["uid"] for row in counted}
    buckets = [
        row["bucket"]
        for row in control or ()
        if row["condition"] == condition and row["uid"] in uids
    ]
    names = ("original", "substitute", "other")
    return {f"random_{name}": _share(buckets, name) for name in names}


_ALL: tuple[str, str, set[str] | None] = ("all", "all", None)


def _groups(rows: Rows) -> Iterator[tuple[str, str, set[str] | None]]:
    """(group, value, uids) of all examples, and of each way to divide them in two or more."""
    yield _ALL
    thirds = _popularity_thirds(rows)
    matched = {True: "matched", False: "not matched", None: None}
    ways: dict[str, Callable[[dict[str, Any]], str | None]] = {
        "relation": lambda row: row["relation"],
        "position": lambda row: row["position"],
        "popularity": lambda row: thirds.get(row["uid"]),
        "recall": lambda row: row["known"],
        "substitute": lambda row: matched[row["matched"]],
    }
    for group, find in ways.items():
        values: dict[str, set[str]] = {}
        for row in rows:
            value = find(row)
            if value is not None:
                values.setdefault(value, set()).add(row["uid"])
        if len(values) > 1:
            for value in sorted(values):
                yield group, value, values[value]


def _popularity_thirds(rows: Rows) -> dict[str, str]:
    """Third of the examples, by popularity, that each belongs to; equal ones stay together."""
    known = sorted(row["popularity"] for row in rows if row["popularity"] is not None)
    if not known:
        return {}
    cuts = [known[len(known) // 3], known[2 * len(known) // 3]]
    names = ("1 least popular", "2 middle", "3 most popular")
    return {
        row["uid"]: names[sum(row["popularity"] >= cut for cut in cuts)]
        for row in rows
        if row["popularity"] is not None
    }


def _ratio_row(group: str, value: str, condition: str, ratio: MemorizationRatio) -> dict[str, Any]:
    figures = {
        name: getattr(ratio, name)
        for name in ("p_original", "p_substitute", "p_other", "other_low", "other_high", "ratio",
                     "low", "high")
    }  # fmt: skip
    counts = {name: getattr(ratio, name) for name in ("n", "n_excluded", "n_both", "n_clusters")}
    return {
        "group": group,
        "value": value,
        "condition": condition,
        "method": ratio.method or None,
        **counts,
        **{name: None if math.isnan(number) else number for name, number in figures.items()},
    }


def _baselines(rows: Rows, uids: set[str] | None) -> dict[str, float | None]:
    """Shares of all examples, known or not, without a passage and with the original one."""
    mine = [row for row in rows if uids is None or row["uid"] in uids]
    closed = [row["bucket"] for row in mine if row["condition"] == CLOSED]
    given = [row["bucket"] for row in mine if row["condition"] == ORIGINAL]
    own = any(row["own_original"] for row in mine)  # right by definition: no baseline
    return {
        "closed_original": None if own else _share(closed, "original"),
        "closed_substitute": _share(closed, "substitute"),
        "context_original": _share(given, "original"),
    }


def _share(buckets: Sequence[str], name: str) -> float | None:
    return buckets.count(name) / len(buckets) if buckets else None


# ---- disagreement ----


def summarise_disagreement(
    rows: Rows, confidence: float, seed: int, control: Rows | None = None
) -> Rows:
    """Rows of DISAGREEMENT_COLUMNS: paraphrases, then orders; all questions, then by relation."""
    out: Rows = []
    for between, (key, *conditions) in _WAYS.items():
        found = _pairs_apart([row for row in rows if row["condition"] in conditions], key)
        if not found:
            continue
        random = _pairs_apart([r for r in control or () if r["condition"] in conditions], key)
        relations = sorted({name for name, _ in found.values() if name is not None})
        many = len(relations) > 1
        own = {name: [x for x in found.items() if x[1][0] == name] for name in relations}
        out.append(_disagreement_row("all", list(found.items()), many, confidence, seed))
        if many:
            out += [_disagreement_row(x, own[x], False, confidence, seed) for x in relations]
        for row in out:
            if "between" not in row:
                own_pairs = [
                    share for name, share in random.values() if row["relation"] in ("all", name)
                ]
                row["random_init"] = sum(own_pairs) / len(own_pairs) if own_pairs else None
                row["between"] = between
    return out


# What is compared: the column that says what belongs together, then the conditions.
_WAYS = {
    "paraphrases": ("question", CLOSED, PARAPHRASE),
    "orders of passages": ("uid", ORIGINAL_FIRST, SUBSTITUTE_FIRST),
}


def _pairs_apart(rows: Rows, key: str) -> dict[str, tuple[str | None, float]]:
    """Relation of each question or example, and its share of pairs of prompts that differ.

    Answers are the same when both give the original, or when they are equal once normalised.
    """
    answers: dict[str, dict[str, str]] = {}
    relations: dict[str, str | None] = {}
    for row in rows:
        given = "original" if _is_right(row) else normalize_answer(answer_part(row["prediction"]))
        answers.setdefault(row[key], {})[row["prompt"]] = given
        relations[row[key]] = row["relation"]
    out = {}
    for question, own in answers.items():
        pairs = list(combinations(own.values(), 2))
        if pairs:
            out[question] = (relations[question], sum(a != b for a, b in pairs) / len(pairs))
    return out


def _disagreement_row(
    name: str,
    found: Sequence[tuple[str, tuple[str | None, float]]],
    by_relation: bool,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    values = [share for _, (_, share) in found]
    ids = [str(relation) if by_relation else question for question, (relation, _) in found]
    row: dict[str, Any] = {
        "relation": name,
        "n": len(values),
        "disagreement": sum(values) / len(values),
        "n_clusters": len(set(ids)),
    }
    if len(set(ids)) > 1:
        interval = clustered_bootstrap(
            values, ids, confidence=confidence, seed=seed, proportion=True
        )
        row |= {"low": interval.low, "high": interval.high}
    return row


# ---- what it says ----


def conflict_notes(rows: Rows, ratios: Rows) -> list[str]:
    """What a reader has to know before quoting a figure."""
    first = ratios[0]
    notes = [
        f"The memorization ratio leaves out {_percent(first['p_other'])} of answers that are "
        "neither the original nor the substitute: read it beside that share."
    ]
    if not first["n"]:
        notes = ["No fact was known without a passage: there is no memorization ratio."]
    elif first["n"] < 30:
        notes.append(f"Only {first['n']} examples count: their facts are known without a passage.")
    if any(row["own_original"] for row in rows):
        notes.append(
            "Without an original answer in the data the model's own answer stands for it, right or "
            "wrong: a ratio says whether the model changes its answer, not whether it knew."
        )
    unmatched = sum(row["matched"] is None for row in rows if row["condition"] == SUBSTITUTE)
    if unmatched:
        notes.append(
            f"{unmatched} substitutes were not matched on tokens, prior probability and frequency: "
            "part of a difference between groups may be theirs."
        )
    return notes


def _percent(share: float | None) -> str:
    return "no share" if share is None else f"{100 * share:.1f} %"


def conflict_evidence(ratios: Rows, internal: Rows) -> list[dict[str, Any]]:
    """What the figures say about nodes of the taxonomy."""
    out = []
    for row in ratios:
        if row["group"] != "all" or row["ratio"] is None:
            continue
        one = row["condition"] == SUBSTITUTE
        node = "conflict-context-memory" if one else "conflict-inter-context"
        out.append(
            _evidence(node, f"memorization_ratio ({row['condition']})", row["ratio"], row)
            | {
                "baseline": row["closed_substitute"],
                "note": f"Facts known without a passage; {_percent(row['p_other'])} of answers are "
                "neither original nor substitute. The baseline is the share of the substitute "
                "without a passage.",
            }
        )
    for row in internal:
        if row["relation"] == "all":
            inside = row["between"] == "paraphrases"
            node = "conflict-internal" if inside else "conflict-inter-context"
            what = "paraphrases, without a passage" if inside else "orders of the two passages"
            out.append(
                _evidence(node, "disagreement", row["disagreement"], row)
                | {"baseline": None, "note": f"Pairs of {what}."}
            )
    return out


def _evidence(node: str, statistic: str, value: float, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": node,
        "measure": CONFLICT_ID,
        "statistic": statistic,
        "value": value,
        "low": row.get("low"),
        "high": row.get("high"),
        "n": row["n"],
        "unit": "share",
    }
