"""What a language model gives to selectors: frozen embeddings, hidden states, their means."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from km.arguments import need, whole_number
from km.dialog.encoding import Words
from km.dialog.vocabulary import EOS, GO, SPECIAL, UNK
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter

if TYPE_CHECKING:
    import numpy as np

    from km.model import Model

    Array = np.ndarray[Any, Any]

_PASS_TOKENS = 2048  # tokens of texts that share a pass
FIRST_ID = len(SPECIAL)  # of the language model's tokens


def need_model(model: Model | None, what: str) -> Model:
    """The model, or an error that says what it is wanted for."""
    from km.model import Model

    need("model", model, Model, "km.load()")
    if model is None:
        raise ArgumentError(f"{what} needs model=km.load()")
    return model


def middle_layer(model: Model) -> int:
    """The layer whose output is read where none is named: the one at half the depth."""
    return int(model.config["n_layers"]) // 2


# Token ids and states of texts by model and layer: selectors of one model share them.
_KNOWN: weakref.WeakKeyDictionary[Model, dict[int, dict[str, tuple[list[int], Array]]]] = (
    weakref.WeakKeyDictionary()
)


class HiddenStates:
    """Hidden states of a model, text by text, each text computed once as long as the model lives.

    Parameters
    ----------
    model : Model
    layer : int, optional
        Whose output is kept; the one at half the depth.
    """

    def __init__(self, model: Model, layer: int | None = None) -> None:
        self.model = model
        most = int(model.config["n_layers"]) - 1
        self.layer = middle_layer(model) if layer is None else whole_number("layer", layer, 0, most)
        layers = _KNOWN.setdefault(model, {})
        self._known = layers.setdefault(self.layer, {})

    @property
    def width(self) -> int:
        """Elements of a state."""
        return int(self.model.config["d_model"])

    def learn(self, texts: Iterable[str], progress: Progress = None) -> None:
        """Compute what is not known yet."""
        todo = [text for text in dict.fromkeys(texts) if text not in self._known]
        encoded = [(text, self.model.encode(text, bos=False)) for text in todo]
        encoded.sort(key=lambda pair: len(pair[1]))
        with ProgressReporter(progress, "states", unit="texts", total=len(encoded)) as report:
            for done, part in _passes(encoded):
                self._compute(part)
                report(done)

    def _compute(self, part: Sequence[tuple[str, list[int]]]) -> None:
        import numpy as np

        first = [] if self.model.bos is None else [self.model.bos]
        texts = [[*first, *ids] for _, ids in part]
        with self.model.trace(texts, "resid_post", layers=[self.layer], bos=False) as trace:
            for i, (text, ids) in enumerate(part):
                states = trace.array("resid_post", i)[0, len(first) :]
                self._known[text] = (ids, np.array(states, np.float32))

    def __call__(self, text: str) -> tuple[list[int], Array]:
        """Token ids of a text and the state of each, (tokens, width)."""
        import numpy as np

        if not text.strip():
            return [], np.zeros((0, self.width), np.float32)
        if text not in self._known:
            self.learn([text], progress=False)
        return self._known[text]

    def mean(self, text: str) -> Array:
        """Mean of the states of a text's tokens, (width)."""
        import numpy as np

        _, states = self(text)
        return states.mean(axis=0) if len(states) else np.zeros(self.width, np.float32)


def _passes(
    encoded: Sequence[tuple[str, list[int]]],
) -> Iterable[tuple[int, list[tuple[str, list[int]]]]]:
    """Texts in groups of bearable size, and how many are done after each."""
    part: list[tuple[str, list[int]]] = []
    size = 0
    for done, pair in enumerate(encoded, 1):
        if not pair[1]:
            continue
        part.append(pair)
        size += len(pair[1])
        if size >= _PASS_TOKENS:
            yield done, part
            part, size = [], 0
    if part:
        yield len(encoded), part


class Projection:
    """Vectors centred, turned to their principal axes, and scaled to unit variance a row.

    Attributes
    ----------
    mean : (D) float32
    axes : (D, width) float32
    """

    def __init__(self, mean: Array, axes: Array) -> None:
        self.mean = mean
        self.axes = axes

    @classmethod
    def of(cls, rows: Array, width: int) -> Projection:
        """The first `width` principal axes of some rows, all on one scale: mean square 1.

        Raises
        ------
        ArgumentError
            The rows have fewer elements.
        """
        import numpy as np

        if width > rows.shape[1]:
            raise ArgumentError(
                f"embedding is {width}; the language model's vectors have {rows.shape[1]}"
            )
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        _, vectors = np.linalg.eigh((values - mean).T @ (values - mean))
        axes = vectors[:, ::-1][:, :width]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])
        scale = np.sqrt(np.mean(((values - mean) @ axes) ** 2))
        return cls(mean.astype(np.float32), (axes / max(scale, 1e-12)).astype(np.float32))

    def __call__(self, rows: Array) -> Array:
        """(rows, width) float32."""
        import numpy as np

        return np.ascontiguousarray((rows - self.mean) @ self.axes, np.float32)


class TokenReader:
    """Reads texts as tokens of a language model, whose ids follow the four special ones."""

    def __init__(self, model: Model, max_words: int) -> None:
        self.model = model
        self.max_words = max_words

    def _ids(self, text: str) -> list[int]:
        return [FIRST_ID + id for id in self.model.encode(text, bos=False)] if text else []

    def sentence(self, text: str) -> Words:
        """Ids of the tokens, cut."""
        return Words(tuple(self._ids(text)[: self.max_words]))

    def utterance(self, text: str) -> Words:
        """Go, ids of the tokens, end; cut."""
        return Words((GO, *self._ids(text), EOS)[: self.max_words])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special ones left out."""
        tokens = [id - FIRST_ID for id in ids if id >= FIRST_ID]
        return self.model.decode(tokens).strip() if tokens else ""


class StateReader:
    """Reads texts as projected hidden states; go and end are vectors of zeros."""

    def __init__(self, states: HiddenStates, projection: Projection, max_words: int) -> None:
        self.states = states
        self.projection = projection
        self.max_words = max_words

    def sentence(self, text: str) -> Words:
        """A vector a token, cut."""
        _, states = self.states(text)
        vectors = self.projection(states[: self.max_words])
        return Words((UNK,) * len(vectors), vectors)

    def utterance(self, text: str) -> Words:
        """Zeros, a vector a token, zeros; cut."""
        import numpy as np

        _, states = self.states(text)
        edge = np.zeros((1, self.projection.axes.shape[1]), np.float32)
        vectors = np.concatenate([edge, self.projection(states), edge])[: self.max_words]
        return Words((UNK,) * len(vectors), vectors)


def embedding_rows(model: Model, width: int, seed: int) -> Array:
    """Frozen embeddings of the four special ids and of every token of a model.

    The model's own embeddings on their principal axes; the special ones are drawn.
    """
    import numpy as np

    rows = np.asarray(model.parameter("token_embd.weight"))
    special = np.random.default_rng(seed).standard_normal((FIRST_ID, width))
    projected = Projection.of(rows, width)(rows)
    return np.ascontiguousarray(np.concatenate([special, projected]), np.float32)
