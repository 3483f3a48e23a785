"""The named points of a forward pass as one model has them, and how layers and heads are chosen."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from km import _km
from km.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from km.model import Model

Choice: TypeAlias = "int | slice | Sequence[int] | None"

# Points whose activations have an axis of heads, even where the model has one head only.
WITH_HEADS = frozenset(
    {
        "q",
        "k",
        "v",
        "attn_scores",
        "attn_pattern",
        "attn_head_out",
        "q_input",
        "k_input",
        "v_input",
    }
)
# Points whose width is the number of positions.
OVER_POSITIONS = frozenset({"attn_scores", "attn_pattern"})
# What a patch does, as km_patch_kind numbers it.
SET, ADD, SCALE, PROJECT_OUT = range(4)


class Point(NamedTuple):
    """A point of one model.

    Attributes
    ----------
    number : int
        In libkm.
    name : str
    exists : bool
        Whether the architecture has it.
    has_layer : bool
    heads : int
        1 where there is no axis of heads.
    width : int
        0: the number of positions.
    """

    number: int
    name: str
    exists: bool
    has_layer: bool
    heads: int
    width: int


class Points:
    """All points of one model."""

    def __init__(self, model: Model) -> None:
        config = model.config
        self.n_layers: int = config["n_layers"]
        self._arch = config["arch"]
        self._points = {
            row[0]: Point(i, *row) for i, row in enumerate(_km.trace_points(model._model))
        }

    def names(self) -> list[str]:
        """The points this model has."""
        return [name for name, point in self._points.items() if point.exists]

    def find(self, name: str, others: Sequence[str] = ()) -> Point:
        """The point of a name; `others` could have been asked for as well.

        Raises
        ------
        NotFoundError
            There is none, or this architecture lacks it; the message lists those it has.
        """
        point = self._points.get(name)
        if point is None or not point.exists:
            what = "there is no point" if point is None else f"{self._arch} models have no point"
            known = [*self.names(), *others]
            raise NotFoundError(f"{what} {name!r}; this model has {', '.join(known)}")
        return point

    def layers(self, point: Point, choice: Choice) -> list[int]:
        """The layers chosen of a point; [0] where it has none."""
        return choose(choice, self.n_layers, "layers", "layer") if point.has_layer else [0]


def choose(choice: Choice, n: int, argument: str, one: str) -> list[int]:
    """Indices 0..n-1 that a choice means; negative ones count from the end.

    >>> choose(None, 3, "layers", "layer"), choose(-1, 3, "layers", "layer")
    ([0, 1, 2], [2])
    >>> choose(slice(1, None), 3, "layers", "layer"), choose([2, 0], 3, "layers", "layer")
    ([1, 2], [2, 0])
    """
    if choice is None:
        return list(range(n))
    if isinstance(choice, slice):
        chosen = list(range(*choice.indices(n)))
    elif is_index(choice):
        chosen = [operator.index(cast("int", choice))]
    elif isinstance(choice, str):
        raise TypeError(f"{argument} must be an int, a slice or a sequence of ints, not a str")
    else:
        chosen = [operator.index(i) for i in cast("Sequence[int]", choice)]
    wrong = [i for i in chosen if not -n <= i < n]
    if wrong:
        raise ArgumentError(f"{argument}: there is no {one} {wrong[0]}; {one}s are 0 to {n - 1}")
    chosen = [i % n for i in chosen]
    if not chosen:
        raise ArgumentError(f"{argument} chooses no {one} of 0 to {n - 1}")
    if len(set(chosen)) < len(chosen):
        raise ArgumentError(f"{argument}: one {one} is named twice in {chosen}")
    return chosen


def is_index(value: object) -> bool:
    """Whether a value is one integer (numpy's too), not a sequence and not a bool."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(cast("int", value))
    except TypeError:
        return False
    return True
