"""Relation by relation: recall before and after, log-probabilities, next tokens, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from km import comparison, diff_facts, stats
from km.diff_facts import Cells, Layout
from km.recall_summary import mean
from km.table import Column, Table

EVERYTHING = "all facts"

COLUMNS = [
    Column("relation", "text", "", f"Name of the relation; the first row is {EVERYTHING!r}."),
    Column("n", "int64", "facts", "Facts ranked."),
    Column("n_rows", "int64", "rows", "Facts times templates."),
    Column("recall_before", "double", "share", "Rows whose answer ranks first."),
    Column("recall_after", "double", "share", "The same of the second model."),
    Column("change", "double", "share", "after minus before, paired by row."),
    Column("low", "double", "share", "Lower end of its interval (clustered)."),
    Column("high", "double", "share", "Upper end."),
    Column("p_value", "double", "", "Of no change: signs of whole relations flipped."),
    Column("detectable", "double", "share", "Smallest change this many facts show (power 0.8)."),
    Column("logp_change", "double", "nats", "Mean change of the answers' log-probability."),
    Column("logp_low", "double", "nats", "Lower end of its interval (clustered)."),
    Column("logp_high", "double", "nats", "Upper end."),
    Column("kl", "double", "nats", "Mean KL(before || after) of the next token after a prompt."),
    Column("n_kl", "int64", "prompts", "Prompts it is a mean of."),
    *(
        Column(verdict.replace(" ", "_"), "int64", "facts", f"Facts with the verdict {verdict}.")
        for verdict in diff_facts.VERDICTS
    ),
]


def relation_rows(
    layout: Layout,
    before: Cells,
    after: Cells,
    facts: Sequence[Mapping[str, Any]],
    probed: Table | None,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for all facts, then one a relation."""
    names = dict.fromkeys(layout.relation)
    outputs = _outputs(probed)
    return [
        _relation_row(name, layout, before, after, facts, outputs, confidence, seed)
        for name in [None, *names]
    ]


def _outputs(probed: Table | None) -> list[tuple[str, float]]:
    """Relation and next-token divergence of each probe."""
    if probed is None:
        return []
    last = max(probed["layer"])
    return [(row["relation"], row["kl"]) for row in probed.rows() if row["layer"] == last]


def _relation_row(
    name: str | None,
    layout: Layout,
    before: Cells,
    after: Cells,
    facts: Sequence[Mapping[str, Any]],
    outputs: Sequence[tuple[str, float]],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    places = [
        i
        for i, relation in enumerate(layout.relation)
        if name in (None, relation) and not math.isnan(float(before.correct[i]))
    ]
    own = [f for f in facts if name in (None, f["relation"]) and f["verdict"] is not None]
    kl = [value for relation, value in outputs if name in (None, relation)]
    row: dict[str, Any] = {
        "relation": EVERYTHING if name is None else name,
        "n": len(own),
        "n_rows": len(places),
        "kl": mean(kl),
        "n_kl": len(kl),
        **{
            verdict.replace(" ", "_"): sum(f["verdict"] == verdict for f in own)
            for verdict in diff_facts.VERDICTS
        },
    }
    if not places:
        return row
    row |= {
        "recall_before": float(before.correct[places].mean()),
        "recall_after": float(after.correct[places].mean()),
        "logp_change": float((after.logp[places] - before.logp[places]).mean()),
    }
    row["change"] = row["recall_after"] - row["recall_before"]
    recall = _interval(layout, places, before.correct, after.correct, True, confidence, seed)
    logp = _interval(layout, places, before.logp, after.logp, False, confidence, seed)
    if recall is not None and logp is not None:
        row |= {"low": recall.low, "high": recall.high}
        row |= {"logp_low": logp.low, "logp_high": logp.high}
    if name is None and recall is not None:
        row |= _test(layout, places, before, after, confidence, seed)
    return row


def _interval(
    layout: Layout,
    places: list[int],
    before: Any,
    after: Any,
    proportion: bool,
    confidence: float,
    seed: int,
) -> stats.Interval | None:
    ids = layout.clusters(places)
    if ids is None:
        return None
    return stats.paired_bootstrap(
        after[places], before[places], *ids, confidence=confidence, seed=seed, proportion=proportion
    )


def _test(
    layout: Layout,
    places: list[int],
    before: Cells,
    after: Cells,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Permutation test of the change of recall, and the smallest change that would show."""
    compared = comparison.compare(
        _recall_table(places, after),
        _recall_table(places, before),
        outcome="recall",
        confidence=confidence,
        seed=seed,
    )
    return {"p_value": compared.test.p, "detectable": compared.detectable}


def _recall_table(places: list[int], cells: Cells) -> Table:
    """One row a fact: the share of its prompts that are right."""
    hits: dict[tuple[str, str, str], list[float]] = {}
    for i in places:
        row = cells.rows[i]
        key = (row["relation"], row["fact"], row["subject"])
        hits.setdefault(key, []).append(float(cells.correct[i]))
    columns = [("relation", "text"), ("fact", "text"), ("subject", "text"), ("recall", "double")]
    rows = [(*key, math.fsum(values) / len(values)) for key, values in hits.items()]
    return Table(columns, [list(column) for column in zip(*rows, strict=True)])
