"""Memorization scores on plain arrays.

Logarithms are natural (nats) unless a function says bits. Anything ``numpy.asarray`` takes is
taken; results are floats, ints or float64 arrays. A mean of nothing is NaN, as in the authors'
code. Definitions, sources and edge cases: docs/measures/memorization.md.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Counterfactual",
    "Detection",
    "Exposure",
    "Extraction",
    "carlini_zlib",
    "counterfactual",
    "detection",
    "exposure",
    "exposure_skewnormal",
    "extraction",
    "first_mismatch",
    "influence",
    "loss",
    "loss_score",
    "lowercase_ratio",
    "macro_mean",
    "mean_reciprocal_rank",
    "min_k",
    "min_k_plus_plus",
    "perplexity",
    "precision_at",
    "rank",
    "recall_at_errors",
    "recall_curve",
    "reference_difference",
    "reference_ratio",
    "token_logprobs",
    "token_moments",
    "zlib_length",
    "zlib_ratio",
    "zlib_score",
]


def _f64(x: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    return np.ascontiguousarray(x, dtype=np.float64)


def _ids(x: ArrayLike) -> NDArray[np.int32]:
    """Token ids as int32; an id that does not fit is an error, never wrapped."""
    import numpy as np

    return _exact(x, np.int32)


def _i64(x: ArrayLike) -> NDArray[np.int64]:
    import numpy as np

    return _exact(x, np.int64)


def _exact(x: ArrayLike, dtype: Any) -> NDArray[Any]:
    import numpy as np

    given = np.asarray(x)
    out = np.ascontiguousarray(given, dtype=dtype)
    if given.size and not np.array_equal(given, out):
        raise ArgumentError(f"expected whole numbers that fit {np.dtype(dtype).name}")
    return out


def _flags(x: ArrayLike) -> NDArray[np.bool_]:
    import numpy as np

    return np.ascontiguousarray(x, dtype=np.bool_)


def _ratio(numerator: float, denominator: float) -> float:
    """Division as in IEEE arithmetic: by zero gives an infinity, 0/0 NaN."""
    if denominator != 0:
        return numerator / denominator
    return (
        math.nan if numerator == 0 or math.isnan(numerator) else math.copysign(math.inf, numerator)
    )


# ---- token likelihoods ----


def token_logprobs(logits: ArrayLike, ids: ArrayLike) -> NDArray[np.float64]:
    """Log-probability of each token after the first.

    Parameters
    ----------
    logits : (T, V) float
        Row t is what the model says after ids[0..t]; the last row is not used.
    ids : (T) int

    Returns
    -------
    (T-1) float64, nats
        ``log softmax(logits[t-1])[ids[t]]`` for t = 1..T-1.

    Raises
    ------
    ArgumentError
        An id is outside the vocabulary.
    NumericError
        A row holds NaN or +infinity, or no finite entry.

    Examples
    --------
    >>> token_logprobs([[0.0, 0.0], [1.0, 1.0]], [0, 1]).round(4).tolist()
    [-0.6931]
    """
    import numpy as np

    return np.asarray(_km.score_token_logprobs(_f64(logits), _ids(ids)))


def token_moments(logits: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of log p under p, a row at a time (Min-K%++).

    Parameters
    ----------
    logits : (N, V) float
        To match ``token_logprobs`` leave out the last row.

    Returns
    -------
    mu : (N) float64, nats
        ``sum_v p log p``, minus the entropy.
    sigma2 : (N) float64, nats squared
        ``sum_v p (log p - mu)^2``.

    Examples
    --------
    >>> mu, sigma2 = token_moments([[0.0, 0.0]])
    >>> round(float(mu[0]), 4), float(sigma2[0])
    (-0.6931, 0.0)
    """
    import numpy as np

    mu, sigma2 = _km.score_token_moments(_f64(logits))
    return np.asarray(mu), np.asarray(sigma2)


def loss(logprobs: ArrayLike) -> float:
    """Mean of ``-logprobs``, nats a token; NaN without any token.

    Examples
    --------
    >>> loss([-1.0, -3.0])
    2.0
    """
    return _km.score_loss(_f64(logprobs))


def perplexity(logprobs: ArrayLike) -> float:
    """``exp(loss)``; infinite where that overflows.

    Examples
    --------
    >>> perplexity([0.0, 0.0])
    1.0
    """
    try:
        return math.exp(loss(logprobs))
    except OverflowError:
        return math.inf


def loss_score(logprobs: ArrayLike) -> float:
    """``-loss``: larger means more likely a member (Yeom et al. 2018)."""
    return -loss(logprobs)


def zlib_length(text: str | bytes) -> int:
    """Bytes of the UTF-8 text after ``zlib.compress`` at its default level.

    The number depends on the zlib build; zlib-ng compresses differently.

    Examples
    --------
    >>> zlib_length("a" * 65)
    12
    """
    return len(zlib.compress(text.encode("utf-8") if isinstance(text, str) else text))


def zlib_score(logprobs: ArrayLike, text: str | bytes) -> float:
    """``-loss / zlib_length``: larger means more likely a member."""
    return -zlib_ratio(logprobs, text)


def zlib_ratio(logprobs: ArrayLike, text: str | bytes) -> float:
    """``loss / zlib_length``, nats a byte."""
    return _ratio(loss(logprobs), zlib_length(text))


def carlini_zlib(logprobs: ArrayLike, text: str | bytes) -> float:
    """``zlib_length / loss`` (Carlini et al. 2021); infinite when the loss is 0."""
    return _ratio(zlib_length(text), loss(logprobs))


def lowercase_ratio(logprobs: ArrayLike, lower_logprobs: ArrayLike) -> float:
    """Loss of the lower-cased text over the loss of the text (Carlini et al. 2021)."""
    return _ratio(loss(lower_logprobs), loss(logprobs))


def reference_ratio(logprobs: ArrayLike, reference_logprobs: ArrayLike) -> float:
    """Loss under a reference model over loss under the model (Carlini et al. 2021)."""
    return _ratio(loss(reference_logprobs), loss(logprobs))


def reference_difference(logprobs: ArrayLike, reference_logprobs: ArrayLike) -> float:
    """Loss under the model minus loss under a reference model, nats a token."""
    return loss(logprobs) - loss(reference_logprobs)


def min_k(logprobs: ArrayLike, ratio: float = 0.2, *, at_least_one: bool = False) -> float:
    """Mean of the smallest log-probabilities (Min-K% Prob, Shi et al. 2024).

    Parameters
    ----------
    logprobs : (N) float, nats
    ratio : float
        In [0, 1]; k = floor(N ratio).
    at_least_one : bool
        Take k = 1 where it would be 0. Without it the mean of nothing is NaN.

    Returns
    -------
    float, nats

    Examples
    --------
    >>> min_k([-1.0, -2.0, -3.0, -4.0], 0.5)
    -3.5
    >>> min_k([-1.0, -2.0], 0.2)
    nan
    """
    return _km.score_min_k(_f64(logprobs), ratio, at_least_one)


def min_k_plus_plus(
    logprobs: ArrayLike,
    mu: ArrayLike,
    sigma2: ArrayLike,
    ratio: float = 0.2,
    *,
    at_least_one: bool = False,
) -> float:
    """Min-k over ``(logprobs - mu) / sqrt(sigma2)`` (Min-K%++, Zhang et al. 2024).

    ``mu`` and ``sigma2`` come from ``token_moments``. Where a distribution is uniform its variance
    is 0 and the quotient NaN; such tokens sort last, as in the authors' code.

    Examples
    --------
    >>> min_k_plus_plus([-1.0, -3.0], [-1.0, -1.0], [1.0, 4.0], 0.5)
    -1.0
    """
    return _km.score_min_k_plus_plus(_f64(logprobs), _f64(mu), _f64(sigma2), ratio, at_least_one)


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a score tells members from non-members.

    Attributes
    ----------
    auroc : float
        Probability that a member scores above a non-member, ties half.
    fpr_at_tpr, tpr_at_fpr : float
        At the asked true-positive and false-positive rate.
    n_members, n_others : int
    """

    auroc: float
    fpr_at_tpr: float
    tpr_at_fpr: float
    n_members: int
    n_others: int


def detection(
    scores: ArrayLike, member: ArrayLike, *, tpr: float = 0.95, fpr: float = 0.05
) -> Detection:
    """AUROC, FPR at a TPR and TPR at an FPR of a membership score.

    Parameters
    ----------
    scores : (N) float
        Larger means member.
    member : (N) bool
    tpr, fpr : float
        Smallest FPR with TPR >= tpr; largest TPR with FPR <= fpr.

    Returns
    -------
    Detection
        NaN rates unless both classes are there.

    Examples
    --------
    >>> detection([3.0, 2.0, 1.0, 0.0], [True, True, False, False]).auroc
    1.0
    """
    return Detection(*_km.score_detection(_f64(scores), _flags(member), tpr, fpr))


# ---- verbatim extraction ----


@dataclass(frozen=True, slots=True)
class Extraction:
    """How much of a true continuation was reproduced.

    Attributes
    ----------
    extractable : bool
        The two are equal (Carlini et al. 2021).
    match_fraction : float
        Share of the suffix's positions with the same token (Biderman et al. 2023).
    matching_prefix : int
        Tokens before the first difference.
    edit_distance : int
        Levenshtein, tokens.
    edit_similarity : float
        1 - distance / length of the longer one.
    """

    extractable: bool
    match_fraction: float
    matching_prefix: int
    edit_distance: int
    edit_similarity: float


def extraction(generated: ArrayLike, suffix: ArrayLike) -> Extraction:
    """Compare a greedy continuation with the true one, both (N) token ids.

    Examples
    --------
    >>> extraction([1, 2, 9], [1, 2, 3]).match_fraction
    0.6666666666666666
    """
    return Extraction(*_km.score_extraction(_ids(generated), _ids(suffix)))


def first_mismatch(logits: ArrayLike, ids: ArrayLike) -> int:
    """First position whose token is not the most likely one, under teacher forcing.

    Parameters
    ----------
    logits : (N, V) float
        Row t is what the model says before ids[t].
    ids : (N) int

    Returns
    -------
    int
        N when every token is the argmax (ties: lowest id), which is the same as being extractable.

    Examples
    --------
    >>> first_mismatch([[0.0, 1.0], [1.0, 0.0]], [1, 1])
    1
    """
    return _km.score_first_mismatch(_f64(logits), _ids(ids))


def _curve(
    guesses: Iterable[Sequence[int]], n_examples: int, max_errors: int
) -> tuple[NDArray[np.float64], float]:
    import numpy as np

    rows = [tuple(guess) for guess in guesses]
    example = _i64([row[0] for row in rows])
    correct = _flags([bool(row[1]) for row in rows])
    curve, n, recall = _km.score_recall_curve(example, correct, n_examples, max_errors)
    return np.asarray(curve)[:n], recall


def recall_curve(guesses: Iterable[Sequence[int]], n_examples: int) -> NDArray[np.float64]:
    """Share of examples solved after each correct guess.

    Parameters
    ----------
    guesses : iterable of (example, correct)
        In order of confidence; an example solved twice counts once.
    n_examples : int

    Returns
    -------
    (number of correct guesses) float64

    Examples
    --------
    >>> recall_curve([(0, True), (1, False), (2, True), (2, True)], 4).tolist()
    [0.25, 0.5, 0.5]
    """
    return _curve(guesses, n_examples, 0)[0]


def recall_at_errors(
    guesses: Iterable[Sequence[int]], n_examples: int, max_errors: int = 100
) -> float:
    """Last point of the recall curve with fewer than ``max_errors`` wrong guesses before it.

    0 when no correct guess comes in time (Carlini et al., training data extraction benchmark).
    """
    return _curve(guesses, n_examples, max_errors)[1]


# ---- exposure ----


@dataclass(frozen=True, slots=True)
class Exposure:
    """Exposure of canaries.

    Attributes
    ----------
    rank : (N) int64
        1 + number of references strictly less perplexing.
    exposure : (N) float64, bits
    """

    rank: NDArray[np.int64]
    exposure: NDArray[np.float64]


def exposure(
    canaries: ArrayLike, references: ArrayLike, *, log2_space: float | None = None
) -> Exposure:
    """Exposure of canaries among references (Carlini et al. 2019).

    Parameters
    ----------
    canaries, references : (N), (R) float
        Log-perplexities (any unit, the same for both): small means likely.
    log2_space : float, optional
        log2 of the size of the space, when ``references`` are all its other members. None: they
        are a sample of it, and exposure is ``log2 R - log2 rank``, which is slightly negative for
        a canary behind every reference.

    Examples
    --------
    >>> exposure([1.0, 9.0], [2.0, 3.0, 4.0, 5.0]).exposure.round(4).tolist()
    [2.0, -0.3219]
    """
    import numpy as np

    rank_, bits = _km.score_exposure(_f64(canaries), _f64(references), log2_space)
    return Exposure(np.asarray(rank_), np.asarray(bits))


def exposure_skewnormal(
    canaries: ArrayLike, *, a: float, loc: float, scale: float
) -> NDArray[np.float64]:
    """Exposure by extrapolation: ``-log2 CDF`` of a skew-normal fitted to the references.

    Parameters
    ----------
    canaries : (N) float
        Log-perplexities.
    a, loc, scale : float
        Shape, location and scale, as in ``scipy.stats.skewnorm``.

    Returns
    -------
    (N) float64, bits

    Examples
    --------
    >>> exposure_skewnormal([0.0], a=0.0, loc=0.0, scale=1.0).tolist()
    [1.0]
    """
    import numpy as np

    values = [_km.score_exposure_skewnormal(float(x), a, loc, scale) for x in _f64(canaries)]
    return np.array(values, dtype=np.float64)


# ---- counterfactual memorization ----


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Counterfactual memorization of items.

    Attributes
    ----------
    memorization : (N) float64
        ``in_mean - out_mean``; NaN for an item that is in every model or in none.
    in_mean, out_mean : (N) float64
        Mean score over the models trained with and without the item; NaN without such a model.
    """

    memorization: NDArray[np.float64]
    in_mean: NDArray[np.float64]
    out_mean: NDArray[np.float64]


def counterfactual(include: ArrayLike, scores: ArrayLike) -> Counterfactual:
    """What scores lose when an item is left out of training (Zhang et al. 2023).

    Parameters
    ----------
    include : (M, N) bool
        Whether model m was trained with item n.
    scores : (M, N) float
        Score of model m on item n, such as its share of tokens predicted.

    Examples
    --------
    >>> counterfactual([[1, 1], [0, 1]], [[0.9, 0.5], [0.2, 0.5]]).memorization.round(2).tolist()
    [0.7, nan]
    """
    import numpy as np

    parts = _km.score_counterfactual(_flags(include), _f64(scores))
    return Counterfactual(*(np.asarray(part) for part in parts))


def influence(include: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """Influence of training items on evaluated ones (Zhang et al. 2023).

    Parameters
    ----------
    include : (M, N) bool
    scores : (M, E) float
        Score of model m on evaluated item e.

    Returns
    -------
    (N, E) float64
        Mean over models with item n minus mean over models without; NaN as above.
    """
    import numpy as np

    return np.asarray(_km.score_influence(_flags(include), _f64(scores)))


# ---- ranks ----


def rank(
    logits: ArrayLike,
    gold: ArrayLike,
    *,
    vocabulary: ArrayLike | None = None,
    exclude: Sequence[Iterable[int]] | None = None,
) -> NDArray[np.int64]:
    """0-based rank of the gold token: the number of tokens with a strictly larger logit.

    Parameters
    ----------
    logits : (N, V) float
    gold : (N) int
    vocabulary : (K) int, optional
        Count only these tokens.
    exclude : N iterables of int, optional
        Do not count these, such as other valid objects of the same subject and relation (LAMA).

    Examples
    --------
    >>> rank([[3.0, 2.0, 1.0]], [2]).tolist(), rank([[3.0, 2.0, 1.0]], [2], exclude=[[0]]).tolist()
    ([2], [1])
    """
    import numpy as np

    values = _f64(logits)
    allowed = None
    if vocabulary is not None or exclude is not None:
        allowed = np.ones(values.shape, dtype=np.bool_)
        if vocabulary is not None:
            allowed[:] = False
            allowed[:, _token_index(vocabulary, values.shape[1])] = True
        for row, tokens in enumerate(exclude or ()):
            allowed[row, _token_index(list(tokens), values.shape[1])] = False
    return np.asarray(_km.score_rank(values, _ids(gold), allowed))


def _token_index(tokens: ArrayLike, n_vocab: int) -> NDArray[np.int64]:
    import numpy as np

    index = _exact(np.asarray(tokens, dtype=np.int64), np.int64)
    if index.size and (index.min() < 0 or index.max() >= n_vocab):
        raise ArgumentError(f"a token id is outside [0, {n_vocab})")
    return index


def precision_at(ranks: ArrayLike, k: int = 1) -> float:
    """Share of 0-based ranks below k.

    Examples
    --------
    >>> precision_at([0, 4, 12], 10)
    0.6666666666666666
    """
    return _km.score_precision_at(_i64(ranks), k)


def mean_reciprocal_rank(ranks: ArrayLike) -> float:
    """Mean of 1 / (rank + 1) over 0-based ranks.

    Examples
    --------
    >>> mean_reciprocal_rank([0, 1])
    0.75
    """
    return _km.score_mean_reciprocal_rank(_i64(ranks))


def macro_mean(values: ArrayLike, groups: ArrayLike) -> float:
    """Mean over groups of the groups' means: every relation weighs the same.

    Examples
    --------
    >>> macro_mean([1.0, 1.0, 0.0], [7, 7, 8])
    0.5
    """
    return _km.score_macro_mean(_f64(values), _i64(groups))
