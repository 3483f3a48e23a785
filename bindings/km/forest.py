"""Texts as one forest of tokens, and patches as the flat arrays the extension takes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from km.errors import ArgumentError
from km.points import OVER_POSITIONS, Points, choose
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


class PackedPatches:
    """Patches as the extension takes them: one row a layer, chosen head and run of elements."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._rows = array("q")
        self._factors = array("f")
        self._values = array("f")

    def add(
        self, patch: Patch, nodes: tuple[int, int], places: list[int], n_positions: int
    ) -> None:
        """One more patch, of the tokens `nodes` (first, count), which take the values `places`."""
        point = self._points.find(patch.site.point)
        layers = self._points.layers(point, patch.site.layer)
        patch.check("layers", len(layers))
        heads = [-1]
        if patch.site.heads is not None:
            heads = choose(patch.site.heads, point.heads, f"heads of {point.name}", "head")
        patch.check("heads", point.heads if heads == [-1] else len(heads))
        width = n_positions if point.name in OVER_POSITIONS else point.width
        for begin, end, at in patch.runs(point, width):
            for i, layer in enumerate(layers):
                for j, head in enumerate(heads):
                    part = patch.part(i, None if head < 0 else j, at, places)
                    where = (patch.kind, point.number, layer, head, *nodes, begin, end)
                    self._rows.extend((*where, *self._add_values(part)))
                    self._factors.append(patch.factor)

    def _add_values(self, values: np.ndarray[Any, Any] | None) -> tuple[int, int, int]:
        """(offset, stride, whether heads share them) of values (tokens|1, heads|1, elements)."""
        if values is None:
            return 0, 0, 1
        offset = len(self._values)
        self._values.frombytes(values.tobytes())
        return offset, 0 if len(values) == 1 else values[0].size, int(values.shape[1] == 1)

    def arrays(self) -> dict[str, Any]:
        """The arguments by their names in the extension."""
        import numpy as np

        rows = np.asarray(self._rows, np.int64).reshape(-1, 11)
        return {"patches": rows, "factors": self._factors, "values": self._values}


class Packed:
    """The arrays of one pass: ids, parent, nodes, patches, factors and values."""

    def __init__(self, forest: Forest, patches: Sequence[Patch], points: Points) -> None:
        self.forest = forest
        self._nodes = array("q")
        self._patches = PackedPatches(points)
        for number, patch in enumerate(patches):
            nodes, places = forest.places(number)
            self._patches.add(patch, self.add_nodes(nodes), places, forest.n_positions)

    def add_nodes(self, nodes: Sequence[int]) -> tuple[int, int]:
        """(first, count) of these tokens in the array of tokens."""
        first = len(self._nodes)
        self._nodes.extend(nodes)
        return first, len(nodes)

    def arrays(self) -> dict[str, Any]:
        """The arguments by their names in the extension, all but the reads."""
        forest = {"ids": self.forest.ids, "parent": self.forest.parent, "nodes": self._nodes}
        return forest | self._patches.arrays()


def pack_everywhere(patches: Sequence[Patch], points: Points) -> dict[str, Any]:
    """Patches of every token, also of tokens to come; nothing where there are none.

    Raises
    ------
    ArgumentError
        A patch names positions or texts, or a point as wide as the text.
    """
    packed = PackedPatches(points)
    for patch in patches:
        site = patch.site
        all_positions = isinstance(site.positions, str) and site.positions == "all"
        if not all_positions or site.text is not None or patch.by_position:
            raise ArgumentError(
                f"{patch!r}: patches of generated text work on every token alike; leave out "
                "positions and text"
            )
        if site.point in OVER_POSITIONS:
            raise ArgumentError(f"{patch!r}: {site.point} grows with the text; patch it in a trace")
        packed.add(patch, (0, -1), [], 0)
    return packed.arrays() if patches else {}
