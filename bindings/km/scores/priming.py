"""Priming scores and pruned updates on plain arrays.

How far the keyword of one learned text leaks into other contexts (Sun et al. 2025), and masks over
the changes of training. Logarithms are natural (nats); ``-inf`` stands for probability zero.
Anything ``numpy.asarray`` takes is taken. Definitions and edge cases:
docs/measures/priming_scores.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import _km
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "THRESHOLD",
    "UNSTABLE",
    "Prediction",
    "Scores",
    "predictor",
    "prune_apply",
    "prune_in_place",
    "prune_mask",
    "scores",
]

Key: TypeAlias = Literal["abs", "signed"]
Scope: TypeAlias = Literal["per_tensor", "global"]

THRESHOLD = 1e-3
"""Keyword probability below which the paper calls a text surprising."""
UNSTABLE = 1e-10
"""Probability before learning below which a ratio is counted as unstable."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Memorisation and priming of one learned text.

    Attributes
    ----------
    log_s_mem : float
        Change of the keyword's log-probability in its own context; NaN when that was not given or
        is 0 / 0.
    log_s_prime : float
        Log of the mean over probes of P_after / P_before, as the paper defines priming; may be
        infinite.
    log_s_prime_stable : float
        The same without unstable ratios; NaN when none is left.
    mean_log_ratio, median_log_ratio : float
        Of the probes' log ratios, which no single tiny denominator can dominate.
    mean_delta_p : float
        Mean of P_after - P_before.
    n : int
        Probes that count.
    n_dropped : int
        Probes left out because their probability was zero before and after.
    n_unstable : int
        Probes that count and whose probability before was below `UNSTABLE` (or what was asked for).
    """

    log_s_mem: float
    log_s_prime: float
    log_s_prime_stable: float
    mean_log_ratio: float
    median_log_ratio: float
    mean_delta_p: float
    n: int
    n_dropped: int
    n_unstable: int

    @property
    def s_mem(self) -> float:
        """The ratio itself; ``inf`` where it does not fit a float."""
        return _exp(self.log_s_mem)

    @property
    def s_prime(self) -> float:
        """The mean ratio itself; ``inf`` where it does not fit a float."""
        return _exp(self.log_s_prime)

    @property
    def log10_s_prime(self) -> float:
        """The decimal logarithm, for plots."""
        return self.log_s_prime / math.log(10)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Keyword probability before learning against priming, over texts: a description.

    log S_prime holds log P_before of the probes in its denominator, so these correlations are
    negative even where learning does nothing that depends on P_before (docs/measures/priming.md).

    Attributes
    ----------
    pearson, spearman : float
        NaN where a variable is constant and for fewer than three texts.
    n : int
    n_surprising : int
        Texts whose keyword probability is strictly below the threshold.
    surprising : (N) bool
    mean_surprising, mean_unsurprising : float
        Means of log S_prime in the two groups; NaN for an empty one.
    """

    pearson: float
    spearman: float
    n: int
    n_surprising: int
    surprising: NDArray[np.bool_]
    mean_surprising: float
    mean_unsurprising: float


def scores(
    before: ArrayLike,
    after: ArrayLike,
    context_before: float = math.nan,
    context_after: float = math.nan,
    *,
    unstable: float = UNSTABLE,
) -> Scores:
    """Scores of one text from log-probabilities of its keyword.

    Parameters
    ----------
    before, after : (M) float64
        Nats, of the keyword after each probe, before and after learning.
    context_before, context_after : float, optional
        The same in the text itself; without them log_s_mem is NaN.
    unstable : float
        Probability below which a denominator is counted as unstable.

    Raises
    ------
    ArgumentError
        No probe, or a value that is not the logarithm of a probability.

    Notes
    -----
    log S_prime = logsumexp(after - before) - log M over the M probes that count (Sun et al. 2025;
    a mean of ratios, not a ratio of means).

    Examples
    --------
    >>> result = scores([-7.0, -9.0], [-6.0, -9.0], -8.0, -1.0)
    >>> round(result.log_s_prime, 4), result.mean_log_ratio, result.log_s_mem
    (0.6201, 0.5, 7.0)
    """
    if not unstable >= 0:
        raise ArgumentError(f"unstable={unstable} is not a probability")
    given = not (math.isnan(context_before) and math.isnan(context_after))
    values = _km.score_priming(
        context_before if given else 0.0,
        context_after if given else 0.0,
        _floats(before),
        _floats(after),
        math.log(unstable) if unstable > 0 else -math.inf,
    )
    return Scores(values[0] if given else math.nan, *values[1:])


def predictor(
    log_p_keyword: ArrayLike, log_s_prime: ArrayLike, *, threshold: float = THRESHOLD
) -> Prediction:
    """Correlations of log keyword probability with log S_prime, and means beside a threshold.

    Parameters
    ----------
    log_p_keyword, log_s_prime : (N) float64
        One a text, nats, finite.
    threshold : float
        Probability; a text is surprising when log p < log(threshold), strictly.

    Examples
    --------
    >>> result = predictor([-12.0, -9.0, -4.0, -1.0], [5.0, 4.0, 1.0, 0.5])
    >>> result.spearman, result.n_surprising, result.mean_surprising
    (-1.0, 2, 4.5)
    """
    import numpy as np

    keyword = _floats(log_p_keyword)
    pearson, spearman, n_surprising, below, above, flags = _km.score_priming_predictor(
        keyword, _floats(log_s_prime), threshold
    )
    surprising = np.asarray(flags)
    return Prediction(pearson, spearman, len(keyword), n_surprising, surprising, below, above)


def prune_mask(
    delta: ArrayLike | Sequence[ArrayLike],
    k: float = 0.08,
    *,
    key: Key = "abs",
    scope: Scope = "per_tensor",
    keep: bool = False,
    slice: tuple[float, float] | None = None,
) -> Any:
    """Masks over changes of weights: False where the change is to be taken back.

    Parameters
    ----------
    delta : array or list of arrays
        Changes. A list or tuple of arrays is several tensors.
    k : float
        Share of the changes that is pruned: the largest ones. 0 or less: none, 1 or more: all.
    key : {"abs", "signed"}
        Rank by size or by signed value.
    scope : {"per_tensor", "global"}
        Rank within each tensor, or all tensors together in the given order.
    keep : bool
        Prune everything but those instead (keep-topk).
    slice : (float, float), optional
        Prune the ranks from one share to another instead of the largest k.

    Returns
    -------
    array of bool, or list of them
        In the shape of `delta`.

    Raises
    ------
    NumericError
        A change is NaN.

    Notes
    -----
    With n elements the pruned ranks are round(low n) to round(high n) - 1, halves rounded to even.
    Equal changes are ranked by their flat index, the lowest first; -0.0 equals 0.0.

    Examples
    --------
    >>> prune_mask([0.1, -0.5, 0.2, 0.5], 0.25).tolist()
    [True, False, True, True]
    """
    changes, single = _tensors(delta, "delta")
    low, high = _shares(k, slice)
    flat = _mask(changes, low, high, keep, key, scope)
    masks, at = [], 0
    for change in changes:
        masks.append(flat[at : at + change.size].reshape(change.shape))
        at += change.size
    return masks[0] if single else masks


def prune_apply(
    base: ArrayLike | Sequence[ArrayLike],
    tuned: ArrayLike | Sequence[ArrayLike],
    k: float = 0.08,
    *,
    key: Key = "abs",
    scope: Scope = "per_tensor",
    keep: bool = False,
    slice: tuple[float, float] | None = None,
) -> Any:
    """Tuned weights with their largest changes taken back; parameters as in `prune_mask`.

    Returns
    -------
    array, or list of arrays
        New arrays: the base, bit for bit, where pruned, else the tuned value; nothing is rescaled.

    Examples
    --------
    >>> prune_apply([1.0, 1.0, 1.0], [1.5, 0.9, 1.2], 0.34).tolist()
    [1.0, 0.9, 1.2]
    """
    import numpy as np

    before, single = _tensors(base, "base")
    after, _ = _tensors(tuned, "tuned")
    values = [np.array(array) for array in after]
    prune_in_place(values, before, k, key=key, scope=scope, keep=keep, slice=slice)
    return values[0] if single else values


def prune_in_place(
    values: Sequence[NDArray[Any]],
    base: Sequence[NDArray[Any]],
    k: float = 0.08,
    *,
    key: Key = "abs",
    scope: Scope = "per_tensor",
    keep: bool = False,
    slice: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Prune tuned weights where they are, without a copy; parameters as in `prune_mask`.

    Parameters
    ----------
    values : arrays of float32 or float64, C-contiguous, writable
        Tuned weights in, pruned weights out.
    base : arrays
        The weights before, of the same type and sizes.
    names : sequence of str, optional
        The tensors' names, for messages.

    Returns
    -------
    (n_tensors) int64
        Pruned elements of each tensor.

    Raises
    ------
    NumericError
        A change is NaN; nothing has been changed then.

    Notes
    -----
    The selection is exact and linear in the number of elements, and the same for any number of
    threads. Ctrl-C may leave some elements pruned.
    """
    import numpy as np

    low, high = _shares(k, slice)
    is_signed, together = _flags(key, scope)
    counts = _km.prune_apply(list(values), list(base), low, high, keep, is_signed, together, names)
    return np.asarray(counts)


def _mask(
    changes: list[NDArray[Any]], low: float, high: float, keep: bool, key: Key, scope: Scope
) -> NDArray[np.bool_]:
    import numpy as np

    return np.asarray(_km.prune_mask(changes, low, high, keep, *_flags(key, scope)))


def _flags(key: str, scope: str) -> tuple[bool, bool]:
    if key not in ("abs", "signed"):
        raise ArgumentError(f"key={key!r} must be 'abs' or 'signed'")
    if scope not in ("per_tensor", "global"):
        raise ArgumentError(f"scope={scope!r} must be 'per_tensor' or 'global'")
    return key == "signed", scope == "global"


def _shares(k: float, slice: tuple[float, float] | None) -> tuple[float, float]:
    if slice is None:
        return 0.0, max(0.0, k)
    low, high = slice
    return float(low), float(high)


def _tensors(value: Any, name: str) -> tuple[list[NDArray[Any]], bool]:
    """Arrays of one floating type, and whether a single one was meant."""
    import numpy as np

    several = isinstance(value, (list, tuple)) and any(np.ndim(item) > 0 for item in value)
    several = several or (isinstance(value, (list, tuple)) and len(value) == 0)
    arrays = [np.asarray(item) for item in value] if several else [np.asarray(value)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in arrays) and arrays else np.float64
    for array in arrays:
        if array.dtype.kind not in "fiub":
            raise ArgumentError(f"{name} holds {array.dtype}, not numbers")
    return [np.ascontiguousarray(a, dtype=dtype).reshape(a.shape) for a in arrays], not several


def _floats(x: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    return np.ascontiguousarray(x, dtype=np.float64)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
