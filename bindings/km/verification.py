"""Measure a stored run again, row by row, and compare."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from km import _km
from km.errors import NotFoundError, UnsupportedError
from km.lens import LENS_ID, LensResult
from km.recall import RECALL_ID, Recall

if TYPE_CHECKING:
    from km.kb import KnowledgeBase
    from km.model import Model

# Nats a token. Rows are measured in other batches than before, maybe on another CPU: float32 sums
# in another order differ by some 3e-5; PyTorch's own back ends differ by 5e-5.
TOLERANCE_PER_TOKEN = 1e-4


@dataclass(frozen=True)
class Verification:
    """What came of measuring a run again.

    Attributes
    ----------
    run : int
    n : int
        Rows measured again: fact and template of a recall, layers of a lens. None are when the
        model has another tokenizer, because token ids mean something else to it.
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
        if not self.n:
            return f"run {self.run} DIFFERS: the model has another tokenizer; nothing was measured"
        verdict = "agrees" if self.agrees else "DIFFERS"
        model = "" if self.same_model else "; the model has another fingerprint"
        return (
            f"run {self.run} {verdict}: {self.n} rows measured again, {self.n_differing} beyond "
            f"{TOLERANCE_PER_TOKEN:g} nats a token, largest difference {self.largest:.2e} nats"
            f"{model}"
        )


def _answers_again(model: Model, recall: Recall) -> tuple[list[float], list[int]]:
    """Log-probability of each stored answer after its stored prompt, and its tokens."""
    ids, offsets, lengths, sizes = array("i"), array("q", [0]), array("q"), []
    for prompt_ids, answer_text in zip(
        recall.table["prompt_ids"], recall.table["scored_answer"], strict=True
    ):
        prompt = json.loads(prompt_ids)
        answer = model.encode(" " + answer_text, bos=False)
        ids.extend(prompt + answer)
        offsets.append(len(ids))
        lengths.append(len(prompt))
        sizes.append(len(answer))
    sums = _km.continuations_run(model._model, ids, offsets, lengths)[2]
    return sums.tolist(), sizes


def _layers_again(model: Model, lens: LensResult) -> tuple[list[float], list[int]]:
    """Log-probability of the token followed after each layer."""
    again = model.lens(lens.parameters["ids"], lens.parameters["target"], top_k=1)
    values = [float(value) for value in again.table["logprob"]]
    return values, [1] * len(values)


def _compare(
    run: int, stored: Sequence[float], again: Sequence[float], sizes: Sequence[int], same: bool
) -> Verification:
    gaps = [abs(a - b) for a, b in zip(stored, again, strict=True)]
    differing = sum(
        not gap <= TOLERANCE_PER_TOKEN * size for gap, size in zip(gaps, sizes, strict=True)
    )
    return Verification(run, len(gaps), differing, max(gaps), same)


def _stored(kb: KnowledgeBase, run: int) -> Recall | LensResult:
    measures = kb.sql("SELECT measure FROM runs WHERE id = ?", [run])["measure"]
    if not len(measures):
        raise NotFoundError(f"{kb.path} has no run {run}")
    if measures[0] == RECALL_ID:
        return Recall.from_knowledge_base(kb, run)
    if measures[0] == LENS_ID:
        return LensResult.from_knowledge_base(kb, run)
    raise UnsupportedError(
        f"run {run} is {measures[0]}; what is verified is {RECALL_ID} and {LENS_ID}"
    )


def verify(
    kb: KnowledgeBase, run: int, *, model: str | Model | None = None, threads: int | None = None
) -> Verification:
    """Measure every stored row of a recall or lens run again.

    Parameters
    ----------
    kb : KnowledgeBase
    run : int
    model : str or Model, optional
        None: the file the run was made from.
    threads : int, optional

    Returns
    -------
    Verification

    Raises
    ------
    NotFoundError
        There is no such finished run, or its model file is gone.
    UnsupportedError
        The run is of another measure.
    """
    from km.loading import load
    from km.model import Model

    stored = _stored(kb, run)
    about = stored.provenance["model"]
    loaded = model if isinstance(model, Model) else load(model or about["path"], threads=threads)
    same = loaded.fingerprint == about["fingerprint"]
    if loaded.tokenizer_hash != about["tokenizer_hash"]:
        return Verification(run, 0, 0, 0.0, False)
    if isinstance(stored, Recall):
        values, sizes = _answers_again(loaded, stored)
        return _compare(run, stored.table["logp"], values, sizes, same)
    values, sizes = _layers_again(loaded, stored)
    return _compare(run, stored.table["logprob"], values, sizes, same)
