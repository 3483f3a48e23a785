"""The tokens of a generation in a session: which node holds what, and the logits of a step."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import _km

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model

# Tokens computed in one pass of a prompt; what is computed does not depend on it.
PASS_TOKENS = 1024


def _grow(
    children: dict[tuple[int, int], int], base: int, sequences: Iterable[Sequence[int]]
) -> tuple[array[int], array[int], list[int]]:
    """What must be computed for the logits after sequences: ids, parents, each one's last node.

    children maps (node, token) to a node, below `base` if it is there already, and takes up the new
    ones. The last token of a sequence is computed again where it is there: its logits are not.
    """
    ids, parents, ends = array("i"), array("q"), []
    fresh: dict[tuple[int, ...], int] = {}
    for sequence in sequences:
        key = tuple(sequence)
        if key not in fresh:
            node = -1
            for i, token in enumerate(sequence):
                child = children.get((node, token))
                if child is None or (i == len(sequence) - 1 and child < base):
                    child = base + len(ids)
                    children[node, token] = child
                    ids.append(token)
                    parents.append(node)
                node = child
            fresh[key] = node
        ends.append(fresh[key])
    return ids, parents, ends


def count_tokens(sequences: Iterable[Sequence[int]]) -> int:
    """Tokens of the sequences, those of shared beginnings counted once."""
    return len(_grow({}, 0, sequences)[0])


class TokenForest:
    """A session and which of its nodes holds which tokens.

    Parameters
    ----------
    model : Model
    capacity : int
        Tokens it holds before it makes room.
    patches : dict
    layers : sequence of int
        Layers whose logits come after those of the output.
    norm : bool
        Whether these go through the final norm.
    """

    def __init__(
        self,
        model: Model,
        capacity: int,
        patches: dict[str, Any],
        layers: Sequence[int] = (),
        norm: bool = True,
    ) -> None:
        self._session = _km.Session(model._model, capacity)
        self._patches = patches
        self._want(layers, norm)
        self._children: dict[tuple[int, int], int] = {}
        self._capacity = capacity
        self._model = model
        self._vocab = int(model.config["vocab_size"])

    def _want(self, layers: Sequence[int], norm: bool) -> None:
        """Layers whose logits come after those of the output."""
        self._options = {**self._patches}
        if layers:
            self._options |= {"layers": array("q", layers), "norm": norm}
        self._n_kinds = 1 + len(layers)

    def extend(self, pairs: Sequence[tuple[int, int]]) -> _km.Array:
        """Append one token to each node: logits in that order; new nodes are the last ones."""
        n = len(pairs)
        return self._session.append(
            array("i", [token for _, token in pairs]),
            array("q", [node for node, _ in pairs]),
            array("q", range(n)),
            **self._options,
        )

    def __len__(self) -> int:
        return len(self._session)

    def place(
        self,
        sequences: Sequence[Sequence[int]],
        layers: Sequence[int] | None = None,
        norm: bool = True,
    ) -> tuple[list[int], _km.Array]:
        """Nodes of the sequences' last tokens, and the logits after them.

        What is there already is not computed again, but for a sequence's last token. Where the
        session has no room left, it forgets what does not begin one of the sequences: earlier
        nodes are then no longer valid. `layers` and `norm` take the place of the forest's own.
        """
        if layers is not None:
            self._want(layers, norm)
        base = len(self._session)
        grown = _grow(self._children, base, sequences)
        if base + len(grown[0]) > self._capacity:
            base, grown = self._make_room(base, sequences)
        return grown[2], self._append(base, *grown)

    def _make_room(
        self, base: int, sequences: Sequence[Sequence[int]]
    ) -> tuple[int, tuple[array[int], array[int], list[int]]]:
        """As _grow(), after forgetting what is not needed, or in a larger session."""
        kept = self._known(base, sequences)
        number = {node: i for i, node in enumerate(kept)}
        self._session.keep(array("q", kept))
        self._children = {
            (number.get(node, -1), token): number[child]
            for (node, token), child in self._children.items()
            if child in number
        }
        grown = _grow(self._children, len(kept), sequences)
        if len(kept) + len(grown[0]) <= self._capacity:
            return len(kept), grown
        self._children = {}
        grown = _grow(self._children, 0, sequences)
        self._capacity = 2 * max(self._capacity, len(grown[0]))
        self._session = _km.Session(self._model._model, self._capacity)
        return 0, grown

    def _known(self, base: int, sequences: Iterable[Sequence[int]]) -> list[int]:
        """The nodes, rising, on which the sequences begin."""
        known = set()
        for sequence in sequences:
            node = -1
            for token in sequence:
                node = self._children.get((node, token), base)
                if node >= base:
                    break
                known.add(node)
        return sorted(known)

    def _append(
        self, base: int, ids: array[int], parents: array[int], ends: list[int]
    ) -> _km.Array:
        """Append in passes of bounded size; the rows of `ends` in their order, layer by layer."""
        wanted: dict[int, list[int]] = {}
        for row, node in enumerate(ends):
            wanted.setdefault(node, []).append(row)
        if len(ids) <= PASS_TOKENS:
            last = array("q", [n - base for n in ends])
            return self._session.append(ids, parents, last, **self._options)
        import numpy as np

        kinds = self._n_kinds
        out = np.empty((kinds, len(ends), self._vocab), dtype=np.float32)
        for first in range(0, len(ids), PASS_TOKENS):
            stop = min(first + PASS_TOKENS, len(ids))
            nodes = [n for n in wanted if first <= n - base < stop]
            rows = self._session.append(
                ids[first:stop],
                parents[first:stop],
                array("q", [n - base - first for n in nodes]),
                **self._options,
            )
            made = np.asarray(rows).reshape(kinds, len(nodes), self._vocab)
            for i, node in enumerate(nodes):
                out[:, wanted[node]] = made[:, i, None]
        return out.reshape(-1, self._vocab)  # type: ignore[return-value]


class StepRows:
    """The logits of one step: of branches, of the contexts beside each, and of layers.

    Parameters
    ----------
    rows : Array
        ((1 + N) R, V) float32: R rows of the output (branches, then the contexts of each in turn),
        then as many of each of N layers.
    n_contexts : sequence of int
        How many contexts stand beside each branch.
    n_layers : int
        N.
    """

    def __init__(self, rows: _km.Array, n_contexts: Sequence[int], n_layers: int) -> None:
        n = len(n_contexts)
        self._rows = rows
        self._n_contexts = n_contexts
        self._n_layers = n_layers
        self._stride = n + sum(n_contexts)
        if rows.shape[0] == n:
            self.logits = rows
        else:
            import numpy as np

            self.logits = np.asarray(rows)[:n]  # type: ignore[assignment]

    def of_contexts(self, branch: int) -> np.ndarray[Any, Any]:
        """(C, V): after the contexts of a branch."""
        import numpy as np

        first = len(self._n_contexts) + sum(self._n_contexts[:branch])
        return np.asarray(self._rows)[first : first + self._n_contexts[branch]]

    def of_layers(self, branch: int) -> np.ndarray[Any, Any]:
        """(N, V): of each layer after a branch."""
        import numpy as np

        wanted = [self._stride * (1 + i) + branch for i in range(self._n_layers)]
        return np.asarray(self._rows)[wanted]
