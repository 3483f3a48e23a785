"""How alike texts are by the words they share: what ``DiffKS(match=True)`` adds to its scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from km.dialog.dialogues import DialogueSet
from km.dialog.vocabulary import tokenize
from km.errors import FormatError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_STEM = 6  # first letters of a word that are looked at: "layers" and "layer" are one


def stems(text: str) -> list[str]:
    """What is compared: the words' first letters, punctuation left out."""
    return [word[:_STEM] for word in tokenize(text) if word[0].isalnum()]


class Matcher:
    """Cosines of texts as bags of stems, rare ones weighing more (TF-IDF).

    Parameters
    ----------
    weights : mapping of str to float
        Of the stems that are known; others weigh as much as the heaviest and match nothing.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._places = {stem: place for place, stem in enumerate(self.weights)}
        self._unknown = max(self.weights.values(), default=1.0)

    @classmethod
    def of(cls, dialogues: DialogueSet) -> Matcher:
        """Weights log((N + 1) / (n + 1/2)) by how many of N candidate sentences hold a stem."""
        texts = [set(stems(sentence.text)) for sentence in dialogues.sentences()]
        counts = Counter(stem for found in texts for stem in found)
        n = len(texts) + 1
        return cls({stem: math.log(n / (counts[stem] + 0.5)) for stem in sorted(counts)})

    @classmethod
    def from_facts(cls, facts: Any, name: str) -> Matcher:
        """From the weights as they were stored.

        Raises
        ------
        FormatError
            They are something else.
        """
        good = isinstance(facts, dict) and all(
            isinstance(value, float | int) and math.isfinite(value) for value in facts.values()
        )
        if not good:
            raise FormatError(f"{name}: match holds no weights of words")
        return cls(facts)

    def vector(self, text: str) -> dict[int, float]:
        """A text's direction: place of a stem to its part, of length 1 with unknown stems."""
        counts = Counter(stems(text))
        parts = {
            stem: n * max(self.weights.get(stem, self._unknown), 0.0) for stem, n in counts.items()
        }
        length = math.sqrt(sum(part * part for part in parts.values())) or 1.0
        return {
            self._places[stem]: part / length
            for stem, part in parts.items()
            if stem in self._places
        }

    def rows(self, vectors: Sequence[Mapping[int, float]]) -> Array:
        """(n, stems) float32, one row a vector."""
        import numpy as np

        out = np.zeros((len(vectors), len(self._places)), np.float32)
        for row, vector in zip(out, vectors, strict=True):
            row[list(vector)] = list(vector.values())
        return out
