"""Freezing predictions before a run, and judging them after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from km.errors import ArgumentError, NotFoundError, UnsupportedError
from km.ledger.predictions import Prediction, Unit
from km.ledger.verdicts import Verdict, verdict_word

if TYPE_CHECKING:
    from km.kb import KnowledgeBase


@dataclass(frozen=True)
class Freezing:
    """A prediction fixed for a unit at a time.

    Attributes
    ----------
    prediction : Prediction
    unit : Unit
    time : str
        UTC.
    """

    prediction: Prediction
    unit: Unit
    time: str


class Memory:
    """Freezings and verdicts of this process, for studies without a knowledge base."""

    def __init__(self) -> None:
        self.digests: dict[tuple[str, int], str] = {}
        self.freezings: dict[tuple[str, str], Freezing] = {}
        self.verdicts: list[Verdict] = []

    def freeze(self, prediction: Prediction, unit: Unit) -> Freezing:
        """As :func:`freeze`, for one."""
        named = (prediction.id, prediction.version)
        if self.digests.setdefault(named, prediction.digest) != prediction.digest:
            raise ArgumentError(changed(prediction))
        key = (prediction.digest, unit.digest)
        return self.freezings.setdefault(key, Freezing(prediction, unit, now()))

    def find(self, prediction: Prediction, unit: Unit) -> Freezing:
        """The freezing of a prediction for a unit."""
        found = self.freezings.get((prediction.digest, unit.digest))
        if found is None:
            raise NotFoundError(not_frozen(prediction, unit))
        return found


_memory = Memory()


def freeze(
    kb: KnowledgeBase | None, predictions: Iterable[Prediction], unit: Unit
) -> list[Freezing]:
    """Fix predictions for a unit, before the run that may count for them begins.

    Parameters
    ----------
    kb : None
        They are kept in this process's memory.
    predictions : iterable of Prediction
    unit : Unit

    Returns
    -------
    list of Freezing
        Those of earlier calls keep their time.

    Raises
    ------
    ArgumentError
        A prediction of the same id and version was frozen with other content: raise its version.
    """
    _in_memory(kb)
    return [_memory.freeze(prediction, unit) for prediction in predictions]


def judge(
    kb: KnowledgeBase | None,
    run: int | None,
    prediction: Prediction,
    unit: Unit,
    *,
    estimate: float | None,
    low: float | None,
    high: float | None,
    n: int,
    p_value: float | None = None,
    rows: str | Sequence[str] = "",
    command: str | None = None,
) -> Verdict:
    """What a figure says of a prediction that was frozen for this unit.

    Parameters
    ----------
    kb : None
    run : int or None
    prediction : Prediction
    unit : Unit
    estimate, low, high : float or None
        The statistic and its interval at the prediction's level; None where there is none.
    n : int
        In the prediction's `n_unit`.
    p_value : float, optional
        Adjusted for the predictions tested together.
    rows : str or sequence of str
        How to find the rows it rests on: keys of chunks, or a question.
    command : str, optional
        What repeats it.

    Raises
    ------
    NotFoundError
        The prediction was not frozen for this unit.
    """
    _in_memory(kb)
    frozen = _memory.find(prediction, unit)
    word = verdict_word(prediction, estimate, low, high, n, p_value)
    where = rows if isinstance(rows, str) else " ".join(rows)
    verdict = Verdict(
        prediction,
        unit,
        word,
        estimate,
        low,
        high,
        n,
        p_value,
        where,
        command,
        run,
        frozen.time,
        now(),
    )
    _memory.verdicts.append(verdict)
    return verdict


def _in_memory(kb: KnowledgeBase | None) -> None:
    if kb is not None:
        raise UnsupportedError("this schema of the knowledge base has no ledger: give kb=None")


def now() -> str:
    """UTC as the knowledge base writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def changed(prediction: Prediction) -> str:
    """What is said of a prediction whose content changed under its name."""
    return (
        f"prediction {prediction.id!r} version {prediction.version} was frozen with other content; "
        "a changed prediction needs a new version"
    )


def not_frozen(prediction: Prediction, unit: Unit) -> str:
    """What is said of a prediction nobody froze."""
    return (
        f"prediction {prediction.id!r} was not frozen for this unit ({unit}): call "
        "km.ledger.freeze before the run"
    )
