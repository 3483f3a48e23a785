"""Training runs: data order, steps, checkpoints, measuring on the way, learning curves.

Recorded in a knowledge base as the measure "learning.training": one table, the learning curve, with
a row a finished step, and one for step 0 where callbacks measured before the first.

step, loss, lr, grad_norm, n_tokens, n_targets
    ``COLUMNS``; loss is of the batch before the step, in nats a target token.
other columns
    What callbacks returned, null at steps that they did not see.

The run's parameters are the recipe: optimizer, schedule, lora, clip, steps, batch_size, accumulate,
batch_tokens, length, pack, which parameters are trained, and a hash of the token ids and their
weights as targets; its seed is that of the order of examples.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from km import _km
from km.arguments import need, several, strings, whole_number
from km.checkpoint import Checkpoints
from km.checkpoint import Progress as Done
from km.errors import ArgumentError, Error
from km.examples import Example, Tokens, as_example
from km.lora import LoRA
from km.optimizers import AdamW, Optimizer
from km.progress import Progress, ProgressReporter
from km.result import Result, make_provenance, stored_provenance, stored_table
from km.schedules import Constant, Schedule
from km.table import Column, Table
from km.trainable import TrainableModel
from km.trainer import BATCH_TOKENS, Step, Trainer, check_parts, trainer_arguments

if TYPE_CHECKING:
    import os

    import numpy as np

    from km.kb import KnowledgeBase
    from km.model import Ids, Model
    from km.trainable import Which

TRAINING_ID = "learning.training"
TRAINING_VERSION = 1

COLUMNS = (
    Column("step", "int64", "", "Finished steps."),
    Column("loss", "double", "nats", "Mean of -log p over the batch's targets, before the step."),
    Column("lr", "double", "", "Learning rate."),
    Column("grad_norm", "double", "", "Norm of all gradients together, before clipping."),
    Column("n_tokens", "int64", "tokens", "Tokens of the batch."),
    Column("n_targets", "int64", "tokens", "Those that entered the loss."),
)
_NAMES = tuple(column.name for column in COLUMNS)
_MIB = 1 << 20


@dataclass(frozen=True)
class TrainingState:
    """What a callback is given.

    Attributes
    ----------
    step, steps : int
        Finished steps, and how many there will be.
    model : TrainableModel
        With its present weights; any measure works on it. It must not be changed.
    last : Step or None
        The last step; None before the first.
    trainer : Trainer
    """

    step: int
    steps: int
    model: TrainableModel
    last: Step | None
    trainer: Trainer


Callback: TypeAlias = "Callable[[TrainingState], Mapping[str, Any] | None]"


class Training(Result):
    """What :func:`km.train` returns: the learning curve, and the model.

    Attributes
    ----------
    table : Table
        A row a step.
    trainer : Trainer or None
        Which can go on, and holds adapters; None for a training read from a knowledge base.
    interrupted : bool
        Ctrl-C stopped it; the model is that of the last finished step.
    n_cut : int
        Examples that were longer than `length` and became several sequences.
    seconds : list of float
        Of each step that this call did; not part of what is recorded.
    run : int or None
        The run in the knowledge base.
    """

    def __init__(
        self,
        table: Table,
        provenance: Mapping[str, Any],
        trainer: Trainer | None = None,
        model: TrainableModel | None = None,
    ) -> None:
        super().__init__(table, provenance)
        self.trainer = trainer
        self.interrupted = False
        self.n_cut = 0
        self.seconds: list[float] = []
        self.run: int | None = None
        self._given = model
        self._frozen: Model | None = None

    @classmethod
    def from_knowledge_base(cls, kb: KnowledgeBase, run: int) -> Training:
        """The learning curve that a run recorded, without its model.

        Raises
        ------
        NotFoundError
            There is no such finished run, or it is not one of training.
        """
        provenance, key = stored_provenance(kb, run, TRAINING_ID)
        found = cls(stored_table(kb, run, key), provenance)
        found.run = run
        return found

    @property
    def model(self) -> Model:
        """The trained model: immutable, or the trainable one that was trained in place."""
        if self._given is not None:
            return self._given
        if self.trainer is None:
            raise ArgumentError("a knowledge base holds learning curves, not trained models")
        if self._frozen is None:
            self._frozen = self.trainer.model.frozen()
        return self._frozen

    @property
    def n_steps(self) -> int:
        """Finished steps."""
        return max(self.table["step"], default=0)

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        return f"<Training of {self.n_steps} steps{stopped}>\n{self.table!r}"


# ---- the data ----


class Data:
    """Sequences, and the order they come in: a pure function of seed and step.

    Parameters
    ----------
    sequences : list of Tokens
    batch_size : int
    seed : int
    n_cut : int
        Examples that became several sequences.
    """

    def __init__(self, sequences: list[Tokens], batch_size: int, seed: int, n_cut: int = 0) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.seed = seed
        self.n_cut = n_cut
        self._epoch = -1
        self._order: list[int] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches that every sequence is in once; the last may be smaller."""
        return -(-len(self.sequences) // self.batch_size)

    def batch(self, step: int) -> list[Tokens]:
        """The batch of the step with the given number, counted from 0."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = sorted(range(len(self.sequences)), key=lambda i: self._rank(epoch, i))
            self._epoch = epoch
        chosen = self._order[at * self.batch_size : (at + 1) * self.batch_size]
        return [self.sequences[i] for i in chosen]

    def _rank(self, epoch: int, index: int) -> bytes:
        return hashlib.sha256(f"{self.seed}/{epoch}/{index}".encode()).digest()

    def digest(self) -> str:
        """SHA-256 (hex) over ids and weights."""
        total = hashlib.sha256()
        for sequence in self.sequences:
            total.update(len(sequence).to_bytes(8, "little"))
            total.update(sequence.ids.tobytes())
            total.update(sequence.weights.tobytes())
        return total.hexdigest()


def _join(sequences: Sequence[Tokens]) -> Tokens:
    import numpy as np

    return Tokens(
        np.concatenate([sequence.ids for sequence in sequences]),
        np.concatenate([sequence.weights for sequence in sequences]),
    )


def _prepare_data(
    model: Model,
    examples: Any,
    batch_size: int,
    length: int | None,
    pack: bool,
    seed: int,
) -> Data:
    """Every example tokenised, and cut or packed where that was asked for."""
    items = [examples] if isinstance(examples, Example) else several("examples", examples, True)
    if not items:
        raise ArgumentError("examples is empty")
    longest = model.config["context_length"]
    most = longest if length is None else whole_number("length", length, 2, longest)
    sequences = [as_example(item).encode(model) for item in items]
    if pack:
        return Data(_join(sequences).cut(most), batch_size, seed)
    kept: list[Tokens] = []
    n_cut = 0
    for i, sequence in enumerate(sequences):
        if len(sequence) > most and length is None:
            raise ArgumentError(
                f"example {i} has {len(sequence)} tokens, and the model's context {longest}; "
                "length=n cuts longer ones into several sequences"
            )
        parts = sequence.cut(most) if len(sequence) > most else [sequence]
        n_cut += len(sequence) > most
        kept += parts
    return Data(kept, batch_size, seed, n_cut)


# ---- memory ----


def _check_memory(
    model: Model, arguments: dict[str, Any], trained: np.ndarray[Any, Any] | None,
    data: Data, batch_tokens: int, recompute: bool | None,
) -> None:  # fmt: skip
    """Refuse a run that does not fit, before anything is allocated."""
    lengths = sorted((len(sequence) - 1 for sequence in data.sequences), reverse=True)
    n_tokens = max(lengths[0], min(batch_tokens, sum(lengths[: data.batch_size])))
    available = _km.memory_available()
    for again in (True,) if recompute else (False, True) if recompute is None else (False,):
        weights, gradients, averages, work = _km.trainer_estimate(
            model._model, n_tokens=n_tokens, longest=lengths[0], n_targets=n_tokens,
            recompute=again, **{**arguments, "trained": trained},
        )  # fmt: skip
        held = 0 if isinstance(model, TrainableModel) else weights
        if held + gradients + averages + work <= available:
            return
    raise MemoryError(
        f"training needs {(held + gradients + averages + work) // _MIB:,} MiB: "
        f"{held // _MIB:,} for weights, {gradients // _MIB:,} for gradients, "
        f"{averages // _MIB:,} for the optimiser and {work // _MIB:,} for a pass over {n_tokens:,} "
        f"tokens; {available // _MIB:,} MiB are available. Adapters (lora=), fewer parameters "
        "(which=), SGD or fewer batch_tokens need less"
    )


# ---- the run ----


class _Run:
    """The loop over steps."""

    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        steps: int,
        batch_tokens: int | None,
        callbacks: Sequence[Callback],
        every: int | None,
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.steps = steps
        self.batch_tokens = batch_tokens
        self.callbacks = callbacks
        self.every = every
        self.done = Done()
        self.seconds: list[float] = []
        self.saved = -1

    def go(
        self, checkpoints: Checkpoints | None, save_every: int, report: ProgressReporter
    ) -> None:
        """Do the steps that are left."""
        self.evaluate()
        report(self.trainer.n_steps)
        while self.trainer.n_steps < self.steps:
            start = time.perf_counter()
            step = self.trainer.step_on(self.data.batch(self.trainer.n_steps), self.batch_tokens)
            self.seconds.append(time.perf_counter() - start)
            self.keep_last()
            speed = step.n_tokens / self.seconds[-1]
            text = f"loss {step.loss:.4f}, {speed:,.0f} tokens/s"
            report.tell(text, loss=step.loss, tokens_per_second=speed)
            self.evaluate()
            if step.step % save_every == 0 or step.step == self.steps:
                self.save(checkpoints)
            report(step.step)

    def keep_last(self) -> None:
        """The row of the last finished step, also of one that Ctrl-C came behind."""
        last = self.trainer.last
        known = max((row["step"] for row in self.done.rows), default=0)
        if last is not None and last.step > known:
            row = {name: getattr(last, name) for name in _NAMES}
            self.done.rows.append(row)

    def evaluate(self) -> None:
        """Call the callbacks where it is time, once a step."""
        step = self.trainer.n_steps
        due = step in (0, self.steps) or (self.every is not None and step % self.every == 0)
        if not self.callbacks or not due or self.done.evaluated >= step:
            return
        state = TrainingState(step, self.steps, self.trainer.model, self.trainer.last, self.trainer)
        found: dict[str, Any] = {}
        for callback in self.callbacks:
            for name, value in _named(callback(state)).items():
                if name in _NAMES or name in found:
                    raise ArgumentError(f"callbacks: there is a column {name!r} already")
                found[name] = value.item() if getattr(value, "shape", None) == () else value
        if found:
            self._check(found)
            if step == 0:
                self.done.rows.insert(0, {"step": 0})
            self.done.rows[-1].update(found)
        self.done.evaluated = step

    def _check(self, found: Mapping[str, Any]) -> None:
        """Refuse what is no column now: at the end of the run it would be lost with it."""
        columns = [
            _column(name, [value, *(row.get(name) for row in self.done.rows)])
            for name, value in found.items()
        ]
        Table.from_rows(columns, [found])

    def save(self, checkpoints: Checkpoints | None) -> None:
        """A checkpoint of the present step, unless there is one."""
        if checkpoints is not None:
            checkpoints.save(self.trainer, self.done)

    def table(self) -> Table:
        """The learning curve."""
        names = dict.fromkeys(name for row in self.done.rows for name in row if name not in _NAMES)
        added = [_column(name, [row.get(name) for row in self.done.rows]) for name in names]
        return Table.from_rows([*COLUMNS, *added], self.done.rows)


def _named(found: Any) -> Mapping[str, Any]:
    """What a callback returned, by column."""
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TypeError(
            f"callbacks: one returned {type(found).__name__}; a mapping of str to values, or None, "
            "is needed"
        )
    return found


def _column(name: str, values: Sequence[Any]) -> Column:
    """The column of what callbacks returned under a name.

    Raises
    ------
    ArgumentError
        They are not all numbers, all truth values or all texts.
    """
    kinds = {type(value) for value in values if value is not None}
    for allowed, kind in (
        ({bool}, "bool"),
        ({int}, "int64"),
        ({int, float}, "double"),
        ({str}, "text"),
    ):
        if kinds <= allowed:
            return Column(name, kind, "", "From a callback.")
    shown = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ArgumentError(
        f"callbacks: column {name!r} holds {shown}; numbers, bool or str are needed"
    )


def train(
    model: Model,
    examples: Iterable[str | Example | Ids] | str | Example,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 8,
    optimizer: Optimizer | None = None,
    lora: LoRA | None = None,
    schedule: Schedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    which: Which = "all",
    length: int | None = None,
    pack: bool = False,
    seed: int = 0,
    every: int | None = None,
    callbacks: Callback | Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    keep: int = 2,
    quota: int | None = None,
    kb: KnowledgeBase | None = None,
    batch_tokens: int | None = None,
    recompute: bool | None = None,
    progress: Progress = None,
) -> Training:
    """Train a model on examples.

    The same arguments give the same bits, for any number of threads.

    Parameters
    ----------
    model : Model
        An immutable model stays as it is and a copy is trained; a :class:`km.TrainableModel` is
        trained in place.
    examples : texts, token ids or :class:`km.Example`
    steps, epochs : int, optional
        Steps of the optimiser, or how often every example is shown (1 when neither is given).
    batch_size : int
        Examples of a pass; a step sees `batch_size` times `accumulate`.
    optimizer : AdamW or SGD, optional
        AdamW with its defaults.
    lora : LoRA, optional
        Train adapters.
    schedule : km.schedules.Constant, Linear or Cosine, optional
    clip : float, optional
        Longest norm of all gradients together.
    accumulate : int
        Passes whose gradients make one step. The loss is the mean over all their targets.
    which : str or sequence of str
        Parameters to train, as in :meth:`km.Model.trainable`; not with `lora` or a trainable model.
    length : int, optional
        Cut longer examples into sequences of so many tokens, each beginning with the last token of
        the one before; how many were cut is counted. None: an example longer than the model's
        context is an error.
    pack : bool
        Join all examples and cut them into sequences of `length` tokens, so that texts see those
        before them. Otherwise each is a sequence of its own, and nothing is padded.
    seed : int
        Of the order of examples; :class:`km.LoRA` has its own.
    every : int, optional
        Call the callbacks every so many steps, besides before the first and after the last.
    callbacks : callable or sequence of callables
        Each gets a :class:`TrainingState` and may return a dictionary, which becomes columns.
    checkpoint : path-like, optional
        Folder of checkpoints. A run of the same recipe that is there goes on from its last one, and
        ends with the same bits as an unbroken one; a run of another recipe is refused.
    save_every : int, optional
        Steps between checkpoints; a tenth of the run. The last step always has one, and so has the
        one that Ctrl-C or an error came behind.
    keep : int
        Newest checkpoints that stay.
    quota : int, optional
        Most bytes of checkpoints.
    kb : KnowledgeBase, optional
        Record the learning curve, and which model the trained one came from.
    batch_tokens : int, optional
        Most tokens of sequences that are computed together (1024); changes rounding only.
    recompute : bool, optional
        As of :class:`km.Trainer`.
    progress : bool or callable, optional
        A bar with loss and tokens a second.

    Returns
    -------
    Training
        After Ctrl-C what is finished, with `interrupted` set.

    Raises
    ------
    NumericError
        A loss or gradient that is not finite, naming step and tensor; the model is that of the last
        good step.
    MemoryError
        It does not fit; the message says what needs how much.
    ArgumentError
        An argument out of range; an example too long; a checkpoint of another recipe.

    Examples
    --------
    >>> training = km.train(model, texts, epochs=3, optimizer=km.AdamW(lr=2e-5))  # doctest: +SKIP
    >>> training.model.save("trained.gguf")                                        # doctest: +SKIP
    """
    _check_types(model, optimizer, lora, schedule, kb)
    size = whole_number("batch_size", batch_size, 1) * whole_number("accumulate", accumulate, 1)
    data = _prepare_data(model, examples, size, length, pack, whole_number("seed", seed, 0))
    total = _count_steps(steps, epochs, data)
    found = [callbacks] if callable(callbacks) else several("callbacks", callbacks)
    if not all(callable(one) for one in found):
        raise TypeError("callbacks must hold what can be called with a TrainingState")
    if every is not None:
        whole_number("every", every, 1)
    settings = _Settings(
        AdamW() if optimizer is None else optimizer, lora,
        Constant() if schedule is None else schedule, clip, accumulate, recompute,
    )  # fmt: skip
    in_place = model if isinstance(model, TrainableModel) else None
    names = _trained_names(model, which, lora)
    most = BATCH_TOKENS if batch_tokens is None else whole_number("batch_tokens", batch_tokens, 1)
    flags = _flags(model, names)
    arguments = trainer_arguments(model._model, settings.optimizer, lora, clip)
    _check_memory(model, arguments, flags, data, most, recompute)
    recipe = settings.recipe() | {
        "batch_size": batch_size, "batch_tokens": most, "steps": total, "length": length,
        "pack": pack, "trained": _short(names, model), "data": data.digest(),
    }  # fmt: skip
    provenance = make_provenance(TRAINING_ID, TRAINING_VERSION, model, recipe, seed)
    trainable = in_place or model.trainable(names)
    run = _Run(settings.trainer(trainable, total), data, total, most, found, every)
    training = _carry_out(run, provenance, checkpoint, save_every, (keep, quota), kb, progress)
    training._given = in_place
    training.n_cut = data.n_cut
    return training


def _check_types(model: Any, optimizer: Any, lora: Any, schedule: Any, kb: Any) -> None:
    from km.kb import KnowledgeBase
    from km.model import Model

    if not isinstance(model, Model):
        raise TypeError(f"model must be a km.Model, not {type(model).__name__}")
    need("kb", kb, KnowledgeBase, "km.KnowledgeBase(path)")
    check_parts(optimizer, lora, schedule)


@dataclass(frozen=True)
class _Settings:
    """What decides a step besides its batch."""

    optimizer: Optimizer
    lora: LoRA | None
    schedule: Schedule
    clip: float | None
    accumulate: int
    recompute: bool | None

    def recipe(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.describe(),
            "lora": None if self.lora is None else self.lora.describe(),
            "schedule": self.schedule.describe(),
            "clip": self.clip,
            "accumulate": self.accumulate,
        }

    def trainer(self, model: TrainableModel, steps: int) -> Trainer:
        return Trainer(
            model,
            self.optimizer,
            lora=self.lora,
            clip=self.clip,
            schedule=self.schedule,
            steps=steps,
            accumulate=self.accumulate,
            recompute=self.recompute,
        )


def _count_steps(steps: int | None, epochs: int | None, data: Data) -> int:
    if steps is not None and epochs is not None:
        raise ArgumentError("give steps or epochs, not both")
    if steps is not None:
        return whole_number("steps", steps, 1)
    return whole_number("epochs", 1 if epochs is None else epochs, 1) * data.steps_per_epoch


def _trained_names(model: Model, which: Which, lora: LoRA | None) -> list[str]:
    """Parameters that change, in the model's order."""
    from km.optimizers import match_names

    parameters = _km.parameters(model._model)
    names = [row[0] for row in parameters]
    if which != "all" and (lora is not None or isinstance(model, TrainableModel)):
        raise ArgumentError(
            "which: adapters name their own targets, and a trainable model what it trains"
        )
    if lora is not None:
        return lora.names(parameters)
    if isinstance(model, TrainableModel):
        return [row[0] for row in parameters if row[5]]
    flags = match_names("which", ["*"] if which == "all" else strings("which", which), names)
    return [name for name, flag in zip(names, flags, strict=True) if flag]


def _short(names: list[str], model: Model) -> list[str] | str:
    return "all" if len(names) == len(_km.parameters(model._model)) else names


def _flags(model: Model, names: Sequence[str]) -> np.ndarray[Any, Any]:
    import numpy as np

    wanted = set(names)
    return np.array([row[0] in wanted for row in _km.parameters(model._model)])


def _carry_out(
    run: _Run,
    provenance: dict[str, Any],
    checkpoint: str | os.PathLike[str] | None,
    save_every: int | None,
    limits: tuple[int, int | None],
    kb: KnowledgeBase | None,
    progress: Progress,
) -> Training:
    """Go through the steps, with checkpoints and knowledge base where they are wanted."""
    each = (
        max(1, run.steps // 10) if save_every is None else whole_number("save_every", save_every, 1)
    )
    keep, quota = whole_number("keep", limits[0], 1), limits[1]
    number = None
    if checkpoint is None:
        number = kb.begin_run(provenance) if kb is not None else None
        stopped = _guarded(run, None, each, kb, number, progress)
    else:
        recipe = {**provenance["parameters"], "seed": provenance["seed"]}
        recipe |= {"model": provenance["model"]["fingerprint"]}
        recipe |= {"tokenizer": provenance["model"]["tokenizer_hash"]}
        with Checkpoints(checkpoint, recipe, keep, quota) as checkpoints:
            checkpoints.check_quota(run.trainer)
            run.done = checkpoints.resume(run.trainer) or run.done
            number = kb.begin_run(provenance) if kb is not None else None
            stopped = _guarded(run, checkpoints, each, kb, number, progress)
    training = Training(run.table(), provenance, run.trainer)
    training.interrupted = stopped
    training.seconds = run.seconds
    training.run = number
    if kb is not None and not stopped:
        _record(kb, training)
    return training


def _guarded(
    run: _Run,
    checkpoints: Checkpoints | None,
    save_every: int,
    kb: KnowledgeBase | None,
    number: int | None,
    progress: Progress,
) -> bool:
    """Whether Ctrl-C stopped the run, which then has a checkpoint of its last finished step."""
    outcome = None
    try:
        with ProgressReporter(progress, "training", unit="steps", total=run.steps) as report:
            run.go(checkpoints, save_every, report)
    except KeyboardInterrupt:
        outcome = "cancelled"
        run.keep_last()
        run.save(checkpoints)
    except BaseException as error:
        outcome = "cancelled" if isinstance(error, _km.CancelledError) else "failed"
        run.keep_last()
        if isinstance(error, Error):  # of a step or a measure, not of the disk
            run.save(checkpoints)
        raise
    finally:
        if kb is not None and number is not None and outcome is not None:
            kb.finish_run(number, outcome)  # type: ignore[arg-type]
    return outcome is not None


def _record(kb: KnowledgeBase, training: Training) -> None:
    """The learning curve, and the trained model as the child of the one it was made of."""
    assert training.trainer is not None
    training.run = kb.record(training)
    trained = training.trainer.model
    child = trained.describe() | {"name": f"{trained.origin.name} (trained)"}  # as once frozen
    parent = training.provenance["model"]
    if child["fingerprint"] != parent["fingerprint"]:
        kb.add_lineage(
            child, parent, "trained", run=training.run, step=training.n_steps,
            recipe=training.parameters,
        )  # fmt: skip
