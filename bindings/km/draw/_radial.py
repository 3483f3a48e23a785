"""A tree around its root: leaves on a circle, each in its own row, what is above them inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from km._kmviz import text_width

MARK = 9.0
PITCH = 14.0
RING = 120.0
LEAF_WIDTH = 240.0
INNER_WIDTH = 170.0
TEXT = 9.5
HEIGHT = 12.0


class Branch(Protocol):
    """What is placed."""

    @property
    def children(self) -> Sequence[Branch]: ...
    @property
    def name(self) -> str: ...


@dataclass
class Spot:
    """Where a node's mark and text are.

    Attributes
    ----------
    x, y : float
        Centre of the mark.
    left, width : float
        Of the text, whose middle is at `text_y`.
    text_y : float
    align : str
        The text's.
    """

    x: float
    y: float
    left: float
    width: float
    text_y: float
    align: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of mark and text."""
        half, tall = 0.5 * MARK, 0.5 * HEIGHT
        return (
            min(self.x - half, self.left),
            min(self.y - half, self.text_y - tall),
            max(self.x + half, self.left + self.width),
            max(self.y + half, self.text_y + tall),
        )


def radial(root: Branch) -> list[tuple[Branch, Spot]]:
    """Every node with its place, none above another.

    Half of the leaves stand to the right of the circle from top to bottom, the others to the left
    from bottom to top, in rows of their own. What is above them lies on rings by its depth, at the
    middle of its leaves' angles, moved up or down where something is there already.
    """
    leaves = _leaves(root)
    depth = max((d for _, d in leaves), default=0)
    rows = max(1, -(-len(leaves) // 2))
    radius = max(0.5 * PITCH * (rows + 1), RING * depth)
    angles: dict[int, float] = {}
    found: list[tuple[Branch, Spot]] = []
    for i, (leaf, d) in enumerate(leaves):
        if d == 0:
            break  # the root alone
        right = i < rows
        row, count = (i, rows) if right else (len(leaves) - 1 - i, len(leaves) - rows)
        y = (row - 0.5 * (count - 1)) * PITCH
        x = math.sqrt(radius * radius - y * y)
        angle = math.atan2(y, x)
        angles[id(leaf)] = angle if right else math.pi - angle
        found.append((leaf, _leaf(leaf.name, x, y, right)))
    _inner(root, 0, radius / max(1, depth), angles, found)
    return found


def _leaves(root: Branch) -> list[tuple[Branch, int]]:
    """With their depths, in the tree's order."""
    out: list[tuple[Branch, int]] = []
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if not node.children:
            out.append((node, depth))
        stack += [(child, depth + 1) for child in reversed(node.children)]
    return out


def _leaf(name: str, x: float, y: float, right: bool) -> Spot:
    width = text_width(name, TEXT, True) + 2.0
    gap = 0.5 * MARK + 4.0
    return Spot(
        x if right else -x, y, x + gap if right else -x - gap - width, width, y,
        "left" if right else "right",
    )  # fmt: skip


def _inner(
    node: Branch,
    depth: int,
    ring: float,
    angles: dict[int, float],
    found: list[tuple[Branch, Spot]],
) -> float:
    """Places what is above the leaves, the lowest first; returns the node's angle."""
    if id(node) in angles:
        return angles[id(node)]
    below = [_inner(child, depth + 1, ring, angles, found) for child in node.children]
    angle = math.fsum(below) / len(below) if below else 0.0
    x, y = depth * ring * math.cos(angle), depth * ring * math.sin(angle)
    taken = [spot.box for _, spot in found]
    step = 0
    while not _free(spot := _centred(node.name, x, y + _shift(step)), taken):
        step += 1
    found.append((node, spot))
    return angle


def _shift(step: int) -> float:
    """Not at all, a little down, as much up, further down, and so on."""
    return (step + 1) // 2 * 6.0 * (1 if step % 2 else -1)


def _centred(name: str, x: float, y: float) -> Spot:
    """The text below its mark."""
    width = text_width(name, TEXT, True) + 2.0
    return Spot(x, y - 6.0, x - 0.5 * width, width, y + 5.0, "centre")


def _free(spot: Spot, taken: Sequence[tuple[float, float, float, float]]) -> bool:
    a = spot.box
    return all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in taken)
