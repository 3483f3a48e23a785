"""One optimisation step after another on a model whose weights can change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from km import _km
from km.arguments import need, real_number, whole_number
from km.errors import ArgumentError
from km.examples import Batch, Tokens, encode_batch, pack_sequences
from km.examples import Example as Example
from km.lora import LoRA, read_adapters, write_adapters
from km.optimizers import AdamW, Optimizer
from km.schedules import Constant, Schedule

if TYPE_CHECKING:
    import numpy as np

    from km.trainable import TrainableModel

BATCH_TOKENS = 1024  # of one pass, unless the caller says otherwise


class Step(NamedTuple):
    """What one step was.

    Attributes
    ----------
    step : int
        Finished steps, this one included.
    loss : float
        Mean of -log p over the batch's target tokens, weighted, nats; before the step.
    n_tokens : int
    grad_norm : float
        Of all gradients together, before clipping.
    lr : float
    n_targets : int
        Tokens that entered the loss.
    """

    step: int
    loss: float
    n_tokens: int
    grad_norm: float
    lr: float
    n_targets: int


class Trainer:
    """Trains a model in place, one step after another; used by one thread at a time.

    Parameters
    ----------
    model : TrainableModel
        Made by :meth:`km.Model.trainable`; measures work on it between steps.
    optimizer : AdamW or SGD, optional
    lora : LoRA, optional
        Train adapters of these matrices in place of the weights themselves; the model holds the
        merged weights after every step.
    clip : float, optional
        Longest norm of all gradients together; longer ones are scaled down to it.
    schedule : km.schedules.Constant, Linear or Cosine, optional
    steps : int, optional
        Length of the run, where the schedule needs it.
    accumulate : int
        Into how many passes a batch is parted at least. The step is the same up to rounding: what
        is summed is the gradient of the mean over the whole batch.
    recompute : bool, optional
        Compute activations again on the way back in place of keeping them; None: where memory asks
        for it.

    Raises
    ------
    MemoryError
        Gradients and averages do not fit; the message has the figures.

    Examples
    --------
    >>> trainer = km.Trainer(model.trainable(), km.AdamW(lr=5e-5))  # doctest: +SKIP
    >>> trainer.step(["A sentence to learn."])                      # doctest: +SKIP
    """

    def __init__(
        self,
        model: TrainableModel,
        optimizer: Optimizer | None = None,
        *,
        lora: LoRA | None = None,
        clip: float | None = None,
        schedule: Schedule | None = None,
        steps: int | None = None,
        accumulate: int = 1,
        recompute: bool | None = None,
    ) -> None:
        from km.trainable import TrainableModel

        if not isinstance(model, TrainableModel):
            raise TypeError(
                f"model is a {type(model).__name__}; train a copy of it: model.trainable()"
            )
        check_parts(optimizer, lora, schedule)
        self.model = model
        self.optimizer = AdamW() if optimizer is None else optimizer
        self.lora = lora
        self.clip = None if clip is None else real_number("clip", clip, 0, 1e18)
        self.schedule = Constant() if schedule is None else schedule
        self.steps = None if steps is None else whole_number("steps", steps, 1)
        self.accumulate = whole_number("accumulate", accumulate, 1)
        self.recompute = recompute
        if self.clip == 0:
            raise ArgumentError("clip is 0, which would stop all learning; None clips nothing")
        self.schedule.factor(self.schedule.warmup, self.steps)  # does it need the number of steps?
        self._trainer = _km.Trainer(
            model._model, **trainer_arguments(model._model, self.optimizer, lora, self.clip)
        )

    def step(self, batch: Batch, batch_tokens: int | None = None) -> Step:
        """One step of the optimiser on a batch.

        Parameters
        ----------
        batch : examples, texts or token ids
            The loss is the weighted mean over all their targets, however long each text is.
        batch_tokens : int, optional
            Most tokens of texts that share a pass (1024).

        Raises
        ------
        NumericError
            A loss or gradient that is not finite, naming step and tensor. Nothing has changed.
        MemoryError
            A pass does not fit.
        """
        return self.step_on(encode_batch(self.model, batch), batch_tokens)

    def step_on(self, sequences: Sequence[Tokens], batch_tokens: int | None = None) -> Step:
        """The same for examples that are tokenised already (:meth:`km.Example.encode`)."""
        ids, offsets, weights = pack_sequences(sequences)
        most = (
            BATCH_TOKENS if batch_tokens is None else whole_number("batch_tokens", batch_tokens, 1)
        )
        if self.accumulate > 1:
            most = min(most, max(1, -(-len(ids) // self.accumulate)))
        return _step(self._trainer.step(ids, offsets, weights, self.next_lr, most, self.recompute))

    @property
    def n_steps(self) -> int:
        """Finished steps."""
        return self._trainer.last[0]

    @property
    def last(self) -> Step | None:
        """The last finished step, also when the user stopped the call that did it."""
        found = self._trainer.last
        return _step(found) if found[0] else None

    @property
    def next_lr(self) -> float:
        """Learning rate of the next step."""
        return self.optimizer.lr * self.schedule.factor(self.n_steps, self.steps)

    def reset(self) -> None:
        """Begin again from the model's present weights, which stay as they are.

        The optimiser's averages and the count of steps become 0; adapters get their first values,
        on top of the present weights.
        """
        self._trainer.reset()

    def adapters(self) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """A (rank, columns) and B (rows, rank) of each adapted matrix, by name; empty without LoRA.

        The trainer's own memory: call :meth:`merged` after writing to it.
        """
        found: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        names = [row[0] for row in _km.parameters(self.model._model)]
        for (parameter, kind, of), values in self.arrays():
            if kind == of and kind != "values":
                found.setdefault(names[parameter], {})[kind] = values
        return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in found.items()}

    def restored(self, steps: int) -> None:
        """Say that :meth:`arrays` were written as they were after so many steps."""
        self._trainer.restored(steps)

    def merged(self) -> None:
        """Write W0 + alpha / rank B A into the model again, after adapters were written to."""
        self._trainer.restored(self.n_steps)

    def save_adapters(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the adapters as the PEFT library does; :func:`km.merge_adapters` reads them.

        Raises
        ------
        UnsupportedError
            An adapter of q, k or v of GPT-2 or GPT-NeoX, which have them in one matrix there.
        ArgumentError
            The trainer has no adapters, or there are some in the folder.
        """
        if self.lora is None:
            raise ArgumentError("the trainer has no adapters; make it with lora=km.LoRA(...)")
        return write_adapters(self.model.origin, self.adapters(), self.lora, folder, overwrite)

    def load_adapters(self, folder: str | os.PathLike[str]) -> None:
        """Go on from adapters in a folder, of the same matrices and rank.

        Raises
        ------
        ArgumentError
            Their matrices, rank or alpha are not those of the trainer.
        """
        pairs, scale = read_adapters(self.model, folder)
        own = self.adapters()
        if self.lora is None or pairs.keys() != own.keys():
            raise ArgumentError(f"{os.fspath(folder)}: adapts other matrices than this trainer")
        rank = next(iter(pairs.values()))[0].shape[0]
        if rank != self.lora.rank or scale != self.lora.alpha / self.lora.rank:
            raise ArgumentError(
                f"{os.fspath(folder)}: has rank {rank} and alpha {scale * rank:g}, this trainer "
                f"{self.lora.rank} and {self.lora.alpha:g}"
            )
        for name, (a, b) in pairs.items():
            own[name][0][...], own[name][1][...] = a, b
        self.merged()

    def arrays(self) -> list[tuple[tuple[int, str, str], np.ndarray[Any, Any]]]:
        """Everything a step changes: (index of the parameter, kind, what it averages) and values.

        Kinds are "values", "lora_A", "lora_B", "first" and "second". The values are the trainer's
        own memory.
        """
        import numpy as np

        rows = self._trainer.arrays()
        return [(row, np.asarray(self._trainer.array(i))) for i, row in enumerate(rows)]

    def __repr__(self) -> str:
        adapters = "" if self.lora is None else f", {self.lora}"
        return (
            f"<Trainer of {self.model.name} after {self.n_steps} steps: {self.optimizer}{adapters}>"
        )


def _step(found: tuple[int, float, float, float, int, int]) -> Step:
    step, loss, norm, lr, n_targets, n_tokens = found
    return Step(step, loss, n_tokens, norm, lr, n_targets)


def check_parts(optimizer: Any, lora: Any, schedule: Any) -> None:
    """Refuse what is no description of an optimiser, of adapters or of a schedule."""
    need("optimizer", optimizer, Optimizer, "km.AdamW(lr=5e-5)")
    need("lora", lora, LoRA, "km.LoRA(rank=8)")
    need("schedule", schedule, Schedule, "km.schedules.Cosine()")


def trainer_arguments(
    model: _km.Model, optimizer: Optimizer, lora: LoRA | None, clip: float | None
) -> dict[str, Any]:
    """Arguments of ``_km.Trainer`` besides the model."""
    parameters = _km.parameters(model)
    out = optimizer.numbers()
    out["clip"] = 0.0 if clip is None else clip
    out["decays"] = optimizer.decays(parameters)
    if lora is not None:
        out["trained"] = _flags(lora.names(parameters), parameters)
        out.update(rank=lora.rank, alpha=lora.alpha, seed=lora.seed)
    return out


def _flags(names: Sequence[str], parameters: Sequence[tuple[Any, ...]]) -> np.ndarray[Any, Any]:
    import numpy as np

    wanted = set(names)
    return np.array([row[0] in wanted for row in parameters])
