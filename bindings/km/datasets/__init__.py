"""Facts to ask a model about: the shipped relations and readers for a user's own files.

Nothing is downloaded. ``facts("all")`` gives the 40 relations that come with km;
``read_facts(path)`` reads km's own JSON, JSONL and CSV, and the file layouts of LAMA, ParaRel,
CounterFact, PopQA and BEAR from disk.
"""

from __future__ import annotations

from km.datasets.checks import FactProblem, FactReport, validate
from km.datasets.fact_set import Fact, FactSet, Relation, facts, relation_names
from km.datasets.readers import read_facts

__all__ = [
    "Fact",
    "FactProblem",
    "FactReport",
    "FactSet",
    "Relation",
    "facts",
    "read_facts",
    "relation_names",
    "validate",
]
