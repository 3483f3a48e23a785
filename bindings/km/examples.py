"""Examples to train on: texts or token ids, and which of their tokens are to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km.arguments import is_ids, need_unicode, real_number
from km.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

    from km.model import Ids, Model

Targets: TypeAlias = "Literal['all'] | int | Sequence[float] | Sequence[bool]"
Batch: TypeAlias = "str | Example | Ids | Sequence[str | Example | Ids]"


@dataclass(frozen=True)
class Example:
    """A text to learn.

    Parameters
    ----------
    text : str or sequence of int
        A text, or token ids as they are.
    targets : "all", int or sequence, optional
        Which tokens enter the loss: all after the first; those that hold bytes of the text (UTF-8)
        from byte n on, or ids from index n on, such as the completion of a prompt; or a weight a
        token (the beginning-of-sequence token included; True and False will do). The first token
        follows from nothing and is never a target.
    weight : float
        Of all its targets, at least 0.
    bos : bool, optional
        Put the beginning-of-sequence token before a text; None: what the model file says.
    eos : bool
        Put the end-of-sequence token behind, as a target.

    Examples
    --------
    >>> Example("The capital of France is Paris", targets=len("The capital of France is"))
    Example(text='The capital of France is Paris', targets=24, weight=1.0, bos=None, eos=False)
    """

    text: str | Sequence[int]
    targets: Targets = "all"
    weight: float = 1.0
    bos: bool | None = None
    eos: bool = False

    def __post_init__(self) -> None:
        real_number("weight", self.weight, 0, 1e6)

    def encode(self, model: Model) -> Tokens:
        """Token ids and the weight of each as a target.

        Raises
        ------
        ArgumentError
            Nothing is left to learn, or a target is outside the text.
        """
        import numpy as np

        ids, ends = self._tokens(model)
        weights = self._weights(ids, ends)
        if self.eos:
            if model.eos is None:
                raise ArgumentError("eos: the model has no end-of-sequence token")
            ids = np.append(ids, np.int32(model.eos))
            weights = np.append(weights, np.float32(1.0))
        if len(ids) > 0:
            weights[0] = 0.0
        weights *= np.float32(self.weight)
        if not weights.any():
            raise ArgumentError(
                f"example {_shown(self.text)}: none of its {len(ids)} tokens is a target"
            )
        return Tokens(ids, weights)

    def _tokens(self, model: Model) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Ids, and for each where it ends: in bytes of a text, or behind which id."""
        import numpy as np

        if isinstance(self.text, str):
            need_unicode(f"example {_shown(self.text)}", self.text)
            ids, spans = model._model.tokens(self.text, self.bos)
            return np.asarray(ids).copy(), np.asarray(spans)[:, 1]
        if not is_ids(self.text):
            raise TypeError(
                f"an example is a str or a sequence of int, not {type(self.text).__name__}"
            )
        given = np.asarray(self.text)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise TypeError(f"token ids must be integers in a row, not {given.dtype}")
        most = model.config["vocab_size"] - 1
        if given.size and (given.min() < 0 or given.max() > most):
            raise ArgumentError(
                f"token ids are {given.min()} to {given.max()}; the vocabulary is 0 to {most}"
            )
        given = given.astype(np.int32)
        return given, np.arange(1, len(given) + 1)

    def _weights(
        self, ids: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        import numpy as np

        if isinstance(self.targets, str):
            if self.targets != "all":
                raise ArgumentError(f"targets is {self.targets!r}; it must be 'all', n or weights")
            return np.ones(len(ids), np.float32)
        if isinstance(self.targets, int):
            size = len(self.text.encode()) if isinstance(self.text, str) else len(ids)
            if not 0 <= self.targets < size:
                raise ArgumentError(
                    f"targets is {self.targets}, but {_shown(self.text)} ends at {size}"
                )
            return (ends > self.targets).astype(np.float32)
        try:
            weights = np.array(self.targets, dtype=np.float32)
        except (TypeError, ValueError):
            raise TypeError("targets must be 'all', an integer, or a number a token") from None
        if weights.shape != ids.shape:
            raise ArgumentError(
                f"targets has {weights.size} weights for the {len(ids)} tokens of "
                f"{_shown(self.text)}"
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ArgumentError("targets: weights must be finite and at least 0")
        return weights


class Tokens:
    """Token ids, and the weight of each as a target.

    Attributes
    ----------
    ids : (T) int32
    weights : (T) float32
        The first is 0.
    """

    def __init__(self, ids: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> None:
        self.ids = ids
        self.weights = weights

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, length: int) -> list[Tokens]:
        """Parts of at most `length` tokens.

        Each begins with the last token of the one before, so that no target is lost; parts without
        a target are left out.
        """
        starts = range(0, max(1, len(self.ids) - 1), length - 1)
        parts = []
        for start in starts:
            weights = self.weights[start : start + length].copy()
            weights[0] = 0.0
            if weights.any():
                parts.append(Tokens(self.ids[start : start + length], weights))
        return parts


def as_example(item: object) -> Example:
    """An example as it is; a str or token ids as one with all targets."""
    return item if isinstance(item, Example) else Example(item)  # type: ignore[arg-type]


def encode_batch(model: Model, batch: Batch) -> list[Tokens]:
    """Every example of a batch, tokenised.

    Raises
    ------
    ArgumentError
        The batch is empty.
    """
    from km.arguments import several

    items = [batch] if isinstance(batch, Example) else several("batch", batch, of_ids=True)
    if not items:
        raise ArgumentError("the batch holds no example")
    return [as_example(item).encode(model) for item in items]


def pack_sequences(
    sequences: Sequence[Tokens],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """ids (T) int32, offsets (S + 1) int64 and weights (T) float32 of sequences in a row."""
    import numpy as np

    ids = np.concatenate([sequence.ids for sequence in sequences])
    weights = np.concatenate([sequence.weights for sequence in sequences])
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return ids, offsets, weights


def _shown(text: str | Sequence[int]) -> str:
    if not isinstance(text, str):
        return f"of {len(text)} ids"
    return repr(text if len(text) <= 40 else text[:37] + "...")
