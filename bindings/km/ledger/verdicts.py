"""Verdicts and the rule of their words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from km.display import escape
from km.ledger.predictions import Prediction, Unit

Word: TypeAlias = Literal[
    "consistent", "inconsistent", "equivalent to none", "inconclusive", "not testable here"
]
WORDS: tuple[Word, ...] = (
    "consistent",
    "inconsistent",
    "equivalent to none",
    "inconclusive",
    "not testable here",
)


def verdict_word(
    prediction: Prediction,
    estimate: float | None,
    low: float | None,
    high: float | None,
    n: int,
    p_value: float | None = None,
) -> Word:
    """The word for a figure with its interval.

    Parameters
    ----------
    prediction : Prediction
    estimate, low, high : float or None
        None or not finite: there is no such figure.
    n : int
        In the prediction's `n_unit`.
    p_value : float or None
        Adjusted for the predictions tested together; None: the interval alone decides.

    Returns
    -------
    {"consistent", "inconsistent", "equivalent to none", "inconclusive", "not testable here"}
        In this order: too few, or a prediction that cannot be tested; the interval lies wholly
        nearer to `null` than the smallest effect; wholly on the predicted side of `null`; wholly on
        the other side; neither. A side counts only where `p_value` does not contradict it.

    Examples
    --------
    >>> p = Prediction(id="p", nodes=["memorization"], statement="Above chance.", measure="m",
    ...     statistic="s", direction="above", smallest_effect=0.1, minimum_n=5,
    ...     falsified_by="An interval below 0.")
    >>> verdict_word(p, 0.3, 0.2, 0.4, 20), verdict_word(p, 0.0, -0.05, 0.05, 20)
    ('consistent', 'equivalent to none')
    """
    if prediction.not_testable or n < prediction.minimum_n:
        return "not testable here"
    if any(value is None or not math.isfinite(value) for value in (estimate, low, high)):
        return "inconclusive"
    assert low is not None and high is not None
    null, smallest = prediction.null, prediction.smallest_effect
    if null - smallest < low and high < null + smallest:
        return "equivalent to none"
    side = 1 if low > null else -1 if high < null else 0
    if side == 0 or (p_value is not None and not p_value <= 1 - prediction.level):
        return "inconclusive"
    expected = {"above": 1, "below": -1, "different": side}[prediction.direction]
    return "consistent" if side == expected else "inconsistent"


@dataclass(frozen=True)
class Verdict:
    """What one run says of one prediction in one unit.

    Attributes
    ----------
    prediction : Prediction
    unit : Unit
    word : str
        One of :data:`WORDS`.
    estimate, low, high : float or None
    n : int
    p_value : float or None
        Adjusted for the predictions tested together.
    rows : str
        How to find the rows it rests on.
    command : str or None
        What repeats it.
    run : int or None
        In the knowledge base.
    frozen, judged : str
        UTC times.
    basis : {"before", "release"}
        Whether the prediction was frozen for this unit before the run, or by km's release.
    """

    prediction: Prediction
    unit: Unit
    word: Word
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    p_value: float | None
    rows: str
    command: str | None
    run: int | None
    frozen: str
    judged: str
    basis: str = "before"

    @property
    def exceeds(self) -> bool:
        """Whether the whole interval lies beyond the smallest effect of interest."""
        if self.word not in ("consistent", "inconsistent"):
            return False
        assert self.low is not None and self.high is not None
        null, smallest = self.prediction.null, self.prediction.smallest_effect
        return self.low >= null + smallest or self.high <= null - smallest

    @property
    def text(self) -> str:
        """The verdict as a person reads it."""
        lead = f"{self.word.capitalize()}{_PREPOSITION[self.word]}{self.prediction.id} in"
        how = " Fixed by km's release, not for this unit before the run."
        return f"{lead} {self.unit}: {self._because()}{how if self.basis == 'release' else ''}"

    def _because(self) -> str:
        p = self.prediction
        if p.not_testable:
            return p.not_testable
        if self.n < p.minimum_n:
            return f"{self.n} {p.n_unit} where at least {p.minimum_n} are needed."
        interest = f"the smallest effect of interest, {_figure(p.smallest_effect)} {p.unit}".strip()
        ends = {
            "equivalent to none": f"; nearer to {_figure(p.null)} than {interest}",
            "consistent": f"; {'beyond' if self.exceeds else 'not wholly beyond'} {interest}",
            "inconsistent": f"; the other side of {_figure(p.null)} than predicted",
            "inconclusive": f"; it does not settle the side of {_figure(p.null)}",
        }
        return f"{p.statistic} {self.figures()}{ends[self.word]}."

    def figures(self) -> str:
        """Estimate, interval, n and adjusted p."""
        ends = (self.estimate, self.low, self.high)
        return spoken_figures(self.prediction, *ends, self.n, self.p_value)

    def __repr__(self) -> str:
        rivals = "; ".join(self.prediction.rivals)
        return f"<{self.text}{f' Rivals: {rivals}.' if rivals else ''}>"

    def _repr_html_(self) -> str:
        return f"<div><b>{escape(self.word)}</b> {escape(self.text)}</div>"


_PREPOSITION: dict[str, str] = {
    "consistent": " with ",
    "inconsistent": " with ",
    "equivalent to none": ", against ",
    "inconclusive": " on ",
    "not testable here": ": ",
}


def spoken_figures(
    prediction: Prediction,
    estimate: float | None,
    low: float | None,
    high: float | None,
    n: int,
    p_value: float | None = None,
) -> str:
    """Estimate, interval, n and adjusted p as a person reads them."""
    count = f"n = {n} {prediction.n_unit}"
    if estimate is None or not math.isfinite(estimate):
        return f"not estimable, {count}"
    text = f"{_figure(estimate)} {prediction.unit}".strip()
    if low is not None and high is not None:
        text += f" [{_figure(low)}, {_figure(high)}]"
    return f"{text}, {count}" + ("" if p_value is None else f", adjusted p = {p_value:.2g}")


def _figure(value: float) -> str:
    return f"{value:.3g}"
