"""The one kind of row that all parts of a conflict study have."""

from __future__ import annotations

from typing import Any, TypeAlias

from km.table import Column

Row: TypeAlias = "dict[str, Any]"

# Parts of the study.
CLOSED_BOOK, REAL, MITIGATION, FAMILY = "closed book", "real model", "mitigation", "family"
# Arms: untouched and random weights; fine-tuning on unsubstituted and on mixed examples.
PLAIN, RANDOM, UNSUBSTITUTED, MIXED = "plain", "random", "unsubstituted", "mixed"

COLUMNS = [
    Column("part", "text", "", "closed book, real model, mitigation or family."),
    Column("arm", "text", "", "plain, random (weights), unsubstituted or mixed (fine-tuning)."),
    Column("seed", "int64", "", "Of the training; null without one."),
    Column("size", "double", "parameters", "Of a model of the family; null for a real one."),
    Column("relation", "text", "", "Relation of the fact."),
    Column("fact", "text", "", "Identifier within the relation, or within the corpus."),
    Column("condition", "text", "", "closed_book, original, substitute, paraphrase or reading."),
    Column("position", "text", "", "Where the passage gives the substitute."),
    Column("bucket", "text", "", "original, substitute or other."),
    Column("known", "bool", "", "Answered rightly without a passage, before any training."),
    Column("count", "int64", "", "Statements of the fact in the corpus; null for a real model."),
    Column("page_views", "double", "", "Of the fact, where given."),
    Column("familiarity", "double", "nats", "Log-probability of the subject in a text."),
    Column("matched", "bool", "", "The substitute is like the original in tokens and probability."),
    Column("state", "text", "", "State of the fact by a recall in the knowledge base."),
    Column("logp", "double", "nats", "Log-probability of what was answered."),
]
