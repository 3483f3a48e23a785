"""Taking back part of what training changed: ignore-topk, keep-topk and slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km
from km.arguments import real_number, whole_number
from km.errors import ArgumentError
from km.scores.priming import Key, Scope, prune_in_place
from km.trainable import TrainableModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.trainable import Snapshot

# Weights whose values in the snapshot are held in memory at once.
GROUP = 1 << 24


@dataclass(frozen=True)
class Pruning:
    """Ranks of weight changes that are taken back; the base of the three kinds.

    Changes since a snapshot are ranked from the largest down, equal ones by their place in the
    tensor; those taken back get the snapshot's bits, the others keep theirs, nothing is rescaled.

    Attributes
    ----------
    name : str
        How the arm is called in tables.
    low, high : float
        Shares of the ranks between which changes are taken back.
    keep : bool
        Take back all other ranks instead.
    key : {"abs", "signed"}
        Rank by the size of a change, or by its value.
    scope : {"per_tensor", "global"}
        Rank each tensor by itself, or all together.
    every : int or None
        Take back every so many steps, each time what changed since the last; None: once, at the
        end.
    """

    name: str
    low: float
    high: float
    keep: bool
    key: Key = "abs"
    scope: Scope = "per_tensor"
    every: int | None = None

    def __post_init__(self) -> None:
        if self.key not in ("abs", "signed"):
            raise ArgumentError(f'key is {self.key!r}, not "abs" or "signed"')
        if self.scope not in ("per_tensor", "global"):
            raise ArgumentError(f'scope is {self.scope!r}, not "per_tensor" or "global"')
        if self.every is not None:
            whole_number("every", self.every, 1)

    def describe(self) -> dict[str, Any]:
        """Everything that decides which changes are taken back."""
        return {
            "name": self.name,
            "low": self.low,
            "high": self.high,
            "keep": self.keep,
            "key": self.key,
            "scope": self.scope,
            "every": self.every,
        }

    def apply(self, model: TrainableModel, base: Snapshot) -> int:
        """Take back part of what changed since a snapshot, in place.

        Parameters
        ----------
        model : TrainableModel
        base : Snapshot
            Of the same model.

        Returns
        -------
        int
            Weights taken back; those whose rank falls so although they did not change are counted.

        Raises
        ------
        ArgumentError
            The snapshot is of a model of another origin.
        NumericError
            A weight is not a number.
        """
        if base.origin.fingerprint != model.origin.fingerprint:
            raise ArgumentError(f"the snapshot is of a model made of {base.origin.name}")
        rows = [row for row in model.parameters().rows() if row["trainable"]]
        sizes = {row["name"]: row["rows"] * row["cols"] for row in rows}
        most = sum(sizes.values()) if self.scope == "global" else GROUP
        pruned = sum(self._apply(model, base, names) for names in _groups(sizes, most))
        model.changed()
        return pruned

    def _apply(self, model: TrainableModel, base: Snapshot, names: Sequence[str]) -> int:
        counts = prune_in_place(
            [model.parameter(name) for name in names],
            _base_values(base, names),
            slice=(self.low, self.high),
            keep=self.keep,
            key=self.key,
            scope=self.scope,
            names=names,
        )
        return int(counts.sum())


def _groups(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in order, in groups of at most so many weights; a larger tensor is a group."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _base_values(base: Snapshot, names: Sequence[str]) -> list[NDArray[np.float32]]:
    """The snapshot's values of parameters, float32."""
    import numpy as np

    values = dict(base.values)
    out: list[NDArray[np.float32] | None] = []
    for row in base.origin.parameters().rows():
        wanted = row["name"] in names and row["name"] not in values
        if wanted:
            values[row["name"]] = np.empty(row["rows"] * row["cols"], dtype=np.float32)
        out.append(values[row["name"]] if wanted else None)
    _km.parameters_into(base.origin._model, out)
    return [values[name] for name in names]


class IgnoreTopK(Pruning):
    """Take back the largest changes (Sun et al. 2025, after TIES-merging turned round).

    Parameters
    ----------
    k : float
        Share of the changes that is taken back; 1 restores the snapshot.
    key : {"abs", "signed"}
        "abs": the largest in size; "signed": the most positive.
    scope : {"per_tensor", "global"}
    every : int, optional
        Steps between; None: once, after the last.

    Examples
    --------
    >>> t = model.trainable()                          # doctest: +SKIP
    >>> before = t.snapshot()                          # doctest: +SKIP
    >>> km.Trainer(t).step(["Joy is vermilion."])      # doctest: +SKIP
    >>> km.IgnoreTopK(0.08).apply(t, before)           # doctest: +SKIP
    """

    def __init__(
        self,
        k: float = 0.08,
        key: Key = "abs",
        scope: Scope = "per_tensor",
        every: int | None = None,
    ) -> None:
        share = real_number("k", k, 0, 1)
        super().__init__("ignore_topk", 0.0, share, False, key, scope, every)


class KeepTopK(Pruning):
    """Keep the largest changes and take back all others: ordinary sparsification.

    Parameters
    ----------
    k : float
        Share of the changes that stays; 1 changes nothing.
    key, scope, every
        As of :class:`IgnoreTopK`.
    """

    def __init__(
        self,
        k: float = 0.08,
        key: Key = "abs",
        scope: Scope = "per_tensor",
        every: int | None = None,
    ) -> None:
        share = real_number("k", k, 0, 1)
        super().__init__("keep_topk", 0.0, share, True, key, scope, every)


class Slice(Pruning):
    """Take back the changes whose rank lies between two shares.

    Parameters
    ----------
    lo, hi : float
        Such as 0.08 and 0.23: all but the 8 % largest changes and the 77 % smallest.
    key, scope, every
        As of :class:`IgnoreTopK`.
    """

    def __init__(
        self,
        lo: float,
        hi: float,
        key: Key = "abs",
        scope: Scope = "per_tensor",
        every: int | None = None,
    ) -> None:
        low, high = real_number("lo", lo, 0, 1), real_number("hi", hi, 0, 1)
        if low > high:
            raise ArgumentError(f"lo is {low:g}, above hi, {high:g}")
        super().__init__("slice", low, high, False, key, scope, every)
