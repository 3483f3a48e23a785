"""Dialogues as the arrays that the selection network reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from km.dialog.dialogues import DialogueSet
from km.dialog.matching import Matcher
from km.dialog.vocabulary import EOS, GO, Vocabulary

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Batch = dict[str, Array]


@dataclass(frozen=True)
class Words:
    """Ids of words, and a vector of each where the encoders read vectors."""

    ids: tuple[int, ...]
    vectors: Array | None = None

    def cut(self, start: int | None, stop: int | None) -> Words:
        """Part of the words."""
        vectors = None if self.vectors is None else self.vectors[start:stop]
        return Words(self.ids[start:stop], vectors)


class TextReader(Protocol):
    """How texts become what the encoders read."""

    def sentence(self, text: str) -> Words:
        """A candidate: its words, cut."""

    def utterance(self, text: str) -> Words:
        """Something said: go, its words, end, cut."""


class WordReader:
    """Reads texts with a vocabulary."""

    def __init__(self, vocabulary: Vocabulary, max_words: int) -> None:
        self.vocabulary = vocabulary
        self.max_words = max_words

    def sentence(self, text: str) -> Words:
        """Ids of the words, cut; without go and end."""
        return Words(tuple(self.vocabulary.encode(text)[: self.max_words]))

    def utterance(self, text: str) -> Words:
        """Go, ids of the words, end; cut."""
        return Words((GO, *self.vocabulary.encode(text), EOS)[: self.max_words])


def join(parts: Iterable[Words], most: int) -> Words:
    """The last words of several texts, one after the other."""
    import numpy as np

    listed = list(parts)
    ids = tuple(id for part in listed for id in part.ids)
    if listed[0].vectors is None:
        return Words(ids[-most:])
    vectors = [part.vectors for part in listed if part.vectors is not None]
    return Words(ids[-most:], np.concatenate(vectors)[-most:])


class EncodedDialogues:
    """Dialogues with every sentence and list of candidates encoded once.

    Parameters
    ----------
    dialogues : DialogueSet
    reader : TextReader
    max_context : int
        Last words of what was said that are kept.
    responses : bool
        Keep the answers too, for the decoder.
    matcher : Matcher, optional
        Batches say how alike texts are.
    """

    def __init__(
        self,
        dialogues: DialogueSet,
        reader: TextReader,
        max_context: int,
        responses: bool,
        matcher: Matcher | None = None,
    ) -> None:
        self.dialogues = dialogues
        self.max_context = max_context
        self.sentences: list[Words] = []
        self._numbers: dict[str, int] = {}
        self._reader = reader
        self._matcher = matcher
        self._vectors: list[dict[int, float]] = []
        self.lists: list[list[int]] = []
        self.turn_lists: list[list[int]] = []
        self.gold: list[list[int]] = []
        self.contexts: list[list[Words]] = []
        self.responses: list[list[Words]] | None = [] if responses else None
        self._encode()

    def _encode(self) -> None:
        known: dict[int, int] = {}
        for dialogue in self.dialogues:
            said: list[Words] = []
            contexts, lists, responses = [], [], []
            for turn in dialogue.turns:
                if id(turn.candidates) not in known:
                    texts = [self.dialogues.none_text, *(s.text for s in turn.candidates)]
                    known[id(turn.candidates)] = len(self.lists)
                    self.lists.append([self.number(text) for text in texts])
                lists.append(known[id(turn.candidates)])
                said.append(self._reader.utterance(turn.user))
                contexts.append(join(said, self.max_context))
                responses.append(self._reader.utterance(turn.response))
                said.append(responses[-1])
            self.contexts.append(contexts)
            self.turn_lists.append(lists)
            self.gold.append([turn.gold for turn in dialogue.turns])
            if self.responses is not None:
                self.responses.append(responses)

    def number(self, text: str) -> int:
        """The number of a sentence, which is encoded when it is new."""
        if text not in self._numbers:
            self._numbers[text] = len(self.sentences)
            self.sentences.append(self._reader.sentence(text))
            if self._matcher is not None:
                self._vectors.append(self._matcher.vector(text))
        return self._numbers[text]

    def __len__(self) -> int:
        return len(self.dialogues)

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The arrays of some dialogues, with all their turns."""
        turns = [(d, t) for d in chosen for t in range(len(self.turn_lists[d]))]
        users = [self.dialogues[d].turns[t].user for d, t in turns]
        out = self.lists_of([self.turn_lists[d][t] for d, t in turns], users)
        out["dialogue_offsets"] = _offsets(len(self.turn_lists[d]) for d in chosen)
        out["gold"] = _int64(self.gold[d][t] for d, t in turns)
        add_words(out, "context", [self.contexts[d][t] for d, t in turns])
        if self.responses is not None:
            add_words(out, "response", [self.responses[d][t] for d, t in turns])
        return out

    def lists_of(
        self, lists: Sequence[int], users: Sequence[str], extra: Iterable[int] = ()
    ) -> Batch:
        """Sentences and lists of turns, each once; `extra` sentences come last.

        Parameters
        ----------
        lists, users : sequence
            The list and the user's words of each turn.
        extra : iterable of int
        """
        used = list(dict.fromkeys(lists))
        sentences = dict.fromkeys(number for i in used for number in self.lists[i])
        sentences |= dict.fromkeys(extra)
        places = {number: place for place, number in enumerate(sentences)}
        lists_places = {number: place for place, number in enumerate(used)}
        out: Batch = {
            "list_sentences": _int64(places[number] for i in used for number in self.lists[i]),
            "list_offsets": _offsets(len(self.lists[i]) for i in used),
            "turn_lists": _int64(lists_places[i] for i in lists),
        }
        add_words(out, "sentence", [self.sentences[number] for number in sentences])
        if self._matcher is not None:
            self._add_matches(out, list(sentences), [self.lists[i] for i in lists], users, places)
        return out

    def _add_matches(
        self,
        out: Batch,
        sentences: Sequence[int],
        lists: Sequence[Sequence[int]],
        users: Sequence[str],
        places: Mapping[int, int],
    ) -> None:
        import numpy as np

        assert self._matcher is not None
        rows = self._matcher.rows([self._vectors[number] for number in sentences])
        said = self._matcher.rows([self._matcher.vector(text) for text in users])
        alike = said @ rows.T
        parts = [
            alike[turn, [places[number] for number in candidates]]
            for turn, candidates in enumerate(lists)
        ]
        out["word_matches"] = np.concatenate(parts)
        out["sentence_matches"] = rows @ rows.T


def single_turns(
    encoded: EncodedDialogues,
    turns: Sequence[tuple[int, int]],
    contexts: Sequence[Words],
    history: Sequence[Sequence[int]],
) -> Batch:
    """Turns that do not know of each other: contexts and earlier choices are given.

    Parameters
    ----------
    encoded : EncodedDialogues
    turns : sequence of (dialogue, turn)
    contexts : sequence of Words
    history : sequence of sequences of int
        Numbers of the sentences chosen before each turn, the latest first.
    """
    lists = [encoded.turn_lists[d][t] for d, t in turns]
    flat = [number for chosen in history for number in chosen]
    users = [encoded.dialogues[d].turns[t].user for d, t in turns]
    out = encoded.lists_of(lists, users, flat)
    used = list(dict.fromkeys(lists))
    order = dict.fromkeys(number for i in used for number in encoded.lists[i])
    order |= dict.fromkeys(flat)
    places = {number: place for place, number in enumerate(order)}
    out["dialogue_offsets"] = _offsets(1 for _ in turns)
    out["gold"] = _int64(encoded.gold[d][t] for d, t in turns)
    out["history_sentences"] = _int64(places[number] for number in flat)
    out["history_offsets"] = _offsets(len(chosen) for chosen in history)
    add_words(out, "context", contexts)
    return out


def add_words(out: Batch, name: str, texts: Sequence[Words]) -> None:
    """Put texts into a batch: ids, offsets, and vectors where there are some."""
    import numpy as np

    flat = [id for text in texts for id in text.ids]
    out[f"{name}_tokens"] = np.array(flat, np.int32)
    out[f"{name}_offsets"] = _offsets(len(text.ids) for text in texts)
    vectors = [text.vectors for text in texts if text.vectors is not None]
    if vectors and name != "response":
        out[f"{name}_vectors"] = np.ascontiguousarray(np.concatenate(vectors), np.float32)


def split_by_turn(batch: Mapping[str, Array], values: Array) -> list[Array]:
    """What has one row a candidate, by turn."""
    import numpy as np

    lengths = np.diff(batch["list_offsets"])[batch["turn_lists"]]
    return np.split(values, np.cumsum(lengths)[:-1])


def _offsets(lengths: Iterable[int]) -> Array:
    import numpy as np

    return np.cumsum([0, *lengths], dtype=np.int64)


def _int64(values: Iterable[int]) -> Array:
    import numpy as np

    return np.array(list(values), np.int64)
