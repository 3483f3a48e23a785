"""The ledger: predictions that are frozen before a run, and the verdicts that runs give.

>>> from km import ledger
>>> ledger.predictions()                                  # doctest: +SKIP

A verdict is about one prediction in one unit: model, precision, prompts, facts and recipe. The
rule of its word is :func:`verdict_word`; what freezing prevents and what it does not is in
``docs/ledger.md``.
"""

from __future__ import annotations

from km.ledger.book import Freezing, freeze, judge
from km.ledger.general import General, RandomEffects, general, random_effects
from km.ledger.page import NodeLedger
from km.ledger.predictions import Prediction, Unit, predictions
from km.ledger.record import judge_result, unit_of
from km.ledger.verdicts import WORDS, Verdict, Word, verdict_word

__all__ = [
    "WORDS",
    "Freezing",
    "General",
    "NodeLedger",
    "Prediction",
    "RandomEffects",
    "Unit",
    "Verdict",
    "Word",
    "freeze",
    "general",
    "judge",
    "judge_result",
    "predictions",
    "random_effects",
    "unit_of",
    "verdict_word",
]
