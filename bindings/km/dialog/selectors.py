"""Selectors without training: chance, repetition, words in common, and a language model's view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from km.arguments import real_number, strings
from km.dialog.dialogues import NO_KNOWLEDGE, Dialogue, DialogueSet, DialogueTurn, Sentence
from km.dialog.evaluation import (
    EVALUATION_ID,
    EVALUATION_VERSION,
    MODES,
    Choices,
    HistoryMode,
    SelectionEvaluation,
    make_rows,
)
from km.dialog.language_model import HiddenStates, need_model
from km.dialog.vocabulary import tokenize
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import make_provenance

if TYPE_CHECKING:
    from km.model import Model


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selector chose.

    Attributes
    ----------
    index : int or None
        Of the candidates given, from 0; None: no knowledge.
    scores : list of float
        Of each candidate.
    """

    index: int | None
    scores: list[float]


class Selector:
    """What all selectors share: parameters as scikit-learn has them, choosing, evaluating."""

    parameter_names: ClassVar[tuple[str, ...]] = ()
    uses_history: ClassVar[bool] = False  # else both modes of evaluation are the same
    sees_response: ClassVar[bool] = False

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments it was made with."""
        return {name: getattr(self, name) for name in self.parameter_names}

    def set_params(self, **params: Any) -> Self:
        """Change arguments; what was learned is gone.

        Raises
        ------
        ArgumentError
            There is no such argument.
        """
        for name in params:
            if name not in self.parameter_names:
                raise ArgumentError(f"{type(self).__name__} has no parameter {name!r}")
        self.__init__(**{**self.get_params(), **params})  # type: ignore[misc]
        return self

    def fit(self, train: DialogueSet, valid: DialogueSet | None = None) -> Self:
        """Nothing to learn; returns itself."""
        return self

    def select(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str] = (),
    ) -> Selection:
        """Choose one of some candidates.

        Parameters
        ----------
        context : str or sequence of str
            What was said, the user's last words at the end.
        candidates : sequence of str
        history : sequence of str
            Sentences used before, the latest last.

        Raises
        ------
        ArgumentError
            There is no candidate, or nothing was said.
        """
        said, texts, used = check_turn(context, candidates, history)
        scores = self._scores(said, texts, used, None)
        slot = best(scores)
        return Selection(slot - 1 if slot else None, scores)

    def choose(
        self, dialogues: DialogueSet, history: HistoryMode, progress: Progress = False
    ) -> Choices:
        """The slot it takes at every turn.

        Parameters
        ----------
        dialogues : DialogueSet
        history : {"own", "gold"}
            Whose choices it is told of at later turns.
        """
        chosen: list[int | None] = []
        with ProgressReporter(
            progress, type(self).__name__, unit="turns", total=dialogues.n_turns
        ) as report:
            for dialogue in dialogues:
                used: list[int] = []
                for number, turn in enumerate(dialogue.turns):
                    slot = self._choose_turn(dialogues, dialogue, number, used)
                    used.append(slot if history == "own" else turn.gold)
                    chosen.append(slot)
                    report(len(chosen))
        return Choices(chosen)

    def _choose_turn(
        self, dialogues: DialogueSet, dialogue: Dialogue, number: int, used: Sequence[int]
    ) -> int:
        turn = dialogue.turns[number]
        texts = [sentence.text for sentence in turn.candidates]
        before = [slot_text(dialogues, dialogue.turns[i], slot) for i, slot in enumerate(used)]
        response = turn.response if self.sees_response else None
        return best(self._scores(dialogue.utterances(number), texts, before, response))

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        raise NotImplementedError

    def evaluate(self, test: DialogueSet, *, progress: Progress = None) -> SelectionEvaluation:
        """Accuracy with its own earlier choices and with the gold ones.

        Returns
        -------
        SelectionEvaluation
            By split of the data, for all turns, those with a gold sentence, and of these the first
            of a dialogue and later ones, with 95 % intervals over dialogues.
        """
        if not test.n_turns:
            raise ArgumentError("there is no turn to evaluate")
        found: dict[HistoryMode, Choices] = {}
        for mode in MODES:
            known = found and not self.uses_history
            found[mode] = found[MODES[0]] if known else self.choose(test, mode, progress)
        return SelectionEvaluation(make_rows(test, found), self.provenance(test))

    def provenance(self, test: DialogueSet) -> dict[str, Any]:
        """Of an evaluation."""
        parameters = {"selector": type(self).__name__, "data": test.name, **self._plain_params()}
        model = getattr(self, "model", None)
        seed = getattr(self, "seed", None)
        return make_provenance(EVALUATION_ID, EVALUATION_VERSION, model, parameters, seed)

    def _plain_params(self) -> dict[str, Any]:
        params = self.get_params()
        params.pop("model", None)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in params.items()}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._plain_params().items())
        return f"{type(self).__name__}({shown})"


def check_turn(
    context: str | Sequence[str], candidates: Sequence[str], history: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """What :meth:`Selector.select` was given, as lists of texts."""
    said = strings("context", context)
    texts = strings("candidates", candidates)
    used = strings("history", history)
    if not said:
        raise ArgumentError("context is empty; give what was said, the user's words last")
    if not texts:
        raise ArgumentError("candidates is empty; there is nothing to choose from")
    return said, texts, used


def one_turn(
    context: Sequence[str], candidates: Sequence[str], none_text: str = NO_KNOWLEDGE
) -> DialogueSet:
    """A set of one dialogue of one turn with these candidates."""
    sentences = tuple(Sentence(str(i), text) for i, text in enumerate(candidates, 1))
    turn = DialogueTurn(context[-1], sentences, 0, "")
    return DialogueSet([Dialogue("1", "", "test_seen", (turn,))], none_text=none_text)


def slot_text(dialogues: DialogueSet, turn: DialogueTurn, slot: int) -> str:
    """The sentence of a slot; that of slot 0 is the set's."""
    return turn.candidates[slot - 1].text if slot else dialogues.none_text


def best(scores: Sequence[float]) -> int:
    """The slot of the highest score, the lowest of equal ones; -inf everywhere: slot 0."""
    highest = max(scores)
    return scores.index(highest) + 1 if highest > -math.inf else 0


# ---- chance and repetition ----


class Random(Selector):
    """Any candidate with the same probability; evaluations have the expectation, not a draw."""

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        return [1 / len(candidates)] * len(candidates)

    def choose(
        self, dialogues: DialogueSet, history: HistoryMode, progress: Progress = False
    ) -> Choices:
        """The probability of every slot at every turn."""
        sizes = [len(turn.candidates) for _, _, turn in dialogues.turns()]
        return Choices([None] * len(sizes), [[1 / n] * n for n in sizes])


class SameAsLast(Selector):
    """The sentence used before; none at the first turn, or where it is no candidate any more."""

    uses_history = True

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        last = history[-1] if history else None
        return [1.0 if text == last else -math.inf for text in candidates]

    def _choose_turn(
        self, dialogues: DialogueSet, dialogue: Dialogue, number: int, used: Sequence[int]
    ) -> int:
        if used and dialogue.turns[number].candidates == dialogue.turns[number - 1].candidates:
            return used[-1]  # two candidates may have the same text
        return super()._choose_turn(dialogues, dialogue, number, used)


# ---- words in common ----


class _Words:
    """Counts of words of a list of candidates."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self.counts = [Counter(tokenize(text)) for text in candidates]
        self.lengths = [sum(counts.values()) for counts in self.counts]
        self.in_how_many = Counter(word for counts in self.counts for word in counts)
        self.mean_length = sum(self.lengths) / len(self.lengths)

    def __len__(self) -> int:
        return len(self.counts)


class _ByWords(Selector):
    """Scores by the words of the user's last utterance."""

    def __init__(self) -> None:
        self._known: tuple[tuple[str, ...], _Words] | None = None

    def _words(self, candidates: Sequence[str]) -> _Words:
        """Counts of a list; those of the last one are kept."""
        key = tuple(candidates)
        if self._known is None or self._known[0] != key:
            self._known = (key, _Words(candidates))
        return self._known[1]


class TfIdf(_ByWords):
    """Cosine of tf-idf vectors of the last utterance and each candidate.

    Notes
    -----
    A word weighs (1 + log count) (1 + log((N + 1) / (n + 1))), n being how many of N sentences have
    it: the different candidates of the dialogues :meth:`fit` was given, else the candidates of the
    turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._in_how_many: Counter[str] | None = None
        self._n = 0

    def fit(self, train: DialogueSet, valid: DialogueSet | None = None) -> Self:
        """Count in how many of the candidates each word is."""
        texts = {sentence.text for sentence in train.sentences()}
        self._in_how_many = Counter(word for text in texts for word in set(tokenize(text)))
        self._n = len(texts)
        return self

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        words = self._words(candidates)
        fitted = self._in_how_many is not None
        known, n = (self._in_how_many, self._n) if fitted else (words.in_how_many, len(words))
        assert known is not None

        def weighted(counts: Mapping[str, int]) -> dict[str, float]:
            return {
                word: (1 + math.log(count)) * (1 + math.log((n + 1) / (known[word] + 1)))
                for word, count in counts.items()
            }

        query = weighted(Counter(tokenize(context[-1])))
        return [_cosine(query, weighted(counts)) for counts in words.counts]


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    dot = sum(value * b[word] for word, value in a.items() if word in b)
    norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return dot / norms if norms else 0.0


class BM25(_ByWords):
    """Okapi BM25 of the last utterance's words in each candidate.

    Parameters
    ----------
    k1, b : float
    exclude_used : bool
        Never choose what was used before.

    Notes
    -----
    A word that n of the N candidates have weighs log(1 + (N - n + 0.5) / (n + 0.5)).
    """

    parameter_names = ("k1", "b", "exclude_used")

    def __init__(self, k1: float = 1.2, b: float = 0.75, exclude_used: bool = False) -> None:
        super().__init__()
        self.k1 = real_number("k1", k1, 0, 1e6)
        self.b = real_number("b", b, 0, 1)
        self.exclude_used = bool(exclude_used)

    @property
    def uses_history(self) -> bool:  # type: ignore[override]
        """Whether earlier choices matter."""
        return self.exclude_used

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        words = self._words(candidates)
        query = Counter(tokenize(context[-1]))
        scores = [self._score(words, query, i) for i in range(len(words))]
        if self.exclude_used:
            left = Counter(history)
            for i, text in enumerate(candidates):
                if left[text] > 0:  # of two candidates with one text, as many as were used
                    left[text] -= 1
                    scores[i] = -math.inf
        return scores

    def _choose_turn(
        self, dialogues: DialogueSet, dialogue: Dialogue, number: int, used: Sequence[int]
    ) -> int:
        turn = dialogue.turns[number]
        if not self.exclude_used or any(
            earlier.candidates != turn.candidates for earlier in dialogue.turns[:number]
        ):
            return super()._choose_turn(dialogues, dialogue, number, used)
        words = self._words([sentence.text for sentence in turn.candidates])
        query = Counter(tokenize(turn.user))
        return best(
            [
                -math.inf if i + 1 in used else self._score(words, query, i)
                for i in range(len(words))
            ]
        )

    def _score(self, words: _Words, query: Mapping[str, int], i: int) -> float:
        counts = words.counts[i]
        scale = 1 - self.b + self.b * words.lengths[i] / max(words.mean_length, 1e-12)
        total = 0.0
        for word, n in query.items():
            if word in counts:
                have = words.in_how_many[word]
                weight = math.log(1 + (len(words) - have + 0.5) / (have + 0.5))
                f = counts[word]
                total += n * weight * f * (self.k1 + 1) / (f + self.k1 * scale)
        return total


# ---- a language model's view ----


class MeanPooled(Selector):
    """Cosine of mean hidden states of a language model: the last utterance and each candidate.

    Parameters
    ----------
    model : Model
    layer : int, optional
        Whose output is averaged over a text's tokens; the one at half the depth.
    centre : bool
        Subtract the mean over the candidates first, since the states of all texts point much the
        same way.
    """

    parameter_names = ("model", "layer", "centre")

    def __init__(
        self, model: Model | None = None, layer: int | None = None, centre: bool = True
    ) -> None:
        self.model = need_model(model, "MeanPooled")
        self.layer = layer
        self.centre = bool(centre)
        self._states = HiddenStates(self.model, layer)

    def choose(
        self, dialogues: DialogueSet, history: HistoryMode, progress: Progress = False
    ) -> Choices:
        """The slot it takes at every turn; all texts are computed first."""
        self._states.learn((turn.user for _, _, turn in dialogues.turns()), progress)
        self._states.learn((sentence.text for sentence in dialogues.sentences()), progress)
        return super().choose(dialogues, history)

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        import numpy as np

        self._states.learn([context[-1], *candidates], progress=False)
        rows = np.stack([self._states.mean(text) for text in candidates])
        query = self._states.mean(context[-1])
        if self.centre:
            middle = rows.mean(axis=0)
            rows, query = rows - middle, query - middle
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        return [float(x) for x in rows @ query / np.maximum(norms, 1e-12)]


class ResponseLikelihood(Selector):
    """Mean log-probability a token of the answer under a language model, given a candidate.

    It sees the answer that is to be given: a bound on what the answer gives away, not a selector
    that could be used in a conversation.

    Parameters
    ----------
    model : Model
    template : str
        What the model reads before the answer; {candidate} and {user} are put in.

    Notes
    -----
    The answer's log-probability without any candidate does not depend on the candidate, so it
    changes no choice.
    """

    parameter_names = ("model", "template")
    sees_response = True
    TEMPLATE = "Fact: {candidate}\nUser: {user}\nAgent:"

    def __init__(self, model: Model | None = None, template: str = TEMPLATE) -> None:
        self.model = need_model(model, "ResponseLikelihood")
        if "{candidate}" not in template:
            raise ArgumentError("template has no {candidate}; all candidates would score the same")
        self.template = template

    def select(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str] = (),
        response: str | None = None,
    ) -> Selection:
        """As of other selectors; `response` is needed."""
        said, texts, used = check_turn(context, candidates, history)
        if response is None:
            raise ArgumentError("ResponseLikelihood needs response=, the answer it is to explain")
        scores = self._scores(said, texts, used, response)
        return Selection(best(scores) - 1, scores)

    def _scores(
        self,
        context: Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str],
        response: str | None,
    ) -> list[float]:
        assert response is not None
        user = context[-1]
        prompts = [
            self.template.replace("{user}", user).replace("{candidate}", text)
            for text in candidates
        ]
        found = self.model.score(prompts, [[response]] * len(prompts), progress=False)
        return [float(x) for x in found.table["logp_per_token"]]
