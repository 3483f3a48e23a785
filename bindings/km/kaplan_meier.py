"""Kaplan and Meier's estimate of survival, with Greenwood's variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class KaplanMeier:
    """Survival by time.

    Attributes
    ----------
    time : (T) float64
        Times at which something happened, events and censorings, ascending.
    survival, low, high : (T) float64
        Share that outlives each time, and its pointwise interval; NaN where the variance is not
        defined, which is where nobody is left.
    at_risk, events, censored : (T) int64
        Under observation just before each time; events and censorings at it.
    confidence : float
    """

    time: NDArray[np.float64]
    survival: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: NDArray[np.int64]
    events: NDArray[np.int64]
    censored: NDArray[np.int64]
    confidence: float

    @property
    def n(self) -> int:
        """Number of observations."""
        return int(self.at_risk[0])

    @property
    def median(self) -> float | None:
        """First time at which at most half survive; None where more than half outlive all times."""
        found = self.time[self.survival <= 0.5]
        return float(found[0]) if len(found) else None


def kaplan_meier(
    time: ArrayLike, event: ArrayLike | Sequence[bool], *, confidence: float = 0.95
) -> KaplanMeier:
    """Kaplan and Meier's product-limit estimate.

    Parameters
    ----------
    time : (N) float64
        When the event happened, or until when it had not.
    event : (N) bool
        Whether it happened; False: censored, which counts as after the events of the same time.
    confidence : float
        Of the intervals: Greenwood's variance on the scale log(-log S), which keeps them within 0
        and 1. Observations are taken as independent.

    Raises
    ------
    ArgumentError
        There is no observation, a time is negative or not finite, or the lengths differ.

    Examples
    --------
    >>> kaplan_meier([1, 2, 2, 3], [True, True, False, True]).survival.tolist()
    [0.75, 0.5, 0.0]
    """
    import numpy as np

    times = np.asarray(time, dtype=np.float64)
    happened = np.asarray(event, dtype=bool)
    if times.ndim != 1 or times.shape != happened.shape:
        raise ArgumentError(f"time and event have {times.shape} and {happened.shape} values")
    if not len(times):
        raise ArgumentError("there is no observation")
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ArgumentError("times must be finite and not negative")
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence is {confidence}, not between 0 and 1")
    at, place = np.unique(times, return_inverse=True)
    events = np.bincount(place, weights=happened, minlength=len(at)).astype(np.int64)
    every = np.bincount(place, minlength=len(at)).astype(np.int64)
    at_risk = len(times) - np.concatenate([[0], np.cumsum(every)[:-1]])
    survival = np.cumprod(1.0 - events / at_risk)
    low, high = _interval(survival, events, at_risk, confidence)
    return KaplanMeier(at, survival, low, high, at_risk, events, every - events, confidence)


def _interval(
    survival: NDArray[np.float64],
    events: NDArray[np.int64],
    at_risk: NDArray[np.int64],
    confidence: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise limits; 1 where nothing has happened yet."""
    import numpy as np

    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        half = z * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(half), survival ** np.exp(-half)
    untouched, gone = survival == 1.0, survival == 0.0
    low[untouched] = high[untouched] = 1.0
    low[gone] = high[gone] = np.nan
    return low, high
