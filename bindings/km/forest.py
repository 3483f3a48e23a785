"""Texts as one forest of tokens, and patches as the flat arrays the extension takes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from km.points import OVER_POSITIONS, Point, Points, choose
from km.prompts import Prompt, each_text, resolve

if TYPE_CHECKING:
    import numpy as np

    from km.patching import Patch

# What is done to a token: (number of the patch, which of its values).
Mark = tuple[int, int]


class Forest:
    """Tokens of several texts; what begins alike and is patched alike is one token.

    Parameters
    ----------
    share : bool
        False: every text has tokens of its own, so that derivatives are those of one text.

    Attributes
    ----------
    ids, parent : array
        int32 and int64; parent -1 starts a text.
    nodes : list of list of int
        The token of each position of each text.
    """

    def __init__(
        self, prompts: Sequence[Prompt], patches: Sequence[Patch] = (), share: bool = True
    ) -> None:
        self.ids = array("i")
        self.parent = array("q")
        self.nodes: list[list[int]] = []
        self._places: list[dict[int, int]] = [{} for _ in patches]
        known: dict[tuple[int, int, tuple[Mark, ...]], int] = {}
        for i, prompt in enumerate(prompts):
            if not share:
                known.clear()
            self.nodes.append(self._add(known, prompt, _marks(patches, prompts, i)))

    def _add(
        self,
        known: dict[tuple[int, int, tuple[Mark, ...]], int],
        prompt: Prompt,
        marks: dict[int, list[Mark]],
    ) -> list[int]:
        """The tokens of one more text."""
        nodes: list[int] = []
        parent = -1
        for position, id in enumerate(prompt.ids):
            mark = tuple(marks.get(position, ()))
            node = known.setdefault((parent, id, mark), len(self.ids))
            if node == len(self.ids):
                self.ids.append(id)
                self.parent.append(parent)
                for patch, row in mark:
                    self._places[patch][node] = row
            nodes.append(node)
            parent = node
        return nodes

    @property
    def n_positions(self) -> int:
        """Length of the longest text."""
        return max(len(nodes) for nodes in self.nodes)

    def width(self, point: Point) -> int:
        """Elements of one head of one token."""
        return self.n_positions if point.name in OVER_POSITIONS else point.width

    def places(self, patch: int) -> tuple[list[int], list[int]]:
        """The tokens a patch changes, and which of its values each takes."""
        return list(self._places[patch]), list(self._places[patch].values())


def _marks(patches: Sequence[Patch], prompts: Sequence[Prompt], i: int) -> dict[int, list[Mark]]:
    """What is done to each position of text i."""
    marks: dict[int, list[Mark]] = {}
    for number, patch in enumerate(patches):
        if not patch.concerns(i, len(prompts)):
            continue
        found = resolve(each_text(patch.site.positions, len(prompts))[i], prompts[i])
        patch.check("positions", len(found))
        for row, position in enumerate(found):
            marks.setdefault(position, []).append((number, row if patch.by_position else 0))
    return marks


class Packed:
    """The arrays of one pass: ids, parent, nodes, patches, factors and values."""

    def __init__(self, forest: Forest, patches: Sequence[Patch], points: Points) -> None:
        self.forest = forest
        self._points = points
        self._nodes = array("q")
        self._patches = array("q")
        self._factors = array("f")
        self._values = array("f")
        for number, patch in enumerate(patches):
            self._add_patch(patch, *forest.places(number))

    def add_nodes(self, nodes: Sequence[int]) -> tuple[int, int]:
        """(first, count) of these tokens in the array of tokens."""
        first = len(self._nodes)
        self._nodes.extend(nodes)
        return first, len(nodes)

    def arrays(self) -> dict[str, Any]:
        """The arguments by their names in the extension, all but the reads."""
        import numpy as np

        return {
            "ids": self.forest.ids,
            "parent": self.forest.parent,
            "nodes": self._nodes,
            "patches": np.asarray(self._patches, np.int64).reshape(-1, 11),
            "factors": self._factors,
            "values": self._values,
        }

    # ---- patches ----

    def _add_patch(self, patch: Patch, nodes: list[int], rows: list[int]) -> None:
        """One entry a layer, chosen head and stretch of neighbouring elements."""
        point = self._points.find(patch.site.point)
        layers = self._points.layers(point, patch.site.layer)
        patch.check("layers", len(layers))
        heads = [-1]
        if patch.site.heads is not None:
            heads = choose(patch.site.heads, point.heads, f"heads of {point.name}", "head")
        patch.check("heads", point.heads if heads == [-1] else len(heads))
        first, count = self.add_nodes(nodes)
        for begin, end, at in patch.runs(point, self.forest.width(point)):
            for i, layer in enumerate(layers):
                for j, head in enumerate(heads):
                    part = patch.part(i, None if head < 0 else j, at, rows)
                    where = (patch.kind, point.number, layer, head, first, count, begin, end)
                    self._patches.extend((*where, *self._add_values(part)))
                    self._factors.append(patch.factor)

    def _add_values(self, values: np.ndarray[Any, Any] | None) -> tuple[int, int, int]:
        """(offset, stride, whether heads share them) of values (tokens|1, heads|1, elements)."""
        if values is None:
            return 0, 0, 1
        offset = len(self._values)
        self._values.frombytes(values.tobytes())
        return offset, 0 if len(values) == 1 else values[0].size, int(values.shape[1] == 1)
