"""Freezing predictions before a run, and judging them after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.errors import ArgumentError, NotFoundError
from km.ledger.predictions import Prediction, Unit
from km.ledger.verdicts import Verdict, verdict_word
from km.result import canonical_json

if TYPE_CHECKING:
    from km.kb import KnowledgeBase

Basis: TypeAlias = Literal["before", "release"]


@dataclass(frozen=True)
class Freezing:
    """A prediction fixed for a unit at a time.

    Attributes
    ----------
    prediction : Prediction
    unit : Unit
    time : str
        UTC.
    basis : {"before", "release"}
        Before a run; or by km's release, for the unit of a run that was made already.
    """

    prediction: Prediction
    unit: Unit
    time: str
    basis: Basis = "before"


class Memory:
    """Freezings and verdicts of this process, for studies without a knowledge base."""

    def __init__(self) -> None:
        self.digests: dict[tuple[str, int], str] = {}
        self.freezings: dict[tuple[str, str, Basis], Freezing] = {}
        self.verdicts: list[Verdict] = []

    def freeze(self, prediction: Prediction, unit: Unit, basis: Basis) -> Freezing:
        """As :func:`freeze`, for one."""
        named = (prediction.id, prediction.version)
        if self.digests.setdefault(named, prediction.digest) != prediction.digest:
            raise ArgumentError(
                f"prediction {prediction.id!r} version {prediction.version} was frozen with other "
                "content; a changed prediction needs a new version"
            )
        key = (prediction.digest, unit.digest, basis)
        return self.freezings.setdefault(key, Freezing(prediction, unit, _now(), basis))

    def find(self, prediction: Prediction, unit: Unit, basis: Basis) -> Freezing:
        """The freezing of a prediction for a unit."""
        found = self.freezings.get((prediction.digest, unit.digest, basis))
        if found is None:
            raise NotFoundError(
                f"prediction {prediction.id!r} was not frozen for this unit ({unit}): call "
                "km.ledger.freeze before the run"
            )
        return found


_memory = Memory()


def freeze(
    kb: KnowledgeBase | None,
    predictions: Iterable[Prediction],
    unit: Unit,
    *,
    basis: Basis = "before",
) -> list[Freezing]:
    """Fix predictions for a unit, before the run that may count for them begins.

    Parameters
    ----------
    kb : KnowledgeBase or None
        None: they are kept in this process's memory.
    predictions : iterable of Prediction
    unit : Unit
    basis : {"before", "release"}
        "release" is for predictions that km ships, in the unit of a run that was made already:
        :func:`judge_result` uses it.

    Returns
    -------
    list of Freezing
        Those of earlier calls keep their time.

    Raises
    ------
    ArgumentError
        A prediction of the same id and version was frozen with other content: raise its version. A
        node is not one its measure is declared to bear on, or accepts interventions with matched
        random controls alone.
    """
    wanted = list(predictions)
    if kb is None:
        return [_memory.freeze(prediction, unit, basis) for prediction in wanted]
    request = {
        "model": unit.model,
        "unit": unit.content,
        "predictions": [prediction.content for prediction in wanted],
        "basis": basis,
    }
    kb._kb.freeze(canonical_json(request))
    times = _times(kb, unit, basis)
    return [Freezing(p, unit, times[p.digest], basis) for p in wanted]


def _times(kb: KnowledgeBase, unit: Unit, basis: Basis) -> dict[str, str]:
    """When the predictions frozen for a unit were, by their digests."""
    rows = kb.sql(
        "SELECT prediction, frozen FROM freezings WHERE unit = ? AND basis = ?",
        [unit.digest, basis],
    )
    return dict(zip(rows["prediction"], rows["frozen"], strict=True))


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
    basis: Basis = "before",
) -> Verdict:
    """What a figure says of a prediction that was frozen for this unit.

    Parameters
    ----------
    kb : KnowledgeBase or None
        None: the verdict is kept in memory, and `run` is not looked at.
    run : int or None
        The run in `kb` that gave the figure.
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
    basis : {"before", "release"}
        Of the freezing.

    Returns
    -------
    Verdict
        Judging the same run again gives the same; a new run adds a verdict.

    Raises
    ------
    NotFoundError
        The prediction was not frozen for this unit, or there is no such run.
    ArgumentError
        The run cannot count: it began, or rests on rows measured, before the freezing; it is of
        another measure or model; its rows lack the matched random controls.
    """
    word = verdict_word(prediction, estimate, low, high, n, p_value)
    where = rows if isinstance(rows, str) else " ".join(rows)
    figures = (estimate, low, high, n, p_value)
    if kb is None:
        frozen = _memory.find(prediction, unit, basis).time
        judged = _now()
    else:
        frozen, judged = _record(kb, run, prediction, unit, word, figures, where, command, basis)
    verdict = Verdict(prediction, unit, word, *figures, where, command, run, frozen, judged, basis)
    if kb is None:
        _memory.verdicts.append(verdict)
    return verdict


def _record(
    kb: KnowledgeBase,
    run: int | None,
    prediction: Prediction,
    unit: Unit,
    word: str,
    figures: tuple[Any, ...],
    rows: str,
    command: str | None,
    basis: Basis,
) -> tuple[str, str]:
    """Add a verdict; the times of freezing and judging."""
    from km.kb import _plain_record

    if run is None:
        raise ArgumentError("a verdict in a knowledge base needs the run that gave the figure")
    names = ("estimate", "low", "high", "n", "p_value")
    row = dict(zip(names, figures, strict=True)) | {
        "prediction": prediction.digest,
        "unit": unit.digest,
        "basis": basis,
        "word": word,
        "rows": rows,
        "command": command,
    }
    known = {name: value for name, value in _plain_record(row).items() if value is not None}
    verdict = kb._kb.put_verdict(run, canonical_json(known))
    found = kb.sql("SELECT frozen, judged FROM ledger WHERE verdict = ?", [verdict])
    return found["frozen"][0], found["judged"][0]


def _now() -> str:
    """UTC as the knowledge base writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
