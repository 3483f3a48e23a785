"""DiffKS: which sentence an answer should rest on, knowing what earlier answers rested on.

Zheng, Cao, Jiang and Huang, Findings of EMNLP 2020; the equations are in km/select.h. The network
and its gradients are libkm's; here are its texts, its training and what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from km import _km
from km.arguments import need, real_number, several, whole_number
from km.dialog.dialogues import NO_KNOWLEDGE, DialogueSet
from km.dialog.encoding import (
    EncodedDialogues,
    TextReader,
    WordReader,
    Words,
    join,
    single_turns,
)
from km.dialog.evaluation import Choices, HistoryMode, SelectionEvaluation
from km.dialog.language_model import (
    FIRST_ID,
    HiddenStates,
    Projection,
    StateReader,
    TokenReader,
    embedding_rows,
    need_model,
)
from km.dialog.matching import Matcher
from km.dialog.selectors import Selection, Selector, check_turn, one_turn
from km.dialog.vocabulary import Vocabulary
from km.errors import ArgumentError
from km.progress import Progress, ProgressReporter
from km.result import canonical_json
from km.table import Column, Table

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import numpy as np

    from km.dialog.encoding import Batch
    from km.model import Model

    Array = np.ndarray[Any, Any]

Variant: TypeAlias = Literal["disentangled", "fused", "context"]
NetworkVariant: TypeAlias = Literal["disentangled", "fused", "context", "posterior"]
Embeddings: TypeAlias = Literal["random", "model", "states"]
Training: TypeAlias = Literal["gold", "scheduled"]

CURVE = (
    Column("epoch", "int64", "", "Finished epochs."),
    Column("loss", "double", "nats", "Mean over the epoch's batches of the loss, with dropout."),
    Column("selection_loss", "double", "nats", "Its part from selecting."),
    Column("word_loss", "double", "nats", "Its part from answering; null where answers are not "
           "read."),
    Column("train_accuracy", "double", "share", "On turns with a gold sentence, while training."),
    Column("own_share", "double", "share", "Of histories that were the model's own choices."),
    Column("valid_own", "double", "share", "Accuracy on validation turns with a gold sentence, on "
           "its own choices; null without validation."),
    Column("valid_gold", "double", "share", "The same on gold ones."),
)  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How scheduled sampling of the history goes: the share of the model's own choices by epoch.

    Attributes
    ----------
    start, full : int
        Nothing in the first `start` epochs, then more each epoch, `most` from epoch `full` on.
    most : float
        Largest share.
    """

    start: int = 3
    full: int = 10
    most: float = 0.75

    def __post_init__(self) -> None:
        whole_number("sampling.start", self.start, 0)
        whole_number("sampling.full", self.full, self.start)
        real_number("sampling.most", self.most, 0, 1)

    def share(self, epoch: int) -> float:
        """The share in an epoch, counted from 0."""
        if epoch < self.start:
            return 0.0
        steps = self.full - self.start
        return self.most * (1.0 if not steps else min(1.0, (epoch - self.start + 1) / steps))


@dataclass
class Progression:
    """How far a training is; what a checkpoint keeps besides weights.

    Attributes
    ----------
    curve : list of dict
        A row a finished epoch.
    best : int
        The epoch with the best validation accuracy; 0: none yet.
    best_accuracy : float
    best_weights : dict of arrays
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Array] = field(default_factory=dict)


class DiffKS(Selector):
    """Difference-aware knowledge selection.

    Parameters
    ----------
    variant : {"disentangled", "fused", "context"}
        "context" does without history: a candidate's encoding times the context's.
    embedding, hidden, decoder : int
        Width of word embeddings, of one direction of each encoder, of the decoder's state.
    dropout : float
    weights : sequence of float
        Of the choices one, two, ... turns ago; as many as are looked at.
    mask_padding : bool
        False: the authors' arithmetic, where the padding of a batch enters losses.
    generate : bool
        Train a copying decoder too, for :meth:`respond`.
    vocabulary : int
        Most frequent words that have an embedding.
    embeddings : {"random", "model", "states"}
        "random": words, with embeddings that are learned. "model": tokens of a language model, with
        its own embeddings on their principal axes, which stay as they are, so that tokens that
        training never showed mean something. "states": hidden states of the language model at half
        its depth, projected likewise, in place of embeddings; a token's state knows its sentence.
    model : Model, optional
        For embeddings "model" and "states".
    match : bool
        Add to the scores, with weights that are learned, how alike by their words a candidate is to
        what the user said and to earlier choices, and whether it was chosen before. Not of the
        paper: it lets a small corpus do, since the network need not learn which words are the same.
    history : {"gold", "scheduled"}
        What training takes for earlier choices. "scheduled": more and more often the model's own,
        as in use, by `sampling`.
    sampling : Sampling
    learning_rate, clip : float
        Adam's, and the longest norm of all gradients together.
    batch_size : int
        Dialogues of a step.
    epochs : int
        At most.
    patience : int, optional
        Stop after so many epochs without a better accuracy on the validation part; None: never.
        The weights of the best epoch stay.
    allow_none : bool
        Whether slot 0 may be chosen. Training never asks for it, so it seldom should.
    max_words, max_context : int
        Words of an utterance or candidate, and last words of what was said, that are read.
    seed : int
        Of weights, order, dropout and sampling.
    threads : int
        0: the CPUs this process may use. The same bits for any number.

    Attributes
    ----------
    curve : Table
        A row a finished epoch.
    best_epoch : int
        Whose weights these are.
    interrupted : bool
        Ctrl-C stopped the training.

    Examples
    --------
    >>> selector = km.DiffKS(epochs=20).fit(data.split("train"), data.split("valid"))
    ... # doctest: +SKIP
    >>> selector.select(["Which one is it?"], candidates, history=[used])  # doctest: +SKIP
    """

    uses_history = True
    parameter_names: ClassVar[tuple[str, ...]] = (
        "variant", "embedding", "hidden", "decoder", "dropout", "weights", "mask_padding",
        "generate", "vocabulary", "embeddings", "model", "match", "history", "sampling",
        "learning_rate", "clip", "batch_size", "epochs", "patience", "allow_none", "max_words",
        "max_context", "seed", "threads",
    )  # fmt: skip

    def __init__(
        self,
        variant: Variant = "disentangled",
        *,
        embedding: int = 300,
        hidden: int = 200,
        decoder: int = 400,
        dropout: float = 0.5,
        weights: Sequence[float] = (0.7, 0.3),
        mask_padding: bool = True,
        generate: bool = False,
        vocabulary: int = 20000,
        embeddings: Embeddings = "random",
        model: Model | None = None,
        match: bool = False,
        history: Training = "gold",
        sampling: Sampling | None = None,
        learning_rate: float = 5e-4,
        clip: float = 5.0,
        batch_size: int = 8,
        epochs: int = 20,
        patience: int | None = 5,
        allow_none: bool = False,
        max_words: int = 40,
        max_context: int = 100,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        self.variant: NetworkVariant = _one_of(
            "variant", variant, ("disentangled", "fused", "context")
        )
        self.embedding = whole_number("embedding", embedding, 1)
        self.hidden = whole_number("hidden", hidden, 1)
        self.decoder = whole_number("decoder", decoder, 1)
        self.dropout = real_number("dropout", dropout, 0, 0.999)
        self.weights = tuple(real_number("weights", w, 0, 1e9) for w in several("weights", weights))
        if not self.weights or sum(self.weights) <= 0:
            raise ArgumentError("weights must hold a positive number for at least one turn")
        self.mask_padding = bool(mask_padding)
        self.generate = bool(generate)
        self.vocabulary = whole_number("vocabulary", vocabulary, 1)
        self.embeddings = _one_of("embeddings", embeddings, ("random", "model", "states"))
        self.model = (
            None if embeddings == "random" else need_model(model, f"embeddings={embeddings!r}")
        )
        self.match = bool(match)
        self.history = _one_of("history", history, ("gold", "scheduled"))
        need("sampling", sampling, Sampling, "km.dialog.Sampling(start=3, full=10, most=0.75)")
        self.sampling = Sampling() if sampling is None else sampling
        self.learning_rate = real_number("learning_rate", learning_rate, 0, 1e3)
        self.clip = real_number("clip", clip, 0, 1e18)
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.epochs = whole_number("epochs", epochs, 1)
        self.patience = None if patience is None else whole_number("patience", patience, 1)
        self.allow_none = bool(allow_none)
        self.max_words = whole_number("max_words", max_words, 3)
        self.max_context = whole_number("max_context", max_context, 3)
        self.seed = whole_number("seed", seed, 0, 2**63 - 1)
        self.threads = whole_number("threads", threads, 0, 4096)
        if self.generate and self.embeddings == "states":
            raise ArgumentError(
                'embeddings="states" reads no word ids that a decoder could copy; '
                'use generate=False, or embeddings="random" or "model"'
            )
        self._network: _km.DiffKS | None = None
        self._reader: TextReader | None = None
        self._matcher: Matcher | None = None
        self._none_text = NO_KNOWLEDGE
        self._progression = Progression()
        self.interrupted = False

    # ---- training ----

    def fit(
        self,
        train: DialogueSet,
        valid: DialogueSet | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = None,
    ) -> Self:
        """Train anew.

        Parameters
        ----------
        train : DialogueSet
        valid : DialogueSet, optional
            Accuracy on it, on the model's own choices, says when to stop and which epoch is best.
            Without it the last epoch is taken.
        checkpoint : path-like, optional
            Folder. After each epoch everything is kept there; the same training goes on from it
            with the same bits, and so does one of more epochs or patience.
        progress : bool or callable, optional
            A bar with loss and accuracies.

        Returns
        -------
        DiffKS
            Itself; after Ctrl-C with the best epoch so far, and `interrupted` set.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C before the first epoch was finished.
        ArgumentError
            No turn has a gold sentence; the checkpoint is of another training.
        MemoryError
            A batch does not fit.
        """
        from km.dialog.store import Checkpoint

        if not isinstance(train, DialogueSet):
            raise TypeError(f"train must be a km.dialog.DialogueSet, not {type(train).__name__}")
        need("valid", valid, DialogueSet, 'dialogues.split("valid")')
        if not any(turn.gold for _, _, turn in train.turns()):
            raise ArgumentError("no turn of train has a gold sentence; there is nothing to learn")
        self._none_text = train.none_text
        self._reader = self._make_reader(train, valid, progress)
        self._matcher = Matcher.of(train) if self.match else None
        self._network = self._make_network()
        self._progression = Progression()
        self.interrupted = False
        data = self._encode(train), None if valid is None else self._encode(valid)
        self._network.optimize()
        if checkpoint is None:
            self._train(*data, None, progress)
        else:
            recipe = self.describe() | {"data": _digest(train), "valid": _digest(valid)}
            del recipe["epochs"], recipe["patience"]  # more epochs go on from fewer
            with Checkpoint(checkpoint, recipe) as kept:
                self._progression = kept.resume(self._network) or self._progression
                self._train(*data, kept, progress)
        return self

    def _make_reader(
        self, train: DialogueSet, valid: DialogueSet | None, progress: Progress
    ) -> TextReader:
        if self.embeddings == "random":
            return WordReader(Vocabulary.of(train, self.vocabulary), self.max_words)
        model = need_model(self.model, "embeddings")
        if self.embeddings == "model":
            return TokenReader(model, self.max_words)
        import numpy as np

        states = HiddenStates(model)
        states.learn(train.texts(), progress)
        if valid is not None:
            states.learn(valid.texts(), progress)
        rows = [states(text)[1] for text in dict.fromkeys(train.texts())]
        projection = Projection.of(np.concatenate(rows), self.embedding)
        return StateReader(states, projection, self.max_words)

    def _make_network(self) -> _km.DiffKS:
        import numpy as np

        network = _km.DiffKS(
            self.variant,
            FIRST_ID if self.embeddings == "states" else self._n_words(),
            self.embedding,
            self.hidden,
            self.decoder,
            np.array(self.weights, np.float64),
            dropout=self.dropout,
            vectors=self.embedding if self.embeddings == "states" else 0,
            mask_padding=self.mask_padding,
            generate=self.generate,
            train_embedding=self.embeddings == "random",
            match=self.match,
            seed=self.seed,
            threads=self.threads,
            **self._loss_settings(),
        )
        if self.match:
            np.asarray(network.parameters()["match.weight"])[...] = FIRST_MATCH
        if self.embeddings == "model":
            values = np.asarray(network.parameters()["E"])
            values[...] = embedding_rows(
                need_model(self.model, "embeddings"), self.embedding, self.seed
            )
        return network

    def _loss_settings(self) -> dict[str, float]:
        """What the network is told of its loss."""
        return {}

    @property
    def _reads_responses(self) -> bool:
        """Whether training needs the answers."""
        return self.generate

    def _n_words(self) -> int:
        if isinstance(self._reader, WordReader):
            return len(self._reader.vocabulary)
        return FIRST_ID + int(need_model(self.model, "embeddings").config["vocab_size"])

    def _encode(self, dialogues: DialogueSet) -> EncodedDialogues:
        assert self._reader is not None
        return EncodedDialogues(
            dialogues, self._reader, self.max_context, self._reads_responses, self._matcher
        )

    def _train(
        self,
        train: EncodedDialogues,
        valid: EncodedDialogues | None,
        checkpoint: Any,
        progress: Progress,
    ) -> None:
        done = self._progression
        batches = -(-len(train) // self.batch_size)
        with ProgressReporter(
            progress, "DiffKS", unit="batches", total=self.epochs * batches
        ) as report:
            try:
                while len(done.curve) < self.epochs and not self._patience_is_out():
                    report.start_part(len(done.curve) * batches)
                    self._epoch(train, valid, report)
                    if checkpoint is not None:
                        checkpoint.save(self._network, done)
            except (KeyboardInterrupt, _km.CancelledError):
                if not done.curve:
                    raise KeyboardInterrupt from None
                self.interrupted = True
        if done.best_weights:
            self._load_weights(done.best_weights)

    def _patience_is_out(self) -> bool:
        done = self._progression
        waited = len(done.curve) - done.best
        return self.patience is not None and done.best > 0 and waited >= self.patience

    def _epoch(
        self, train: EncodedDialogues, valid: EncodedDialogues | None, report: ProgressReporter
    ) -> None:
        """One pass over the dialogues, in an order that seed and epoch decide."""
        import numpy as np

        network, done = self._need_network(), self._progression
        epoch = len(done.curve)
        share = self.sampling.share(epoch) if self.history == "scheduled" else 0.0
        order = np.random.default_rng([self.seed, epoch]).permutation(len(train))
        totals: dict[str, float] = {}
        n = 0
        for chosen in _parts([int(i) for i in order], self.batch_size):
            losses = network.step(
                train.batch(chosen),
                self.learning_rate,
                history="sampled" if share > 0 else "gold",
                probability=share,
                allow_none=self.allow_none,
                clip=self.clip,
            )
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value
            n += 1
            report(n)
        row = {
            "epoch": epoch + 1,
            "loss": totals["loss"] / n,
            "selection_loss": totals["selection_loss"] / n,
            "word_loss": totals["word_loss"] / n if self._reads_responses else None,
            "train_accuracy": totals["correct"] / max(totals["labelled"], 1),
            "own_share": share,
        }
        if valid is not None:
            row["valid_own"] = self._accuracy(valid, "own")
            row["valid_gold"] = self._accuracy(valid, "gold")
        done.curve.append(row)
        self._keep_best(row)
        shown = " ".join(
            f"{name} {row[key]:.3f}"
            for name, key in (("loss", "loss"), ("own", "valid_own"), ("gold", "valid_gold"))
            if row.get(key) is not None
        )
        report.tell(shown, **row)

    def _keep_best(self, row: dict[str, Any]) -> None:
        import numpy as np

        done = self._progression
        accuracy = row.get("valid_own")
        if accuracy is not None and accuracy <= done.best_accuracy:
            return
        done.best = row["epoch"]
        done.best_accuracy = -1.0 if accuracy is None else accuracy
        weights = self._need_network().parameters()
        done.best_weights = {name: np.array(values) for name, values in weights.items()}

    def _accuracy(self, encoded: EncodedDialogues, history: HistoryMode) -> float:
        chosen = iter(self._chosen(encoded, history))
        hits = [next(chosen) == gold for golds in encoded.gold for gold in golds]
        labelled = [gold > 0 for golds in encoded.gold for gold in golds]
        n = sum(labelled)
        return (
            sum(hit for hit, counts in zip(hits, labelled, strict=True) if counts) / n if n else 0.0
        )

    def _load_weights(self, weights: dict[str, Array]) -> None:
        self._need_network().load_parameters(weights)

    def _need_network(self) -> _km.DiffKS:
        if self._network is None or self._reader is None:
            raise ArgumentError(
                "this selector has not learned anything; call fit() or load() first"
            )
        return self._network

    # ---- what came of it ----

    @property
    def curve(self) -> Table:
        """Losses and accuracies, a row a finished epoch."""
        return Table.from_rows(CURVE, self._progression.curve)

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights these are, from 1; 0: not trained."""
        return self._progression.best

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training, as JSON has it."""
        out = {name: getattr(self, name) for name in self.parameter_names}
        out["weights"] = list(self.weights)
        out["sampling"] = vars(self.sampling) if self.history == "scheduled" else None
        out["model"] = None if self.model is None else self.model.fingerprint
        del out["threads"]
        return out

    def _plain_params(self) -> dict[str, Any]:
        return {name: value for name, value in self.describe().items() if value is not None}

    # ---- choosing ----

    def _chosen(self, encoded: EncodedDialogues, history: HistoryMode) -> Iterator[int]:
        import numpy as np

        network = self._need_network()
        for part in _parts(range(len(encoded)), self.batch_size):
            found = network.select(encoded.batch(part), history=history, allow_none=self.allow_none)
            yield from np.asarray(found[0]).tolist()

    def choose(
        self, dialogues: DialogueSet, history: HistoryMode, progress: Progress = False
    ) -> Choices:
        """The slot it takes at every turn; contexts hold the answers that were given."""
        self._need_network()
        self._learn_texts(dialogues, progress)
        return Choices(list(self._chosen(self._encode(dialogues), history)))

    def _learn_texts(self, dialogues: DialogueSet, progress: Progress) -> None:
        if isinstance(self._reader, StateReader):
            self._reader.states.learn(dialogues.texts(), progress)

    def select(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str] = (),
    ) -> Selection:
        """Choose one of some candidates; parameters as of every selector."""
        import numpy as np

        batch = self._turn(*check_turn(context, candidates, history))
        chosen, scores, _, _ = self._need_network().select(batch, allow_none=self.allow_none)
        slot = int(np.asarray(chosen)[0])
        return Selection(slot - 1 if slot else None, np.asarray(scores).tolist()[1:])

    def _turn(
        self, context: Sequence[str], candidates: Sequence[str], history: Sequence[str]
    ) -> Batch:
        """The batch of one turn; its slot 0 is "no knowledge used"."""
        self._need_network()
        assert self._reader is not None
        encoded = self._encode(one_turn(context, candidates, self._none_text))
        said = join((self._reader.utterance(text) for text in context), self.max_context)
        used = [encoded.number(text) for text in reversed(history)][: len(self.weights)]
        return single_turns(encoded, [(0, 0)], [said], [used])

    def explain(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str] = (),
    ) -> Table:
        """Why each candidate scores as it does.

        Returns
        -------
        Table
            A row a candidate, the highest score first: candidate (its index), text, score, context
            (the score without any history), difference (what the history changed), and earlier_1,
            earlier_2, ...: what the score would lose without the choice one, two, ... turns ago.
            These do not add up to the difference, since they meet inside a tanh.
        """
        import numpy as np

        said, texts, used = check_turn(context, candidates, history)
        found = self._need_network().select(
            self._turn(said, texts, used), allow_none=self.allow_none, explain=True
        )
        scores, plain = (np.asarray(values)[1:].astype(float) for values in found[1:3])
        parts = np.asarray(found[3])[1:].astype(float)
        columns = list(EXPLANATION)
        for m in range(len(self.weights)):
            text = used[-1 - m] if m < len(used) else ""
            columns.append(Column(f"earlier_{m + 1}", "double", "", f"{m + 1} turns ago: {text}"))
        rows = []
        for i in np.argsort(-scores, kind="stable").tolist():
            row = {
                "candidate": i, "text": texts[i], "score": scores[i], "context": plain[i],
                "difference": scores[i] - plain[i],
            }  # fmt: skip
            row |= {f"earlier_{m + 1}": parts[i, m] for m in range(len(self.weights))}
            rows.append(row)
        return Table.from_rows(columns, rows)

    # ---- answering ----

    def respond(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str],
        history: Sequence[str] = (),
        *,
        max_words: int | None = None,
    ) -> str:
        """A greedy answer from the sentence it chooses; needs ``generate=True``."""
        import numpy as np

        self._need_decoder()
        batch = self._turn(*check_turn(context, candidates, history))
        network = self._need_network()
        chosen = np.asarray(network.select(batch, allow_none=self.allow_none)[0])
        most = self.max_words if max_words is None else whole_number("max_words", max_words, 1)
        tokens, lengths = network.respond(batch, chosen, most)
        return self._decode(np.asarray(tokens)[0, : int(np.asarray(lengths)[0])].tolist())

    def _need_decoder(self) -> None:
        if not self.generate:
            raise ArgumentError("this selector has no decoder; make it with generate=True")

    def _decode(self, ids: Sequence[int]) -> str:
        if isinstance(self._reader, TokenReader):
            return self._reader.decode(ids)
        assert isinstance(self._reader, WordReader)
        return self._reader.vocabulary.decode(ids)

    def evaluate(
        self, test: DialogueSet, *, progress: Progress = None, answers: bool | None = None
    ) -> SelectionEvaluation:
        """As of every selector; with a decoder also its answers.

        Parameters
        ----------
        test : DialogueSet
        progress : bool or callable, optional
        answers : bool, optional
            Answer every turn, in the authors' way: the context is the exchange before, with the
            selector's own answer in it, and the user's words. None: where there is a decoder.
        """
        out = super().evaluate(test, progress=progress)
        wanted = self.generate if answers is None else bool(answers)
        if wanted:
            from km.dialog.answer_metrics import answer_table

            self._need_decoder()
            references = [turn.response for _, _, turn in test.turns()]
            generated = [words for _, words in self.answer_turns(test)]
            out.answers = answer_table(generated, references, self.max_words)
        return out

    def answer_turns(self, test: DialogueSet) -> list[tuple[int, list[str]]]:
        """(slot, words of the answer) of every turn, on its own choices and answers."""
        self._need_decoder()
        encoded = self._encode(test)
        found: list[list[tuple[int, list[str]]]] = [[] for _ in range(len(test))]
        for part in _parts(range(len(test)), self.batch_size):
            self._answer_part(test, encoded, part, found)
        return [pair for pairs in found for pair in pairs]

    def _answer_part(
        self,
        test: DialogueSet,
        encoded: EncodedDialogues,
        part: Sequence[int],
        found: list[list[tuple[int, list[str]]]],
    ) -> None:
        """Answer some dialogues, turn by turn."""
        import numpy as np

        assert self._reader is not None
        network = self._need_network()
        said: dict[int, list[Words]] = {d: [] for d in part}
        used: dict[int, list[int]] = {d: [] for d in part}
        for t in range(max(len(encoded.gold[d]) for d in part)):
            alive = [d for d in part if t < len(encoded.gold[d])]
            for d in alive:
                said[d].append(self._reader.utterance(test[d].turns[t].user))
            contexts = [join(said[d][-3:], self.max_context) for d in alive]
            history = [used[d][::-1][: len(self.weights)] for d in alive]
            batch = single_turns(encoded, [(d, t) for d in alive], contexts, history)
            chosen = np.asarray(network.select(batch, allow_none=self.allow_none)[0])
            tokens, lengths = network.respond(batch, chosen, self.max_words)
            for i, d in enumerate(alive):
                ids = np.asarray(tokens)[i, : int(np.asarray(lengths)[i])].tolist()
                slot = int(chosen[i])
                used[d].append(encoded.lists[encoded.turn_lists[d][t]][slot])
                said[d].append(Words(tuple([2, *ids][: self.max_words])))
                found[d].append((slot, self._answer_words(ids)))

    def _answer_words(self, ids: Sequence[int]) -> list[str]:
        if isinstance(self._reader, WordReader):
            return [self._reader.vocabulary.words[id] for id in ids if id >= FIRST_ID]
        from km.dialog.vocabulary import tokenize

        return tokenize(self._decode(ids))

    # ---- keeping ----

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write weights (model.safetensors) and everything else (diffks.json) into a folder."""
        from km.dialog.store import save_selector

        return save_selector(self, folder, overwrite)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, model: Model | None = None) -> DiffKS:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path-like
        model : Model, optional
            The language model it was trained with, where its embeddings are that model's.

        Raises
        ------
        FormatError
            A file is damaged or missing, or they do not belong together.
        ArgumentError
            Another language model, or none.
        """
        from km.dialog.store import load_selector

        return load_selector(folder, model)


# What matching weighs before training: cosines are small, and a network that begins with them need
# not find them again. A regression on them alone ends near these.
FIRST_MATCH = (12.0, 6.0, -12.0)

EXPLANATION = (
    Column("candidate", "int64", "", "Index, from 0."),
    Column("text", "text", "", "The candidate."),
    Column("score", "double", "", "The highest is chosen."),
    Column("context", "double", "", "The score without any history."),
    Column("difference", "double", "", "What the history changed."),
)


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise ArgumentError(f"{name} is {value!r}; it must be {', '.join(map(repr, allowed))}")
    return value


def _parts(items: Sequence[int], size: int) -> Iterator[list[int]]:
    """The items in groups of a size, in order."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _digest(dialogues: DialogueSet | None) -> str | None:
    """SHA-256 over everything that training reads of dialogues."""
    if dialogues is None:
        return None
    total = hashlib.sha256(dialogues.none_text.encode())
    for dialogue, _, turn in dialogues.turns():
        listed = [sentence.text for sentence in turn.candidates]
        row = [dialogue.id, turn.user, turn.gold, turn.response, listed]
        total.update(canonical_json(row).encode())
    return total.hexdigest()
