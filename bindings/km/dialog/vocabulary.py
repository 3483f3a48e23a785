"""Words and their ids: what the encoders of a selector read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from km.arguments import whole_number
from km.dialog.dialogues import DialogueSet
from km.errors import FormatError

PAD, UNK, GO, EOS = range(4)
SPECIAL = ("<pad>", "<unk>", "<go>", "<eos>")
_WORD = re.compile(r"[a-z0-9_]+|\S")
_SAID = 10  # how often what is said counts for the vocabulary; what could be used counts once


def tokenize(text: str) -> list[str]:
    """Lower-cased words of ASCII letters, digits and underscores; every other character alone.

    Examples
    --------
    >>> tokenize("Is the fuse's OK-light on?")
    ['is', 'the', 'fuse', "'", 's', 'ok', '-', 'light', 'on', '?']
    """
    return _WORD.findall(text.lower())


class Vocabulary:
    """Words with ids; 0 padding, 1 unknown, 2 go, 3 end.

    Parameters
    ----------
    words : sequence of str
        Of the ids from 4 on.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = (*SPECIAL, *words)
        self._ids = {word: id for id, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            raise FormatError("the vocabulary has a word twice")

    @classmethod
    def of(cls, dialogues: DialogueSet, size: int) -> Vocabulary:
        """The most frequent words of dialogues: what is said counts ten times, candidates once.

        Words of equal counts stand in alphabetical order. A list of candidates counts at each of
        its turns.
        """
        whole_number("vocabulary", size, 1)
        counts: Counter[str] = Counter()
        lists: Counter[int] = Counter()
        known = {}
        for _, _, turn in dialogues.turns():
            for text in (turn.user, turn.response):
                for word in tokenize(text):
                    counts[word] += _SAID
            lists[id(turn.candidates)] += 1
            known[id(turn.candidates)] = turn.candidates
        for key, n in lists.items():
            for text in (dialogues.none_text, *(sentence.text for sentence in known[key])):
                for word in tokenize(text):
                    counts[word] += n
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return cls([word for word, _ in ordered[:size]])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text."""
        return [self._ids.get(word, UNK) for word in tokenize(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ids, without go and end, joined by blanks where both are words."""
        words = [self.words[id] for id in ids if id not in (PAD, GO, EOS)]
        return join_words(words)


def join_words(words: Iterable[str]) -> str:
    """Words as one would write them: no blank before closing marks or between CJK characters.

    Examples
    --------
    >>> join_words(["is", "it", "on", "?"]), join_words(["邱", "岳", "峰"])
    ('is it on?', '邱岳峰')
    """
    out = ""
    for word in words:
        tight = word in ".,;:!?)]}%'" or not word[0].isascii()
        before = out[-1:]
        joined = not before or tight or before in "([{'" or not before.isascii()
        out += word if joined else f" {word}"
    return out
