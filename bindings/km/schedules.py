"""Learning-rate schedules: how the learning rate changes from step to step.

>>> Cosine(warmup=10)
Cosine(warmup=10, end=0.0)
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from km.arguments import real_number, whole_number
from km.errors import ArgumentError


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate at each step; subclasses say what follows the warm-up.

    Attributes
    ----------
    warmup : int
        Steps in which the factor rises evenly to 1: 1/warmup, 2/warmup, ...
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        whole_number("warmup", self.warmup, 0)

    def factor(self, step: int, steps: int | None) -> float:
        """Factor of the step with the given number, counted from 0, of a run of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if steps is None:
            return self._after(None)
        return self._after(min(1.0, (step - self.warmup) / max(1, steps - self.warmup)))

    def _after(self, share: float | None) -> float:
        """Factor when a share of what follows the warm-up is over; None: it is not known."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The schedule's part of a recipe."""
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate itself, after the warm-up."""

    def _after(self, share: float | None) -> float:
        return 1.0


def _known(share: float | None, schedule: Schedule) -> float:
    if share is None:
        raise ArgumentError(
            f"schedule: {type(schedule).__name__} needs the number of steps; give steps="
        )
    return share


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from 1 to `end` after the warm-up.

    Examples
    --------
    >>> [Linear(warmup=2).factor(step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("end", self.end, 0, 1e6)

    def _after(self, share: float | None) -> float:
        return 1.0 + (self.end - 1.0) * _known(share, self)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `end` after the warm-up."""

    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("end", self.end, 0, 1e6)

    def _after(self, share: float | None) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * _known(share, self))) / 2
