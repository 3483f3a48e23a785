"""How often a selector takes the sentence that the answer rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from km import stats
from km.dialog.dialogues import DialogueSet
from km.errors import ArgumentError
from km.result import Result
from km.table import Column, Table

if TYPE_CHECKING:
    import numpy as np

EVALUATION_ID = "dialog.selection"
EVALUATION_VERSION = 1

HistoryMode: TypeAlias = Literal["gold", "own"]
Turns: TypeAlias = Literal["all", "grounded", "first", "later"]
MODES: tuple[HistoryMode, ...] = ("own", "gold")
TURNS: tuple[Turns, ...] = ("all", "grounded", "first", "later")

ROW_COLUMNS = (
    Column("history", "text", "", "Whose earlier choices the selector knew: its own, or gold."),
    Column("dialogue", "text", "", "Id."),
    Column("topic", "text", "", "Topic of the dialogue."),
    Column("split", "text", "", "test_seen or test_unseen, as the data says."),
    Column("turn", "int64", "", "From 1."),
    Column("gold", "int64", "", "Slot of the gold sentence; 0: no knowledge used."),
    Column("chosen", "int64", "", "Slot; null where a selector spreads its choice."),
    Column("candidates", "int64", "", "Slots but for slot 0."),
    Column("correct", "double", "share", "1 where gold was chosen, else 0; an expectation may lie "
           "between."),
    Column("accepted", "double", "share", "The same with every sentence that is as good."),
)  # fmt: skip
SUMMARY_COLUMNS = (
    Column("split", "text", "", "Part of the dialogues."),
    Column("history", "text", "", "Whose earlier choices the selector knew."),
    Column("turns", "text", "", "all; grounded: with a gold sentence; first and later: of these."),
    Column("n", "int64", "turns", "How many."),
    Column("accuracy", "double", "share", "Gold was chosen."),
    Column("low", "double", "share", "95 % interval, dialogues drawn anew."),
    Column("high", "double", "share", ""),
    Column("accepted", "double", "share", "A sentence as good as gold was chosen."),
)


@dataclass(frozen=True)
class Choices:
    """What a selector chose at every turn of a set of dialogues.

    Attributes
    ----------
    chosen : list of int or None
    shares : list of sequences of float, optional
        For a selector that spreads its choice: the probability of each slot from 1 on.
    """

    chosen: list[int | None]
    shares: list[Sequence[float]] | None = None

    def credit(self, turn: int, slots: Iterable[int]) -> float:
        """Probability that one of some slots was chosen at a turn."""
        if self.shares is not None:
            return float(sum(self.shares[turn][slot - 1] for slot in slots if slot > 0))
        return float(self.chosen[turn] in tuple(slots))


class SelectionEvaluation(Result):
    """Accuracy of a selector; its table has a row a split, history and kind of turns.

    Attributes
    ----------
    rows : Table
        A row a turn.
    answers : Table or None
        BLEU, ROUGE and distinct of the answers, where there is a decoder.
    """

    def __init__(
        self, rows: Table, provenance: Mapping[str, Any], answers: Table | None = None
    ) -> None:
        self.rows = rows
        self.answers = answers
        super().__init__(_summary(rows), provenance)

    def values(
        self,
        history: HistoryMode = "own",
        turns: Turns = "grounded",
        split: str | None = None,
        accepted: bool = False,
    ) -> tuple[np.ndarray[Any, Any], list[str]]:
        """Credit of each turn of a kind, and its dialogue.

        Parameters
        ----------
        history : {"own", "gold"}
        turns : {"all", "grounded", "first", "later"}
        split : str, optional
            None: all of them.
        accepted : bool
            Sentences as good as gold count too.
        """
        import numpy as np

        if history not in MODES or turns not in TURNS:
            raise ArgumentError(f"history must be one of {MODES}, turns one of {TURNS}")
        rows = self.rows
        keep = [
            i
            for i, (mode, part, gold, turn) in enumerate(
                zip(rows["history"], rows["split"], rows["gold"], rows["turn"], strict=True)
            )
            if mode == history
            and (split is None or part == split)
            and (turns == "all" or gold > 0)
            and (turns not in ("first", "later") or (turn == 1) == (turns == "first"))
        ]
        credit = rows["accepted" if accepted else "correct"]
        ids = rows["dialogue"]
        return np.array([credit[i] for i in keep], np.float64), [ids[i] for i in keep]

    def accuracy(
        self,
        history: HistoryMode = "own",
        turns: Turns = "grounded",
        split: str | None = None,
        accepted: bool = False,
    ) -> float:
        """Share of turns of a kind where gold was chosen; NaN where there is none."""
        credit, _ = self.values(history, turns, split, accepted)
        return float(credit.mean()) if len(credit) else float("nan")

    def minus(
        self,
        other: SelectionEvaluation,
        history: HistoryMode = "own",
        turns: Turns = "grounded",
        split: str | None = None,
        *,
        replicates: int = 2000,
        seed: int = 0,
    ) -> stats.Interval:
        """Difference of accuracies to another selector on the same turns, dialogues drawn anew.

        Raises
        ------
        ArgumentError
            The two were evaluated on other turns.
        """
        own, ids = self.values(history, turns, split)
        their, their_ids = other.values(history, turns, split)
        if ids != their_ids:
            raise ArgumentError("the two evaluations are of different turns")
        return stats.paired_bootstrap(
            own, their, cluster=ids, replicates=replicates, seed=seed, proportion=True
        )


def make_rows(dialogues: DialogueSet, found: Mapping[HistoryMode, Choices]) -> Table:
    """A row a history and turn."""
    rows = []
    for mode, choices in found.items():
        for i, (dialogue, number, turn) in enumerate(dialogues.turns()):
            rows.append(
                {
                    "history": mode,
                    "dialogue": dialogue.id,
                    "topic": dialogue.topic,
                    "split": dialogue.split,
                    "turn": number + 1,
                    "gold": turn.gold,
                    "chosen": choices.chosen[i],
                    "candidates": len(turn.candidates),
                    "correct": choices.credit(i, (turn.gold,)),
                    "accepted": choices.credit(i, turn.accepted),
                }
            )
    return Table.from_rows(ROW_COLUMNS, rows)


def _summary(rows: Table) -> Table:
    """Accuracies by split, history and kind of turns."""
    probe = SelectionEvaluation.__new__(SelectionEvaluation)
    probe.rows = rows
    out = []
    for split in dict.fromkeys(rows["split"]):
        for mode in MODES:
            for turns in TURNS:
                credit, ids = probe.values(mode, turns, split)
                if not len(credit):
                    continue
                interval = _interval(credit, ids)
                out.append(
                    {
                        "split": split,
                        "history": mode,
                        "turns": turns,
                        "n": len(credit),
                        "accuracy": float(credit.mean()),
                        "low": interval[0],
                        "high": interval[1],
                        "accepted": probe.accuracy(mode, turns, split, accepted=True),
                    }
                )
    return Table.from_rows(SUMMARY_COLUMNS, out)


def _interval(
    credit: np.ndarray[Any, Any], ids: Sequence[str]
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval over dialogues; none where a single one says nothing about spread."""
    if len(set(ids)) < 2:
        return None, None
    found = stats.clustered_bootstrap(credit, cluster=ids, proportion=True)
    return found.low, found.high
