"""Patches: what a forward pass is made to compute differently, and where.

A :class:`Site` says where, its methods what; both are small and never change, so that one patch
serves many runs. ``km.patch("resid_post", layer=3).add(vector, 2.0)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.errors import ArgumentError, ShapeError
from km.points import (
    ADD,
    OVER_POSITIONS,
    PROJECT_OUT,
    SCALE,
    SET,
    WITH_HEADS,
    Choice,
    Point,
    choose,
)
from km.prompts import Positions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from km.trace import Trace

_KINDS = ("set", "add", "scale", "project_out")
_AXES = ("layers", "positions", "heads", "elements")

Patches: TypeAlias = "Patch | Sequence[Patch]"


@dataclass(frozen=True, eq=False)
class Site:
    """Where a patch works; made by :func:`km.patch`.

    Attributes
    ----------
    point : str
    layer : int, slice, sequence of int, or None for all
    positions : "last", "all", int, slice, sequence of int, or Span
    heads : int, slice, sequence of int, or None for all
    neurons : int, slice, sequence of int, or None for all
        Elements of the width: neurons of mlp_hidden, positions looked at of attn_pattern.
    text : int, sequence of int, or None for all
        Which texts of the run.
    """

    point: str
    layer: Choice = None
    positions: Positions = "all"
    heads: Choice = None
    neurons: Choice = None
    text: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        has_layer = _km.trace_point(self.point)
        if self.layer is not None and not has_layer:
            raise ArgumentError(f"layer: {self.point} has no layers")
        if self.heads is not None and self.point not in WITH_HEADS:
            raise ArgumentError(f"heads: {self.point} has no axis of heads")

    def set(self, values: ArrayLike) -> Patch:
        """Replace the activations.

        Parameters
        ----------
        values : array-like of float
            Broadcast, by numpy's rules, to (layers, positions, heads, elements); without the axis
            of layers or heads where the point has none.
        """
        return Patch(self, SET, self._values(values, "values"), 1.0)

    def add(self, values: ArrayLike, factor: float = 1.0) -> Patch:
        """Add factor * values, which are broadcast as those of :meth:`set`."""
        return Patch(self, ADD, self._values(values, "values"), _number(factor))

    def scale(self, factor: float) -> Patch:
        """Multiply by a factor; 0 removes what is there."""
        return Patch(self, SCALE, None, _number(factor))

    def project_out(self, direction: ArrayLike) -> Patch:
        """Remove the component along a direction, of each head's own elements."""
        if self.point in OVER_POSITIONS:
            raise ArgumentError(f"project_out: {self.point} takes set, add and scale only")
        if not (self.neurons is None or isinstance(self.neurons, slice)):
            raise ArgumentError("project_out: neurons must be a slice or None")
        values = self._values(direction, "direction")
        if not (values * values).sum(-1).all():
            raise ArgumentError("project_out: direction is zero")
        return Patch(self, PROJECT_OUT, values, 1.0)

    def from_trace(
        self, trace: Trace, *, text: int = 0, positions: Positions | None = None
    ) -> Patch:
        """Replace the activations by those another run had at this point, layer and position.

        Parameters
        ----------
        trace : Trace
            Has read the point at these layers, heads and positions.
        text : int
            Which of its texts.
        positions : optional
            Where to take them from; None: the same positions, resolved in that text.
        """
        from km.trace import values_for

        values = values_for(self, trace, text, self.positions if positions is None else positions)
        return self.set(values)

    def _values(self, values: ArrayLike, what: str) -> np.ndarray[Any, Any]:
        """A private float32 copy (layers, positions, heads, elements); axes may have length 1."""
        import numpy as np

        name = f"{what} of a patch of {self.point}"
        given = np.asarray(values)
        if given.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be numbers, not {given.dtype}")
        axes = [_km.trace_point(self.point), True, self.point in WITH_HEADS, True]
        if given.ndim > sum(axes):
            shown = ", ".join(axis for axis, there in zip(_AXES, axes, strict=True) if there)
            raise ShapeError(f"{name} must broadcast to ({shown}), but its shape is {given.shape}")
        shape = list(given.shape)
        full = [shape.pop() if there and shape else 1 for there in reversed(axes)]
        array = np.array(given, np.float32).reshape(full[::-1])
        if not array.size:
            raise ShapeError(f"{name} is empty")
        knocked_out = self.point == "attn_scores" and bool((array != np.inf).all())
        if np.isnan(array).any() or not (knocked_out or np.isfinite(array).all()):
            raise ArgumentError(f"{name} has NaN or infinity")
        array.flags.writeable = False
        return array


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """What is done at a site; made by the methods of :class:`Site`."""

    site: Site
    kind: int
    values: np.ndarray[Any, Any] | None
    factor: float

    def __repr__(self) -> str:
        shown = [f"{self.site.point!r}"]
        for name in ("layer", "positions", "heads", "neurons", "text"):
            value = getattr(self.site, name)
            if value is not None:
                shown.append(f"{name}={value!r}")
        return f"<km.Patch {_KINDS[self.kind]} at {', '.join(shown)}>"

    def describe(self) -> dict[str, Any]:
        """Its part of a provenance: place, deed, and SHA-256 (hex) of shape and values."""
        import hashlib

        site = {
            name: shown if isinstance(shown, str | int | None) else str(shown)
            for name, shown in vars(self.site).items()
        }
        values = None
        if self.values is not None:
            shape = repr(self.values.shape).encode()
            values = hashlib.sha256(shape + self.values.tobytes()).hexdigest()
        return {**site, "deed": _KINDS[self.kind], "factor": self.factor, "values": values}

    # ---- what forest.py asks ----

    @property
    def by_position(self) -> bool:
        """Whether the values differ from position to position."""
        return self.values is not None and self.values.shape[1] > 1

    def concerns(self, text: int, n_texts: int) -> bool:
        """Whether it works in this text."""
        wanted = self.site.text
        if wanted is None:
            return True
        return text in choose(wanted, n_texts, "text of a patch", "text")

    def check(self, axis: str, n: int) -> None:
        """ShapeError unless the values fit n layers, positions, heads or elements."""
        have = 1 if self.values is None else self.values.shape[_AXES.index(axis)]
        if have not in (1, n):
            raise ShapeError(f"{self!r}: values have {have} {axis}; {n} are patched")

    def runs(self, point: Point, width: int) -> list[tuple[int, int, slice]]:
        """Stretches of neighbouring elements: first, last + 1, and where their values are."""
        have = 1 if self.values is None else self.values.shape[3]
        if self.site.neurons is None:
            short = point.name in OVER_POSITIONS and 1 < have < width
            end = have if short else width
            self.check("elements", end)
            return [(0, end, slice(0, end))]
        elements = choose(self.site.neurons, width, f"neurons of {point.name}", "element")
        self.check("elements", len(elements))
        runs: list[tuple[int, int, slice]] = []
        for at, element in enumerate(elements):
            if runs and runs[-1][1] == element:
                begin, _, where = runs[-1]
                runs[-1] = (begin, element + 1, slice(where.start, at + 1))
            else:
                runs.append((element, element + 1, slice(at, at + 1)))
        return runs

    def part(
        self, layer: int, head: int | None, at: slice, rows: list[int]
    ) -> np.ndarray[Any, Any] | None:
        """Values (tokens or 1, heads or 1, elements) of one layer; of one head unless None."""
        import numpy as np

        if self.values is None:
            return None
        values = self.values[layer if len(self.values) > 1 else 0]
        if self.by_position:
            values = values[rows]
        if head is not None and values.shape[1] > 1:
            values = values[:, head : head + 1]
        if values.shape[2] > 1:
            return np.ascontiguousarray(values[..., at])
        return np.repeat(values, at.stop - at.start, axis=2)


def patch(
    point: str,
    *,
    layer: Choice = None,
    positions: Positions = "all",
    heads: Choice = None,
    neurons: Choice = None,
    text: int | Sequence[int] | None = None,
) -> Site:
    """Name a place in a forward pass; what is done there is said by a method of the result.

    Parameters
    ----------
    point : str
        Such as "resid_post" (docs/trace.md lists them).
    layer : int, slice or sequence of int, optional
        None: every layer.
    positions : "last", "all", int, slice, sequence of int, or :func:`km.span`
        Negative ones count from the end of each text; a list with an entry a text says each.
    heads : int, slice or sequence of int, optional
        None: every head.
    neurons : int, slice or sequence of int, optional
        Elements of the point's width; None: all.
    text : int or sequence of int, optional
        Which texts of the run; None: all.

    Examples
    --------
    >>> import km
    >>> km.patch("mlp_out", layer=3, positions="last").scale(0.0)
    <km.Patch scale at 'mlp_out', layer=3, positions='last'>
    >>> km.patch("attn_head_out", layer=0, heads=[2, 5]).set([0.0])
    <km.Patch set at 'attn_head_out', layer=0, positions='all', heads=[2, 5]>
    """
    return Site(point, layer, positions, heads, neurons, text)


def as_patches(patches: Patches) -> list[Patch]:
    """A list of patches; a Site without a deed is refused."""
    listed: list[Any] = [patches] if isinstance(patches, Patch | Site) else list(patches)
    for item in listed:
        if isinstance(item, Site):
            raise TypeError(
                f"{item!r} says where but not what: call .set(), .add(), .scale(), .project_out() "
                "or .from_trace()"
            )
        if not isinstance(item, Patch):
            raise TypeError(f"patches must hold km.Patch objects, not {type(item).__name__}")
    return listed


def _number(factor: float) -> float:
    """A finite factor."""
    import math

    if not math.isfinite(factor):
        raise ArgumentError(f"factor is {factor}; it must be finite")
    return float(factor)
