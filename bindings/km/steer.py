"""Steering: a direction between two sets of prompts, added to other prompts in rising doses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import stats
from km.answers import answer_tokens, ids_and_text
from km.arguments import (
    MOST_TOKENS,
    coverage,
    real_number,
    several,
    strings,
    whole_number,
)
from km.errors import ArgumentError
from km.points import Points
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance
from km.table import Column, Table
from km.variants import ADD, Change, Sweep, read_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Ids, Model

STEERING_ID = "interpretability.steering"
STEERING_VERSION = 1

_MOST_RANDOM = 100_000

COLUMNS = [
    Column("prompt", "int64", "", "Index of the prompt."),
    Column("answer", "text", "", "Text whose log-probability is followed."),
    Column("direction", "int64", "", "0: the steering direction; 1 and more: random ones."),
    Column("coefficient", "double", "", "What the direction is multiplied by."),
    Column("logprob", "double", "nats", "Of the whole answer, steered."),
    Column("change", "double", "nats", "The same minus that of the plain run."),
]

CURVE_COLUMNS = [
    Column("coefficient", "double", "", "What the direction is multiplied by."),
    Column("change", "double", "nats", "Mean change over prompts."),
    Column("low", "double", "nats", "Lower end of its interval; null below two prompts."),
    Column("high", "double", "nats", "Upper end."),
    Column("random", "double", "nats", "Mean change by random directions of the same norm."),
    Column("random_least", "double", "nats", "Smallest mean change of a random direction."),
    Column("random_most", "double", "nats", "Largest mean change of a random direction."),
    Column("difference", "double", "nats", "Steering minus random, paired by prompt."),
    Column("difference_low", "double", "nats", "Lower end of its interval."),
    Column("difference_high", "double", "nats", "Upper end."),
    Column("n", "int64", "prompts", "Prompts."),
]

CAUTION = (
    "An effect counts as far as it exceeds that of random directions of the same norm, which large "
    "coefficients also let grow; the prompts must not be those the direction was made from."
)


class Steering(Result):
    """What :func:`steering` returns: one row a prompt, direction and coefficient.

    Attributes
    ----------
    table : Table
    curve : Table
        One row a coefficient: the dose curve beside random directions.
    vector : (D) float32
        The steering direction: difference of the means of both sets.
    relative_norm : float
        Its norm over the mean norm of the activations it is added to.
    evidence : list of dict
    notes : list of str
    """

    def __init__(
        self,
        changes: NDArray[np.float64],
        plain: NDArray[np.float64],
        answers: Sequence[str],
        vector: NDArray[np.float32],
        relative_norm: float,
        provenance: dict[str, Any],
    ) -> None:
        coefficients = [float(c) for c in provenance["parameters"]["coefficients"]]
        super().__init__(_table(changes, plain, answers, coefficients), provenance)
        self.vector = vector
        self.relative_norm = relative_norm
        confidence = float(self.parameters["confidence"])
        self.curve = Table.from_rows(CURVE_COLUMNS, _curve(changes, coefficients, confidence))
        self.notes = [
            CAUTION,
            f"Coefficient 1 adds {relative_norm:.2f} of the mean norm of the activations.",
        ]
        self.evidence = _evidence(self)

    def __repr__(self) -> str:
        lines = [f"<km.Steering {self._title()}: n = {self.curve['n'][0]} prompts>"]
        for row in self.curve.rows():
            spread = (
                f" [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
                if row["difference_low"] is not None
                else ""
            )
            lines.append(
                f"x {row['coefficient']:g}: {row['change']:+.3f} nats, random directions "
                f"{row['random']:+.3f} ({row['random_least']:+.3f} to {row['random_most']:+.3f}); "
                f"difference {row['difference']:+.3f}{spread}"
            )
        return "\n".join([*lines, *self.notes])


def _table(
    changes: NDArray[np.float64],
    plain: NDArray[np.float64],
    answers: Sequence[str],
    coefficients: Sequence[float],
) -> Table:
    rows = [
        {
            "prompt": i,
            "answer": answers[i],
            "direction": d,
            "coefficient": coefficient,
            "logprob": float(plain[i] + changes[i, d, c]),
            "change": float(changes[i, d, c]),
        }
        for i in range(changes.shape[0])
        for d in range(changes.shape[1])
        for c, coefficient in enumerate(coefficients)
    ]
    return Table.from_rows(COLUMNS, rows)


def _curve(
    changes: NDArray[np.float64], coefficients: Sequence[float], confidence: float
) -> list[dict[str, Any]]:
    rows = []
    for c, coefficient in enumerate(coefficients):
        own, random = changes[:, 0, c], changes[:, 1:, c]
        spread = gap = None
        if len(own) > 1:
            spread = stats.clustered_bootstrap(own, confidence=confidence)
            gap = stats.paired_bootstrap(own, random.mean(axis=1), confidence=confidence)
        rows.append(
            {
                "coefficient": coefficient,
                "change": float(own.mean()),
                "low": spread.low if spread else None,
                "high": spread.high if spread else None,
                "random": float(random.mean()),
                "random_least": float(random.mean(axis=0).min()),
                "random_most": float(random.mean(axis=0).max()),
                "difference": float(own.mean() - random.mean()),
                "difference_low": gap.low if gap else None,
                "difference_high": gap.high if gap else None,
                "n": len(own),
            }
        )
    return rows


def _evidence(result: Steering) -> list[dict[str, Any]]:
    """The paired difference from random directions, which is what an effect counts as."""
    return [
        {
            "node": "representation-editing",
            "measure": STEERING_ID,
            "statistic": f"change_at_{row['coefficient']:g}_minus_random",
            "value": row["difference"],
            "low": row["difference_low"],
            "high": row["difference_high"],
            "n": row["n"],
            "unit": "nats",
            "baseline": 0.0,
            "note": f"Mean change of the answers' log-probability: {row['change']:+.3f}, random "
            f"directions of the same norm {row['random']:+.3f} ({row['random_least']:+.3f} to "
            f"{row['random_most']:+.3f}). {CAUTION}",
        }
        for row in result.curve.rows()
    ]


def steering(
    model: Model,
    positive: str | Ids | Iterable[str | Ids],
    negative: str | Ids | Iterable[str | Ids],
    prompts: str | Iterable[str],
    answers: str | Iterable[str],
    *,
    layer: int,
    point: str = "resid_post",
    coefficients: Sequence[float] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
    positions: str = "all",
    n_random: int = 10,
    seed: int = 0,
    bos: bool | None = None,
    confidence: float = 0.95,
    batch_tokens: int = 2048,
    progress: Progress = None,
) -> Steering:
    """Add the direction between two sets of prompts to others, and see what becomes of answers.

    Parameters
    ----------
    model : Model
    positive, negative : str or token ids, or an iterable of them
        Contrasting prompts; the direction is the mean of the former's activations at the last
        token minus that of the latter's.
    prompts, answers : str, or an iterable of str
        Other prompts, and for each the text whose log-probability is followed (whole; a blank is
        put between where both would touch).
    layer : int
    point : str
        A point as wide as the residual stream.
    coefficients : sequence of float
        Doses: the direction is added so many times.
    positions : {"all", "last"}
        Every token of prompt and answer, or the prompt's last token alone.
    n_random : int
        Random directions of the same norm, each given the same doses.
    seed : int
        Of the random directions.
    bos : bool, optional
        None: what the model file says.
    confidence : float
        Coverage of the intervals over prompts.
    batch_tokens : int
        Distinct tokens a pass; no figure depends on it.
    progress : bool or callable, optional

    Returns
    -------
    Steering

    Raises
    ------
    ArgumentError
        A set is empty, a prompt occurs in both sets, or prompts were used to make the direction.

    Notes
    -----
    Difference of means: Rimsky et al. 2024 (contrastive activation addition); Turner et al. 2023.
    """
    import numpy as np

    width = int(model.config["d_model"])
    where = Points(model).find(point)
    sets = [
        [ids_and_text(model, p, bos)[0] for p in several(name, group, of_ids=True)]
        for name, group in (("positive", positive), ("negative", negative))
    ]
    texts, wanted = strings("prompts", prompts), strings("answers", answers)
    layer = whole_number("layer", layer, 0, int(model.config["n_layers"]) - 1)
    n_random = whole_number("n_random", n_random, 1, _MOST_RANDOM)
    seed = whole_number("seed", seed, 0)
    confidence = coverage(confidence)
    batch_tokens = whole_number("batch_tokens", batch_tokens, 1, MOST_TOKENS)
    doses = [coefficients] if isinstance(coefficients, int | float) else coefficients
    coefficients = [real_number("coefficients", c, -1e6, 1e6) for c in doses]
    _check(model, sets, texts, wanted, where.heads * where.width == width, positions, bos)
    if not coefficients:
        raise ArgumentError("coefficients is empty")
    means, norms = [], []
    for group in sets:
        rows = [read_run(model, ids, [(point, layer)])[0][point, layer][-1] for ids in group]
        means.append(np.mean(np.stack(rows).astype(np.float64), axis=0))
        norms += [float(np.linalg.norm(row)) for row in rows]
    vector = means[0] - means[1]
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        raise ArgumentError("both sets have the same mean activation: there is no direction")
    random = np.random.Generator(np.random.PCG64(seed)).standard_normal((n_random, width))
    random *= norm / np.linalg.norm(random, axis=1, keepdims=True)
    values = np.concatenate([vector[None], random]).astype(np.float32)
    changes = np.zeros((len(texts), 1 + n_random, len(coefficients)))
    plain = np.zeros(len(texts))
    with ProgressReporter(progress, "steering", unit="prompts", total=len(texts)) as report:
        for i, (text, answer) in enumerate(zip(texts, wanted, strict=True)):
            ids = model.encode(text, bos=bos)
            tail = answer_tokens(model, ids, text, answer, bos)
            wants = [(len(ids) - 1 + j, token) for j, token in enumerate(tail)]
            whole = [*ids, *tail[:-1]]
            places = range(len(whole)) if positions == "all" else [len(ids) - 1]
            variants = [
                [Change(p, ADD, point, layer, d * width, factor=float(coefficient)) for p in places]
                for d in range(1 + n_random)
                for coefficient in coefficients
            ]
            sweep = Sweep(model, whole, [], values.reshape(-1), wants, batch_tokens)
            base, found = sweep.run(variants)
            plain[i] = base.sum()
            changes[i] = (found.sum(axis=1) - plain[i]).reshape(1 + n_random, -1)
            report(i + 1)
    parameters = {
        "positive": sets[0],
        "negative": sets[1],
        "prompts": texts,
        "answers": wanted,
        "layer": layer,
        "point": point,
        "coefficients": [float(c) for c in coefficients],
        "positions": positions,
        "n_random": n_random,
        "bos": bos,
        "confidence": confidence,
    }
    provenance = make_provenance(STEERING_ID, STEERING_VERSION, model, parameters, seed)
    relative = norm / (sum(norms) / len(norms))
    return Steering(changes, plain, wanted, values[0].copy(), relative, provenance)


def _check(
    model: Model,
    sets: Sequence[Sequence[Sequence[int]]],
    texts: Sequence[str],
    answers: Sequence[str],
    wide: bool,
    positions: str,
    bos: bool | None,
) -> None:
    for name, given in (("positive", sets[0]), ("negative", sets[1]), ("prompts", texts)):
        if not given or not all(given):
            raise ArgumentError(f"{name} is empty, or one of its prompts has no tokens")
    if len(texts) != len(answers):
        raise ArgumentError(f"{len(texts)} prompts and {len(answers)} answers; give one a prompt")
    if not wide:
        raise ArgumentError("point must be as wide as the residual stream")
    if positions not in ("all", "last"):
        raise ArgumentError(f"positions is {positions!r}, not all or last")
    seen = [[tuple(ids) for ids in group] for group in sets]
    if set(seen[0]) & set(seen[1]):
        raise ArgumentError("a prompt is in both sets")
    used = set(seen[0]) | set(seen[1])
    for text in texts:
        if tuple(model.encode(text, bos=bos)) in used:
            raise ArgumentError(f"{text!r} was used to make the direction; steer other prompts")
