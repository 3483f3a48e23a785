"""Figures through matplotlib, in the colours, marks and words of the pictures of `km.draw`.

Each function takes a table (or rows as dicts) and ``ax=``, draws on those axes and returns them;
without axes it makes some with pyplot, which is touched in that case alone. `Table.plot` chooses
the kind by the columns, `Result.plot` by the result. Needs the extra "plot".
"""

from __future__ import annotations

from km.plot._choice import kind_of, plot_table
from km.plot._curves import curves
from km.plot._forest import forest
from km.plot._reliability import reliability
from km.plot._results import plot_result
from km.plot._slopes import slopes
from km.plot._spread import spread
from km.plot._survival import facts_over_models, survival

__all__ = [
    "curves",
    "facts_over_models",
    "forest",
    "kind_of",
    "plot_result",
    "plot_table",
    "reliability",
    "slopes",
    "spread",
    "survival",
]
