"""Knowledge overshadowing: rare conditions answered as if they were the popular one.

Zhang et al. 2025 (arXiv 2502.16143). Definitions, statistics and pitfalls:
docs/measures/overshadowing.md.
"""

from __future__ import annotations

from km.overshadow.law import Evaluation, Law, fit
from km.overshadow.measure import Cell, Rates, rates
from km.overshadow.pairs import Pair
from km.overshadow.synthetic import Corpus, Group, Statement, corpus
from km.overshadow.tokens import Overshadowed, find

__all__ = [
    "Cell",
    "Corpus",
    "Evaluation",
    "Group",
    "Law",
    "Overshadowed",
    "Pair",
    "Rates",
    "Statement",
    "corpus",
    "find",
    "fit",
    "rates",
]
