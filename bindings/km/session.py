"""Sessions: keys and values kept between forward passes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import ArgumentError
from km.forest import pack_everywhere
from km.patching import Patches, as_patches
from km.points import Points

if TYPE_CHECKING:
    import numpy as np

    from km.model import Ids, Model


class Session:
    """A growing forest of tokens with their keys and values; made by :meth:`km.Model.session`.

    Nodes are numbered from 0 in the order they were appended. Branches (several continuations of
    one beginning) are nodes with the same parent. What a row of logits holds does not depend on how
    the tokens before it were appended. Used by one thread at a time.

    Examples
    --------
    >>> import km
    >>> model = km.load()                                          # doctest: +SKIP
    >>> session = model.session(100)                               # doctest: +SKIP
    >>> logits = session.append(model.encode("The capital of"))    # doctest: +SKIP
    >>> best = int(logits[-1].argmax())                            # doctest: +SKIP
    >>> logits = session.append([best])                            # doctest: +SKIP
    """

    def __init__(self, model: Model, capacity: int, patches: Patches = ()) -> None:
        listed = as_patches(patches)
        self._patches = pack_everywhere(listed, Points(model)) if listed else {}
        self._session = _km.Session(model._model, capacity)

    def __len__(self) -> int:
        return len(self._session)

    def append(
        self, ids: Ids, parents: Iterable[int] | None = None, rows: Sequence[int] | None = None
    ) -> np.ndarray[Any, Any]:
        """Compute more tokens and keep them.

        Parameters
        ----------
        ids : (T) token ids
        parents : (T) int, optional
            The node each follows; -1 begins a sequence. Default: one after another, after the last
            node there is.
        rows : sequence of int, optional
            Which of the new tokens, counted from 0, to return the logits of; default: the last.

        Returns
        -------
        (len(rows), V) float32

        Raises
        ------
        ArgumentError
            A parent that is not before its child, an id outside the vocabulary, or more tokens than
            the session holds or the model's context allows.
        """
        import numpy as np

        from km.model import as_ids

        tokens = as_ids(ids)
        n = len(tokens)
        if n == 0:
            raise ArgumentError("append() needs at least one token")
        length = len(self)
        above = range(length - 1, length - 1 + n) if parents is None else parents
        wanted = [n - 1] if rows is None else rows
        rows = array("q", wanted)
        return np.asarray(self._session.append(tokens, array("q", above), rows, **self._patches))

    def truncate(self, length: int) -> None:
        """Forget the nodes from `length` on."""
        self._session.truncate(length)

    def keep(self, nodes: Sequence[int]) -> None:
        """Keep the given nodes (rising, each with its ancestors), renumbered from 0."""
        self._session.keep(array("q", nodes))
