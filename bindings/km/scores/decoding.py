"""One step of contrastive decoders on plain arrays: logits in, scores of the next token out.

What each decoder does with one row of logits: CoDa (knowledge overshadowing, Zhang et al. 2025),
CAD (Shi et al. 2024), AdaCAD (Wang et al. 2025), contrastive decoding (Li et al. 2023) and DoLa
(Chuang et al. 2024). All in double precision, logarithms natural (nats); ``-inf`` is a token that
cannot come. The token chosen is the one with the largest score, the lowest id among equals: see
:func:`pick`. Definitions and edge cases: docs/generation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import real_number
from km.errors import ArgumentError, NumericError, ShapeError
from km.scores.overshadow import Floor, Likely, compare_likely, log_softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Row: TypeAlias = NDArray[np.float64]

__all__ = [
    "AdaptiveContext",
    "LayerContrast",
    "Overshadowing",
    "adacad",
    "cad",
    "coda",
    "contrastive",
    "divergence",
    "dola",
    "layer_divergence",
    "log_softmax",
    "overshadowing",
    "pick",
]

Divergence: TypeAlias = Literal["reference", "standard"]

# What AdaCAD's code puts in the place of a probability of zero.
_LEAST_PROBABILITY = 1e-9
# What CAD's code puts in the place of a token that a filter drops.
_DROPPED = 1000.0


# ---- what all share ----


def _row(name: str, values: ArrayLike) -> Row:
    """(V) float64: finite or -inf, and at least one finite."""
    import numpy as np

    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or row.size == 0:
        raise ShapeError(f"{name} has shape {row.shape}; it must be one row of logits (V)")
    largest = row.max()  # NaN where one is there
    if not np.isfinite(largest):
        raise NumericError(
            f"{name} has the largest logit {largest}; logits are finite or -inf, and not all -inf"
        )
    return row


def _same_length(name: str, row: Row, other: str, vocabulary: int) -> None:
    if row.size != vocabulary:
        raise ShapeError(f"{name} has {row.size} logits and {other} has {vocabulary}")


def _pair(name: str, values: ArrayLike, other: str, others: ArrayLike) -> tuple[Row, Row]:
    row, second = _row(name, values), _row(other, others)
    _same_length(other, second, name, row.size)
    return row, second


def _rows(name: str, values: ArrayLike) -> Any:
    """(N, V) in the type given: rows are turned into float64 one by one."""
    import numpy as np

    rows = np.asarray(values)
    if rows.ndim == 1:
        rows = rows[None]
    if rows.ndim != 2:
        raise ShapeError(f"{name} has shape {rows.shape}; it must be rows of logits (N, V)")
    return rows


def _share(name: str, value: float) -> float:
    """The natural logarithm of a share in (0, 1]."""
    share = real_number(name, value, 0, 1)
    if share == 0:
        raise ArgumentError(f"{name} is 0; it must be above 0 and at most 1")
    return math.log(share)


def _one_of(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise ArgumentError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def _log_total(row: Row) -> float:
    """log of the sum of exp."""
    import numpy as np

    largest = float(row.max())
    return largest + math.log(float(np.exp(row - largest).sum()))


def pick(scores: ArrayLike) -> int:
    """The token with the largest score; the lowest id among equals."""
    import numpy as np

    return int(np.argmax(np.asarray(scores)))


# ---- CoDa ----


@dataclass(frozen=True)
class Overshadowing:
    """How far leaving out each candidate leaves the next token's choice as it is; one row each.

    Attributes
    ----------
    r_pmi_sum : (N) float64, nats
        Sum of min(R-PMI, 0) over the tokens likely with and without the candidate.
    erm : (N) float64, nats
        Escaping rewarding mechanism: sum over the tokens likely only with the candidate of how far
        they lie above the floor.
    floor : (N) float64, nats
        NaN where the floor "neg_min" has no token to be taken over.
    indicator : (N) float64, nats
        r_pmi_sum + erm. Negative: the choice generalises to the prompt without the candidate, which
        is overshadowed by the rest.
    """

    r_pmi_sum: Row
    erm: Row
    floor: Row
    indicator: Row


def overshadowing(
    full: ArrayLike, masked: ArrayLike, alpha: float = 0.01, floor: Floor = "vtop_min"
) -> Overshadowing:
    """CoDa's indicator of each candidate token of a prompt, all in one call.

    :func:`km.scores.overshadow.indicator` tells more of one candidate;
    :func:`km.scores.overshadow.select_token` chooses among them.

    Parameters
    ----------
    full : (V) logits after the prompt
    masked : (N, V) or (V) logits
        After the prompt without each of N candidates.
    alpha : float
        A token is likely with at least this share of the largest probability; in (0, 1].
    floor : {"vtop_min", "neg_min"}
        Over which tokens the floor of the reward is the smallest log-probability without the
        candidate: those likely there, or those likely in both with a negative R-PMI (no reward
        where there is none).

    Returns
    -------
    Overshadowing

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    import numpy as np

    log_alpha = _share("alpha", alpha)
    _one_of("floor", floor, "vtop_min", "neg_min")
    whole = Likely.of(_row("full", full), log_alpha)
    rows = _rows("masked", masked)
    found = np.empty((len(rows), 3))
    for i in range(len(rows)):
        row = _row(f"masked[{i}]", rows[i])
        _same_length(f"masked[{i}]", row, "full", whole.logits.size)
        one = compare_likely(whole, Likely.of(row, log_alpha), floor)
        found[i] = one.r_pmi_sum, one.escape, one.floor
    totals, erm, floors = found.T.copy()
    return Overshadowing(totals, erm, floors, totals + erm)


def coda(full: ArrayLike, masked: ArrayLike, alpha: float = 0.01, weight: float = 1.0) -> Row:
    """Scores that amplify what the prompt's overshadowed token changes.

    Of tokens likely with and without it log p(y|X) - weight * log p(y|X'); of those likely only
    with it log p(y|X) - weight * (the smallest log p(.|X') among those likely without it); -inf of
    all others.

    Parameters
    ----------
    full : (V) logits after the prompt X
    masked : (V) logits after X', which lacks the overshadowed token
    alpha : float
        As of :func:`overshadowing`.
    weight : float
        1 in the paper; 0 leaves the order of the model itself.

    Returns
    -------
    (V) float64, nats

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    import numpy as np

    log_alpha, weight = _share("alpha", alpha), real_number("weight", weight, 0, 1e6)
    first, second = _pair("full", full, "masked", masked)
    whole, other = Likely.of(first, log_alpha), Likely.of(second, log_alpha)
    tokens = whole.tokens()
    without = second[tokens]
    common = without >= other.bound
    against = np.where(common, without - other.log_total, other.least())
    scores = np.full(first.size, -np.inf)
    scores[tokens] = first[tokens] - whole.log_total - weight * against
    return scores


# ---- context-aware decoding ----


def _outside_top_p(row: Row, top_p: float) -> NDArray[np.intp]:
    """Tokens beyond those that hold top_p of the probability; the strongest is never among them."""
    import numpy as np

    order = np.argsort(-row, kind="stable")
    p = np.exp(row[order] - _log_total(row))
    before = np.cumsum(p) - p
    return order[1:][before[1:] >= top_p]


def _filtered(name: str, row: Row, top_p: float, value: float) -> Row:
    if _share(name, top_p) == 0:
        return row
    out = row.copy()
    out[_outside_top_p(row, top_p)] = value
    return out


def _contrast(context: Row, prior: Row, alpha: float) -> Row:
    """(1 + alpha) context - alpha prior; a token the context rules out stays so."""
    import numpy as np

    if alpha == 0:
        return context.copy()
    possible = context > -np.inf
    scores = np.full(context.size, -np.inf)
    scores[possible] = (1 + alpha) * context[possible] - alpha * prior[possible]
    return scores


def cad(
    context: ArrayLike,
    prior: ArrayLike,
    alpha: float = 1.0,
    top_p_context: float = 1.0,
    top_p_prior: float = 1.0,
) -> Row:
    """Context-aware decoding: (1 + alpha) * logits with context - alpha * logits without it.

    Parameters
    ----------
    context, prior : (V) logits
        After the prompt with its context, and without it.
    alpha : float
        1 for answers that conflict with what is known, 0.5 for summaries; 0 is greedy decoding.
    top_p_context, top_p_prior : float
        Before they are combined, tokens beyond those that hold this share of the probability get
        the logit -1000 (context) or +1000 (prior); 1: none.

    Returns
    -------
    (V) float64
        Unnormalised; +inf where the prior alone rules a token out.

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    alpha = real_number("alpha", alpha, 0, 1e6)
    first, second = _pair("context", context, "prior", prior)
    first = _filtered("top_p_context", first, top_p_context, -_DROPPED)
    second = _filtered("top_p_prior", second, top_p_prior, _DROPPED)
    return _contrast(first, second, alpha)


@dataclass(frozen=True)
class AdaptiveContext:
    """What :func:`adacad` returns.

    Attributes
    ----------
    scores : (V) float64
        Unnormalised.
    alpha : float
        The weight this step was given.
    divergence : float, nats
        Jensen-Shannon divergence of the two distributions, 0 to ln 2.
    """

    scores: Row
    alpha: float
    divergence: float


def _probabilities(row: Row) -> Row:
    import numpy as np

    return np.exp(row - _log_total(row))


def divergence(context: ArrayLike, prior: ArrayLike) -> float:
    """Jensen-Shannon divergence of the distributions of two rows of logits (V), nats.

    A probability of zero counts as 1e-9, as in AdaCAD's code.
    """
    import numpy as np

    rows = _pair("context", context, "prior", prior)
    p, q = (np.where(r > 0, r, _LEAST_PROBABILITY) for r in map(_probabilities, rows))
    middle = np.log((p + q) / 2)
    halves = (p * (np.log(p) - middle)).sum() + (q * (np.log(q) - middle)).sum()
    return max(0.0, float(halves) / 2)


def adacad(context: ArrayLike, prior: ArrayLike, threshold: float = 0.0) -> AdaptiveContext:
    """CAD with the weight alpha = max(Jensen-Shannon divergence in nats, threshold) at each step.

    Parameters
    ----------
    context, prior : (V) logits
        After the prompt with its context, and without it.
    threshold : float
        The least weight.

    Returns
    -------
    AdaptiveContext

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    threshold = real_number("threshold", threshold, 0, 1e6)
    first, second = _pair("context", context, "prior", prior)
    found = divergence(first, second)
    alpha = max(found, threshold)
    return AdaptiveContext(_contrast(first, second, alpha), alpha, found)


# ---- contrastive decoding ----


def contrastive(
    expert: ArrayLike,
    amateur: ArrayLike,
    alpha: float = 0.1,
    beta: float = 1.0,
    temperature: float = 1.0,
) -> Row:
    """log p_expert - beta * log p_amateur where the expert finds a token likely, -inf elsewhere.

    Parameters
    ----------
    expert, amateur : (V) logits
    alpha : float
        A token stays with at least this share of the expert's largest probability; in (0, 1].
    beta : float
        0 is greedy decoding of the expert.
    temperature : float
        The amateur's logits are divided by it.

    Returns
    -------
    (V) float64, nats

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    import numpy as np

    log_alpha, beta = _share("alpha", alpha), real_number("beta", beta, 0, 1e6)
    temperature = real_number("temperature", temperature, 1e-6, 1e6)
    first, second = _pair("expert", expert, "amateur", amateur)
    likely = Likely.of(first, log_alpha)
    tokens = likely.tokens()
    scores = np.full(first.size, -np.inf)
    scores[tokens] = first[tokens] - likely.log_total
    if beta != 0:
        cooled = second / temperature
        scores[tokens] -= beta * (cooled[tokens] - _log_total(cooled))
    return scores


# ---- DoLa ----


@dataclass(frozen=True)
class LayerContrast:
    """What :func:`dola` returns.

    Attributes
    ----------
    scores : (V) float64, nats
    candidate : int
        Index of the candidate layer that was contrasted.
    divergences : (N) float64
        Of the final distribution and each candidate's.
    """

    scores: Row
    candidate: int
    divergences: Row


def layer_divergence(final: ArrayLike, layer: ArrayLike, js: Divergence = "reference") -> float:
    """How far a layer's distribution is from the final one's.

    Parameters
    ----------
    final, layer : (V) logits
    js : {"reference", "standard"}
        With M the mean of both distributions: what DoLa's code computes, which is the mean over the
        vocabulary of M (log M - log p), averaged over both (KL from M, not to it); or the
        Jensen-Shannon divergence, nats. They may rank layers differently.

    Returns
    -------
    float
    """
    import numpy as np

    _one_of("js", js, "reference", "standard")
    logs = [row - _log_total(row) for row in _pair("final", final, "layer", layer)]
    p, q = (np.exp(row) for row in logs)
    middle = (p + q) / 2
    known = middle > 0
    middle, logs = middle[known], [row[known] for row in logs]
    log_middle = np.log(middle)
    if js == "reference":
        return float((middle * (2 * log_middle - logs[0] - logs[1])).sum()) / (2 * known.size)
    sums = [
        (weights[weights > 0] * (row - log_middle)[weights > 0]).sum()
        for weights, row in zip((p[known], q[known]), logs, strict=True)
    ]
    return max(0.0, float(sum(sums)) / 2)


def dola(
    final: ArrayLike,
    candidates: ArrayLike,
    relative_top: float = 0.1,
    js: Divergence = "reference",
    post_softmax: bool = False,
    dropped: float = -math.inf,
) -> LayerContrast:
    """Decoding by contrasting layers: log p_final - log p of the layer farthest from the final one.

    Parameters
    ----------
    final : (V) logits
    candidates : (N, V) or (V) logits
        Of layers that exit early.
    relative_top : float
        A token stays with at least this share of the final layer's largest probability; in (0, 1].
    js : {"reference", "standard"}
        See :func:`layer_divergence`; the first of the farthest layers is taken.
    post_softmax : bool
        Normalise the differences over the vocabulary before tokens are dropped, as DoLa's code does
        when it scores given answers.
    dropped : float
        Score of a dropped token; DoLa's code gives it -1000 when it scores answers.

    Returns
    -------
    LayerContrast

    Raises
    ------
    ShapeError, NumericError, ArgumentError
    """
    import numpy as np

    log_top = _share("relative_top", relative_top)
    _one_of("js", js, "reference", "standard")
    last, rows = _row("final", final), _rows("candidates", candidates)
    if len(rows) == 0:
        raise ArgumentError("candidates is empty; give the logits of at least one layer")
    found = np.array([layer_divergence(last, row, js) for row in rows])
    chosen = int(np.argmax(found))
    early = _row("candidates", rows[chosen])
    scores = (last - _log_total(last)) - (early - _log_total(early))
    if post_softmax:
        scores -= _log_total(scores)
    scores[last < last.max() + log_top] = dropped
    return LayerContrast(scores, chosen, found)
