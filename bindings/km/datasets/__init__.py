"""Facts to ask a model about and texts to teach it, with readers for a user's own files.

Nothing is downloaded. ``facts("all")`` gives the 40 relations that come with km;
``read_facts(path)`` reads km's own JSON, JSONL and CSV, and the file layouts of LAMA, ParaRel,
CounterFact, PopQA and BEAR from disk. ``priming_texts()`` gives the texts whose keywords
``km.priming`` follows into the contexts of ``probes(theme)``. ``counterfactuals()`` and the
substitution policies make passages that say something else than what a model may have learned;
``memotrap()`` and ``nq_synth()`` are data of that kind.
"""

from __future__ import annotations

from km.datasets.answer_text import find_mentions
from km.datasets.checks import FactProblem, FactReport, validate
from km.datasets.conflict_readers import (
    TwoClassItem,
    read_memotrap,
    read_mrqa,
    read_nq_swap,
    read_qa,
    read_wikidata_entities,
    write_mrqa,
    write_nq_swap,
    write_qa,
)
from km.datasets.conflict_set import QAAnswer, QAExample, QASet, WikidataEntity
from km.datasets.conflict_shipped import memotrap, nq_synth
from km.datasets.counterfactual import counterfactuals, fact_examples, substitute_matched
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
from km.datasets.substitution import (
    mix_substituted,
    popularity_bins,
    substitute,
    substitute_alias,
    substitute_corpus,
    substitute_popularity,
    substitute_type_swap,
)

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
    "QAAnswer",
    "QAExample",
    "QASet",
    "Relation",
    "SteppingPattern",
    "TwoClassItem",
    "WikidataEntity",
    "control_texts",
    "counterfactuals",
    "fact_examples",
    "facts",
    "find_mentions",
    "memotrap",
    "mix_substituted",
    "neutral_texts",
    "nq_synth",
    "popularity_bins",
    "priming_categories",
    "priming_texts",
    "priming_theme",
    "probes",
    "read_facts",
    "read_memotrap",
    "read_mrqa",
    "read_nq_swap",
    "read_priming_texts",
    "read_probes",
    "read_qa",
    "read_wikidata_entities",
    "relation_names",
    "shuffled",
    "stepping_patterns",
    "substitute",
    "substitute_alias",
    "substitute_corpus",
    "substitute_matched",
    "substitute_popularity",
    "substitute_type_swap",
    "validate",
    "validate_priming",
    "write_mrqa",
    "write_nq_swap",
    "write_qa",
]
