"""Dialogues in which every answer may rest on one sentence out of a list of candidates."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, overload

from km.errors import ArgumentError

NO_KNOWLEDGE = "no_knowledge_used"  # the text of slot 0, one ordinary token

Split: TypeAlias = Literal["train", "valid", "test_seen", "test_unseen"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test_seen", "test_unseen")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that an answer may rest on.

    Attributes
    ----------
    id, text : str
    topic, kind, source : str
        As the data has them; empty where it says nothing.
    """

    id: str
    text: str
    topic: str = ""
    kind: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """What the user says, what could be answered from, and what was answered.

    Attributes
    ----------
    user : str
    candidates : tuple of Sentence
        Slots 1 to K. Slot 0, "no knowledge used", is not among them.
    gold : int
        The slot that the answer rests on; 0: none.
    also : tuple of int
        Other slots that are as good.
    response : str
    act : str
        What the answer does, such as "deeper"; empty where the data says nothing.
    """

    user: str
    candidates: tuple[Sentence, ...]
    gold: int
    response: str
    also: tuple[int, ...] = ()
    act: str = ""

    @property
    def accepted(self) -> tuple[int, ...]:
        """The slots that count as right when any good one does."""
        return (self.gold, *self.also)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in order.

    Attributes
    ----------
    id, topic : str
    split : {"train", "valid", "test_seen", "test_unseen"}
    turns : tuple of DialogueTurn
    """

    id: str
    topic: str
    split: Split
    turns: tuple[DialogueTurn, ...]

    def utterances(self, turn: int) -> list[str]:
        """Everything said before the answer of a turn, its user's words included."""
        said = []
        for earlier in self.turns[:turn]:
            said += [earlier.user, earlier.response]
        return [*said, self.turns[turn].user]


class DialogueSet:
    """Dialogues of one source; what the readers return.

    Parameters
    ----------
    dialogues : iterable of Dialogue
    name, source : str
        A short name, and where they were read from.
    none_text : str
        Text of slot 0, which every list of candidates has.

    Examples
    --------
    >>> sentence = Sentence("s1", "Paris is the capital of France.")
    >>> turn = DialogueTurn("And France?", (sentence,), 1, "It is Paris.")
    >>> DialogueSet([Dialogue("d1", "capitals", "train", (turn,))])
    <km.dialog.DialogueSet: 1 dialogue, 1 turn (train 1), 1.0 candidates a turn, gold in 100 %>
    """

    def __init__(
        self,
        dialogues: Iterable[Dialogue],
        name: str = "",
        source: str = "",
        none_text: str = NO_KNOWLEDGE,
    ) -> None:
        self.dialogues = tuple(dialogues)
        self.name = name
        self.source = source
        self.none_text = none_text
        ids = Counter(dialogue.id for dialogue in self.dialogues)
        twice = [id for id, n in ids.items() if n > 1]
        if twice:
            raise ArgumentError(f"two dialogues have the id {twice[0]!r}")

    # ---- parts ----

    def split(self, *names: Split) -> DialogueSet:
        """The dialogues of some splits, in order.

        Raises
        ------
        ArgumentError
            A name is no split.
        """
        for name in names:
            if name not in SPLITS:
                raise ArgumentError(f"split is {name!r}; it must be {', '.join(SPLITS)}")
        return self.where(lambda dialogue: dialogue.split in names)

    def where(self, wanted: Callable[[Dialogue], object]) -> DialogueSet:
        """The dialogues a function says yes to."""
        chosen = [dialogue for dialogue in self.dialogues if wanted(dialogue)]
        return self._with(chosen)

    def hold_out(self, topics: Iterable[str]) -> DialogueSet:
        """The same with every dialogue of some topics as `test_unseen`, whatever split it was in.

        Raises
        ------
        ArgumentError
            There is no such topic.
        """
        out = set(topics)
        unknown = out - set(self.topics)
        if unknown:
            raise ArgumentError(f"no dialogue has the topic {min(unknown)!r}")
        return self._with(
            replace(dialogue, split="test_unseen") if dialogue.topic in out else dialogue
            for dialogue in self.dialogues
        )

    def shuffled(self, seed: int = 0) -> DialogueSet:
        """The same with the candidates of each dialogue in another order, so that it says nothing.

        A list that turns of a dialogue share is shuffled once.
        """
        return self._with(_shuffled(dialogue, seed) for dialogue in self.dialogues)

    def _with(self, dialogues: Iterable[Dialogue]) -> DialogueSet:
        return DialogueSet(dialogues, self.name, self.source, self.none_text)

    # ---- what is there ----

    @property
    def topics(self) -> list[str]:
        """Topics, in order of their first dialogue."""
        return list(dict.fromkeys(dialogue.topic for dialogue in self.dialogues))

    @property
    def n_turns(self) -> int:
        """Turns of all dialogues."""
        return sum(len(dialogue.turns) for dialogue in self.dialogues)

    def turns(self) -> Iterator[tuple[Dialogue, int, DialogueTurn]]:
        """(dialogue, number of the turn from 0, turn) of every turn, in order."""
        for dialogue in self.dialogues:
            for number, turn in enumerate(dialogue.turns):
                yield dialogue, number, turn

    def sentences(self) -> list[Sentence]:
        """Every candidate once, in order of first appearance."""
        lists = {id(turn.candidates): turn.candidates for _, _, turn in self.turns()}
        found = {sentence: None for candidates in lists.values() for sentence in candidates}
        return list(found)

    def texts(self) -> Iterator[str]:
        """Everything that is said or could be answered from; slot 0 included."""
        for _, _, turn in self.turns():
            yield turn.user
            yield turn.response
        yield self.none_text
        for sentence in self.sentences():
            yield sentence.text

    def __len__(self) -> int:
        return len(self.dialogues)

    def __iter__(self) -> Iterator[Dialogue]:
        return iter(self.dialogues)

    @overload
    def __getitem__(self, key: int) -> Dialogue: ...
    @overload
    def __getitem__(self, key: slice) -> DialogueSet: ...
    def __getitem__(self, key: int | slice) -> Dialogue | DialogueSet:
        if isinstance(key, slice):
            return self._with(self.dialogues[key])
        return self.dialogues[key]

    def __repr__(self) -> str:
        n, turns = len(self.dialogues), self.n_turns
        splits = Counter(dialogue.split for dialogue in self.dialogues)
        shown = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
        head = f"{n} dialogue{'s' * (n != 1)}, {turns} turn{'s' * (turns != 1)}"
        if not turns:
            return f"<km.dialog.DialogueSet: {head}>"
        candidates = sum(len(turn.candidates) for _, _, turn in self.turns()) / turns
        gold = sum(turn.gold > 0 for _, _, turn in self.turns()) / turns
        return (
            f"<km.dialog.DialogueSet: {head} ({shown}), {candidates:.1f} candidates a turn, "
            f"gold in {100 * gold:.0f} %>"
        )


def _shuffled(dialogue: Dialogue, seed: int) -> Dialogue:
    lists: dict[tuple[Sentence, ...], tuple[tuple[Sentence, ...], dict[int, int]]] = {}
    turns = []
    for turn in dialogue.turns:
        if turn.candidates not in lists:
            order = list(range(len(turn.candidates)))
            random.Random(f"{seed} {len(lists)} {dialogue.id}").shuffle(order)
            places = {0: 0} | {old + 1: new for new, old in enumerate(order, 1)}
            lists[turn.candidates] = (tuple(turn.candidates[i] for i in order), places)
        candidates, places = lists[turn.candidates]
        also = tuple(places[slot] for slot in turn.also)
        turns.append(replace(turn, candidates=candidates, gold=places[turn.gold], also=also))
    return replace(dialogue, turns=tuple(turns))
