"""Derivatives of a loss with respect to activations, as arrays laid out like those of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from km import _km
from km.errors import ArgumentError
from km.loss import Loss
from km.patching import Patches
from km.points import Choice
from km.prompts import Positions, Text
from km.trace import OUTPUTS, Trace, TracePlan

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model


class Gradients(Trace):
    """Derivatives of a loss; made by :meth:`km.Model.gradients`, already run.

    Arrays are taken as from a :class:`km.Trace`.

    Attributes
    ----------
    plan : TracePlan
    """

    def __init__(self, plan: TracePlan, loss: Loss) -> None:
        super().__init__(plan)
        self._loss = loss
        self._losses: np.ndarray[Any, Any] | None = None

    def run(self) -> Gradients:
        """Run the forward and the backward pass."""
        if self._block is None and not self._closed:
            self._block, self._losses = _compute(self.plan, self._loss)
        super().run()
        return self

    @property
    def loss(self) -> np.ndarray[Any, Any]:
        """Value of the loss of each text, (texts) float64."""
        if self._losses is None:
            raise ArgumentError("these gradients have not been computed")
        return self._losses


def _compute(plan: TracePlan, loss: Loss) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The block of derivatives, and the loss of each text."""
    import numpy as np

    plan.check_memory()
    owners: list[int] = []
    rows: list[int] = []
    targets: list[tuple[int, int]] = []
    weights: list[float] = []
    for text, nodes in enumerate(plan.packed.forest.nodes):
        last = -1
        for position, id, weight in loss.terms(plan.model, plan.prompts, text):
            if position != last:
                rows.append(nodes[position])
                owners.append(text)
                last = position
            targets.append((len(rows) - 1, id))
            weights.append(weight)
    gradients = plan.selection.reads(plan.packed, list(plan.entries.values()))
    block, losses = _km.gradients_run(
        plan.model._model,
        reads=np.zeros((0, 6), np.int64),
        gradients=np.asarray(gradients, np.int64).reshape(-1, 6),
        rows=np.asarray(rows, np.int64),
        targets=np.asarray(targets, np.int64).reshape(-1, 2),
        weights=np.asarray(weights, np.float64),
        kind=loss.kind,
        n_out=plan.nbytes // 4,
        **plan.packed.arrays(),
    )
    values = np.bincount(owners, np.asarray(losses), len(plan.prompts))
    return np.asarray(block), values


def run_gradients(
    model: Model,
    texts: Text | Sequence[Text],
    loss: Loss,
    read: str | Sequence[str],
    layers: Choice,
    heads: Choice,
    positions: Positions,
    patches: Patches,
    bos: bool | None,
) -> Gradients:
    """See :meth:`km.Model.gradients`."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be made by km.loss, not {type(loss).__name__}")
    plan = TracePlan(model, texts, read, layers, heads, positions, patches, bos, share=False)
    for name in OUTPUTS:
        if name in plan.points:
            raise ArgumentError(f"read: {name} is not a point, and has no derivative")
    return Gradients(plan, loss).run()
