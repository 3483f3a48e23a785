"""Scores of interventions on plain arrays: effects of restored states, neurons kept, patched runs.

Usable with probabilities and activations from any framework; anything ``numpy.asarray`` takes is
taken. Definitions and sources: docs/measures/interventions.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from km.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CausalEffects",
    "causal_effects",
    "frequent_neurons",
    "integrated_gradients",
    "neuron_triplets",
    "noise_scale",
    "patching_effect",
    "refined_neurons",
    "relation_neurons",
    "restored_layers",
]

Neuron: TypeAlias = tuple[int, int]
Triplet: TypeAlias = tuple[int, int, float]


# ---- causal tracing ----


@dataclass(frozen=True)
class CausalEffects:
    """Effects of restoring states in corrupted runs of one prompt.

    Attributes
    ----------
    total : float, probability
        TE = p_clean - p_corrupt.
    indirect : (T, L) float64, probability
        IE = p_restored - p_corrupt.
    normalised : (T, L) float64
        IE / TE; NaN where TE is 0.
    roles : dict of str to (L) float64
        Rows of `indirect`: first_subject, middle_subject (mean over those between; absent without
        any), last_subject, first_after_subject, further (mean over those between; absent without
        any), last_token.
    peak : (int, int)
        Token and layer of the largest indirect effect.
    """

    total: float
    indirect: NDArray[np.float64]
    normalised: NDArray[np.float64]
    roles: dict[str, NDArray[np.float64]]
    peak: tuple[int, int]


def causal_effects(
    p_clean: float, p_corrupt: float, p_restored: ArrayLike, subject: tuple[int, int]
) -> CausalEffects:
    """Total and indirect effects (Meng et al. 2022, section 2.1).

    Parameters
    ----------
    p_clean, p_corrupt : float
        Probability of the answer in the clean run, and its mean over the corrupted runs.
    p_restored : (T, L) float64
        Mean over the corrupted runs in which the state of a token at a layer is restored.
    subject : (int, int)
        First token of the subject, and the one after its last.
    """
    import numpy as np

    restored = np.asarray(p_restored, dtype=np.float64)
    begin, end = subject
    if restored.ndim != 2 or not 0 <= begin < end <= len(restored):
        raise ShapeError(
            f"p_restored has shape {restored.shape}, the subject is tokens {begin} to {end - 1}; "
            "it must be (T, L) and hold the subject"
        )
    total = float(p_clean) - float(p_corrupt)
    indirect = restored - float(p_corrupt)
    normalised = indirect / total if total != 0 else np.full_like(indirect, np.nan)
    peak = np.unravel_index(int(np.argmax(indirect)), indirect.shape)
    return CausalEffects(
        total, indirect, normalised, _roles(indirect, begin, end), (int(peak[0]), int(peak[1]))
    )


def _roles(rows: NDArray[np.float64], begin: int, end: int) -> dict[str, NDArray[np.float64]]:
    last = len(rows) - 1
    roles = {"first_subject": rows[begin]}
    if end - begin > 2:
        roles["middle_subject"] = rows[begin + 1 : end - 1].mean(axis=0)
    roles["last_subject"] = rows[end - 1]
    if end < last:
        roles["first_after_subject"] = rows[end]
    if end + 1 < last:
        roles["further"] = rows[end + 1 : last].mean(axis=0)
    if end <= last:
        roles["last_token"] = rows[last]
    return roles


def restored_layers(layer: int, n_layers: int, window: int) -> range:
    """The layers restored together around `layer`: max(0, l - w // 2) to min(L, l + w // 2) - 1.

    The authors' rule, half-open above: a window of 10 restores l - 5 to l + 4. ``window`` 0
    restores the layer alone.

    Examples
    --------
    >>> restored_layers(3, 12, 10), restored_layers(11, 12, 10), restored_layers(4, 12, 0)
    (range(0, 8), range(6, 12), range(4, 5))
    """
    if window < 0 or not 0 <= layer < n_layers:
        raise ArgumentError(f"layer {layer} of {n_layers}, window {window}")
    if window == 0:
        return range(layer, layer + 1)
    return range(max(0, layer - window // 2), min(n_layers, layer + window // 2))


def noise_scale(embeddings: ArrayLike, factor: float = 3.0) -> float:
    """The authors' noise: `factor` times the standard deviation of the subjects' embeddings.

    Parameters
    ----------
    embeddings : (N, D) float
        Of all subject tokens of the data set; every entry counts alike, with N D - 1 degrees of
        freedom (torch.std).
    """
    import numpy as np

    return factor * float(np.std(np.asarray(embeddings, dtype=np.float64), ddof=1))


# ---- knowledge neurons ----


def integrated_gradients(activation: ArrayLike, gradients: ArrayLike) -> NDArray[np.float64]:
    """Attribution of each neuron: w / m * sum over k of dP/dw at (k / m) w.

    Parameters
    ----------
    activation : (..., F) float
        w, the activations of the run itself.
    gradients : (m, ..., F) float
        At scale k / m, k = 0..m-1 (the left sum of the authors' code) or k = 1..m (the right sum of
        the paper).
    """
    import numpy as np

    w = np.asarray(activation, dtype=np.float64)
    slopes = np.asarray(gradients, dtype=np.float64)
    if slopes.ndim != w.ndim + 1 or slopes.shape[1:] != w.shape or not len(slopes):
        raise ShapeError(f"gradients {slopes.shape} are not (m, *{w.shape})")
    result: NDArray[np.float64] = w * slopes.mean(axis=0)
    return result


def neuron_triplets(attribution: ArrayLike, ratio: float = 0.1) -> list[Triplet]:
    """(layer, neuron, value) of the neurons with at least `ratio` of the largest value.

    Parameters
    ----------
    attribution : (L, F) float
    """
    import numpy as np

    values = np.asarray(attribution, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"attribution has shape {values.shape}, must be (L, F)")
    kept = np.argwhere(values >= ratio * values.max())
    return [(int(layer), int(i), float(values[layer, i])) for layer, i in kept]


def frequent_neurons(
    prompts: Sequence[Sequence[Triplet]],
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    at_least: float = 3,
) -> list[Neuron]:
    """Neurons of one fact: strong in enough of its prompts (Dai et al. 2022, section 3.2).

    Parameters
    ----------
    prompts : sequence of lists of (layer, neuron, value)
        Of one fact, one list a paraphrase.
    threshold : float
        Share of a prompt's largest value that a neuron must reach.
    share, at_least : float
        A neuron is kept in at least max(n_prompts * share, at_least) prompts.

    Returns
    -------
    list of (layer, neuron), sorted
    """
    counts: Counter[Neuron] = Counter()
    for triplets in prompts:
        largest = max((value for _, _, value in triplets), default=0.0)
        counts.update({(layer, i) for layer, i, value in triplets if value >= threshold * largest})
    needed = max(len(prompts) * share, at_least)
    return sorted(neuron for neuron, count in counts.items() if count >= needed)


def refined_neurons(
    facts: Sequence[Sequence[Sequence[Triplet]]],
    *,
    threshold: float = 0.2,
    share: float = 0.7,
    at_least: float = 3,
    rounds: int = 6,
) -> tuple[list[list[Neuron]], float]:
    """:func:`frequent_neurons` of each fact, with the share adapted as the authors do.

    Up to `rounds` times the share falls by 0.05 while facts keep fewer than 2 neurons on average,
    and rises by 0.05 while they keep more than 5.

    Returns
    -------
    list of lists of (layer, neuron)
    float
        The share of prompts that was used in the end.
    """
    kept: list[list[Neuron]] = []
    for i in range(rounds):
        kept = [
            frequent_neurons(fact, threshold=threshold, share=share, at_least=at_least)
            for fact in facts
        ]
        mean = sum(map(len, kept)) / len(kept) if kept else 0.0
        if 2 <= mean <= 5 or not kept or i == rounds - 1:
            break
        share = round(share + (0.05 if mean > 5 else -0.05), 10)
    return kept, share


def relation_neurons(facts: Iterable[Iterable[Neuron]], *, share: float = 0.1) -> list[Neuron]:
    """Neurons kept in at least `share` of a relation's facts, sorted."""
    kept = [set(neurons) for neurons in facts]
    counts = Counter(neuron for neurons in kept for neuron in neurons)
    return sorted(neuron for neuron, count in counts.items() if count >= share * len(kept))


# ---- activation patching ----


def patching_effect(
    patched: ArrayLike, clean: float, corrupted: float, *, denoising: bool = True
) -> NDArray[np.float64]:
    """Share of the difference between two runs that a patch brings about.

    Parameters
    ----------
    patched : (...) float
        Metric (logit difference of answer and wrong answer) of patched runs.
    clean, corrupted : float
        Metric of the two runs.
    denoising : bool
        Clean activations were put into the corrupted run: 0 leaves it as it is, 1 restores the
        clean one. Else corrupted ones were put into the clean run: 0 leaves it, 1 breaks it fully.

    Returns
    -------
    (...) float64
        NaN where both runs have the same metric.
    """
    import numpy as np

    values = np.asarray(patched, dtype=np.float64)
    gap = float(clean) - float(corrupted)
    if gap == 0:
        return np.full_like(values, np.nan)
    return (values - corrupted) / gap if denoising else (clean - values) / gap
