"""Facts to ask a model about and texts to teach it, with readers for a user's own files.

Nothing is downloaded. ``facts("all")`` gives the 40 relations that come with km;
``read_facts(path)`` reads km's own JSON, JSONL and CSV, and the file layouts of LAMA, ParaRel,
CounterFact, PopQA and BEAR from disk. ``priming_texts()`` gives the texts whose keywords
``km.priming`` follows into the contexts of ``probes(theme)``.
"""

from __future__ import annotations

from km.datasets.checks import FactProblem, FactReport, validate
from km.datasets.fact_set import Fact, FactSet, Relation, facts, relation_names
from km.datasets.files import DataFileError
from km.datasets.priming_checks import PrimingProblem, PrimingReport, validate_priming
from km.datasets.priming_readers import read_priming_texts, read_probes
from km.datasets.priming_set import (
    PrimingSet,
    PrimingText,
    PrimingTheme,
    Probe,
    SteppingPattern,
    control_texts,
    neutral_texts,
    priming_categories,
    priming_texts,
    priming_theme,
    probes,
    shuffled,
    stepping_patterns,
)
from km.datasets.readers import read_facts

__all__ = [
    "DataFileError",
    "Fact",
    "FactProblem",
    "FactReport",
    "FactSet",
    "PrimingProblem",
    "PrimingReport",
    "PrimingSet",
    "PrimingText",
    "PrimingTheme",
    "Probe",
    "Relation",
    "SteppingPattern",
    "control_texts",
    "facts",
    "neutral_texts",
    "priming_categories",
    "priming_texts",
    "priming_theme",
    "probes",
    "read_facts",
    "read_priming_texts",
    "read_probes",
    "relation_names",
    "shuffled",
    "stepping_patterns",
    "validate",
    "validate_priming",
]
