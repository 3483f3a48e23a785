"""Predictions and the unit they are judged in: what is fixed before anything is looked at."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

from km.errors import ArgumentError, FormatError, NotFoundError
from km.result import canonical_json

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from km.model import Model

Direction: TypeAlias = Literal["above", "below", "different"]
Kind: TypeAlias = Literal["observation", "intervention"]
Family: TypeAlias = Literal["confirmatory", "exploratory"]

BOOTSTRAP = "bootstrap, 2,000 resamples, clustered by relation"

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is said to be found, before it is looked at.

    Attributes
    ----------
    id : str
        Lower-case letters, digits, dots and hyphens.
    nodes : tuple of str
        Nodes of the taxonomy it bears on.
    statement : str
        What is predicted, as a sentence.
    measure : str
        Id of the measure whose runs can count; "" where none can.
    statistic : str
        The figure of such a run that is judged.
    direction : {"above", "below", "different"}
        Where the figure is expected, seen from `null`.
    null : float
        The figure where there is no effect.
    smallest_effect : float
        Smallest distance from `null` that is of interest, in `unit`.
    unit : str
    interval : str
        How the interval is made.
    level : float
        Its coverage.
    minimum_n : int
        With fewer, nothing is said.
    n_unit : str
        What is counted: the clusters of the interval.
    falsified_by : str
        What would speak against it.
    rivals : tuple of str
        Other explanations of the same figure.
    kind : {"observation", "intervention"}
        Nodes under the modular-region and connection hypotheses accept interventions alone.
    controls : tuple of str
        Columns of the measure's rows that hold its matched random controls.
    family : {"confirmatory", "exploratory"}
        Holm's correction, or that of Benjamini and Hochberg.
    version : int
        Raised with every change.
    not_testable : str
        Why it cannot be tested here; the verdict is always "not testable here" then.

    Raises
    ------
    ArgumentError
        A field is missing or makes no sense.
    """

    id: str
    nodes: tuple[str, ...]
    statement: str
    measure: str = ""
    statistic: str = ""
    direction: Direction = "different"
    null: float = 0.0
    smallest_effect: float = 0.0
    unit: str = ""
    interval: str = BOOTSTRAP
    level: float = 0.95
    minimum_n: int = 1
    n_unit: str = "relations"
    falsified_by: str
    rivals: tuple[str, ...] = ()
    kind: Kind = "observation"
    controls: tuple[str, ...] = ()
    family: Family = "confirmatory"
    version: int = 1
    not_testable: str = ""

    def __post_init__(self) -> None:
        for name in ("nodes", "rivals", "controls"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ArgumentError(f"prediction {self.id!r}: {name} must be several texts")
            object.__setattr__(self, name, tuple(value))
        for name in ("null", "smallest_effect", "level"):
            object.__setattr__(self, name, float(getattr(self, name)))
        _check(self)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of :attr:`content`."""
        return hashlib.sha256(self.content.encode("ascii")).hexdigest()

    @property
    def content(self) -> str:
        """The canonical JSON of all fields."""
        return canonical_json(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The fields in types that JSON has."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """A prediction from its fields.

        Raises
        ------
        ArgumentError
            A field is unknown, missing or makes no sense.
        """
        name = row.get("id", "without id")
        unknown = [key for key in row if key not in {f.name for f in fields(cls)}]
        if unknown:
            raise ArgumentError(f"prediction {name!r}: unknown member {unknown[0]!r}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in row]
        if missing:
            raise ArgumentError(f"prediction {name!r}: {missing[0]!r} is missing")
        return cls(**row)


def _check(prediction: Prediction) -> None:
    problem = _problem(prediction)
    if problem is not None:
        raise ArgumentError(f"prediction {prediction.id!r}: {problem}")


def _problem(p: Prediction) -> str | None:
    """The first thing that makes no sense."""
    enums = {"direction": Direction, "kind": Kind, "family": Family}
    for name, alias in enums.items():
        if getattr(p, name) not in get_args(alias):
            return f"{name} is {getattr(p, name)!r}; it must be one of {get_args(alias)}"
    if not _ID.fullmatch(p.id):
        return "an id has lower-case letters, digits, dots and hyphens, at most 100"
    empty = [name for name in ("nodes", "statement", "falsified_by") if not getattr(p, name)]
    if empty:
        return f"{empty[0]} is empty"
    if p.version < 1 or p.minimum_n < 1:
        return "version and minimum_n must be at least 1"
    if not (math.isfinite(p.null) and 0 < p.level < 1):
        return "null must be finite and level lie between 0 and 1"
    if p.not_testable:
        return None
    if not p.measure or not p.statistic:
        return "measure and statistic are needed, or the reason in not_testable"
    if not 0 < p.smallest_effect < math.inf:
        return "smallest_effect must be above 0: without it nothing can be equivalent to none"
    return None


@dataclass(frozen=True)
class Unit:
    """What a verdict is about, besides its prediction.

    Attributes
    ----------
    fingerprint, model, precision : str
        Of the model.
    prompts : str
        SHA-256 (hex) of the prompts or templates; "" where there are none.
    facts : str
        SHA-256 (hex) of the facts or texts asked; "" where there are none.
    recipe : mapping
        Everything else that decides the figures: optimiser, steps, seeds, decoding.
    """

    fingerprint: str
    model: str
    precision: str
    prompts: str = ""
    facts: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model | Mapping[str, Any],
        *,
        prompts: Any = None,
        facts: Any = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Self:
        """The unit of a model, with the digests of what it is shown.

        Parameters
        ----------
        model : Model, or what ``Model.describe()`` gives
        prompts, facts : anything that JSON holds
            A text of 64 hexadecimal digits is taken as a digest.
        recipe : mapping, optional
        """
        described = model if isinstance(model, Mapping) else model.describe()
        return cls(
            str(described["fingerprint"]),
            str(described["name"]),
            str(described.get("precision") or ""),
            _digest(prompts),
            _digest(facts),
            dict(recipe or {}),
        )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of :attr:`content`."""
        return hashlib.sha256(self.content.encode("ascii")).hexdigest()

    @property
    def content(self) -> str:
        """The canonical JSON of what decides the figures; the model's name does not."""
        row = self.as_dict()
        del row["model"]
        return canonical_json(row)

    def as_dict(self) -> dict[str, Any]:
        """The fields in types that JSON has."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"recipe": dict(self.recipe)}

    def __str__(self) -> str:
        return f"{self.model} {self.precision}".strip()


def _digest(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str) and re.fullmatch(r"[0-9a-f]{64}", content):
        return content
    if isinstance(content, Iterable) and not isinstance(content, str | Mapping):
        content = list(content)
    return hashlib.sha256(canonical_json(content).encode("ascii")).hexdigest()


def predictions(study: str | None = None) -> list[Prediction]:
    """The predictions that km ships.

    Parameters
    ----------
    study : str, optional
        Those of one measure or study: the name of its file, such as "recall".

    Raises
    ------
    NotFoundError
        There is no such file; those there are are named.
    """
    files = {
        file.name.removesuffix(".json"): file
        for file in resources.files("km").joinpath("data", "predictions").iterdir()
        if file.name.endswith(".json")
    }
    if study is not None and study not in files:
        raise NotFoundError(f"no predictions for {study!r}; there are {', '.join(sorted(files))}")
    names = sorted(files) if study is None else [study]
    return [prediction for name in names for prediction in _read(files[name])]


def _read(file: Traversable) -> list[Prediction]:
    rows = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{file.name}: a list of predictions is expected")
    return [Prediction.from_dict(row) for row in rows]
