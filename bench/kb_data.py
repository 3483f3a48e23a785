"""Rows as a recall run makes them, for both sides of bench/kb.py; the standard library alone."""

from __future__ import annotations

from typing import Any

RELATIONS, TEMPLATES = 10, 4
COLUMNS = (
    ("relation", "text"),
    ("fact", "text"),
    ("subject", "text"),
    ("answer", "text"),
    ("template", "text"),
    ("prompt", "text"),
    ("rank", "int64"),
    ("correct", "bool"),
    ("logp", "double"),
    ("top_candidate", "text"),
    ("exact", "bool"),
    ("subjectless_correct", "bool"),
    ("commonest_correct", "bool"),
    ("shuffled_correct", "bool"),
    ("first_token_rank", "int64"),
    ("lead_layer", "int64"),
)


def columns_of(run: int, relation: int, rows: int) -> list[list[Any]]:
    """The columns of one relation of one run; values differ from run to run."""
    facts = [i // TEMPLATES for i in range(rows)]
    mixed = [(run * 7919 + relation * 104729 + i * 31) % 1009 for i in range(rows)]
    return [
        [f"relation_{relation}"] * rows,
        [f"{fact:04d}" for fact in facts],
        [f"Subject {fact}" for fact in facts],
        [f"Answer {fact % 97}" for fact in facts],
        [f"template {i % TEMPLATES}" for i in range(rows)],
        [f"The capital of Subject {fact} is" for fact in facts],
        [m % 50 for m in mixed],
        [m % 50 == 0 for m in mixed],
        [-m / 37.0 for m in mixed],
        [f"Answer {m % 97}" for m in mixed],
        [m % 70 == 0 for m in mixed],
        [m % 90 == 0 for m in mixed],
        [m % 30 == 0 for m in mixed],
        [m % 95 == 0 for m in mixed],
        [m % 400 for m in mixed],
        [m % 30 for m in mixed],
    ]
