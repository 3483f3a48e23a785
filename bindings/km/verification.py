"""Measure a stored run again, row by row, and compare."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from km import _km
from km.recall import Recall

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

# Log-probabilities agree this far across batch compositions (docs/ARCHITECTURE.md), a token.
TOLERANCE_PER_TOKEN = 1e-5


@dataclass(frozen=True)
class Verification:
    """What came of measuring a run again.

    Attributes
    ----------
    run : int
    n : int
        Rows measured again.
    n_differing : int
        Rows whose log-probability differs by more than the tolerance.
    largest : float
        Largest absolute difference, nats.
    same_model : bool
        Whether the model's fingerprint is the recorded one.
    """

    run: int
    n: int
    n_differing: int
    largest: float
    same_model: bool

    @property
    def agrees(self) -> bool:
        """The model is the same and every row agrees."""
        return self.same_model and self.n_differing == 0

    def __repr__(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        model = "" if self.same_model else "; the model has another fingerprint"
        return (
            f"run {self.run} {verdict}: {self.n} rows measured again, {self.n_differing} beyond "
            f"{TOLERANCE_PER_TOKEN:g} nats a token, largest difference {self.largest:.2e} nats"
            f"{model}"
        )


def _measure(model: Model, rows: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Log-probability of each stored answer after its stored prompt, and its tokens."""
    ids, offsets, lengths, sizes = array("i"), array("q", [0]), array("q"), []
    for row in rows:
        prompt = json.loads(row["prompt_ids"])
        answer = model.encode(" " + row["scored_answer"], bos=False)
        ids.extend(prompt + answer)
        offsets.append(len(ids))
        lengths.append(len(prompt))
        sizes.append(len(answer))
    measured = _km.continuations_run(model._model, ids, offsets, lengths)
    return measured.tolist(), sizes


def verify(
    kb: KnowledgeBase, run: int, *, model: str | Model | None = None, threads: int | None = None
) -> Verification:
    """Score every stored prompt and answer of a recall run again.

    Parameters
    ----------
    kb : KnowledgeBase
    run : int
    model : str or Model, optional
        None: the file the run was made from.

    Raises
    ------
    NotFoundError
        There is no such finished recall run, or its model file is gone.
    """
    from km.model import Model, load

    recall = Recall.from_knowledge_base(kb, run)
    about = recall.provenance["model"]
    loaded = model if isinstance(model, Model) else load(model or about["path"], threads=threads)
    rows = list(recall.table.rows())
    values, sizes = _measure(loaded, rows)
    gaps = [abs(value - row["logp"]) for value, row in zip(values, rows, strict=True)]
    differing = sum(
        not gap <= TOLERANCE_PER_TOKEN * size for gap, size in zip(gaps, sizes, strict=True)
    )
    same_model = loaded.fingerprint == about["fingerprint"]
    return Verification(run, len(rows), differing, max(gaps), same_model)
