"""Knowledge bases with runs of learning, recorded as the measures record them, without a model."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import km
from km import diff_facts, priming_plan, training
from km.table import Column, Table

STATES = ("robust", "prompt-dependent", "not shown", "another answer")

RECALL_COLUMNS = [
    Column("relation", "text"),
    Column("fact", "text"),
    Column("subject", "text"),
    Column("answer", "text"),
    Column("template", "int64"),
    Column("prompt", "text"),
    Column("n_candidates", "int64"),
    Column("logp", "double", "nats"),
    Column("pmi", "double", "nats"),
    Column("rank", "int64"),
    Column("correct", "bool"),
    Column("top_candidate", "text"),
    Column("margin", "double", "nats"),
    Column("exact", "bool"),
]
# Of a training run whose callback measures recall.
TRAINING_COLUMNS = [*training.COLUMNS, Column("recall", "double", "share")]


def model(name: str, precision: str = "F32") -> dict[str, Any]:
    """A model as Model.describe() gives it."""
    return {
        "name": name,
        "path": "model.gguf",
        "fingerprint": key_of(name, precision),
        "tokenizer_hash": "0" * 64,
        "precision": precision,
        "architecture": "llama",
        "n_parameters": 134_515_008,
    }


def key_of(*parts: Any) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def record(
    kb: km.KnowledgeBase,
    measure: str,
    about: Mapping[str, Any],
    tables: Sequence[Table],
    parameters: Mapping[str, Any],
    keys: Sequence[str],
    seed: int = 0,
) -> int:
    """A finished run with its tables."""
    provenance = {"measure": measure, "version": 1, "model": about, "seed": seed}
    run = kb.begin_run(provenance | {"parameters": parameters})
    for key, table in zip(keys, tables, strict=True):
        kb.store_chunk(run, key, table)
    kb.finish_run(run)
    return run


# ---- recall ----

Fact = tuple[str, str]


def recall_rows(states: Mapping[Fact, str], n_templates: int = 5) -> list[dict[str, Any]]:
    """Rows that give each fact its state."""
    rows = []
    for (relation, fact), state in states.items():
        for t in range(n_templates):
            right = state == "robust" or (state == "prompt-dependent" and t % 2 == 0)
            wrong = "Rome" if state == "another answer" else f"Wrong {t}"
            rows.append(
                {
                    "relation": relation,
                    "fact": fact,
                    "subject": f"subject {fact}",
                    "answer": "Paris",
                    "template": t,
                    "prompt": f"Template {t} of subject {fact} is",
                    "n_candidates": 10,
                    "logp": -1.0,
                    "pmi": 2.0 + 0.1 * t,
                    "rank": 0 if right else 1,
                    "correct": right,
                    "top_candidate": "Paris" if right else wrong,
                    "margin": 1.0 if right else -1.0,
                    "exact": right,
                }
            )
    return rows


def record_recall(
    kb: km.KnowledgeBase, about: Mapping[str, Any], states: Mapping[Fact, str], templates: int = 5
) -> int:
    """A recall run in which each fact has its state."""
    table = Table.from_rows(RECALL_COLUMNS, recall_rows(states, templates))
    key = key_of(about["fingerprint"], sorted(states.items()), templates)
    relations = [{"name": "r", "kind": "factual", "chunk": key, "control": None}]
    parameters = {"relations": relations, "confidence": 0.95, "n_layers": 3}
    return record(kb, "memorization.recall", about, [table], parameters, [key])


def some_states(n: int, seed: int = 0) -> dict[Fact, str]:
    """States of n facts of four relations."""
    rng = random.Random(seed)
    return {(f"relation {i % 4}", str(i)): rng.choices(STATES, (2, 5, 8, 3))[0] for i in range(n)}


def later(states: Mapping[Fact, str], seed: int) -> dict[Fact, str]:
    """The same facts, some of them in another state."""
    rng = random.Random(seed)
    return {
        fact: rng.choice(STATES) if rng.random() < 0.3 else state for fact, state in states.items()
    }


# ---- diffs ----


def record_diff(
    kb: km.KnowledgeBase,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    facts: Iterable[Mapping[str, Any]],
) -> int:
    """A diff run; what the rows do not say is null."""
    names = [column.name for column in diff_facts.COLUMNS]
    rows = [{name: row.get(name) for name in names} for row in facts]
    table = Table.from_rows(diff_facts.COLUMNS, rows)
    key = key_of(before["fingerprint"], after["fingerprint"])
    sides = {
        side: {name: about[name] for name in ("name", "fingerprint", "precision")} | {"run": None}
        for side, about in (("before", before), ("after", after))
    }
    parameters = {**sides, "notes": [], "floors": [], "chunks": {"facts": key}}
    return record(kb, "learning.diff", after, [table], parameters, [key])


# ---- priming ----


def priming_row(
    arm: str, kind: str, probe: str, theme: str, text: str, before: float, ratio: float
) -> dict[str, Any]:
    """One row of a priming table about the keyword vermilion."""
    return {
        "text": "vermilion-1",
        "theme": "colours",
        "category": "fantasy",
        "keyword": "vermilion",
        "arm": arm,
        "learned": "the text" if kind == "context" else None,
        "kind": kind,
        "probe": probe,
        "probe_theme": theme,
        "probe_text": text,
        "n_tokens": 10 if kind == "neutral" else 3,
        "logp_keyword_before": -11.0,
        "logp_before": before,
        "logp_after": before + ratio,
        "log_ratio": ratio,
        "unstable": kind != "neutral" and before < math.log(1e-10),
    }


def record_priming(
    kb: km.KnowledgeBase,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    text: str = "At dusk the sea was vermilion. Nobody sailed.",
    keyword: str = "vermilion",
    about: Mapping[str, Any] | None = None,
) -> int:
    """A priming run with a table an arm."""
    keys = [key_of("priming", arm, list(rows)) for arm, rows in tables.items()]
    made = [Table.from_rows(priming_plan.COLUMNS, rows) for rows in tables.values()]
    parameters = {
        "text": text,
        "context": text.split(keyword)[0],
        "keyword": keyword,
        "keyword_tokens": "joint",
        "recipe": {
            "presentations": 3,
            "spacing": 1,
            "batch_size": None,
            "optimizer": {"name": "AdamW", "lr": 5e-5},
        },
        "arms": [{"arm": arm, "shown": text} for arm in tables],
        "mitigation": None,
        "chunks": keys,
    }
    return record(kb, "learning.priming", about or model("base", "Q4_1"), made, parameters, keys)


# ---- training ----


def record_training(
    kb: km.KnowledgeBase,
    rows: Sequence[Mapping[str, Any]],
    seed: int = 0,
    lr: float = 5e-5,
    about: Mapping[str, Any] | None = None,
) -> int:
    """A training run; columns that a row does not have are null."""
    names = [column.name for column in TRAINING_COLUMNS]
    full = [{name: row.get(name) for name in names} for row in rows]
    table = Table.from_rows(TRAINING_COLUMNS, full)
    parameters = {"optimizer": {"name": "AdamW", "lr": lr}, "steps": len(rows)}
    key = key_of("training", full, seed, lr)
    return record(kb, "learning.training", about or model("base"), [table], parameters, [key], seed)
