"""Runs of one prompt that differ in some activations, merged into a forest of tokens.

A variant shares with its base run all tokens before the first that it changes, so a sweep over
positions and layers computes little more than what really differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from km import _km
from km.points import ADD as ADD
from km.points import SCALE as SCALE
from km.points import SET as SET
from km.points import Points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from km.model import Model


class Change(NamedTuple):
    """One change of one token's activation.

    Attributes
    ----------
    position : int
        Token of the prompt.
    kind : int
        SET, ADD or SCALE.
    point : str
    layer : int
    offset : int
        Where its values start in the values of the run; not used by SCALE.
    head : int
        -1: each.
    begin, end : int
        Elements changed; 0, 0: all.
    factor : float
    """

    position: int
    kind: int
    point: str
    layer: int = 0
    offset: int = 0
    head: int = -1
    begin: int = 0
    end: int = 0
    factor: float = 1.0


class Paths:
    """Token paths that leave one another, with changes, for one forward pass."""

    def __init__(self, model: Model, values: NDArray[np.float32] | None = None) -> None:
        self._model = model
        self._points = Points(model)
        self._values = values
        self._ids: list[int] = []
        self._parent: list[int] = []
        self._patches: dict[tuple[Any, ...], list[int]] = {}
        self._reads: list[tuple[int, int, int, int, int]] = []
        self._read_nodes: list[int] = []
        self._rows: dict[int, int] = {}
        self._targets: list[tuple[int, int, int]] = []
        self._n_out = 0

    def __len__(self) -> int:
        return len(self._ids)

    def grow(self, parent: int, ids: Sequence[int]) -> int:
        """Add tokens one after another below node `parent` (-1: a new root); the first node."""
        first = len(self._ids)
        self._ids.extend(ids)
        self._parent.extend([parent, *range(first, first + len(ids) - 1)] if ids else [])
        return first

    def change(self, node: int, what: Change) -> None:
        """Change a node; changes of one point act in the order of their first use."""
        point = self._points.find(what.point).number
        key = (
            what.kind, point, what.layer, what.head, what.begin, what.end, what.offset, what.factor,
        )  # fmt: skip
        self._patches.setdefault(key, []).append(node)

    def read(self, point: str, layer: int, first: int, count: int) -> tuple[int, tuple[int, ...]]:
        """Keep the activations of `count` nodes from `first` on: their offset and shape."""
        there = self._points.find(point)
        self._reads.append((there.number, layer, first, count, self._n_out))
        shape = (count, there.heads, there.width) if there.heads > 1 else (count, there.width)
        offset = self._n_out
        self._n_out += count * there.heads * there.width
        return offset, shape

    def want(self, node: int, token: int) -> int:
        """Ask for a token's log-probability after a node: its offset."""
        row = self._rows.setdefault(node, len(self._rows))
        self._targets.append((row, token, self._n_out))
        self._n_out += 1
        return self._n_out - 1

    def run(self) -> NDArray[np.float32]:
        """One forward pass; what the offsets point into."""
        import numpy as np

        def table(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
            return np.array(rows, dtype=np.int64).reshape(-1, width)

        nodes: list[int] = []
        patches, factors = [], []
        for (kind, point, layer, head, begin, end, offset, factor), own in self._patches.items():
            patches.append(
                (kind, point, layer, head, len(nodes), len(own), begin, end, offset, 0, 0)
            )
            factors.append(factor)
            nodes.extend(own)
        reads = []
        for point, layer, first, count, offset in self._reads:
            reads.append((point, layer, -1, len(nodes), count, offset))
            nodes.extend(range(first, first + count))
        values = self._values if self._values is not None else np.zeros(0, dtype=np.float32)
        return np.asarray(
            _km.trace_run(
                self._model._model,
                np.array(self._ids, dtype=np.int32),
                np.array(self._parent, dtype=np.int64),
                np.array(nodes, dtype=np.int64),
                table(reads, 6),
                table(patches, 11),
                np.array(factors, dtype=np.float32),
                values,
                table([(node, -1) for node in self._rows], 2),
                table(sorted(self._targets), 3),
                self._n_out,
            )
        )


def read_run(
    model: Model,
    ids: Sequence[int],
    reads: Iterable[tuple[str, int]],
    wants: Sequence[tuple[int, int]] = (),
    changes: Iterable[Change] = (),
    values: NDArray[np.float32] | None = None,
) -> tuple[dict[tuple[str, int], NDArray[np.float32]], NDArray[np.float64]]:
    """One run of a prompt: activations of all its tokens, and log-probabilities.

    Parameters
    ----------
    reads : iterable of (point, layer)
    wants : sequence of (position, token)

    Returns
    -------
    dict of (point, layer) to (T, width) or (T, heads, width) float32
    (len(wants)) float64, nats
    """
    import numpy as np

    paths = Paths(model, values)
    paths.grow(-1, ids)
    for change in changes:
        paths.change(change.position, change)
    places = {read: paths.read(*read, 0, len(ids)) for read in reads}
    offsets = [paths.want(position, token) for position, token in wants]
    out = paths.run()
    found = {
        read: out[offset : offset + int(np.prod(shape))].reshape(shape)
        for read, (offset, shape) in places.items()
    }
    return found, out[offsets].astype(np.float64) if offsets else np.zeros(0)


class Sweep:
    """Variants of one base run of a prompt, collected into passes of bounded size.

    Parameters
    ----------
    model : Model
    ids : sequence of int
    base : sequence of Change
        What the base run changes, and with it every variant.
    values : float32, optional
        What the offsets of changes point into.
    wants : sequence of (position, token)
        Whose log-probabilities every run gives.
    batch_tokens : int
        Tokens a pass; no figure depends on it.
    """

    def __init__(
        self,
        model: Model,
        ids: Sequence[int],
        base: Sequence[Change],
        values: NDArray[np.float32] | None,
        wants: Sequence[tuple[int, int]],
        batch_tokens: int,
    ) -> None:
        self._model = model
        self._ids = list(ids)
        self._base = list(base)
        self._values = values
        self._wants = list(wants)
        self._batch = batch_tokens

    def run(
        self,
        variants: Sequence[Sequence[Change]],
        progress: Callable[[int], object] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-probabilities of the base run and of each variant.

        Returns
        -------
        (W) float64, nats
        (V, W) float64, nats
        """
        import numpy as np

        base = np.zeros(len(self._wants))
        out = np.zeros((len(variants), len(self._wants)))
        done = 0
        while True:
            paths = Paths(self._model, self._values)
            paths.grow(-1, self._ids)
            for change in self._base:
                paths.change(change.position, change)
            offsets = [[paths.want(p, token) for p, token in self._wants]]
            end = done
            while end < len(variants) and (end == done or self._fits(paths, variants[end])):
                offsets.append(self._add(paths, variants[end]))
                end += 1
            found = paths.run().astype(np.float64)
            base = found[offsets[0]]
            if end > done:
                out[done:end] = found[np.array(offsets[1:])]
            done = end
            if progress is not None:
                progress(done)
            if done >= len(variants):
                return base, out

    def _fits(self, paths: Paths, variant: Sequence[Change]) -> bool:
        return len(paths) + len(self._ids) - _start(variant) <= self._batch

    def _add(self, paths: Paths, variant: Sequence[Change]) -> list[int]:
        """The path of a variant; nodes of the base run are its first ones."""
        start = _start(variant)
        first = paths.grow(start - 1, self._ids[start:])
        for change in self._base:
            if change.position >= start:
                paths.change(first + change.position - start, change)
        for change in variant:
            paths.change(first + change.position - start, change)
        return [
            paths.want(position if position < start else first + position - start, token)
            for position, token in self._wants
        ]


def _start(variant: Sequence[Change]) -> int:
    return min(change.position for change in variant)
