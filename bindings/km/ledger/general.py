"""Statements beyond one model: a random-effects estimate over model families."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from km.arguments import coverage
from km.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

#: With fewer families nothing general is said.
LEAST_FAMILIES = 5


@dataclass(frozen=True)
class RandomEffects:
    """A mean over studies that may differ from one another.

    Attributes
    ----------
    estimate, low, high : float
    tau2 : float
        Variance between studies (DerSimonian and Laird).
    i2 : float
        Share of the spread that is not sampling error.
    q : float
        Cochran's heterogeneity.
    n : int
        Studies.
    """

    estimate: float
    low: float
    high: float
    tau2: float
    i2: float
    q: float
    n: int


def random_effects(
    estimates: Sequence[float], errors: Sequence[float], *, confidence: float = 0.95
) -> RandomEffects:
    """DerSimonian and Laird's estimate with the interval of Hartung and Knapp.

    Parameters
    ----------
    estimates, errors : sequence of float
        Of each study, with its standard error above 0.
    confidence : float

    Raises
    ------
    ArgumentError
        Fewer than two studies, or an error that is not above 0.

    Notes
    -----
    The factor of Hartung and Knapp is not let fall below 1, so that agreement by chance does not
    make the interval narrower than sampling error allows.
    """
    from km.regression import t_quantile

    coverage(confidence)
    k = len(estimates)
    if k < 2 or len(errors) != k or not all(e > 0 and math.isfinite(e) for e in errors):
        raise ArgumentError("random effects need two studies or more, each with an error above 0")
    fixed = [1 / e**2 for e in errors]
    mean = _weighted(estimates, fixed)
    q = math.fsum(w * (x - mean) ** 2 for w, x in zip(fixed, estimates, strict=True))
    total = math.fsum(fixed)
    spread = total - math.fsum(w * w for w in fixed) / total
    tau2 = max(0.0, (q - (k - 1)) / spread)
    weights = [1 / (e**2 + tau2) for e in errors]
    centre = _weighted(estimates, weights)
    deviation = math.fsum(w * (x - centre) ** 2 for w, x in zip(weights, estimates, strict=True))
    factor = max(1.0, deviation / (k - 1))
    half = t_quantile(0.5 + confidence / 2, k - 1) * math.sqrt(factor / math.fsum(weights))
    i2 = max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0
    return RandomEffects(centre, centre - half, centre + half, tau2, i2, q, k)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * x for w, x in zip(weights, values, strict=True)) / math.fsum(weights)


@dataclass(frozen=True)
class General:
    """What :func:`general` returns.

    Attributes
    ----------
    prediction : str
    families : dict of str to list of str
        Models that have a verdict with an interval, by family.
    effect : RandomEffects or None
        None with fewer than :data:`LEAST_FAMILIES` families.
    word : str
        The rule of the verdicts' words on the estimate; "not testable here" without one.
    text : str
    """

    prediction: str
    families: dict[str, list[str]]
    effect: RandomEffects | None
    word: str
    text: str

    @property
    def missing(self) -> int:
        """Families still needed."""
        return max(0, LEAST_FAMILIES - len(self.families))

    def __repr__(self) -> str:
        return f"<{self.text}>"


def general(
    kb: KnowledgeBase,
    prediction: str,
    *,
    version: int | None = None,
    families: Mapping[str, str] | None = None,
) -> General:
    """Whether a prediction holds beyond single models, as far as the recorded verdicts go.

    Parameters
    ----------
    kb : KnowledgeBase
    prediction : str
        Its id.
    version : int, optional
        None: the newest that is frozen.
    families : mapping of str to str, optional
        Family of a model by its name or fingerprint. Others, and all without it, are taken by
        architecture: models of one architecture then count as one family.

    Returns
    -------
    General
        Without five families it says how many are missing, and nothing else.

    Raises
    ------
    NotFoundError
        No such prediction is frozen here.

    Notes
    -----
    The newest verdict of each model counts. Standard errors are half the width of the interval over
    the normal quantile of its level. Models of a family are combined by inverse variance.
    """
    from km.ledger.page import _read
    from km.ledger.verdicts import verdict_word

    rows = kb.sql(
        "SELECT content FROM predictions WHERE id = ?1 AND (?2 IS NULL OR version = ?2)"
        " ORDER BY version DESC LIMIT 1",
        [prediction, version],
    )
    if not len(rows):
        raise NotFoundError(f"{kb.path} has no frozen prediction {prediction!r}")
    p = _read(rows["content"][0])
    by_family = _by_family(kb, p.digest, families or {})
    named = {family: [name for name, _, _ in own] for family, own in by_family.items()}
    if len(named) < LEAST_FAMILIES:
        missing = LEAST_FAMILIES - len(named)
        text = (
            f"Nothing general can be said of {p.id}: verdicts of {len(named)} model "
            f"{_families(len(named))}, {missing} more {_families(missing)} needed."
        )
        return General(p.id, named, None, "not testable here", text)
    z = _normal_quantile(0.5 + p.level / 2)
    pooled = [_pool([(x, w / z) for _, x, w in own]) for own in by_family.values()]
    effect = random_effects([x for x, _ in pooled], [e for _, e in pooled], confidence=p.level)
    word = verdict_word(p, effect.estimate, effect.low, effect.high, p.minimum_n)
    text = (
        f"Over {effect.n} model families: {word} with {p.id}; {effect.estimate:.3g} {p.unit} "
        f"[{effect.low:.3g}, {effect.high:.3g}], random effects, variance between families "
        f"{effect.tau2:.2g} (I² {100 * effect.i2:.0f} %)."
    )
    return General(p.id, named, effect, word, text)


def _families(n: int) -> str:
    return "family" if n == 1 else "families"


def _by_family(
    kb: KnowledgeBase, digest: str, families: Mapping[str, str]
) -> dict[str, list[tuple[str, float, float]]]:
    """Name, estimate and half width of each model's newest verdict with an interval, by family."""
    rows = kb.sql(
        "SELECT l.model, l.fingerprint, l.estimate, (l.high - l.low) / 2 AS half, m.architecture"
        " FROM ledger AS l LEFT JOIN models AS m ON m.fingerprint = l.fingerprint"
        " WHERE l.verdict IN (SELECT max(verdict) FROM ledger WHERE prediction_digest = ?1"
        "   AND word <> 'not testable here' AND high > low GROUP BY fingerprint)"
        " ORDER BY l.model, l.fingerprint",
        [digest],
    )
    out: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows.rows():
        family = families.get(row["fingerprint"]) or families.get(row["model"])
        own = out.setdefault(family or row["architecture"] or row["model"], [])
        own.append((row["model"], row["estimate"], row["half"]))
    return out


def _pool(models: Sequence[tuple[float, float]]) -> tuple[float, float]:
    weights = [1 / e**2 for _, e in models]
    return _weighted([x for x, _ in models], weights), math.sqrt(1 / math.fsum(weights))


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)
