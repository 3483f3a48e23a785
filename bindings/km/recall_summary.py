"""From rows (fact x template) to states, relations, totals and the survival of the lead layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from km import _km, stats
from km.table import Column

Rows = list[dict[str, Any]]

ROBUST = "robust"
PROMPT_DEPENDENT = "prompt-dependent"
NOT_SHOWN = "not shown"
MICRO = "all facts (micro)"
MACRO = "all relations (macro)"

FACT_COLUMNS = [
    Column("relation", "text", "", "Name of the relation."),
    Column("fact", "text", "", "Identifier of the fact."),
    Column("subject", "text", "", "What the prompts ask about."),
    Column("answer", "text", "", "The printed answer."),
    Column("state", "text", "", "robust, prompt-dependent or not shown; null when not ranked."),
    Column("n_templates", "int64", "templates", "Prompts asked."),
    Column("n_correct", "int64", "templates", "Prompts under which the answer ranks first."),
    Column("n_exact", "int64", "templates", "Prompts that greedy decoding answers exactly."),
    Column("pmi", "double", "nats", "Mean gain of the answer over the subject-removed prompt."),
    Column("pmi_low", "double", "nats", "Lower end of its t interval over prompts."),
    Column("pmi_high", "double", "nats", "Upper end."),
    Column("logp", "double", "nats", "Mean log-probability of the answer."),
    Column("margin", "double", "nats", "Mean lead over the best wrong candidate."),
    Column("worst_rank", "int64", "rank", "Largest rank over the prompts."),
]

SUMMARY_COLUMNS = [
    Column("relation", "text", "", "Name of the relation, or what is taken together."),
    Column("kind", "text", "", "Kind of the relation."),
    Column("n", "int64", "facts", "Facts ranked."),
    Column("n_rows", "int64", "rows", "Facts times templates."),
    Column("n_templates", "int64", "templates", "Prompts a fact."),
    Column("n_candidates", "double", "candidates", "Mean number of answers ranked."),
    Column("recall", "double", "share", "The whole answer ranks first by summed log-probability."),
    Column("low", "double", "share", "Lower end of its interval."),
    Column("high", "double", "share", "Upper end."),
    Column("interval", "text", "", "Method of the interval."),
    Column("n_clusters", "int64", "clusters", "Units the interval counts as independent."),
    Column("worst_template", "double", "share", "Recall under the worst template."),
    Column("best_template", "double", "share", "Recall under the best template."),
    Column("recall_per_byte", "double", "share", "Recall by log-probability per byte."),
    Column("recall_pmi", "double", "share", "Recall by PMI against the subject-removed prompt."),
    Column("commonest", "double", "share", "Always answering the relation's commonest answer."),
    Column("subject_removed", "double", "share", "Recall under the prompt without its subject."),
    Column("shuffled", "double", "share", "Another subject's answer ranks first."),
    Column("random_init", "double", "share", "Recall of the same architecture, random weights."),
    Column("chance", "double", "share", "Mean of 1 / number of answers ranked."),
    Column("gain", "double", "share", "Recall minus recall without the subject, paired."),
    Column("gain_low", "double", "share", "Lower end of its interval."),
    Column("gain_high", "double", "share", "Upper end."),
    Column("exact", "double", "share", "Greedy decoding gives the answer and ends there."),
    Column("top1", "double", "share", "First token most likely (secondary figure)."),
    Column("top10", "double", "share", "First token among the ten most likely (secondary)."),
    Column("collision", "double", "share", "Rows whose first token a wrong candidate shares."),
    Column("lone_blank", "double", "share", "Rows whose first token is nothing but a blank."),
    Column("robust", "int64", "facts", "Facts right under every prompt and above the baseline."),
    Column("prompt_dependent", "int64", "facts", "Facts right under some prompt, not robust."),
    Column("not_shown", "int64", "facts", "Facts right under no prompt asked."),
]

SURVIVAL_COLUMNS = [
    Column("layer", "int64", "layer", "Block; the number of blocks is the output."),
    Column(
        "not_leading", "double", "share", "Rows in which the answer does not yet lead for good."
    ),
    Column("n", "int64", "rows", "Rows without first-token collision."),
    Column("random_init", "double", "share", "The same for random weights."),
    Column("n_random_init", "int64", "rows", "Its rows."),
]


BASELINES = ("commonest", "subject_removed", "shuffled", "random_init")


def floors(row: Mapping[str, Any]) -> list[float]:
    """What a summary row's recall stands beside: the baselines that were measured."""
    return [row[name] for name in BASELINES if row[name] is not None]


def mean(values: Iterable[float | bool | None]) -> float | None:
    """Mean of what is not null; None without any."""
    kept = [float(v) for v in values if v is not None]
    return math.fsum(kept) / len(kept) if kept else None


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Student's t interval of a mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    centre = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n)
    half = _km.stats_t_quantile(0.5 + confidence / 2, n - 1) * spread
    return centre - half, centre + half


# ---- facts ----


def _state(rows: Rows, interval: tuple[float, float] | None) -> str | None:
    right = [row["correct"] for row in rows if row["correct"] is not None]
    if not right:
        return None
    if all(right) and interval is not None and interval[0] > 0:
        return ROBUST
    return PROMPT_DEPENDENT if any(right) else NOT_SHOWN


def _fact_row(rows: Rows, confidence: float) -> dict[str, Any]:
    first = rows[0]
    interval = t_interval([row["pmi"] for row in rows], confidence)
    ranks = [row["rank"] for row in rows if row["rank"] is not None]
    return {
        **{key: first[key] for key in ("relation", "fact", "subject", "answer")},
        "state": _state(rows, interval),
        "n_templates": len(rows),
        "n_correct": sum(bool(row["correct"]) for row in rows),
        "n_exact": sum(bool(row["exact"]) for row in rows),
        "pmi": mean(row["pmi"] for row in rows),
        "pmi_low": interval[0] if interval else None,
        "pmi_high": interval[1] if interval else None,
        "logp": mean(row["logp"] for row in rows),
        "margin": mean(row["margin"] for row in rows),
        "worst_rank": max(ranks) if ranks else None,
    }


def summarise_facts(rows: Rows, confidence: float) -> Rows:
    """One row a fact, in order of first appearance."""
    by_fact: dict[tuple[str, str], Rows] = {}
    for row in rows:
        by_fact.setdefault((row["relation"], row["fact"]), []).append(row)
    return [_fact_row(group, confidence) for group in by_fact.values()]


# ---- intervals ----


class Spread(NamedTuple):
    """An interval or its absence."""

    low: float | None
    high: float | None
    method: str
    n_clusters: int | None


NO_SPREAD = Spread(None, None, "none: a single subject", None)


def _clusters(rows: Rows) -> dict[str, list[str]]:
    """Relation, subject and template of each row as ids that are unique over relations."""
    return {
        "cluster": [row["relation"] for row in rows],
        "subject": [f"{row['relation']}\0{row['subject']}" for row in rows],
        "template": [f"{row['relation']}\0{row['template']}" for row in rows],
    }


def share_interval(rows: Rows, column: str, confidence: float, seed: int, macro: bool) -> Spread:
    """Interval of a share over ranked rows.

    Wilson's where every row is an independent subject of one relation under one template; else
    clustered by relation and subject, crossed with templates.
    """
    ids = _clusters(rows)
    values = [float(row[column]) for row in rows]
    if len(set(ids["cluster"])) == 1:
        if len(set(ids["subject"])) == len(rows) and len(rows) > 1:
            found = stats.wilson(int(sum(values)), len(values), confidence=confidence)
            return Spread(found.low, found.high, found.method, found.n_clusters)
        if len(set(ids["subject"])) < 2:
            return NO_SPREAD
        if len(set(ids["template"])) == 1:
            ids = {"cluster": ids["subject"]}
    found = stats.clustered_bootstrap(
        values,
        ids["cluster"],
        ids.get("subject"),
        ids.get("template"),
        confidence=confidence,
        seed=seed,
        macro=macro,
        proportion=True,
    )
    return Spread(found.low, found.high, found.method, found.n_clusters)


def gain_interval(rows: Rows, confidence: float, seed: int, macro: bool) -> Spread:
    """Interval of recall minus subject-removed recall on the same rows."""
    ids = _clusters(rows)
    if len(set(ids["subject"])) < 2:
        return NO_SPREAD
    if len(set(ids["cluster"])) == 1 and len(set(ids["template"])) == 1:
        ids = {"cluster": ids["subject"]}
    found = stats.paired_bootstrap(
        [float(row["correct"]) for row in rows],
        [float(row["subjectless_correct"]) for row in rows],
        ids["cluster"],
        ids.get("subject"),
        ids.get("template"),
        confidence=confidence,
        seed=seed,
        macro=macro,
        proportion=True,
    )
    return Spread(found.low, found.high, found.method, found.n_clusters)


# ---- relations and totals ----

_SHARES = {
    "recall": "correct",
    "recall_per_byte": "correct_per_byte",
    "recall_pmi": "correct_pmi",
    "commonest": "commonest_correct",
    "subject_removed": "subjectless_correct",
    "shuffled": "shuffled_correct",
    "exact": "exact",
    "top1": "top1",
    "top10": "top10",
    "collision": "first_token_collision",
    "lone_blank": "lone_blank_first_token",
}


def _by_relation(rows: Rows) -> dict[str, Rows]:
    out: dict[str, Rows] = {}
    for row in rows:
        out.setdefault(row["relation"], []).append(row)
    return out


def _average(rows: Rows, value: Callable[[dict[str, Any]], Any], macro: bool) -> float | None:
    if not macro:
        return mean(value(row) for row in rows)
    return mean(mean(value(row) for row in group) for group in _by_relation(rows).values())


def _template_range(rows: Rows) -> tuple[float | None, float | None]:
    """Recall under the worst and the best template; over relations this is not defined."""
    if len(_by_relation(rows)) != 1:
        return None, None
    by_template: dict[int, list[bool]] = {}
    for row in rows:
        by_template.setdefault(row["template"], []).append(row["correct"])
    shares = [mean(values) for values in by_template.values()]
    known = [share for share in shares if share is not None]
    return (min(known), max(known)) if known else (None, None)


def _states(facts: Rows) -> dict[str, int]:
    names = {ROBUST: "robust", PROMPT_DEPENDENT: "prompt_dependent", NOT_SHOWN: "not_shown"}
    return {name: sum(fact["state"] == state for fact in facts) for state, name in names.items()}


def _summary(
    name: str,
    kind: str,
    rows: Rows,
    control: Rows | None,
    facts: Rows,
    options: dict[str, Any],
    macro: bool = False,
) -> dict[str, Any]:
    """One summary row over the rows that were ranked."""
    ranked = [row for row in rows if row["correct"] is not None]
    out: dict[str, Any] = {
        **{column.name: None for column in SUMMARY_COLUMNS},
        "relation": name,
        "kind": kind,
        "n": len({(row["relation"], row["fact"]) for row in ranked}),
        "n_rows": len(ranked),
        "n_templates": max((row["n_templates"] for row in facts), default=0),
        **_states(facts),
    }
    if not ranked:
        return out
    for key, column in _SHARES.items():
        out[key] = _average(ranked, lambda row, c=column: row[c], macro)  # type: ignore[misc]
    out["chance"] = _average(ranked, lambda row: 1 / row["n_candidates"], macro)
    out["n_candidates"] = _average(ranked, lambda row: row["n_candidates"], macro)
    if control is not None:
        out["random_init"] = _average(control, lambda row: row["correct"], macro)
    out["worst_template"], out["best_template"] = _template_range(ranked)
    spread = share_interval(ranked, "correct", macro=macro, **options)
    out.update(low=spread.low, high=spread.high, interval=spread.method)
    out["n_clusters"] = spread.n_clusters
    gain = gain_interval(ranked, macro=macro, **options)
    out.update(gain=out["recall"] - out["subject_removed"], gain_low=gain.low, gain_high=gain.high)
    return out


def summarise_relations(
    kinds: dict[str, str],
    rows: Rows,
    control: Rows | None,
    facts: Rows,
    confidence: float,
    seed: int,
) -> Rows:
    """One row a relation, in the order of `kinds` (name to kind)."""
    options = {"confidence": confidence, "seed": seed}
    rows_of, facts_of = _by_relation(rows), _by_relation(facts)
    control_of = _by_relation(control) if control is not None else None
    return [
        _summary(
            name,
            kind,
            rows_of[name],
            control_of[name] if control_of is not None else None,
            facts_of[name],
            options,
        )
        for name, kind in kinds.items()
    ]


def summarise_overall(
    rows: Rows, control: Rows | None, facts: Rows, confidence: float, seed: int
) -> Rows:
    """All facts alike (micro), and every relation alike (macro)."""
    options = {"confidence": confidence, "seed": seed}
    return [
        _summary(MICRO, "", rows, control, facts, options),
        _summary(MACRO, "", rows, control, facts, options, macro=True),
    ]


# ---- layers ----


def _lead_layers(rows: Rows, n_layers: int) -> list[int]:
    """Layer from which the answer leads; n_layers + 1 where it never does (censored)."""
    return [
        n_layers + 1 if row["lead_censored"] else row["lead_layer"]
        for row in rows
        if row["lead_censored"] is not None
    ]


def survival(rows: Rows, control: Rows | None, n_layers: int) -> Rows:
    """Share of rows in which the answer does not yet lead for good, after each layer.

    All rows are seen up to the output, so the Kaplan-Meier curve is this share.
    """
    leads = _lead_layers(rows, n_layers)
    others = _lead_layers(control, n_layers) if control is not None else []

    def after(layers: list[int], layer: int) -> float | None:
        return sum(x > layer for x in layers) / len(layers) if layers else None

    return [
        {
            "layer": layer,
            "not_leading": after(leads, layer),
            "n": len(leads),
            "random_init": after(others, layer),
            "n_random_init": len(others) if control is not None else None,
        }
        for layer in range(n_layers + 1)
        if leads or others
    ]


def median_lead(rows: Rows, n_layers: int) -> tuple[int | None, float | None, int]:
    """(median lead layer or None when more than half never lead, share that never leads, n)."""
    leads = sorted(_lead_layers(rows, n_layers))
    if not leads:
        return None, None, 0
    middle = leads[(len(leads) - 1) // 2]
    censored = sum(x > n_layers for x in leads) / len(leads)
    return (None if middle > n_layers else middle), censored, len(leads)
