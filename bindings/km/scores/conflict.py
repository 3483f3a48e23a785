"""Scores of knowledge conflict: what a model answers where a passage says otherwise.

Pure functions: predictions may come from any model. Definitions: docs/measures/conflict.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import coverage
from km.datasets.answer_text import (
    Match,
    exact_match,
    matches,
    normalize_answer,
    token_f1,
)
from km.errors import ArgumentError
from km.stats import Interval, clustered_bootstrap, wilson

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "Bucket",
    "MemorizationRatio",
    "bucket",
    "exact_match",
    "matches",
    "memorization_ratio",
    "normalize_answer",
    "ratio_of_buckets",
    "token_f1",
    "two_class_accuracy",
]

Bucket: TypeAlias = Literal["original", "substitute", "other"]


@dataclass(frozen=True, slots=True)
class MemorizationRatio:
    """How often a model keeps to what it remembers, always beside what it says else.

    Attributes
    ----------
    ratio : float
        n_original / (n_original + n_substitute); NaN when both are 0.
    low, high : float
        Confidence interval of the ratio; NaN where there is none.
    other_low, other_high : float
        Confidence interval of the share of other answers.
    n : int
        Examples that count; n_original + n_substitute + n_other.
    n_original, n_substitute, n_other : int
    n_both : int
        Of n_original: predictions that match the substitute too.
    n_excluded : int
        Left out: the fact was not answered rightly before.
    n_clusters : int
    method : str
        Of the ratio's interval; "" without one.
    confidence : float
    """

    ratio: float
    low: float
    high: float
    other_low: float
    other_high: float
    n: int
    n_original: int
    n_substitute: int
    n_other: int
    n_both: int
    n_excluded: int
    n_clusters: int
    method: str
    confidence: float

    @property
    def p_original(self) -> float:
        """Share of the original answer; NaN without examples."""
        return self.n_original / self.n if self.n else math.nan

    @property
    def p_substitute(self) -> float:
        """Share of the substitute; NaN without examples."""
        return self.n_substitute / self.n if self.n else math.nan

    @property
    def p_other(self) -> float:
        """Share of other answers; NaN without examples."""
        return self.n_other / self.n if self.n else math.nan

    def __str__(self) -> str:
        return (
            f"memorization ratio {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]; "
            f"original {self.p_original:.3f}, substitute {self.p_substitute:.3f}, "
            f"other {self.p_other:.3f} [{self.other_low:.3f}, {self.other_high:.3f}] "
            f"(n = {self.n}, clusters = {self.n_clusters})"
        )


def bucket(
    prediction: str,
    originals: Sequence[str],
    substitutes: Sequence[str],
    match: Match = "exact",
) -> tuple[Bucket, bool]:
    """Which answer a prediction gives, and whether it gives both.

    Returns
    -------
    bucket : {"original", "substitute", "other"}
        "original" where it matches both.
    both : bool

    Examples
    --------
    >>> bucket("the Oslo.", ["Paris"], ["Oslo"])
    ('substitute', False)
    """
    original = matches(prediction, originals, match)
    substitute = matches(prediction, substitutes, match)
    if original:
        return "original", substitute
    return ("substitute" if substitute else "other"), False


def memorization_ratio(
    predictions: Sequence[str],
    originals: Sequence[Sequence[str]],
    substitutes: Sequence[Sequence[str]],
    *,
    before: Sequence[str] | None = None,
    clusters: Sequence[object] | None = None,
    match: Match = "exact",
    confidence: float = 0.95,
    seed: int = 0,
) -> MemorizationRatio:
    """Memorization ratio of predictions made where the passage gives the substitute.

    Parameters
    ----------
    predictions : (N) str
    originals, substitutes : (N) sequences of str
        Accepted answers of each example.
    before : (N) str, optional
        Predictions without the substitution; examples in which they match no original answer are
        left out. None: every example counts.
    clusters : (N) ids, optional
        Such as the relation or the question. None: examples are independent.
    match : {"exact", "start", "contains"}
        See :func:`matches`.
    confidence : float
    seed : int
        Of the bootstrap.

    Raises
    ------
    ArgumentError
        Lengths differ.

    Notes
    -----
    Longpre et al. 2021: M_R = p_o / (p_o + p_s).

    Examples
    --------
    >>> print(memorization_ratio(["Paris", "Oslo", "?"], [["Paris"]] * 3, [["Oslo"]] * 3))
    memorization ratio 0.500 [0.095, 0.905]; original 0.333, substitute 0.333, other 0.333 \
[0.061, 0.792] (n = 3, clusters = 3)
    """
    n = len(predictions)
    sizes = [len(originals), len(substitutes)]
    sizes += [len(given) for given in (before, clusters) if given is not None]
    if any(size != n for size in sizes):
        raise ArgumentError(f"{n} predictions, but other arguments have {sizes} entries")
    found = [
        bucket(prediction, original, other, match)
        for prediction, original, other in zip(predictions, originals, substitutes, strict=True)
    ]
    counted = [before is None or matches(before[i], originals[i], match) for i in range(n)]
    return ratio_of_buckets(
        [name for (name, _), keep in zip(found, counted, strict=True) if keep],
        clusters=None if clusters is None else [clusters[i] for i in range(n) if counted[i]],
        n_both=sum(both for (_, both), keep in zip(found, counted, strict=True) if keep),
        n_excluded=n - sum(counted),
        confidence=confidence,
        seed=seed,
    )


def ratio_of_buckets(
    buckets: Sequence[str],
    *,
    clusters: Sequence[object] | None = None,
    n_both: int = 0,
    n_excluded: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> MemorizationRatio:
    """The same from buckets that are known already."""
    level = coverage(confidence)
    wrong = set(buckets) - {"original", "substitute", "other"}
    if wrong:
        raise ArgumentError(
            f"no bucket {sorted(wrong)[0]!r}; there are original, substitute, other"
        )
    counts = [buckets.count(name) for name in ("original", "substitute", "other")]
    ids = list(range(len(buckets))) if clusters is None else list(clusters)
    decided = [i for i, name in enumerate(buckets) if name != "other"]
    kept = _share(
        [buckets[i] == "original" for i in decided], [ids[i] for i in decided], level, seed
    )
    other = _share([name == "other" for name in buckets], ids, level, seed)
    nan = math.nan
    return MemorizationRatio(
        ratio=counts[0] / len(decided) if decided else nan,
        low=nan if kept is None else kept.low,
        high=nan if kept is None else kept.high,
        other_low=nan if other is None else other.low,
        other_high=nan if other is None else other.high,
        n=len(buckets),
        n_original=counts[0],
        n_substitute=counts[1],
        n_other=counts[2],
        n_both=n_both,
        n_excluded=n_excluded,
        n_clusters=len(set(map(str, ids))),
        method="" if kept is None else kept.method,
        confidence=level,
    )


def _share(
    hits: Sequence[bool], clusters: Sequence[object], confidence: float, seed: int
) -> Interval | None:
    """Share of hits; None where no item, a single cluster, or equal clusters tell nothing."""
    names = [str(cluster) for cluster in clusters]
    n_clusters = len(set(names))
    if not hits:
        return None
    if n_clusters == len(hits):
        return wilson(sum(hits), len(hits), confidence=confidence)
    if n_clusters < 2:
        return None
    values = [float(hit) for hit in hits]
    made = clustered_bootstrap(values, names, confidence=confidence, seed=seed, proportion=True)
    return made if made.low < made.high else None  # a few clusters agree by chance


def two_class_accuracy(
    logp: ArrayLike,
    wanted: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Share of items whose wanted continuation is the more probable of two.

    Parameters
    ----------
    logp : (N, 2) float64, nats
        Log-probability of each continuation.
    wanted : (N) int
        0 or 1.
    clusters : (N) ids, optional
        Such as the stem that several items share.

    Raises
    ------
    ArgumentError
        Shapes do not go together, a value is NaN, or the clusters say nothing about spread.

    Notes
    -----
    A tie is counted as wrong: no preference for the wanted continuation was shown.

    Examples
    --------
    >>> two_class_accuracy([[-1.0, -2.0], [-3.0, -2.5], [-1.0, -1.0]], [0, 0, 1]).estimate
    0.3333333333333333
    """
    import numpy as np

    values: Any = np.asarray(logp, dtype=np.float64)
    index: Any = np.asarray(wanted)
    if values.ndim != 2 or values.shape[1] != 2 or index.shape != values.shape[:1]:
        raise ArgumentError(f"logp has shape {values.shape} and wanted {index.shape}; (N, 2), (N)")
    if np.isnan(values).any() or not np.isin(index, (0, 1)).all() or not len(index):
        raise ArgumentError("logp must not be NaN, wanted must be 0 or 1, and there must be items")
    rows = np.arange(len(index))
    chosen = index.astype(np.int64)
    hits = (values[rows, chosen] > values[rows, 1 - chosen]).tolist()
    ids = list(range(len(hits))) if clusters is None else list(clusters)
    if len(ids) != len(hits):
        raise ArgumentError(f"{len(ids)} clusters for {len(hits)} items")
    share = _share(hits, ids, coverage(confidence), seed)
    if share is None:
        raise ArgumentError("the clusters say nothing about spread: there is one, or all are equal")
    return share
